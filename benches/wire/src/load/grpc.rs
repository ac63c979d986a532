//! Envoy's rate limit service over HTTP/2, by the protocol's own library alone.
//!
//! Invariant: at most four connections, as a gateway's few workers hold; requests are bytes made
//! beforehand, with one descriptor each; an answer must have the status 0 and the code OK. Deliberately
//! absent: a gRPC client, which costs several times what is measured.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::recorder::Recorder;
use super::{Plan, Requests};
use crate::messages::{
    Descriptor, Entry, FRAME, OK, PATH, RateLimitRequest, RateLimitResponse, framed,
};

/// The most connections.
const CONNECTIONS: usize = 4;

/// What a connection may receive before it says more: never the bound here.
const WINDOW: u32 = 1 << 24;

/// Opens the connections and begins to ask on them.
///
/// # Errors
///
/// The server cannot be reached, or speaks no HTTP/2.
pub(super) async fn connect(
    plan: &Plan,
    recorder: &Rc<Recorder>,
    tasks: &mut JoinSet<Result<(), String>>,
) -> Result<(), String> {
    let requests = Requests::new(|app| framed(&request(app)))?;
    let mut clients = Vec::new();
    for _ in 0..plan.connections.min(CONNECTIONS) {
        let stream = TcpStream::connect(plan.address)
            .await
            .map_err(crate::text)?;
        stream.set_nodelay(true).map_err(crate::text)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(WINDOW);
        let (client, connection) = builder.handshake(stream).await.map_err(crate::text)?;
        tasks.spawn_local(async { connection.await.map_err(crate::text) });
        clients.push(client);
    }
    let head = head(plan)?;
    for client in clients.iter().cycle().take(plan.connections) {
        let asking = ask(
            client.clone(),
            head.clone(),
            Rc::clone(&requests),
            Rc::clone(recorder),
        );
        tasks.spawn_local(asking);
    }
    Ok(())
}

fn request(app: &str) -> RateLimitRequest {
    let entry = Entry {
        key: "api_key".to_owned(),
        value: app.to_owned(),
    };
    RateLimitRequest {
        domain: "bench".to_owned(),
        descriptors: vec![Descriptor {
            entries: vec![entry],
        }],
        hits_addend: 0,
    }
}

fn head(plan: &Plan) -> Result<Request<()>, String> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{PATH}", plan.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(crate::text)
}

async fn ask(
    mut client: SendRequest<Bytes>,
    head: Request<()>,
    requests: Rc<Requests<Bytes>>,
    recorder: Rc<Recorder>,
) -> Result<(), String> {
    let mut answer = BytesMut::new();
    while let Some(request) = requests.next() {
        let sent = Instant::now();
        client = client.ready().await.map_err(crate::text)?;
        let sending = client.send_request(head.clone(), false);
        let (response, mut body) = sending.map_err(crate::text)?;
        body.send_data(request.clone(), true).map_err(crate::text)?;
        let response = response.await.map_err(crate::text)?;
        let (parts, received) = response.into_parts();
        let trailers = read(received, &mut answer).await?;
        check(trailers.as_ref().unwrap_or(&parts.headers), &answer)?;
        recorder.answered(sent);
    }
    Ok(())
}

/// Reads the body and returns what follows it.
async fn read(mut body: RecvStream, answer: &mut BytesMut) -> Result<Option<HeaderMap>, String> {
    answer.clear();
    while let Some(data) = body.data().await {
        let data = data.map_err(crate::text)?;
        answer.extend_from_slice(&data);
        let released = body.flow_control().release_capacity(data.len());
        released.map_err(crate::text)?;
    }
    body.trailers().await.map_err(crate::text)
}

fn check(trailers: &HeaderMap, answer: &[u8]) -> Result<(), String> {
    let status = trailers.get("grpc-status").map(http::HeaderValue::as_bytes);
    if status != Some(b"0") {
        return Err(format!("not the status 0: {trailers:?}"));
    }
    let message = answer.get(FRAME..).unwrap_or_default();
    let response = RateLimitResponse::decode(message).map_err(crate::text)?;
    if response.overall_code == OK && response.statuses.len() == 1 {
        return Ok(());
    }
    Err(format!("not one status that allows: {response:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Status;

    #[test]
    fn only_an_answer_that_allows_passes() {
        let trailers = |status: &'static str| {
            let mut map = HeaderMap::new();
            map.insert("grpc-status", http::HeaderValue::from_static(status));
            map
        };
        let answer = |overall_code, statuses: usize| {
            let response = RateLimitResponse {
                overall_code,
                statuses: vec![Status::default(); statuses],
            };
            framed(&response).unwrap()
        };
        assert_eq!(check(&trailers("0"), &answer(OK, 1)), Ok(()));
        for (status, answer) in [
            ("14", answer(OK, 1)),
            ("0", answer(2, 1)),
            ("0", answer(OK, 0)),
            ("0", Bytes::new()),
        ] {
            assert!(
                check(&trailers(status), &answer).is_err(),
                "{status} {answer:?}"
            );
        }
        assert!(
            check(&HeaderMap::new(), &answer(OK, 1)).is_err(),
            "no status"
        );
    }
}
