//! One client of the storm: sends cases, and compares what comes back with what has to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use reqwest::Method;

use super::case::{After, Case, Counted, Expected, Generator, Manner};
use super::wire::{Heard, Wire, shown};

/// What was sent, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    /// How ingest has to have counted it.
    pub(crate) counted: BTreeMap<Counted, u64>,
    /// The answers, by status.
    pub(crate) heard: BTreeMap<u16, u64>,
    /// New events.
    pub(crate) events: u64,
    /// Those of them whose sender left before the answer.
    pub(crate) unheard_events: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.events += other.events;
        self.unheard_events += other.unheard_events;
        for (counted, count) in other.counted {
            *self.counted.entry(counted).or_default() += count;
        }
        for (status, count) in other.heard {
            *self.heard.entry(status).or_default() += count;
        }
    }

    fn count(&mut self, expected: Expected, is_event: bool) {
        self.requests += 1;
        self.events += u64::from(is_event);
        let counted = match expected {
            Expected::Answer(counted) => {
                *self.heard.entry(counted.0).or_default() += 1;
                Some(counted)
            }
            Expected::Unheard(counted) => {
                self.unheard_events += u64::from(is_event);
                counted
            }
            Expected::Refusal => None,
        };
        if let Some(counted) = counted {
            *self.counted.entry(counted).or_default() += 1;
        }
    }
}

/// Sends what its generator makes, one after the other.
pub(crate) struct Client {
    address: SocketAddr,
    name: String,
    generator: Generator,
    /// The connection that the last case left behind, if it did.
    open: Option<(Wire, After)>,
    last: &'static str,
    tally: Tally,
}

impl Client {
    /// `name` tells it from the others of the same seed.
    pub(crate) fn new(address: SocketAddr, seed: u64, name: &str) -> Self {
        let of_its_own = name.bytes().fold(seed, |seed, byte| seed.rotate_left(8) ^ u64::from(byte));
        let generator = Generator::new(of_its_own, name);
        Self {
            address,
            name: name.to_owned(),
            generator,
            open: None,
            last: "nothing",
            tally: Tally::default(),
        }
    }

    /// So many requests. The error says which one was answered otherwise.
    pub(crate) async fn run(mut self, requests: usize) -> Result<Tally, String> {
        let mut left = requests;
        while left > 0 {
            let cases = self.generator.next(left);
            left -= cases.len();
            self.exchange(&cases).await.map_err(|error| {
                let sent = cases.iter().map(|case| case.bytes.as_slice()).collect::<Vec<_>>().concat();
                let whats: Vec<_> = cases.iter().map(|case| (case.what, case.expected)).collect();
                let (name, last) = (&self.name, self.last);
                format!("client {name}, {whats:?} after {last}: {error}\n{}", shown(&sent))
            })?;
            for case in cases {
                self.last = case.what;
                self.tally.count(case.expected, case.event.is_some());
                if let (Some(event), Expected::Answer(_)) = (case.event, case.expected) {
                    self.generator.remember(event);
                }
            }
        }
        Ok(self.tally)
    }

    /// So many requests over one connection of HTTP/2.
    pub(crate) async fn speak_http2(mut self, requests: usize) -> Result<Tally, String> {
        let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build();
        let http = http.map_err(|error| error.to_string())?;
        for _ in 0..requests {
            let plain = self.generator.plain();
            let method = plain.method.parse::<Method>().map_err(|error| error.to_string())?;
            let mut request = http.request(method, format!("http://{}{}", self.address, plain.path));
            if let Some(signature) = plain.signature {
                request = request.header("workos-signature", signature);
            }
            let answer = request.body(plain.body).send().await;
            let status = answer.map(|answer| answer.status());
            if !matches!(status, Ok(status) if status.as_u16() == plain.expected.0) {
                return Err(format!("HTTP/2: wanted {:?}, heard {status:?}", plain.expected));
            }
            self.tally.count(Expected::Answer(plain.expected), plain.event.is_some());
        }
        Ok(self.tally)
    }

    async fn exchange(&mut self, cases: &[Case]) -> Result<(), String> {
        // A connection that may be gone is only for those who hear that it is.
        let hears = cases.iter().all(|case| matches!(case.expected, Expected::Answer(_)));
        if let Some((wire, after)) = self.open.take()
            && (after == After::Open || hears)
            && self.on(wire, cases, after == After::Perhaps).await?
        {
            return Ok(());
        }
        let wire = Wire::connect(self.address).await.map_err(|error| format!("no connection: {error}"))?;
        self.on(wire, cases, false).await.map(drop)
    }

    /// Says whether the connection was still there, where it `may_be_gone`.
    async fn on(&mut self, mut wire: Wire, cases: &[Case], may_be_gone: bool) -> Result<bool, String> {
        let bytes = cases.iter().map(|case| case.bytes.as_slice()).collect::<Vec<_>>().concat();
        let Some(last) = cases.last() else { return Ok(true) };
        // Whoever refuses need not read on: what counts is what is heard.
        let _ = self.send(&mut wire, &bytes, last.manner).await;
        if matches!(last.expected, Expected::Unheard(_)) {
            return Ok(true);
        }
        for (position, case) in cases.iter().enumerate() {
            match case.expected {
                Expected::Answer((status, _)) => match wire.hear(case.bodiless).await? {
                    Heard::Answer(heard) if heard == status => {}
                    Heard::End if may_be_gone && position == 0 => return Ok(false),
                    other => return Err(format!("{}: wanted {status}, heard {other:?}", case.what)),
                },
                Expected::Refusal => {
                    let rest = wire.rest().await?;
                    let answered = rest.starts_with(b"HTTP/1.1 4");
                    // A frame of settings comes first.
                    let http2 = rest.get(3) == Some(&4);
                    if !(rest.is_empty() || answered || http2) {
                        return Err(format!("wanted a refusal, heard {:?}", shown(&rest)));
                    }
                }
                Expected::Unheard(_) => {}
            }
        }
        match last.after {
            After::Ended => {
                let rest = wire.rest().await?;
                if !rest.is_empty() {
                    return Err(format!("wanted the end, heard {:?}", shown(&rest)));
                }
            }
            _ if wire.has_more() => return Err("more answers than requests".to_owned()),
            after => self.open = Some((wire, after)),
        }
        Ok(true)
    }

    async fn send(&mut self, wire: &mut Wire, bytes: &[u8], manner: Manner) -> std::io::Result<()> {
        match manner {
            Manner::Whole | Manner::ThenGone => wire.send(bytes).await,
            Manner::ThenNoMore => {
                wire.send(bytes).await?;
                wire.send_no_more().await
            }
            Manner::Pieces => {
                let mut left = bytes;
                while !left.is_empty() {
                    let largest = left.len().min(300);
                    let (piece, rest) = left.split_at(self.generator.rng.usize(1..=largest));
                    wire.send(piece).await?;
                    tokio::task::yield_now().await;
                    left = rest;
                }
                Ok(())
            }
        }
    }
}
