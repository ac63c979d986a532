//! Calls as peers may send them, beside what tonic says of the same bytes.

use std::io;

use futures_util::stream;
use http_body_util::StreamBody;
use prost::Message as _;
use tonic::Code;

use super::*;

type Piece = Result<Frame<Bytes>, io::Error>;

/// Returns a message behind its prefix.
fn framed(flag: u8, text: &str) -> Vec<u8> {
    let message = text.to_owned().encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &length, &message].concat()
}

fn pieces<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<Piece> {
    let data = pieces.into_iter().map(Bytes::copy_from_slice);
    data.map(|data| Ok(Frame::data(data))).collect()
}

fn broken() -> Piece {
    Err(io::ErrorKind::ConnectionReset.into())
}

fn request<B>(body: B, encoding: Option<&'static str>) -> Request<B> {
    let mut request = Request::new(body);
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, GRPC);
    if let Some(encoding) = encoding {
        headers.insert(ENCODING, HeaderValue::from_static(encoding));
    }
    request
}

/// Returns how a call ended, the answer's bytes, and which messages were answered.
async fn call(body: Vec<Piece>, encoding: Option<&'static str>) -> (Code, Vec<u8>, Vec<String>) {
    let mut heard = Vec::new();
    let body = Box::pin(StreamBody::new(stream::iter(body)));
    let answered = answer(request(body, encoding), |text: String| {
        heard.push(text.clone());
        Ok(format!("{text}!"))
    });
    let (code, bytes) = read(answered.await).await;
    (code, bytes, heard)
}

async fn read(response: Response<Body>) -> (Code, Vec<u8>) {
    let (parts, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .expect("an answer has no end of its own");
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = parts.headers.get(STATUS).or(trailers.get(STATUS));
    let status = status.expect("each call has a status");
    (
        Code::from_bytes(status.as_bytes()),
        body.to_bytes().to_vec(),
    )
}

#[tokio::test]
async fn a_whole_message_is_answered_however_it_comes() {
    let whole = framed(0, "an ask");
    let in_bytes: Vec<_> = whole.chunks(1).collect();
    let mut reset = pieces([&whole[..]]);
    reset.push(broken());
    for body in [
        pieces([&whole[..]]),
        pieces([&whole[..5], &whole[5..]]),
        pieces([&whole[..3], b"", &whole[3..]]),
        pieces(in_bytes),
        reset,
    ] {
        let (code, bytes, heard) = call(body, None).await;
        assert_eq!((code, heard), (Code::Ok, vec!["an ask".to_owned()]));
        assert_eq!(bytes, framed(0, "an ask!"));
    }
    let (code, _, heard) = call(pieces([&framed(0, "")[..]]), Some("identity")).await;
    assert_eq!(
        (code, heard),
        (Code::Ok, vec![String::new()]),
        "an empty one"
    );
}

#[tokio::test]
async fn what_breaks_off_is_answered_to_nobody() {
    let whole = framed(0, "an ask");
    for kept in [0, 3, 5, whole.len() - 1] {
        let mut body = pieces([&whole[..kept]]);
        body.push(broken());
        let (code, _, heard) = call(body, None).await;
        assert_eq!((code, heard), (Code::Cancelled, Vec::new()), "{kept} bytes");
    }
}

#[tokio::test]
async fn of_all_else_tonic_has_the_word() {
    let whole = framed(0, "an ask");
    let mut too_long = whole.clone();
    too_long[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
    let (twice, bad) = (
        [&whole[..], &whole].concat(),
        [0, 0, 0, 0, 2, 0xff, 0xff].to_vec(),
    );
    for (what, body, encoding) in [
        ("compressed", framed(1, "an ask"), None),
        ("compressed, and says so", framed(1, "an ask"), Some("gzip")),
        ("plain, though it says gzip", whole.clone(), Some("gzip")),
        ("another flag", framed(2, "an ask"), None),
        ("two messages", twice, None),
        ("none", Vec::new(), None),
        ("cut", whole[..8].to_vec(), None),
        ("too long", too_long, None),
        ("no protobuf", bad, None),
    ] {
        let tonics = request(Full::from(body.clone()), encoding);
        let expected = by_tonic(tonics, |text: String| Ok(format!("{text}!")));
        let expected = read(expected.await).await;
        let (code, bytes, _) = call(pieces([&body[..]]), encoding).await;
        assert_eq!((code, bytes), expected, "{what}");
    }
}

#[tokio::test]
async fn a_message_that_is_announced_too_long_is_not_waited_for() {
    let announced = [&[0][..], &u32::MAX.to_be_bytes(), b"and no more"].concat();
    let first = stream::iter(pieces([&announced[..]]));
    let body = stream::StreamExt::chain(first, stream::pending::<Piece>());
    let body = Box::pin(StreamBody::new(body));
    let (code, _) = read(answer(request(body, None), |text: String| Ok(text)).await).await;
    assert_eq!(code, Code::OutOfRange);
}
