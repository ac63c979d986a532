//! Sub-requests: where they say who asks for what.

use super::*;

#[tokio::test]
async fn sub_requests_of_any_method_and_path_are_decided() {
    let server = serve();
    let who = "x-tenant-id: a\r\nx-model: m\r\n";
    let allowed = server.send("GET", "/v1/authorize", who, b"").await;
    assert_eq!((allowed.status, allowed.body.len()), (200, 0), "allowed");
    let limits = "\"pace\";r=1;t=60, \"tokens\";r=100;t=50400";
    assert_eq!(allowed.header("ratelimit"), Some(limits), "told");
    let below = server
        .send("PURGE", "/v1/authorize/any/path?x=1", who, b"")
        .await;
    assert_eq!(below.status, 200, "any method, any path");

    let refused = server
        .send("POST", "/v1/authorize", who, b"a body that nobody reads")
        .await;
    assert_eq!(refused.status, 403, "the policy's status");
    for (name, value) in [
        ("x-tier", "free"),
        ("retry-after", "60"),
        ("content-type", "application/problem+json"),
    ] {
        assert_eq!(refused.header(name), Some(value), "{name}");
    }
    let body = refused.json();
    assert_eq!(
        (&body["status"], &body["detail"]),
        (&json!(403), &json!("come back later")),
        "{body}"
    );
    assert_eq!(body["violated-policies"], json!(["pace"]), "{body}");
    assert_eq!(body["error"]["code"], "rate_limit_exceeded", "{body}");
    assert_eq!(
        body["key"],
        json!({ "tenant": "default", "app": "a" }),
        "{body}"
    );
    assert_eq!(
        (&body["used"], &body["limit_value"]),
        (&json!("2"), &json!("2")),
        "{body}"
    );
}

#[tokio::test]
async fn identity_comes_from_named_headers_alone() {
    let server = serve();
    for _ in 0..3 {
        let who = "x-user-id: a\r\nx-app: a\r\napp: a\r\ntenant: other\r\nx-tenant-id: \r\n";
        drop(server.send("GET", "/v1/authorize", who, b"").await);
    }
    let answer = server.decide(&json!({})).await;
    assert_eq!(
        answer["outcome"], "deny",
        "nobody is one application: {answer}"
    );
    assert_eq!(
        answer["key"],
        json!({ "tenant": "default", "app": null }),
        "{answer}"
    );
}

#[tokio::test]
async fn an_identity_that_comes_twice_is_none() {
    let server = serve();
    let who = "x-tenant-id: a\r\nx-tenant-id: b\r\n";
    drop(server.send("GET", "/v1/authorize", who, b"").await);
    for (app, used) in [(Value::Null, "2"), (json!("a"), "1"), (json!("b"), "1")] {
        let answer = server.decide(&json!({ "app": app })).await;
        assert_eq!(answer["used"], used, "{answer}");
    }
}

#[tokio::test]
async fn the_original_request_comes_from_where_the_settings_say() {
    use OriginalRequest::{Request, XForwarded, XOriginal};
    let forwarded = "x-forwarded-method: POST\r\nx-forwarded-host: gw.example:8443\r\nx-forwarded-uri: /v1/chat/completions?x=1\r\n";
    let original = "x-original-method: POST\r\nx-original-url: https://gw.example/v1/chat?x\r\nx-original-host: gw.example\r\n";
    let other = "x-forwarded-method: POST\r\nx-forwarded-host: gw.example\r\nx-forwarded-uri: /v1/models\r\n";
    let host = "x-forwarded-host: gw.example\r\n";
    let twice = "x-forwarded-uri: /v1/chat\r\nx-forwarded-uri: /v1/chat\r\n";
    let chat = "/v1/authorize/v1/chat/completions";
    let cases = [
        (
            XForwarded,
            "GET",
            "/v1/authorize",
            forwarded.to_owned(),
            429,
        ),
        (XForwarded, "GET", "/v1/authorize", original.to_owned(), 200),
        (
            XForwarded,
            "GET",
            "/v1/authorize",
            format!("{original}{other}"),
            200,
        ),
        // What it does not say is that of the sub-request.
        (XForwarded, "POST", chat, host.to_owned(), 429),
        (
            XForwarded,
            "POST",
            "/v1/authorize/v1/models",
            host.to_owned(),
            200,
        ),
        (
            XForwarded,
            "POST",
            "/v1/authorize",
            format!("{host}{twice}"),
            200,
        ),
        (XOriginal, "GET", "/v1/authorize", original.to_owned(), 429),
        (XOriginal, "GET", "/v1/authorize", forwarded.to_owned(), 200),
        (
            XOriginal,
            "GET",
            "/v1/authorize",
            format!("{other}{original}"),
            429,
        ),
        (
            Request,
            "POST",
            "/v1/authorize",
            format!("{forwarded}{original}"),
            200,
        ),
        (
            Request,
            "POST",
            "/v1/authorize/v1/models",
            forwarded.to_owned(),
            200,
        ),
    ];
    for (number, (from, method, path, headers, status)) in cases.into_iter().enumerate() {
        let server = serve_from(from);
        let headers = format!("x-tenant-id: app-{number}\r\n{headers}");
        let got = server.send(method, path, &headers, b"").await;
        assert_eq!(got.status, status, "{from:?}: {method} {path} {headers}");
    }
}

#[tokio::test]
async fn a_sub_request_is_read_itself_by_default() {
    let other = "x-forwarded-host: gw.example\r\nx-forwarded-uri: /v1/models\r\n";
    let chat = "/v1/authorize/v1/chat/completions";
    let server = serve();
    let own = format!("POST {chat} HTTP/1.1\r\nhost: gw.example\r\nconnection: close\r\n");
    let own = format!("{own}{other}x-tenant-id: own\r\n\r\n");
    let got = server.raw(own.as_bytes()).await;
    assert_eq!(
        got.status, 429,
        "the sub-request itself, whatever its headers say"
    );
}

#[tokio::test]
async fn the_clients_address_is_the_one_that_the_gateway_wrote() {
    use OriginalRequest::{Request, XForwarded, XOriginal};
    let (inside, outside) = ("192.0.2.1, 10.1.2.3", "10.1.2.3, 192.0.2.1");
    let cases = [
        // The address that the gateway appended, not the one that the client made up.
        (Request, format!("x-forwarded-for: {inside}\r\n"), 429),
        (Request, format!("x-forwarded-for: {outside}\r\n"), 200),
        (XForwarded, format!("x-forwarded-for: {inside}\r\n"), 429),
        (XForwarded, "x-real-ip: 10.1.2.3\r\n".to_owned(), 200),
        (XOriginal, "x-real-ip: 10.1.2.3\r\n".to_owned(), 429),
        (XOriginal, format!("x-forwarded-for: {inside}\r\n"), 200),
    ];
    for (number, (from, headers, status)) in cases.into_iter().enumerate() {
        let headers = format!("x-tenant-id: app-{number}\r\n{headers}");
        let got = serve_from(from)
            .send("GET", "/v1/authorize", &headers, b"")
            .await;
        assert_eq!(got.status, status, "{from:?}: {headers}");
    }
}

#[tokio::test]
async fn a_model_is_read_from_a_body_where_no_header_names_it() {
    let mut authorize = AuthorizeConfig {
        app: Some("x-tenant-id".to_owned()),
        model: Some("x-model".to_owned()),
        ..AuthorizeConfig::default()
    };
    let body = br#"{"messages":[],"model":"dear"}"#;
    let path = "/v1/authorize/v1/messages";
    let deaf = serve_by(&authorize).send("POST", path, "", body).await;
    assert_eq!(
        deaf.status, 200,
        "bodies are not read unless the settings say so"
    );
    authorize.body_bytes_max = 64;
    let server = serve_by(&authorize);
    let long = format!("{{\"model\":\"dear\",\"x\":\"{}\"}}", "x".repeat(64));
    let longest = vec![b' '; 4 * 1_024 * 1_024];
    for (what, headers, body, status) in [
        ("named", "", &body[..], 429),
        (
            "a header stands above it",
            "x-model: cheap\r\n",
            &body[..],
            200,
        ),
        (
            "of two headers none counts",
            "x-model: a\r\nx-model: b\r\n",
            &body[..],
            429,
        ),
        ("none", "", b"", 200),
        ("cut", "", &body[..20], 200),
        ("twice", "", br#"{"model":"dear","model":"x"}"#, 200),
        ("too long", "", long.as_bytes(), 200),
        ("far too long", "", &longest, 200),
    ] {
        // Each by somebody else, so that no other limit refuses it.
        let headers = format!("x-tenant-id: {what}\r\n{headers}");
        let got = server.send("POST", path, &headers, body).await;
        // Of one that sends on and on, the connection ends.
        let is_cut = body.len() == longest.len() && got.status == 0;
        assert!(got.status == status || is_cut, "{what}: {}", got.status);
    }
    assert_eq!(
        server.send("POST", path, "", body).await.status,
        429,
        "it goes on"
    );
}
