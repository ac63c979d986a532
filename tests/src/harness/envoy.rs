//! A real Envoy before a small upstream, and the enforcer that it asks.
//!
//! Invariant: each test has all three for itself, on ports of their own. `TOLLBOOK_TESTS_ENVOY` names
//! the executable; without it, it is the one that `scripts/setup.sh` put into the target folder.
//! Deliberately absent: any stand-in for Envoy.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::children::{Child, DeathSignal, Program, free_port};
use crate::harness::product::Config;
use crate::harness::{folders, wait};

/// The gateways: one for each protocol by which Envoy asks.
const CONFIG: &str = include_str!("../../data/envoy.yaml");

/// How long either may take to start on a machine that builds beside.
const START: Duration = Duration::from_secs(60);

/// Tokens that each of the upstream's answers says that it used.
pub const TOKENS_PER_ANSWER: u32 = 40;

/// Envoy, the enforcer and the upstream.
pub struct Gateways {
    /// Asks by the rate limit filter.
    pub rls: u16,
    /// Asks by `ext_authz` over HTTP.
    pub authz_http: u16,
    /// Asks by `ext_authz` over gRPC.
    pub authz_grpc: u16,
    http: u16,
    enforcer: Child,
    envoy: Child,
}

/// What a gateway answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head as it came, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Gateways {
    /// Starts the three; `policies` and `rules` are files of the enforcer.
    #[must_use]
    pub fn start(policies: &str, rules: &str) -> Self {
        let folder = folders::make("envoy");
        std::fs::write(folder.join("policies.yaml"), policies).unwrap();
        std::fs::write(folder.join("rules.yaml"), rules).unwrap();
        let upstream = upstream();
        let [admin, rls, authz_http, authz_grpc, http, grpc] = std::array::from_fn(|_| free_port());
        let more = format!(
            "[policies]\nfiles = [\"{0}/policies.yaml\"]\n\n\
             [enforcer]\nhttp = \"127.0.0.1:{http}\"\ngrpc = \"127.0.0.1:{grpc}\"\nthreads = 1\n\n\
             [enforcer.rls]\nfiles = [\"{0}/rules.yaml\"]\n\n\
             [enforcer.authorize]\napp = \"x-tenant-id\"\n",
            folder.display()
        );
        let config = Config {
            database_url: "postgres://nobody@127.0.0.1:9/none".to_owned(),
            brokers: "127.0.0.1:9".to_owned(),
            group: "none".to_owned(),
            session_timeout_ms: 6000,
            sources: Vec::new(),
            ingest: String::new(),
            more,
            environment: Vec::new(),
        };
        let enforcer = config.start(&["enforcer"]);
        wait::until_true("the enforcer is ready", START, || {
            get(http, "/readyz", "").is_some_and(|answer| answer.status == 200)
        });
        let mut text = CONFIG.to_owned();
        // Longer names first, as shorter ones are part of them.
        for (name, port) in [
            ("ADMIN_PORT", admin),
            ("RLS_PORT", rls),
            ("AUTHZ_HTTP_PORT", authz_http),
            ("AUTHZ_GRPC_PORT", authz_grpc),
            ("UPSTREAM_PORT", upstream),
            ("HTTP_PORT", http),
            ("GRPC_PORT", grpc),
        ] {
            text = text.replace(name, &port.to_string());
        }
        let path = folder.join("envoy.yaml");
        std::fs::write(&path, text).unwrap();
        let envoy = Program {
            name: "envoy".to_owned(),
            path: executable(),
            arguments: [
                "-c",
                path.to_str().unwrap(),
                "--concurrency",
                "1",
                "--use-dynamic-base-id",
            ]
            .map(str::to_owned)
            .to_vec(),
            environment: Vec::new(),
            account: None,
            death_signal: DeathSignal::Kill,
            logs: folder,
        };
        let envoy = envoy.start();
        wait::until_true("Envoy is ready", START, || {
            assert!(envoy.ended().is_none(), "Envoy ended\n{}", envoy.log());
            get(admin, "/ready", "").is_some_and(|answer| answer.status == 200)
        });
        Self {
            rls,
            authz_http,
            authz_grpc,
            http,
            enforcer,
            envoy,
        }
    }

    /// Asks the enforcer itself what is left for an application by its rules, for nothing.
    #[must_use]
    pub fn left(&self, app: &str) -> u32 {
        let body = format!(
            r#"{{"domain":"gateway","descriptors":[{{"entries":[{{"key":"app","value":"{app}"}}],"hitsAddend":"0"}}]}}"#
        );
        let answer = send(self.http, "POST", "/json", "", &body).expect("the enforcer answers");
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let left = answer["statuses"][0]["limitRemaining"].as_u64();
        left.map_or(0, |left| u32::try_from(left).unwrap())
    }

    /// Ends all, the enforcer gracefully.
    pub fn stop(self) {
        self.envoy.kill();
        self.enforcer.signal(Signal::TERM);
        let status = self.enforcer.wait(START);
        assert_eq!(status.code(), Some(0), "{}", self.enforcer.log());
    }
}

fn executable() -> PathBuf {
    let given = std::env::var_os("TOLLBOOK_TESTS_ENVOY").map(PathBuf::from);
    let target = folders::built();
    let installed = target
        .parent()
        .map(|target| target.join("envoy/envoy/_bin/envoy"));
    let path = given.or(installed).unwrap_or_default();
    assert!(
        path.is_file(),
        "there is no Envoy at {}; run scripts/setup.sh, or name one by TOLLBOOK_TESTS_ENVOY",
        path.display()
    );
    path
}

/// Asks once for an application; `None` where nobody answers.
#[must_use]
pub fn get(port: u16, path: &str, app: &str) -> Option<Answer> {
    send(port, "GET", path, app, "")
}

fn send(port: u16, method: &str, path: &str, app: &str, body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(START)).ok()?;
    let tenant = if app.is_empty() {
        String::new()
    } else {
        format!("x-tenant-id: {app}\r\n")
    };
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: gw\r\n{tenant}connection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    })
}

/// Serves answers that say how much they used, until the process ends; returns the port.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(&stream));
        }
    });
    port
}

fn serve(mut stream: &TcpStream) {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    for _end_of_head in lines.filter(String::is_empty) {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nx-used-tokens: {TOKENS_PER_ANSWER}\r\ncontent-length: 2\r\n\r\nok"
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
