//! A connection of which every byte is ours.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long anything may take on a busy machine. Only a story that fails waits for it.
const PATIENCE: Duration = Duration::from_mins(1);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An answer with this status.
    Answer(u16),
    /// The end of the connection, before any byte of an answer.
    End,
}

/// A raw connection to ingest.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Read and not yet looked at.
    buffer: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(self.stream.write_all(bytes)).await
    }

    /// Nothing more will be sent; answers are still read.
    pub(crate) async fn send_no_more(&mut self) -> io::Result<()> {
        within(self.stream.shutdown()).await
    }

    /// The next answer, whole and well-formed.
    pub(crate) async fn hear(&mut self, bodiless: bool) -> Result<Heard, String> {
        loop {
            let text = loop {
                // Answers are plain ASCII, so that a place in the text is one in the bytes.
                let text = String::from_utf8_lossy(&self.buffer);
                if let Some(end) = text.find("\r\n\r\n") {
                    break text[..end + 4].to_ascii_lowercase();
                }
                if self.read().await? == 0 {
                    if self.buffer.is_empty() {
                        return Ok(Heard::End);
                    }
                    return Err(format!("the connection ended within {:?}", self.shown()));
                }
            };
            let head = text.len();
            let status = status(&text).ok_or_else(|| format!("is no answer: {:?}", self.shown()))?;
            let length = if bodiless { 0 } else { content_length(&text)? };
            while self.buffer.len() < head + length {
                if self.read().await? == 0 {
                    return Err(format!("the connection ended within the body of {:?}", self.shown()));
                }
            }
            let body: Vec<u8> = self.buffer.drain(..head + length).skip(head).collect();
            if status == 100 {
                continue;
            }
            let problem = text.contains("content-type: application/problem+json");
            let told = String::from_utf8_lossy(&body).contains(&format!("\"status\":{status},"));
            // An answer that hyper gives by itself, to what is no HTTP, is empty.
            if bodiless || body.is_empty() || (problem && told) {
                return Ok(Heard::Answer(status));
            }
            return Err(format!("{status} with the body {:?}", String::from_utf8_lossy(&body)));
        }
    }

    /// Whether there is something to hear by now: an answer or the end.
    pub(crate) fn has_answered(&mut self) -> bool {
        match self.stream.try_read_buf(&mut self.buffer) {
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            Ok(_) => true,
        }
    }

    /// Whether something was read that no request asked for.
    pub(crate) fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Everything up to the end of the connection, which has to come.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>, String> {
        while self.read().await? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads a piece. A reset is an end too; silence is an error.
    async fn read(&mut self) -> Result<usize, String> {
        match within(self.stream.read_buf(&mut self.buffer)).await {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(format!("neither an answer nor an end after {PATIENCE:?}, only {:?}", self.shown()))
            }
            Err(_) => Ok(0),
        }
    }

    fn shown(&self) -> String {
        shown(&self.buffer)
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Bytes for people.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 400;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
    if bytes.len() > SHOWN { format!("{text}... ({} bytes)", bytes.len()) } else { text }
}

/// `http/1.1 200 ok`
fn status(head: &str) -> Option<u16> {
    let rest = head.strip_prefix("http/1.1 ").or_else(|| head.strip_prefix("http/1.0 "))?;
    rest.get(..3)?.parse().ok()
}

fn content_length(head: &str) -> Result<usize, String> {
    if head.starts_with("http/1.1 1") {
        return Ok(0);
    }
    let value = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    value.and_then(|value| value.parse().ok()).ok_or_else(|| format!("an answer without a length: {head:?}"))
}
