//! A proxy in front of Postgres that can be slow, silent or cut, and that can lose the answer to one
//! COMMIT.
//!
//! Invariant: a lost answer is lost once, and the test can tell that it was. The proxy reads the
//! frontend's messages (<https://www.postgresql.org/docs/15/protocol-message-formats.html>) just far
//! enough to know a COMMIT when it passes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::database::RUNTIME;

/// What the proxy does to everything that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Mode {
    /// Wait so long before each piece of the client's bytes is passed on.
    delay: Duration,
    /// Pass nothing on, and let nobody know.
    silent: bool,
    /// Close all connections and take no new one.
    cut: bool,
}

/// When the answer to a COMMIT is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Before Postgres hears of the COMMIT: it rolls back.
    BeforeApplied,
    /// After Postgres has committed.
    AfterApplied,
}

struct Shared {
    mode: watch::Sender<Mode>,
    upstream: u16,
    /// What to lose next: when, and a text that the connection must have sent before.
    lose: Mutex<Option<(Lost, String)>>,
    lost: AtomicU64,
}

/// A proxy on a port of its own.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts a proxy in front of a port of 127.0.0.1.
    #[must_use]
    pub fn start(upstream: u16) -> Self {
        let (mode, _) = watch::channel(Mode::default());
        let shared = Arc::new(Shared {
            mode,
            upstream,
            lose: Mutex::new(None),
            lost: AtomicU64::new(0),
        });
        let listener = RUNTIME
            .block_on(TcpListener::bind(("127.0.0.1", 0)))
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        RUNTIME.spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared }
    }

    /// Returns the URL of a database, through the proxy.
    #[must_use]
    pub fn url(&self, direct: &str) -> String {
        direct.replace(
            &format!(":{}/", self.shared.upstream),
            &format!(":{}/", self.port),
        )
    }

    /// Slows every piece of the client's bytes down.
    pub fn delay(&self, delay: Duration) {
        self.shared.mode.send_modify(|mode| mode.delay = delay);
    }

    /// Passes nothing on from now on, or everything again.
    pub fn silence(&self, silent: bool) {
        self.shared.mode.send_modify(|mode| mode.silent = silent);
    }

    /// Closes all connections and refuses new ones.
    pub fn cut(&self) {
        self.shared.mode.send_modify(|mode| mode.cut = true);
    }

    /// Takes connections again.
    pub fn restore(&self) {
        self.shared.mode.send_modify(|mode| mode.cut = false);
    }

    /// Loses the answer to the next COMMIT on a connection that has sent this text.
    pub fn lose_commit(&self, lost: Lost, text: &str) {
        *self.shared.lose.lock() = Some((lost, text.to_lowercase()));
    }

    /// Returns how many answers were lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        if !shared.mode.borrow().cut {
            RUNTIME.spawn(join(client, Arc::clone(&shared)));
        }
    }
}

/// Joins a client with Postgres until one of them, or the test, ends it.
async fn join(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.upstream)).await else {
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut mode = shared.mode.subscribe();
    // Set once the client's COMMIT has gone through whose answer it shall not see.
    let (swallow, swallowing) = watch::channel(false);
    tokio::select! {
        () = forward(from_client, to_server, &shared, &swallow) => {}
        () = back(from_server, to_client, &shared, swallowing) => {}
        _ = mode.wait_for(|mode| mode.cut) => {}
    }
}

/// Waits as the mode says before bytes are passed on.
async fn hold(shared: &Shared, is_client: bool) {
    let mut modes = shared.mode.subscribe();
    let heard = modes
        .wait_for(|mode| !mode.silent)
        .await
        .map(|mode| mode.delay);
    if let Ok(delay) = heard
        && is_client
        && !delay.is_zero()
    {
        tokio::time::sleep(delay).await;
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    swallow: &watch::Sender<bool>,
) {
    let mut frontend = Frontend::default();
    let mut bytes = Vec::new();
    loop {
        match from.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let mut pass = Vec::new();
        while let Some(message) = frontend.take(&mut bytes) {
            let is_commit = frontend.read(&message);
            match is_commit.then(|| shared.take(&frontend.sent)).flatten() {
                None => pass.extend(message),
                Some(Lost::BeforeApplied) => {
                    shared.lost.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                Some(Lost::AfterApplied) => {
                    swallow.send_replace(true);
                    pass.extend(message);
                }
            }
        }
        hold(shared, true).await;
        if to.write_all(&pass).await.is_err() {
            return;
        }
    }
}

async fn back(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    swallowing: watch::Receiver<bool>,
) {
    let mut chunk = vec![0; 64 * 1024];
    let mut swallowed = Vec::new();
    loop {
        let count = match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let bytes = chunk.get(..count).unwrap_or_default();
        if *swallowing.borrow() {
            swallowed.extend_from_slice(bytes);
            // ReadyForQuery, idle: the transaction is over and the answer complete.
            if swallowed.ends_with(b"Z\0\0\0\x05I") {
                shared.lost.fetch_add(1, Ordering::SeqCst);
                return;
            }
            continue;
        }
        hold(shared, false).await;
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

impl Shared {
    /// Takes the order to lose an answer, if there is one for a connection that sent all this.
    fn take(&self, sent: &str) -> Option<Lost> {
        let mut lose = self.lose.lock();
        lose.take_if(|(_, text)| sent.contains(text.as_str()))
            .map(|(lost, _)| lost)
    }
}

/// What a client has said on one connection.
#[derive(Default)]
struct Frontend {
    /// The start-up message, the only ones without a type, has passed.
    started: bool,
    /// Names of prepared statements that are a COMMIT.
    commits: HashSet<Vec<u8>>,
    /// The texts of all statements so far, in lowercase.
    sent: String,
}

impl Frontend {
    /// Takes one whole message off the front.
    fn take(&self, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
        let before = usize::from(self.started);
        let length: [u8; 4] = bytes.get(before..before + 4)?.try_into().ok()?;
        let whole = before + usize::try_from(u32::from_be_bytes(length)).ok()?;
        (bytes.len() >= whole).then(|| bytes.drain(..whole).collect())
    }

    /// Reads a message and says whether it asks Postgres to commit.
    fn read(&mut self, message: &[u8]) -> bool {
        if !self.started {
            // Requests for TLS (80877103) and GSS (80877104) are answered by one byte, and then
            // comes the start-up itself.
            let code = message.get(4..8).unwrap_or_default();
            self.started = !matches!(code, [4, 210, 22, 47 | 48]);
            return false;
        }
        let Some((kind, body)) = message.split_first() else {
            return false;
        };
        let mut texts = body.get(4..).unwrap_or_default().split(|byte| *byte == 0);
        match kind {
            b'Q' => self.is_commit(texts.next().unwrap_or_default()),
            b'P' => {
                let name = texts.next().unwrap_or_default().to_vec();
                if self.is_commit(texts.next().unwrap_or_default()) {
                    self.commits.insert(name);
                }
                false
            }
            b'B' => self.commits.contains(texts.nth(1).unwrap_or_default()),
            _ => false,
        }
    }

    fn is_commit(&mut self, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text).to_lowercase();
        self.sent.push_str(&text);
        self.sent.push('\n');
        let code = text
            .lines()
            .find(|line| !line.trim().is_empty() && !line.starts_with("--"));
        code.is_some_and(|code| code.trim().starts_with("commit"))
    }
}
