//! What is no ask: unreadable, too large, too slow, or elsewhere.

use super::*;

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_a_sentence() {
    let server = serve();
    let deep = format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000));
    let many = json!({ "candidates": vec![json!({ "model": "m" }); 1_000] }).to_string();
    let headers: serde_json::Map<_, _> = (0..201).map(|n| (format!("h{n}"), json!("v"))).collect();
    let headers = json!({ "headers": headers }).to_string();
    let long = json!({ "app": "x".repeat(257) }).to_string();
    let cases: [(&[u8], &str); 26] = [
        (b"{\"estimate\":[1,2]}", "an object"),
        (b"{\"candidates\":[[\"m\"]]}", "an object"),
        (b"", "cannot be read"),
        (b"nonsense", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"\"text\"", "cannot be read"),
        (b"{} {}", "trailing"),
        (b"{\"app\":\"a\",\"app\":\"b\"}", "duplicate field"),
        (b"{\"app\":7}", "a text"),
        (b"{\"app\":\"\xff\xfe\"}", "cannot be read"),
        (b"{\"app\":\"\\ud800\"}", "cannot be read"),
        (b"{\"modle\":\"m\"}", "did you mean \"model\"?"),
        (
            b"{\"estimate\":{\"tokens\":1}}",
            "there is no field \"tokens\"",
        ),
        (
            b"{\"candidates\":[{\"modell\":\"m\"}]}",
            "did you mean \"model\"?",
        ),
        (b"{\"estimate\":{\"input_tokens\":-1}}", "cannot be read"),
        (b"{\"estimate\":{\"input_tokens\":1.5}}", "cannot be read"),
        (
            b"{\"estimate\":{\"input_tokens\":9007199254740993}}",
            "is above",
        ),
        (b"{\"report\":{\"total_tokens\":1e3}}", "cannot be read"),
        (b"{\"report\":{\"cost\":0.5}}", "a text"),
        (b"{\"report\":{\"cost\":\"-1\"}}", "never negative"),
        (
            b"{\"report\":{\"input_tokens\":1,\"output_tokens\":1,\"total_tokens\":3}}",
            "total_tokens is not the sum",
        ),
        (
            b"{\"report\":{},\"candidates\":[{}]}",
            "leave `candidates` out",
        ),
        (deep.as_bytes(), "cannot be read"),
        (many.as_bytes(), "1000 of them; send at most 100"),
        (headers.as_bytes(), "more than 200 headers"),
        (long.as_bytes(), "app: 257 bytes long"),
    ];
    for (body, expected) in cases {
        let got = server.send("POST", "/v1/decisions", "", body).await;
        let shown = String::from_utf8_lossy(body.get(..80).unwrap_or(body)).into_owned();
        assert_eq!(got.status, 400, "{shown}");
        assert_eq!(
            got.header("content-type"),
            Some("application/problem+json"),
            "{shown}"
        );
        let detail = got.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(expected), "{shown}: {detail}");
        assert!(detail.len() <= 512, "{shown}: {detail}");
    }
    assert_eq!(server.engine.counters().count(), 0, "nothing was charged");
}

#[tokio::test]
async fn what_is_too_large_is_refused_unread() {
    let server = serve();
    let head = "POST /v1/decisions HTTP/1.1\r\nhost: test\r\nconnection: close\r\n";
    let said = format!("{head}content-length: 1000000000000\r\n\r\n{{");
    assert_eq!(
        server.raw(said.as_bytes()).await.status,
        413,
        "by what it says"
    );
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..20 {
        chunked.extend_from_slice(b"2000\r\n");
        chunked.extend_from_slice(&[b' '; 0x2000]);
        chunked.extend_from_slice(b"\r\n");
    }
    assert_eq!(server.raw(&chunked).await.status, 413, "by what it sends");
    let huge = format!(
        "GET /{} HTTP/1.1\r\nhost: test\r\n\r\n",
        "x".repeat(300_000)
    );
    let status = server.raw(huge.as_bytes()).await.status;
    assert!((400..500).contains(&status) || status == 0, "{status}");
    let many: String = (0..5_000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let status = server.send("GET", "/v1/authorize", &many, b"").await.status;
    assert!((400..500).contains(&status) || status == 0, "{status}");
    let next = server.send("GET", "/v1/authorize", "", b"").await.status;
    assert_eq!(next, 200, "the next one is served");
}

/// A body that never comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn bodies_that_never_come_are_not_waited_for() {
    let router = asm::routes(Arc::new(asm::Asm::new("[]").unwrap()), Arc::new(Stands));
    let mut request = Request::new(Body::new(Never));
    *request.uri_mut() = "/update_ratelimit_record".parse().unwrap();
    let answer = routed(router, request, Duration::from_millis(1)).await;
    assert_eq!(answer.status(), 408, "after its time");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let server = serve();
    for (method, path, status) in [
        ("GET", "/v1/decisions", 405),
        ("POST", "/v1/decisions/", 404),
        ("GET", "/", 404),
        ("GET", "/v1/authorized", 404),
        ("DELETE", "/v1/denials", 405),
    ] {
        let got = server.send(method, path, "", b"").await;
        assert_eq!(got.status, status, "{method} {path}");
    }
}
