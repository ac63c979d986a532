//! The generator: a closed loop on one thread, over a fixed number of connections.
//!
//! Invariant: each answer is checked, and one that does not allow is an error and no figure; latencies
//! are exact, of every request that was sent and answered within the measured time; the server's
//! processor time is read at both ends of that time. Deliberately absent: pacing, so latencies are what a client meets
//! that waits for each answer, and hold the generator's own share of the cores.

mod cpu;
mod grpc;
mod http;
mod recorder;

use std::cell::Cell;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use self::recorder::Recorder;
use crate::Protocol;

/// How many applications ask.
const APPS: usize = 10_000;

/// Walks over all applications in an order that looks like chance: coprime to their number.
const STRIDE: usize = 6_181;

/// Who is asked, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// What it speaks.
    protocol: Protocol,
    /// Where it listens.
    address: SocketAddrV4,
    /// The server's process, whose processor time is told.
    #[arg(long)]
    pid: u32,
    /// How many requests are under way at a time: over HTTP each on a connection of its own, over gRPC
    /// on at most four.
    #[arg(long)]
    connections: usize,
    /// How long before what is measured, in ms.
    #[arg(long, value_parser = crate::milliseconds)]
    warm_up: Duration,
    /// How long is measured, in ms.
    #[arg(long, value_parser = crate::milliseconds)]
    measured: Duration,
}

/// The encoded requests of all applications, in the order in which they are sent.
struct Requests<T> {
    encoded: Vec<T>,
    next: Cell<usize>,
}

impl<T> Requests<T> {
    fn new(encode: impl Fn(&str) -> Result<T, String>) -> Result<Rc<Self>, String> {
        let apps = (0..APPS).map(|number| format!("app-{:05}", number * STRIDE % APPS));
        let encoded: Result<Vec<T>, String> = apps.map(|app| encode(&app)).collect();
        Ok(Rc::new(Self {
            encoded: encoded?,
            next: Cell::new(0),
        }))
    }

    fn next(&self) -> Option<&T> {
        let number = self.next.get();
        self.next.set((number + 1) % self.encoded.len());
        self.encoded.get(number)
    }
}

/// Asks, and returns what was measured.
///
/// # Errors
///
/// The server cannot be reached, ended, or answered otherwise than by allowing.
pub(crate) fn run(plan: &Plan) -> Result<Value, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(crate::text)?;
    LocalSet::new().block_on(&runtime, ask(plan))
}

async fn ask(plan: &Plan) -> Result<Value, String> {
    let recorder = Rc::new(Recorder::default());
    let mut tasks = JoinSet::new();
    match plan.protocol {
        Protocol::Http => http::connect(plan, &recorder, &mut tasks).await?,
        Protocol::Grpc => grpc::connect(plan, &recorder, &mut tasks).await?,
    }
    while_all_work(&mut tasks, plan.warm_up).await?;
    let (server, own) = (cpu::of(plan.pid)?, cpu::of(std::process::id())?);
    recorder.begin();
    while_all_work(&mut tasks, plan.measured).await?;
    recorder.end();
    let server = cpu::of(plan.pid)?.saturating_sub(server);
    let own = cpu::of(std::process::id())?.saturating_sub(own);
    tasks.shutdown().await;
    let mut figures = recorder.figures().ok_or("the server answered nothing")?;
    figures.add_cpu("server_cpu_us_per_decision", server);
    figures.add_cpu("generator_cpu_us_per_decision", own);
    Ok(json!(figures.into_object()))
}

/// Waits; ends early with the error of the first task that has one.
async fn while_all_work(
    tasks: &mut JoinSet<Result<(), String>>,
    time: Duration,
) -> Result<(), String> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            Some(Ok(Ok(()))) | None => Err("a connection ended by itself".to_owned()),
            Some(Err(error)) => Err(error.to_string()),
        },
    }
}
