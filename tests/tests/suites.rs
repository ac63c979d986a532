//! Runs every suite in one process, since they share one Postgres and one Kafka.

fn main() -> std::process::ExitCode {
    tests::run()
}
