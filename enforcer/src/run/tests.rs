//! A whole enforcer, from its settings to the last answer before it ends.

use domain::policy::{compile, read};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const POLICY: &str = "
name: pace
limits: [{ name: app, meter: requests, limit: 1, per: [app], window: { calendar: year } }]
";

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    ask(address, &request).await
}

fn settings(config: EnforcerConfig, metrics: Metrics) -> EnforcerSettings {
    EnforcerSettings {
        config,
        base: PathBuf::new(),
        asm_config: None,
        policies: compile(read("test.yaml", POLICY).unwrap()).unwrap(),
        // Alone: neither Kafka nor Postgres, so that it is ready at once.
        feed: FeedSettings {
            kafka: None,
            database_url: None,
            others: Vec::new(),
            exchange_interval: Duration::from_millis(50),
            hydrate_timeout: Duration::from_secs(30),
        },
        metrics,
    }
}

fn config() -> EnforcerConfig {
    EnforcerConfig {
        http: "127.0.0.1:0".to_owned(),
        grpc: "127.0.0.1:0".to_owned(),
        threads: 2,
        ..EnforcerConfig::default()
    }
}

#[tokio::test]
async fn it_boots_decides_tells_and_drains() {
    let metrics = Metrics::start().unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let readiness = Readiness::new();
    let began = begin(settings(config(), metrics.clone()), &readiness, &tasks);
    let (engine, addresses) = began.unwrap();
    readiness.wait_started().await;
    let http = addresses.http;
    for path in ["/livez", "/healthz", "/readyz"] {
        let answer = get(http, path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let body = r#"{"app":"a"}"#;
    let decision = format!(
        "POST /v1/decisions HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // Both threads count by the same counters.
    for outcome in ["allow", "deny", "deny", "deny"] {
        let answer = ask(http, &decision).await;
        let expected = format!("\"outcome\":\"{outcome}\"");
        assert!(answer.contains(&expected), "{answer}");
    }
    let scraped = get(http, "/metrics").await;
    for line in [
        "tollbook_enforcer_decisions_total{outcome=\"deny\"} 3",
        "tollbook_enforcer_limits_count 1",
    ] {
        assert!(scraped.contains(line), "{line} in {scraped}");
    }
    let taken = EnforcerConfig {
        http: http.to_string(),
        ..config()
    };
    let refused = begin(settings(taken, metrics.clone()), &readiness, &tasks).map(drop);
    assert!(
        matches!(refused, Err(EnforcerError::Setting { key: "http", .. })),
        "{refused:?}"
    );
    tasks.shutdown().request();
    assert_eq!(tasks.join().await, Ok(()), "all drains");
    assert_eq!(engine.counters().count(), 1, "one application");
    assert!(TcpStream::connect(http).await.is_err(), "nobody listens");
    nothing_is_decided_without_policies(metrics).await;
}

/// Not a test of its own, as a process has one registry of metrics.
async fn nothing_is_decided_without_policies(metrics: Metrics) {
    let tasks = Tasks::new(Shutdown::new());
    let readiness = Readiness::new();
    let mut settings = settings(config(), metrics);
    settings.policies = compile(Vec::new()).unwrap();
    // Nobody listens there, so policies cannot come.
    settings.feed.database_url = Some("postgres://tollbook@127.0.0.1:1/tollbook".to_owned());
    settings.feed.hydrate_timeout = Duration::from_millis(1);
    let (_, addresses) = begin(settings, &readiness, &tasks).unwrap();
    while !readiness
        .reason()
        .is_some_and(|why| why.contains("no policies"))
    {
        tokio::task::yield_now().await;
    }
    let http = addresses.http;
    let post = "POST /v1/decisions HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    let answer = ask(http, post).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    for path in ["/v1/authorize", "/json", "/readyz", "/healthcheck"] {
        let answer = get(http, path).await;
        let is_refused = answer.starts_with("HTTP/1.1 50");
        assert!(is_refused, "{path}: {answer}");
    }
    let denials = get(http, "/v1/denials").await;
    assert!(denials.starts_with("HTTP/1.1 200"), "{denials}");
    tasks.shutdown().request();
    assert_eq!(tasks.join().await, Ok(()), "all drains");
}

#[tokio::test]
async fn an_address_beyond_loopback_needs_the_word_insecure() {
    let open = EnforcerConfig {
        http: "0.0.0.0:0".to_owned(),
        ..config()
    };
    let refused = bind(&open, "http", &open.http);
    let Err(EnforcerError::Setting { problem, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(problem.contains("enforcer.insecure"), "{problem}");
    let told = EnforcerConfig {
        insecure: true,
        ..open
    };
    assert!(bind(&told, "http", &told.http).is_ok(), "told so");
}

#[test]
fn starts_draw_different_numbers() {
    let drawn: std::collections::BTreeSet<_> = (0..1_000).map(|_| replica()).collect();
    assert_eq!(drawn.len(), 1_000, "all differ");
}
