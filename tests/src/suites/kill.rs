//! Processes that are killed, stopped, drained and rebalanced: the ledger equals the oracle's fold.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rustix::process::Signal;

use super::limits::{assert_accounts_equal, with_policies};
use crate::harness::children::Child;
use crate::harness::kafka::Kafka;
use crate::harness::load::{Load, Random, seed};
use crate::harness::postgres::Postgres;
use crate::harness::product::{Config, drain};
use crate::harness::proxy::{Lost, Proxy};
use crate::harness::runner::Test;
use crate::harness::stream::Stream;
use crate::harness::topic::Topic;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(killed_after_a_poll, "P1"),
    test!(killed_after_the_positions_moved, "P2"),
    test!(killed_after_the_ids_were_taken, "P3"),
    test!(killed_after_the_postings_were_written, "P3"),
    test!(killed_before_commit, "P3"),
    test!(killed_after_commit, "P4"),
    test!(killed_before_the_group_commit, "P5"),
    test!(killed_before_a_claim, "P6"),
    test!(killed_in_a_claim, "P6"),
    test!(killed_in_a_roll_up),
    test!(
        answer_to_commit_lost_once_before_and_once_after_it_was_applied,
        "P4"
    ),
    test!(a_start_outlives_a_commit_that_is_lost, "P4"),
    test!(
        stopped_process_neither_blocks_its_successor_nor_counts_when_it_wakes,
        "P7"
    ),
    test!(one_of_two_owners_is_fenced, "P8"),
    test!(sigterm_drains_under_load, "P11"),
    test!(second_sigterm_ends_now, "P11"),
    test!(
        random_kills_stops_and_joins_of_three_processes,
        "P1",
        "P2",
        "P3",
        "P4",
        "P5",
        "P7"
    ),
    test!(random_kills_at_full_speed, "P1", "P2", "P3", "P4", "P5"),
    test!(partitions_move_while_postgres_is_slow, "P8"),
    test!(postgres_restarts_under_load, "D1"),
    test!(kafka_restarts_under_load, "K1"),
];

/// How long a process may take to reach a fail point under load.
const DIES: Duration = Duration::from_secs(60);

/// How long SIGTERM may take: the product's own deadline and some time to start on a busy machine.
const DRAINS: Duration = Duration::from_secs(30);

fn assert_killed(process: &Child) {
    let status = process.wait(DIES);
    assert_eq!(
        status.signal(),
        Some(9),
        "the fail point kills by SIGKILL\n{}",
        process.log()
    );
}

/// Lets a process die at a fail point under load, starts another, and compares.
fn killed_at(point: &str, passes: u32) {
    let world = World::new(&point.replace("::", "_"));
    let topic = world.topic(3);
    let mut load = Load::new(seed(point));
    topic.send_texts(3, load.mixed(1000));
    let stream = Stream::start(&topic, 3, load, 200);
    let config = with_policies(world.config(&topic), &LIMITS).with_ingest(ROLL_UP_OFTEN);
    assert_killed(&config.clone().dying_at(point, passes).ingest());
    let successor = config.ingest();
    let before = world.events();
    world.await_events(before.saturating_add(500));
    stream.stop();
    world.await_caught_up(&topic);
    drain(&successor, DRAINS);
    world.assert_exact(&topic);
    assert_accounts_equal(&world);
}

/// Limits whose accounts must be what the ledger holds, whatever dies.
const LIMITS: [&str; 3] = ["daily-cost", "hourly-requests", "monthly-tokens"];

/// The roll-up every tenth of a second, so that it runs while a test does.
pub(super) const ROLL_UP_OFTEN: &str = "rollup_interval_ms = 100";

fn killed_after_a_poll() {
    killed_at("poll::after_poll", 700);
}

fn killed_after_the_positions_moved() {
    killed_at("batch::after_position", 2);
}

fn killed_after_the_ids_were_taken() {
    killed_at("batch::after_ids", 2);
}

fn killed_after_the_postings_were_written() {
    killed_at("batch::after_postings", 0);
}

fn killed_before_commit() {
    killed_at("batch::before_commit", 3);
}

fn killed_after_commit() {
    killed_at("batch::after_commit", 3);
}

fn killed_before_the_group_commit() {
    killed_at("commit::before_group_commit", 1);
}

fn killed_before_a_claim() {
    killed_at("claim::before_update", 1);
}

fn killed_in_a_claim() {
    killed_at("claim::after_update", 1);
}

fn killed_in_a_roll_up() {
    killed_at("rollup::before_commit", 3);
}

fn answer_to_commit_lost_once_before_and_once_after_it_was_applied() {
    let world = World::new("lost_commit");
    let topic = world.topic(3);
    let proxy = Proxy::start(world.postgres.port());
    let mut config = world.config(&topic);
    config.database_url = proxy.url(&config.database_url);
    let stream = Stream::start(&topic, 3, Load::new(seed("lost_commit")), 200);
    let ingest = config.ingest();
    world.await_events(500);
    for (number, lost) in (1..).zip([Lost::AfterApplied, Lost::BeforeApplied]) {
        proxy.lose_commit(lost, "posting");
        wait::until_true(&format!("{lost:?} happens"), FOLD, || {
            proxy.lost() == number
        });
        world.await_events(world.events() + 1000);
    }
    stream.stop();
    world.await_caught_up(&topic);
    drain(&ingest, DRAINS);
    world.assert_exact(&topic);
}

/// Waits until this process owns no partition's position and returns who does.
fn owners(world: &World) -> Vec<String> {
    let rows = world
        .database
        .rows("select distinct owner::text from source_position");
    rows.into_iter().flatten().flatten().collect()
}

fn stopped_process_neither_blocks_its_successor_nor_counts_when_it_wakes() {
    let world = World::new("zombie");
    let topic = world.topic(3);
    let mut random = Random::new(seed("zombie"));
    let load = Load::new(random.bits());
    topic.send_texts(3, load.clone().mixed(500));
    let config = world.config(&topic);
    let mut zombie = config.ingest();
    world.await_caught_up(&topic);
    let stream = Stream::start(&topic, 3, Load::new(random.bits()), 300);
    for round in 0..3 {
        world.await_events(world.events() + 300);
        let before = owners(&world);
        // Somewhere in a batch, with more of them in its buffers.
        wait::pause(Duration::from_millis(random.below(300)));
        zombie.signal(Signal::STOP);
        let successor = config.ingest();
        let what = format!("round {round}: the successor takes over from a stopped process");
        wait::until_true(&what, FOLD, || {
            owners(&world).iter().all(|now| !before.contains(now))
        });
        world.await_events(world.events() + 300);
        zombie.signal(Signal::CONT);
        world.await_events(world.events() + 600);
        drain(&zombie, DRAINS);
        zombie = successor;
    }
    stream.stop();
    world.await_caught_up(&topic);
    drain(&zombie, DRAINS);
    world.assert_exact(&topic);
}

const EPOCHS: &str = "select string_agg(epoch::text, ' ' order by chain) from source_position";

fn one_of_two_owners_is_fenced() {
    let world = World::new("two_owners");
    let topic = world.topic(2);
    // Who is fenced tries again after ten times this, since by then the group would have told it
    // if the other were alive; the two groups here cannot know of each other.
    let one = Config {
        session_timeout_ms: 40_000,
        ..world.config(&topic)
    };
    // Another group: Kafka gives each of them every partition.
    let other = Config {
        group: format!("{}-other", one.group),
        ..one.clone()
    };
    let stream = Stream::start(&topic, 2, Load::new(seed("two_owners")), 200);
    let first = one.ingest();
    world.await_events(300);
    let before = owners(&world);
    let second = other.ingest();
    wait::until_true("the later claim wins both partitions", FOLD, || {
        owners(&world).iter().all(|now| !before.contains(now))
    });
    let epochs = world.database.value(EPOCHS);
    world.await_events(world.events() + 2000);
    assert!(
        first.ended().is_none(),
        "who is fenced lives on\n{}",
        first.log()
    );
    let later = world.database.value(EPOCHS);
    assert_eq!(later, epochs, "who is fenced does not claim again");
    stream.stop();
    world.await_caught_up(&topic);
    drain(&first, DRAINS);
    drain(&second, DRAINS);
    assert!(
        first.log().contains("fenced"),
        "the loser says so\n{}",
        first.log()
    );
    world.assert_exact(&topic);
}

fn sigterm_drains_under_load() {
    let world = World::new("sigterm");
    let topic = world.topic(3);
    let config = world.config(&topic);
    let stream = Stream::start(&topic, 3, Load::new(seed("sigterm")), 500);
    for _round in 0..3 {
        let ingest = config.ingest();
        world.await_events(world.events() + 500);
        drain(&ingest, DRAINS);
    }
    stream.stop();
    config.catch_up();
    world.assert_exact(&topic);
}

fn second_sigterm_ends_now() {
    let world = World::new("second_sigterm");
    let topic = world.topic(1);
    let proxy = Proxy::start(world.postgres.port());
    let mut config = world.config(&topic);
    config.database_url = proxy.url(&config.database_url);
    let ingest = config.ingest();
    topic.send_texts(1, Load::new(1).lines(50));
    world.await_caught_up(&topic);
    // Postgres no longer answers, so that draining takes its whole time.
    proxy.silence(true);
    topic.send_texts(1, Load::new(2).lines(50));
    ingest.signal(Signal::TERM);
    wait::pause(Duration::from_millis(500));
    ingest.signal(Signal::TERM);
    let status = ingest.wait(Duration::from_secs(5));
    assert_ne!(
        status.code(),
        Some(0),
        "work was left behind\n{}",
        ingest.log()
    );
    proxy.silence(false);
    config.catch_up();
    world.assert_exact(&topic);
}

/// Three processes on one topic, and what may happen to them.
struct Fleet<'w> {
    config: Config,
    proxy: &'w Proxy,
    running: Vec<Child>,
    stopped: Vec<Child>,
}

impl Fleet<'_> {
    /// Does something, mostly harm.
    fn act(&mut self, random: &mut Random) {
        let place = usize::try_from(random.below(3)).unwrap();
        match random.below(8) {
            0..=2 => {
                self.running[place].kill();
                self.running[place] = self.config.ingest();
            }
            3 => {
                drain(&self.running[place], DRAINS);
                self.running[place] = self.config.ingest();
            }
            4 => {
                let zombie = std::mem::replace(&mut self.running[place], self.config.ingest());
                zombie.signal(Signal::STOP);
                self.stopped.push(zombie);
            }
            5 => {
                for zombie in &self.stopped {
                    zombie.signal(Signal::CONT);
                }
            }
            6 => self.proxy.lose_commit(Lost::AfterApplied, "posting"),
            _ => self.proxy.lose_commit(Lost::BeforeApplied, "posting"),
        }
    }
}

fn random_kills_stops_and_joins_of_three_processes() {
    let world = World::new("random");
    let topic = world.topic(6);
    let mut random = Random::new(seed("random"));
    let proxy = Proxy::start(world.postgres.port());
    let mut config = with_policies(world.config(&topic), &LIMITS).with_ingest(ROLL_UP_OFTEN);
    config.database_url = proxy.url(&config.database_url);
    let running = (0..3).map(|_| config.ingest()).collect();
    let mut fleet = Fleet {
        config,
        proxy: &proxy,
        running,
        stopped: Vec::new(),
    };
    let stream = Stream::start(&topic, 6, Load::new(random.bits()), 300);
    world.await_events(300);
    for _step in 0..25 {
        fleet.act(&mut random);
        wait::pause(Duration::from_millis(200 + random.below(2000)));
    }
    stream.stop();
    for zombie in &fleet.stopped {
        zombie.signal(Signal::CONT);
    }
    world.await_caught_up(&topic);
    for process in fleet.running.iter().chain(&fleet.stopped) {
        drain(process, DRAINS);
    }
    world.assert_exact(&topic);
    assert_accounts_equal(&world);
}

/// Kills while a backlog is folded as fast as the machine can, in batches as large as they get.
fn random_kills_at_full_speed() {
    let world = World::new("full_speed");
    let topic = world.topic(6);
    let mut random = Random::new(seed("full_speed"));
    let mut load = Load::new(random.bits());
    load.apps = 2_000;
    topic.send_texts(6, load.mixed(100_000));
    let config = with_policies(world.config(&topic), &LIMITS).with_ingest(ROLL_UP_OFTEN);
    let mut running: Vec<Child> = (0..3).map(|_| config.ingest()).collect();
    for _kill in 0..12 {
        topic.send_texts(6, load.mixed(20_000));
        wait::pause(Duration::from_millis(random.below(1_500)));
        let place = usize::try_from(random.below(3)).unwrap();
        running[place].kill();
        running[place] = config.ingest();
    }
    // Batches are at their largest, and those that were killed hold their locks until Postgres notices:
    // a busy machine takes several of the ten seconds that one waits for such a lock.
    world.await_caught_up_within(&topic, FOLD * 3);
    for process in &running {
        drain(process, DRAINS);
    }
    world.assert_exact(&topic);
    assert_accounts_equal(&world);
}

/// Processes come and go while Postgres is slow, so that the batch at hand has records of each partition:
/// it is given up where some of them move, and the others are read again.
fn partitions_move_while_postgres_is_slow() {
    let world = World::new("moving");
    let topic = world.topic(6);
    let proxy = Proxy::start(world.postgres.port());
    let mut config = with_policies(world.config(&topic), &LIMITS).with_ingest(ROLL_UP_OFTEN);
    config.database_url = proxy.url(&config.database_url);
    let staying = config.ingest();
    let stream = Stream::start(&topic, 6, Load::new(seed("moving")), 1_000);
    world.await_events(500);
    proxy.delay(Duration::from_millis(20));
    // Whether a batch is at hand when partitions are taken away is a matter of chance.
    let mut guests = 0;
    while guests < 3 || (guests < 20 && !staying.log().contains("reads a partition again")) {
        guests += 1;
        let guest = config.ingest();
        wait::until_true("the guest has partitions", DIES, || {
            guest.log().contains("opened a partition")
        });
        drain(&guest, DRAINS);
    }
    println!("moving: {guests} guests");
    stream.stop();
    world.await_caught_up(&topic);
    drain(&staying, DRAINS);
    assert!(
        staying.log().contains("reads a partition again"),
        "no batch was given up\n{}",
        staying.log()
    );
    world.assert_exact(&topic);
    assert_accounts_equal(&world);
}

fn a_start_outlives_a_commit_that_is_lost() {
    let world = World::new("start_lost");
    let topic = world.topic(1);
    let proxy = Proxy::start(world.postgres.port());
    let mut config = world.config(&topic);
    config.database_url = proxy.url(&config.database_url);
    for (round, lost) in [(1, Lost::BeforeApplied), (2, Lost::AfterApplied)] {
        proxy.lose_commit(lost, "/* register */");
        let ingest = config.ingest();
        topic.send_texts(1, Load::new(round).lines(50));
        world.await_caught_up(&topic);
        assert_eq!(proxy.lost(), round, "{lost:?}\n{}", ingest.log());
        drain(&ingest, DRAINS);
    }
    world.assert_exact(&topic);
}

fn postgres_restarts_under_load() {
    let world = World::on(
        "pg_restart",
        Postgres::private("pg_restart"),
        Kafka::shared(),
    );
    let topic = world.topic(3);
    let stream = Stream::start(&topic, 3, Load::new(seed("pg_restart")), 200);
    let ingest = world.config(&topic).ingest();
    world.await_events(500);
    for signal in [Signal::QUIT, Signal::INT, Signal::QUIT] {
        world.postgres.stop(signal);
        wait::pause(Duration::from_millis(700));
        world.postgres.start();
        world.await_events(world.events() + 500);
        assert!(
            ingest.ended().is_none(),
            "it outlives {signal:?}\n{}",
            ingest.log()
        );
    }
    stream.stop();
    world.await_caught_up(&topic);
    drain(&ingest, DRAINS);
    world.assert_exact(&topic);
}

fn kafka_restarts_under_load() {
    let world = World::on(
        "kafka_restart",
        Postgres::shared(),
        Kafka::private("kafka_restart"),
    );
    let topic: Topic = world.topic(3);
    let mut load = Load::new(seed("kafka_restart"));
    let ingest = world.config(&topic).ingest();
    for signal in [Signal::TERM, Signal::KILL] {
        let before = world.events().max(0);
        topic.send_texts(3, load.mixed(1000));
        world.await_events(before + 200);
        world.kafka.stop(signal);
        wait::pause(Duration::from_secs(1));
        world.kafka.start();
        topic.send_texts(3, load.mixed(500));
        world.await_caught_up(&topic);
        assert!(
            ingest.ended().is_none(),
            "it outlives the broker\n{}",
            ingest.log()
        );
    }
    drain(&ingest, DRAINS);
    world.assert_exact(&topic);
}
