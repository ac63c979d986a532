//! Calls of one message and one answer.
//!
//! Invariant: a message that came whole and plain, as almost all do, is read where it lies and answered,
//! also where the peer gave its call up meanwhile, as if it had done so just after its answer; whatever
//! else a peer may send (compressed, too long, several, none) is left to tonic, which has the word on
//! what that means. Deliberately absent: how long a message may take, which the caller bounds.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use tonic::Status;
use tonic::body::Body;

use super::MESSAGE_MAX;

/// Bytes before each message: whether it is compressed, and its length (32 bits, big-endian).
const PREFIX: usize = 5;

/// Room for an answer of usual size, in bytes.
const ROOM: usize = 128;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const STATUS_OK: HeaderValue = HeaderValue::from_static("0");

/// Reads a call's message, bounded, and answers it.
pub(super) async fn answer<B, M, A>(
    request: Request<B>,
    mut answer: impl FnMut(M) -> Result<A, Status>,
) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    M: prost::Message + Default + 'static,
    A: prost::Message + 'static,
{
    let (parts, mut body) = request.into_parts();
    let (taken, is_broken) = take(&mut body).await;
    let is_plain = |encoding: &HeaderValue| encoding == "identity";
    let is_plain = parts.headers.get(ENCODING).is_none_or(is_plain);
    let message = is_plain.then(|| message(&taken)).flatten();
    match message.map(M::decode) {
        Some(Ok(message)) => match answer(message) {
            Ok(answer) => respond(&answer),
            Err(status) => status.into_http(),
        },
        None if is_broken => Status::cancelled("the call's message broke off").into_http(),
        Some(Err(_)) | None => {
            // A future of its own, as each call's is copied several times before it is first polled.
            let request = Request::from_parts(parts, Full::from(taken));
            Box::pin(by_tonic(request, answer)).await
        }
    }
}

/// Takes a body, and of one that is too long, or says that it will be, only its beginning; says whether
/// it broke off. One in one piece is not copied.
async fn take<B>(body: &mut B) -> (Bytes, bool)
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let first = match body.frame().await {
        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        Some(Err(_)) => return (Bytes::new(), true),
        None => Bytes::new(),
    };
    let mut rest: Option<BytesMut> = None;
    let mut is_broken = false;
    while !body.is_end_stream() && !is_too_long(rest.as_deref().unwrap_or(&first)) {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
                    let rest = rest.get_or_insert_with(|| BytesMut::from(&*first));
                    rest.extend_from_slice(data);
                }
            }
            Some(Err(_)) => {
                is_broken = true;
                break;
            }
            None => break,
        }
    }
    (rest.map_or(first, BytesMut::freeze), is_broken)
}

/// Says whether a body is longer than what is allowed, or announces that its message will be.
fn is_too_long(body: &[u8]) -> bool {
    let announced = body.split_first_chunk::<PREFIX>();
    let announced = announced.map_or(0, |(&[_, a, b, c, d], _)| u32::from_be_bytes([a, b, c, d]));
    body.len() > PREFIX.saturating_add(MESSAGE_MAX)
        || usize::try_from(announced).unwrap_or(usize::MAX) > MESSAGE_MAX
}

/// Returns the message of a body that holds one, plain and whole, and nothing else.
fn message(body: &Bytes) -> Option<Bytes> {
    let (prefix, message) = body.split_at_checked(PREFIX)?;
    let [0, length @ ..] = prefix else {
        return None;
    };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let is_whole = usize::try_from(length).ok()? == message.len() && message.len() <= MESSAGE_MAX;
    is_whole.then(|| body.slice(PREFIX..))
}

fn respond(answer: &impl prost::Message) -> Response<Body> {
    let length = answer.encoded_len();
    let mut bytes = BytesMut::with_capacity(ROOM.max(length.saturating_add(PREFIX)));
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A buffer takes whatever there is memory for.
    answer.encode(&mut bytes).unwrap_or_default();
    let mut response = Response::new(Body::new(Answered::Message(bytes.freeze())));
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

/// The body of an answer: a message, then how the call ended.
enum Answered {
    Message(Bytes),
    Trailers,
    Ended,
}

impl hyper::body::Body for Answered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match &mut *self {
            Self::Message(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Trailers;
                Frame::data(bytes)
            }
            Self::Trailers => {
                *self = Self::Ended;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(STATUS, STATUS_OK);
                Frame::trailers(trailers)
            }
            Self::Ended => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ended)
    }
}

/// Answers as tonic does.
async fn by_tonic<M, A>(
    request: Request<Full<Bytes>>,
    answer: impl FnMut(M) -> Result<A, Status>,
) -> Response<Body>
where
    M: prost::Message + Default + 'static,
    A: prost::Message + 'static,
{
    let codec = tonic_prost::ProstCodec::<A, M>::default();
    let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MESSAGE_MAX);
    grpc.unary(Call(answer), request).await
}

/// A call of one message that is answered at once: a function as tonic wants it.
#[derive(Clone)]
struct Call<F>(F);

impl<F, M, A> tower::Service<tonic::Request<M>> for Call<F>
where
    F: FnMut(M) -> Result<A, Status>,
{
    type Response = tonic::Response<A>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<M>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        std::future::ready(answer.map(tonic::Response::new))
    }
}

#[cfg(test)]
mod tests;
