//! Load at a given pace, whatever the answers do: each request has a time at which it is due, and its
//! latency counts from then, however late it left.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use shared::clock;

use super::load::{Answer, Load, histogram, note};
use super::payload::Requests;

/// When each request is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start: Instant,
    start_on_the_clock: DateTime<Utc>,
    every: Duration,
}

impl Schedule {
    /// Begins at a whole millisecond, soon.
    pub(crate) fn starting_in(delay: Duration, every: Duration) -> Self {
        let (now, now_on_the_clock) = (Instant::now(), clock::now());
        let beyond = Duration::from_nanos(u64::from(now_on_the_clock.timestamp_subsec_nanos()) % 1_000_000);
        let delay = delay + Duration::from_millis(1).saturating_sub(beyond);
        Self { start: now + delay, start_on_the_clock: now_on_the_clock + delay, every }
    }

    /// When the request at a place is due.
    pub(crate) fn due(&self, place: usize) -> Instant {
        self.start + self.after(place)
    }

    /// The same on the wall.
    pub(crate) fn due_on_the_clock(&self, place: usize) -> DateTime<Utc> {
        self.start_on_the_clock + self.after(place)
    }

    fn after(&self, place: usize) -> Duration {
        self.every * u32::try_from(place).unwrap_or(u32::MAX)
    }
}

/// Sends the requests of a range at their time, the first of them at the schedule's start. One thread for
/// each connection, because a timer of tokio's is only good to a millisecond. Blocks.
pub(crate) fn paced(
    address: SocketAddr,
    requests: &Requests,
    range: &Range<usize>,
    connections: usize,
    schedule: Schedule,
) -> anyhow::Result<Load> {
    let streams = (0..connections)
        .map(|_| {
            let stream = TcpStream::connect(address).context("failed to connect")?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut all = Load { elapsed: Duration::ZERO, accepted: 0, refused: 0, latency: histogram()? };
    std::thread::scope(|scope| {
        let threads: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(first, stream)| {
                let mine = (first..range.len()).step_by(connections);
                scope.spawn(move || connection(stream, requests, range.start, mine, schedule))
            })
            .collect();
        for thread in threads {
            let part =
                thread.join().map_err(|_| anyhow::anyhow!("a thread of the load generator panicked"))??;
            all.accepted += part.accepted;
            all.refused += part.refused;
            all.latency.add(part.latency)?;
        }
        all.elapsed = schedule.due(0).elapsed();
        Ok(all)
    })
}

fn connection(
    mut stream: TcpStream,
    requests: &Requests,
    offset: usize,
    places: impl Iterator<Item = usize>,
    schedule: Schedule,
) -> anyhow::Result<Load> {
    let mut load = Load { elapsed: Duration::ZERO, accepted: 0, refused: 0, latency: histogram()? };
    let mut answer = Answer::default();
    for place in places {
        let due = schedule.due(place);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(requests.get(offset + place)).context("failed to send")?;
        let ok = loop {
            let count = stream.read(answer.room()?).context("failed to read an answer")?;
            if let Some(ok) = answer.grown(count)? {
                break ok;
            }
        };
        note(&mut load.latency, due.elapsed());
        if ok {
            load.accepted += 1;
        } else {
            load.refused += 1;
        }
    }
    Ok(load)
}
