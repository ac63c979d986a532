//! Asking another process over HTTP: one request, one answer.
//!
//! Invariant: an answer is bounded in time and in size. Deliberately absent: TLS, since listeners are
//! loopback's or lie behind whatever ends TLS for them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long it may be: a page of a thousand denials.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Who is asked: host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin(String);

/// A text that names nobody who can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadUrl(String);

/// Why there is no answer: for a person.
#[derive(Debug)]
pub(crate) struct NoAnswer(String);

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Bytes,
}

impl Origin {
    /// Takes an address.
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self(address.to_string())
    }

    /// Reads `http://host:port`; the port may be absent.
    pub(crate) fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(url.to_owned());
        let rest = url.strip_prefix("http://").ok_or_else(bad)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let parsed: hyper::http::uri::Authority = authority.parse().map_err(|_| bad())?;
        if authority.contains('@') || parsed.host().is_empty() {
            return Err(bad());
        }
        let port = parsed.port_u16().unwrap_or(80);
        Ok(Self(format!("{}:{port}", parsed.host())))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is no URL of an enforcer; write http://127.0.0.1:8080",
            self.0
        )
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Asks for a path, with its query.
pub(crate) async fn get(origin: &Origin, path: &str) -> Result<Answer, NoAnswer> {
    let answered = timeout(ANSWER_WITHIN, converse(origin, path)).await;
    answered.unwrap_or_else(|_elapsed| {
        let seconds = ANSWER_WITHIN.as_secs();
        Err(NoAnswer(format!("nothing came within {seconds} s")))
    })
}

async fn converse(origin: &Origin, path: &str) -> Result<Answer, NoAnswer> {
    let failed = |error: &dyn fmt::Display| NoAnswer(error.to_string());
    let stream = TcpStream::connect(&origin.0).await;
    let stream = stream.map_err(|error| failed(&error))?;
    let connected = handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| failed(&error))?;
    let request = Request::builder()
        .uri(path)
        .header(header::HOST, &origin.0)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let asking = async move {
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| failed(&error))?;
        Ok(Answer {
            status,
            body: body.to_bytes(),
        })
    };
    // The connection moves the bytes for as long as the answer is waited for.
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        answer = asking.as_mut() => answer,
        _ended = connection => asking.await,
    }
}

/// Writes a text for a query: all but letters, digits and `-._~` as `%XX` (RFC 3986, section 2.1).
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_from_a_url() {
        let read = |url| Origin::parse(url).ok().map(|origin| origin.0);
        let some = |text: &str| Some(text.to_owned());
        let rows = [
            ("http://127.0.0.1:8080", some("127.0.0.1:8080")),
            ("http://enforcer/", some("enforcer:80")),
            ("http://[::1]:8080", some("[::1]:8080")),
            ("https://enforcer", None),
            ("127.0.0.1:8080", None),
            ("http://", None),
            ("http://user@host", None),
            ("http://host/path", None),
        ];
        for (url, expected) in rows {
            assert_eq!(read(url), expected, "{url}");
        }
    }

    #[test]
    fn a_query_is_percent_encoded() {
        assert_eq!(encoded("a b&c=ü"), "a%20b%26c%3D%C3%BC");
    }
}
