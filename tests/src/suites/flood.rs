//! Keys that somebody makes up: they cost bounded memory, and nobody else a decision.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::limits::file;
use crate::harness::children::{Child, free_port};
use crate::harness::product::drain;
use crate::harness::runner::Test;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::test;

pub(super) const TESTS: &[Test] = &[test!(made_up_keys_find_no_room_and_harm_nobody)];

/// As many counters as there may be.
const ROOM: usize = 500;

const POLICIES: &str = "
name: closed
match: { route: closed }
limits:
  - { name: closed, meter: requests, limit: 3, per: [user], window: { calendar: month } }
on_unavailable: { decide: deny, after: 60s }
---
name: open
match: { route: open }
limits:
  - { name: open, meter: requests, limit: 3, per: [user], window: { calendar: month } }
on_unavailable: { decide: allow, after: 60s }
---
name: short
match: { route: short }
limits:
  - { name: short, meter: requests, limit: 3, per: [user], window: { fixed: 30s } }
on_unavailable: { decide: deny, after: 60s }
";

/// A connection that asks again and again.
struct Asker(BufReader<TcpStream>);

impl Asker {
    fn new(port: u16) -> Self {
        Self(BufReader::new(
            TcpStream::connect(("127.0.0.1", port)).unwrap(),
        ))
    }

    fn send(&mut self, method: &str, path: &str, body: &str) -> String {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            let _bytes = self.0.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(said) = line.strip_prefix("content-length: ") {
                length = said.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    /// Returns outcome and reason.
    fn ask(&mut self, route: &str, user: &str) -> (String, String) {
        let ask = json!({"route": route, "user": user}).to_string();
        let answer = self.send("POST", "/v1/decisions", &ask);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        (text("outcome"), text("reason"))
    }

    fn metric(&mut self, name: &str) -> u64 {
        let shown = self.send("GET", "/metrics", "");
        let line = shown.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.trim().parse().ok());
        value.unwrap_or_default()
    }
}

/// Returns the memory that a process has now, in KiB.
fn resident_kib(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let line = line.expect("Linux says").trim();
    line.trim_end_matches(" kB").parse().unwrap()
}

fn made_up_keys_find_no_room_and_harm_nobody() {
    let world = World::new("flood");
    let port = free_port();
    let policies = file("policies.yaml", POLICIES);
    let config = world.bare_config().with_more(&format!(
        "[policies]\nfiles = [\"{policies}\"]\n\n[enforcer]\nhttp = \"127.0.0.1:{port}\"\n\
         grpc = \"127.0.0.1:{}\"\nthreads = 1\ncounters_max = {ROOM}\ndenials_kept = 10\n",
        free_port()
    ));
    let enforcer = config.start(&["enforcer"]);
    wait::until_true("the enforcer is ready", FOLD, || {
        let ready = TcpStream::connect(("127.0.0.1", port)).is_ok();
        ready
            && Asker::new(port)
                .send("GET", "/readyz", "")
                .starts_with("ready")
    });
    let mut asker = Asker::new(port);
    for route in ["closed", "open"] {
        assert_eq!(asker.ask(route, "ann").0, "allow", "the first of {route}");
    }
    // Some that will be over soon, and so many that all room is taken.
    for number in 0..200 {
        let _answer = asker.ask("short", &format!("short {number}"));
    }
    let mut outcomes = std::collections::BTreeMap::<_, usize>::new();
    let flood =
        |asker: &mut Asker, from: usize, outcomes: &mut std::collections::BTreeMap<_, _>| {
            for number in from..from + 5_000 {
                let answer = asker.ask("closed", &format!("made up {number}"));
                *outcomes.entry(answer).or_insert(0) += 1;
            }
        };
    flood(&mut asker, 0, &mut outcomes);
    let before = resident_kib(&enforcer);
    flood(&mut asker, 5_000, &mut outcomes);
    flood(&mut asker, 10_000, &mut outcomes);
    let after = resident_kib(&enforcer);
    println!("{outcomes:?}; {before} KiB, then {after} KiB");
    assert!(
        after < before + 2_048,
        "memory grows with keys: {before} KiB, then {after} KiB"
    );
    let count = asker.metric("tollbook_enforcer_counters_count ");
    assert!(count <= ROOM as u64, "{count} counters");
    let refused = ("deny".to_owned(), "no_room".to_owned());
    assert!(outcomes[&refused] > 14_000, "{outcomes:?}");
    // Whoever is known is decided by what was counted.
    for route in ["closed", "open"] {
        let answers: Vec<_> = (0..3).map(|_| asker.ask(route, "ann").0).collect();
        assert_eq!(answers, ["allow", "allow", "deny"], "ann on {route}");
    }
    let within = ("allow".to_owned(), "within".to_owned());
    assert_eq!(asker.ask("open", "bob"), within, "the policy allows");
    wait::until_true("it is told", FOLD, || {
        asker.metric("tollbook_enforcer_counters_refused_total ") > 14_000
    });
    // What is over makes room for others.
    wait::until_true("there is room again", FOLD, || {
        asker.ask("short", "carol") == within
    });
    drain(&enforcer, FOLD);
    let told = enforcer
        .stderr()
        .matches("there is no room for more counters")
        .count();
    assert!((1..=2).contains(&told), "{told} times:\n{}", enforcer.log());
}
