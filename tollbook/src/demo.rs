//! `tollbook demo`: a real Postgres, a real Kafka and this executable, with a gateway's traffic.
//!
//! Invariant: when it ends, by whatever way, nothing that it started runs and nothing that it wrote
//! is left. Deliberately absent: any part of the product; the demo only starts it, feeds it and
//! watches it.

mod folder;
mod gateway;
mod guard;
mod kafka;
mod ledger;
mod postgres;
mod process;
mod producer;
mod random;
mod screen;
mod tollbook;
mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use service::{Clock as _, Exit, Failure, Shutdown, SystemClock};
use tokio::time::{Instant, MissedTickBehavior, interval};

use folder::{Folder, RunAs};
use gateway::{Ask, Gateway};
use guard::Guard;
use kafka::{Formatted, Kafka};
use ledger::Ledger;
use postgres::{Cluster, Postgres};
use process::Process;
use producer::Producer;
use random::Random;
use screen::{Moment, Screen};
use tollbook::Tollbook;
use traffic::{Generator, Next};

/// How often the generator adds what is due.
const FEED_EVERY: Duration = Duration::from_millis(20);

/// How often the screen is drawn.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// Made-up requests in a second: enough to see it move, little enough for a laptop.
const PACE: u64 = 250;

/// How long the signal handler waits for the demo to end everything in order.
const GRACE: Duration = Duration::from_secs(45);

/// Start a Postgres, a Kafka and Tollbook of its own, watch a ledger fill and budgets run out.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoArgs {
    /// Play the captured traffic, print the cost report and verify's verdict, then end.
    #[arg(long)]
    once: bool,
    /// A file of access-log lines to play instead of the captured ones (envoy-ai-gateway format).
    #[arg(long, value_name = "FILE")]
    gateway_file: Option<PathBuf>,
    /// The folder of Kafka's jars, which `make demo` fetches; else `TOLLBOOK_KAFKA_LIBS` names it.
    #[arg(long, value_name = "FOLDER")]
    kafka_libs: Option<PathBuf>,
}

/// Runs the demo to its end.
///
/// # Errors
///
/// A step failed; everything is ended and removed nevertheless.
pub(crate) async fn run(arguments: &DemoArgs) -> Result<(), Failure> {
    let shutdown = Shutdown::new();
    shutdown
        .watch_signals("tollbook demo", GRACE)
        .map_err(|error| Failure::unexpected(format!("signals cannot be watched: {error}")))?;
    let captured = arguments.gateway_file.as_ref().map(|path| {
        std::fs::read_to_string(path).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("{} cannot be read: {error}", path.display()),
            )
        })
    });
    let captured = captured.transpose()?;
    let run_as = RunAs::find()?;
    let folder = Folder::make(&run_as)?;
    let guard = Guard::start(folder.path()).map_err(|error| {
        Failure::unexpected(format!("the demo's guard cannot be started: {error}"))
    })?;
    let mut demo = Demo {
        folder,
        guard,
        screen: Screen::new(),
        shutdown: shutdown.clone(),
        postgres: None,
        kafka: None,
        service: None,
    };
    let play = Box::pin(demo.play(arguments, captured.as_deref(), run_as));
    let played = shutdown.unless_requested(play).await;
    let ended = demo.end().await;
    shutdown.request();
    played.unwrap_or(Ok(())).and(ended)
}

/// What runs, and where.
struct Demo {
    folder: Folder,
    guard: Guard,
    screen: Screen,
    shutdown: Shutdown,
    postgres: Option<Postgres>,
    kafka: Option<Kafka>,
    service: Option<Process>,
}

impl Demo {
    /// Starts everything and plays; returns early, with everything running, where a step fails.
    async fn play(
        &mut self,
        arguments: &DemoArgs,
        captured: Option<&str>,
        run_as: RunAs,
    ) -> Result<(), Failure> {
        let tollbook = self.start(arguments, run_as).await?;
        let messages = traffic::replay(captured, now())?;
        let producer = Producer::new(&self.brokers())?;
        if arguments.once {
            self.play_once(&tollbook, &producer, &messages).await
        } else {
            self.play_on(&tollbook, &producer, &messages).await
        }
    }

    async fn start(&mut self, arguments: &DemoArgs, run_as: RunAs) -> Result<Tollbook, Failure> {
        if let Some(reason) = self.folder.moved() {
            let moved = format!("The state lies elsewhere than TMPDIR says, since {reason}.");
            self.screen.say(&moved);
        }
        if let RunAs::User { name, .. } = &run_as {
            self.screen
                .say(&format!("You are root: Postgres runs as user {name}."));
        }
        let started = Instant::now();
        self.screen
            .say("Starting a Postgres and a Kafka of the demo's own …");
        let from_environment = || std::env::var_os("TOLLBOOK_KAFKA_LIBS").map(PathBuf::from);
        let libraries = arguments.kafka_libs.clone().or_else(from_environment);
        let (cluster, formatted) = tokio::join!(
            Cluster::make(&self.folder, run_as),
            Formatted::make(&self.folder, libraries.as_deref()),
        );
        let (cluster, formatted) = (cluster?, formatted?);
        let postgres = self.postgres.insert(cluster.start(&mut self.guard)?);
        let kafka = self.kafka.insert(formatted.start(&mut self.guard)?);
        tokio::try_join!(postgres.ready(&self.folder), kafka.ready())?;
        let (url, brokers) = (postgres.url(), kafka.brokers());
        let tollbook = Tollbook::configure(&self.folder, &url, &brokers)?;
        tollbook.run(&["migrate"]).await?;
        let seconds = started.elapsed().as_secs_f32();
        self.screen.say(&format!(
            "Both are up, and the schema is migrated ({seconds:.1} s)."
        ));
        Ok(tollbook)
    }

    fn brokers(&self) -> String {
        self.kafka.as_ref().map(Kafka::brokers).unwrap_or_default()
    }

    /// Plays what was captured, folds it, and shows what a user would ask.
    async fn play_once(
        &mut self,
        tollbook: &Tollbook,
        producer: &Producer,
        messages: &[String],
    ) -> Result<(), Failure> {
        self.send(producer, messages).await?;
        self.screen.say("Folding them into the ledger …");
        tollbook.run(&["ingest", "--until-caught-up"]).await?;
        let url = self
            .postgres
            .as_ref()
            .map(Postgres::url)
            .unwrap_or_default();
        let look = Ledger::open(&url).await?.look().await?;
        self.screen.say(&format!(
            "{} requests are posted; {} lines were seen before and count nothing; {} events are \
             rejected and kept.",
            look.accepted, look.duplicates, look.rejected,
        ));
        for arguments in [
            ["report", "cost", "--by", "app"].as_slice(),
            &["report", "cost", "--by", "provider,model"],
            &["rejected", "list"],
            &["verify"],
        ] {
            self.screen
                .say(&format!("\n$ tollbook {}", arguments.join(" ")));
            tollbook.show(arguments).await?;
        }
        self.ask_once(tollbook).await
    }

    /// Starts an enforcer, which knows the ledger, and asks it for two applications.
    async fn ask_once(&mut self, tollbook: &Tollbook) -> Result<(), Failure> {
        self.service = Some(tollbook.enforcer(&mut self.guard)?);
        let mut gateway = Gateway::connect(tollbook.enforcer_address()).await?;
        self.screen.say("\nMay these send a request to gpt-4o now?");
        let mut refused = Vec::new();
        for app in ["team-00", "checkout-assistant"] {
            let answer = gateway.ask(Ask {
                app: Some(app),
                provider: "openai",
                model: "gpt-4o",
            });
            let said = match answer.await {
                None => "yes".to_owned(),
                Some(refusal) => {
                    let said = format!("no: {refusal}");
                    refused.extend(refusal.denial);
                    said
                }
            };
            self.screen.say(&format!("  {app}: {said}"));
        }
        let ([denial], 0) = (refused.as_slice(), gateway.unanswered()) else {
            let sentence = "the enforcer's answers are not those of the ledger: the first \
                application has spent its budget, the other has not";
            return Err(Failure::new(Exit::Data, sentence));
        };
        let arguments = ["explain", denial, "--limit", "5"];
        self.screen
            .say(&format!("\n$ tollbook {}", arguments.join(" ")));
        tollbook.show(&arguments).await
    }

    async fn send(&mut self, producer: &Producer, messages: &[String]) -> Result<(), Failure> {
        for message in messages {
            producer.send(message).await?;
        }
        producer.flush().await?;
        let sent = producer.acknowledged();
        self.screen.say(&format!(
            "{sent} messages are on Kafka: what an Envoy AI Gateway logged, moved to the present, \
             every fiftieth twice, and a few broken ones."
        ));
        Ok(())
    }

    /// Runs all services, plays what was captured, then makes up requests until somebody ends it.
    async fn play_on(
        &mut self,
        tollbook: &Tollbook,
        producer: &Producer,
        messages: &[String],
    ) -> Result<(), Failure> {
        self.service = Some(tollbook.all(&mut self.guard)?);
        self.send(producer, messages).await?;
        let mut gateway = Gateway::connect(tollbook.enforcer_address()).await?;
        self.explain(tollbook);
        let url = self
            .postgres
            .as_ref()
            .map(Postgres::url)
            .unwrap_or_default();
        let mut ledger = Ledger::open(&url).await?;
        let mut feed = Feed::new(Random::from_system()?);
        let mut pace = Pace::default();
        let (mut feeding, mut showing) = (interval(FEED_EVERY), interval(SHOW_EVERY));
        showing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = feeding.tick() => feed.send_due(&mut gateway, producer).await?,
                _ = showing.tick() => {
                    self.check()?;
                    let look = ledger.look().await?;
                    let elapsed = feed.elapsed();
                    let pace = pace.of(elapsed, look.accepted);
                    let refusals = gateway.refusals().cloned().collect();
                    let sent = producer.acknowledged();
                    self.screen.show(&Moment { elapsed, sent, pace, look, refusals });
                }
            }
        }
    }

    /// Says where to look while it runs.
    fn explain(&mut self, tollbook: &Tollbook) {
        let url = self
            .postgres
            .as_ref()
            .map(Postgres::url)
            .unwrap_or_default();
        let program = tollbook.program().display();
        self.screen.say(&format!(
            "Made-up requests follow, about {PACE} a second. Before each, the gateway asks the \
             enforcer; two limits run out within a minute or two. In another terminal:\n\n\
             \x20 export TOLLBOOK_CONFIG={}\n\
             \x20 {program} report cost --by app,model\n\
             \x20 {program} rejected list\n\
             \x20 {program} verify\n\
             \x20 {program} explain\n\
             \x20 curl -s http://{}/v1/decisions -d '{{\"app\":\"checkout-assistant\",\"model\":\"gpt-4o\"}}'\n\
             \x20 psql {url}\n\n\
             Kafka listens on {}, topic {}; logs are in {}.\n",
            tollbook.config().display(),
            tollbook.enforcer_address(),
            self.brokers(),
            kafka::TOPIC,
            self.folder.path().display(),
        ));
    }

    /// Notices a child that has ended by itself.
    fn check(&mut self) -> Result<(), Failure> {
        if let Some(postgres) = &mut self.postgres {
            postgres.check()?;
        }
        if let Some(kafka) = &mut self.kafka {
            kafka.check()?;
        }
        if let Some(service) = &mut self.service
            && let Some(status) = service.ended()
        {
            return Err(service.failure(status));
        }
        Ok(())
    }

    /// Ends what runs, the service first, and removes the folder.
    async fn end(mut self) -> Result<(), Failure> {
        if self.shutdown.is_requested() {
            self.screen.say("\nEnding everything …");
        }
        if let Some(service) = self.service.take() {
            service.end(&mut self.guard).await?;
        }
        if let Some(kafka) = self.kafka.take() {
            kafka.end(&mut self.guard).await?;
        }
        if let Some(postgres) = self.postgres.take() {
            postgres.end(&mut self.guard).await?;
        }
        let gone = self.guard.finish().map_err(|error| {
            Failure::unexpected(format!("the demo's guard cannot be waited for: {error}"))
        });
        if gone.is_ok() && !self.folder.path().exists() {
            self.screen
                .say("Nothing is left running, and the demo's folder is gone.");
        }
        gone
    }
}

/// Makes up requests at a pace.
struct Feed {
    generator: Generator,
    started: Instant,
    sent: u64,
}

impl Feed {
    fn new(random: Random) -> Self {
        Self {
            generator: Generator::new(random),
            started: Instant::now(),
            sent: 0,
        }
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sends what is due by now; after a pause all of it, so that the pace holds on average.
    async fn send_due(
        &mut self,
        gateway: &mut Gateway,
        producer: &Producer,
    ) -> Result<(), Failure> {
        let elapsed_ms = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = elapsed_ms.saturating_mul(PACE) / 1000;
        while self.sent < due {
            let message = match self.generator.next() {
                Next::Message(message) => message,
                Next::Request(draft) => {
                    let is_refused = gateway.ask(draft.ask()).await.is_some();
                    self.generator.logged(draft, is_refused, now())
                }
            };
            producer.send(&message).await?;
            self.sent += 1;
        }
        Ok(())
    }
}

/// Measures how many requests a second the ledger grows by.
#[derive(Debug, Default)]
struct Pace {
    /// Moments of the last five seconds, oldest first: when, and how many by then.
    moments: std::collections::VecDeque<(Duration, u64)>,
}

impl Pace {
    fn of(&mut self, elapsed: Duration, accepted: u64) -> u64 {
        self.moments.push_back((elapsed, accepted));
        while self.moments.len() > 10 {
            self.moments.pop_front();
        }
        let Some((since, before)) = self.moments.front() else {
            return 0;
        };
        let ms = u64::try_from((elapsed.saturating_sub(*since)).as_millis()).unwrap_or(u64::MAX);
        accepted
            .saturating_sub(*before)
            .saturating_mul(1000)
            .checked_div(ms)
            .unwrap_or(0)
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(SystemClock.now_unix_ms()).unwrap_or_default()
}
