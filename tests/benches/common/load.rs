//! Load over HTTP that costs little itself: bytes that were made before, one request at a time on each
//! connection, and of the answer only what must be known.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::float;
use super::payload::Requests;

/// The largest answer that is understood.
const LARGEST: usize = 64 << 10;

/// What came of a load.
pub(crate) struct Load {
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Answers with 200.
    pub(crate) accepted: u64,
    /// Other answers.
    pub(crate) refused: u64,
    /// In microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Load {
    /// Accepted a second.
    pub(crate) fn rate(&self) -> f64 {
        float(self.accepted) / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency, in milliseconds.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.latency, quantile)
    }

    /// Fails when something was refused: then the rate says nothing.
    pub(crate) fn all_accepted(self) -> anyhow::Result<Self> {
        if self.refused > 0 {
            bail!("{} of {} requests were refused", self.refused, self.refused + self.accepted);
        }
        Ok(self)
    }
}

/// A quantile of microseconds, in milliseconds.
pub(crate) fn quantile_ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    float(histogram.value_at_quantile(quantile)) / 1e3
}

/// Counts microseconds with three digits.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 600_000_000, 3).context("failed to make a histogram")
}

/// Notes a duration.
pub(crate) fn note(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1));
}

/// Sends these requests as fast as they are answered. Blocks.
pub(crate) fn full_speed(
    address: SocketAddr,
    requests: &Arc<Requests>,
    range: Range<usize>,
    connections: usize,
) -> anyhow::Result<Load> {
    super::on_one_thread(async {
        let mut streams = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await.context("failed to connect")?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let next = Arc::new(AtomicUsize::new(range.start));
        let started = Instant::now();
        let tasks: Vec<_> = streams
            .into_iter()
            .map(|stream| tokio::spawn(connection(stream, requests.clone(), next.clone(), range.end)))
            .collect();
        let mut all = Load { elapsed: Duration::ZERO, accepted: 0, refused: 0, latency: histogram()? };
        for task in tasks {
            let part = task.await??;
            all.accepted += part.accepted;
            all.refused += part.refused;
            all.latency.add(part.latency)?;
        }
        all.elapsed = started.elapsed();
        Ok(all)
    })
}

async fn connection(
    mut stream: TcpStream,
    requests: Arc<Requests>,
    next: Arc<AtomicUsize>,
    end: usize,
) -> anyhow::Result<Load> {
    let mut load = Load { elapsed: Duration::ZERO, accepted: 0, refused: 0, latency: histogram()? };
    let mut answer = Answer::default();
    loop {
        let place = next.fetch_add(1, Ordering::Relaxed);
        if place >= end {
            return Ok(load);
        }
        let started = Instant::now();
        stream.write_all(requests.get(place)).await.context("failed to send")?;
        let ok = loop {
            let count = stream.read(answer.room()?).await.context("failed to read an answer")?;
            if let Some(ok) = answer.grown(count)? {
                break ok;
            }
        };
        note(&mut load.latency, started.elapsed());
        if ok {
            load.accepted += 1;
        } else {
            load.refused += 1;
        }
    }
}

/// An answer on its way in.
pub(crate) struct Answer {
    buffer: Vec<u8>,
    filled: usize,
}

impl Default for Answer {
    fn default() -> Self {
        Self { buffer: vec![0; 4096], filled: 0 }
    }
}

impl Answer {
    /// Where the next bytes go.
    pub(crate) fn room(&mut self) -> anyhow::Result<&mut [u8]> {
        if self.filled == self.buffer.len() {
            if self.filled >= LARGEST {
                bail!("an answer is larger than {LARGEST} bytes");
            }
            self.buffer.resize(self.filled * 2, 0);
        }
        Ok(&mut self.buffer[self.filled..])
    }

    /// So many bytes came. When the answer is complete: whether it was a 200; then the next may come.
    pub(crate) fn grown(&mut self, count: usize) -> anyhow::Result<Option<bool>> {
        if count == 0 {
            bail!("the connection was closed");
        }
        self.filled += count;
        let bytes = &self.buffer[..self.filled];
        let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        if self.filled < head + 4 + content_length(&bytes[..head]) {
            return Ok(None);
        }
        let ok = bytes.get(9..12) == Some(b"200");
        self.filled = 0;
        Ok(Some(ok))
    }
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    head.windows(NAME.len()).position(|window| window.eq_ignore_ascii_case(NAME)).map_or(0, |start| {
        head[start + NAME.len()..]
            .iter()
            .skip_while(|byte| **byte == b' ')
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
    })
}
