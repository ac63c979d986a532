//! `POST /v1/decisions` over HTTP/1.1: each connection sends a request, reads its answer, sends the next.
//!
//! Invariant: requests are bytes made beforehand; an answer is read by its `content-length`, and must
//! be 200 and allow. Deliberately absent: pipelining, chunked bodies.

use std::rc::Rc;

use memchr::memmem::Finder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::recorder::Recorder;
use super::{Plan, Requests};

/// Room for an answer; one that is longer makes it grow.
const ROOM: usize = 4096;

/// Opens all connections; each asks until its task is ended.
///
/// # Errors
///
/// The server cannot be reached.
pub(super) async fn connect(
    plan: &Plan,
    recorder: &Rc<Recorder>,
    tasks: &mut JoinSet<Result<(), String>>,
) -> Result<(), String> {
    let host = plan.address;
    let requests = Requests::new(|app| {
        let body = format!(
            r#"{{"app":"{app}","model":"gpt-4o-mini","provider":"openai","path":"/v1/chat/completions"}}"#
        );
        Ok(format!(
            "POST /v1/decisions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ))
    })?;
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(host).await.map_err(crate::text)?;
        stream.set_nodelay(true).map_err(crate::text)?;
        let connection = Connection {
            stream,
            read: Vec::with_capacity(ROOM),
            end_of_head: Finder::new(b"\r\n\r\n"),
            allowed: Finder::new(br#""outcome":"allow""#),
        };
        let (requests, recorder) = (Rc::clone(&requests), Rc::clone(recorder));
        tasks.spawn_local(connection.ask(requests, recorder));
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    end_of_head: Finder<'static>,
    allowed: Finder<'static>,
}

impl Connection {
    async fn ask(
        mut self,
        requests: Rc<Requests<String>>,
        recorder: Rc<Recorder>,
    ) -> Result<(), String> {
        while let Some(request) = requests.next() {
            let sent = Instant::now();
            let written = self.stream.write_all(request.as_bytes()).await;
            written.map_err(crate::text)?;
            self.read_answer().await?;
            recorder.answered(sent);
        }
        Ok(())
    }

    async fn read_answer(&mut self) -> Result<(), String> {
        self.read.clear();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| self.read.len() < wanted) {
            let count = self.stream.read_buf(&mut self.read).await;
            if count.map_err(crate::text)? == 0 {
                return Err("the server closed a connection".to_owned());
            }
            if wanted.is_none() {
                wanted = self.length()?;
            }
        }
        let is_whole = wanted == Some(self.read.len());
        if is_whole && self.read.starts_with(b"HTTP/1.1 200 ") && self.is_allowed() {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&self.read);
        Err(format!(
            "not the answer of one decision that allows: {answer}"
        ))
    }

    fn is_allowed(&self) -> bool {
        self.allowed.find(&self.read).is_some()
    }

    /// Returns how long head and body are together, once the head is read.
    fn length(&self) -> Result<Option<usize>, String> {
        let Some(end) = self.end_of_head.find(&self.read) else {
            return Ok(None);
        };
        let head = self.read.get(..end).unwrap_or_default();
        let length = head.split(|&byte| byte == b'\n').find_map(content_length);
        let length = length.ok_or_else(|| {
            let head = String::from_utf8_lossy(head);
            format!("an answer without content-length: {head}")
        })?;
        Ok(Some(end + 4 + length))
    }
}

/// Returns the number in a line of a head, where it is that of `content-length`.
fn content_length(line: &[u8]) -> Option<usize> {
    let name = line.get(..15)?;
    if !name.eq_ignore_ascii_case(b"content-length:") {
        return None;
    }
    let value = std::str::from_utf8(line.get(15..)?).ok()?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_found_whatever_its_case() {
        assert_eq!(content_length(b"Content-Length: 42\r"), Some(42));
        assert_eq!(content_length(b"content-length:7"), Some(7));
        assert_eq!(content_length(b"content-type: application/json\r"), None);
        assert_eq!(content_length(b"content-length: many"), None);
    }
}
