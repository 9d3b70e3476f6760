//! One measurement each: a fresh broker, a fresh server, a load.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use support::services::{Nats, Place, Program};

use crate::common::load::{self, Load};
use crate::common::machine::{self, Cpu};
use crate::common::paced::{self, Schedule};
use crate::common::payload::{self, Requests};
use crate::common::{ENVIRONMENT, SECRET, aside, broker, env, on_one_thread};
use crate::servers;

/// What precedes every measurement: connections are made, buffers grown.
const WARM_UP: usize = 3_000;

/// What a server made of a load.
pub(crate) struct Served {
    pub(crate) load: Load,
    /// The most memory that the server ever had.
    pub(crate) peak_mib: f64,
    /// Who used the CPU.
    pub(crate) cpu: String,
}

/// What the bare publish loop publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The event as WorkOS sends it, about 1 KiB.
    Whole,
    /// What `ingest` makes of it: ids and times, about 300 bytes.
    AsIngestDoes,
}

/// Where measurements happen.
pub(crate) struct Bench {
    place: Place,
    rooms: usize,
}

/// A server that runs, and what it needs.
struct Running {
    address: SocketAddr,
    pid: u32,
    // Dropped in this order: the server before its broker.
    _server: Box<dyn Send>,
    _nats: Option<Nats>,
    cpu: Cpu,
}

impl Bench {
    /// A place for servers.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { place: Place::new("bench-ingest")?, rooms: 0 })
    }

    fn room(&mut self) -> anyhow::Result<std::path::PathBuf> {
        self.rooms += 1;
        self.place.room(&format!("room-{}", self.rooms))
    }

    /// Whether the installed broker knows `sync_interval: always`.
    pub(crate) async fn can_sync_always(&mut self) -> anyhow::Result<bool> {
        Ok(broker::can_sync_always(&self.room()?).await)
    }

    /// The bare publish loop. Returns events a second.
    pub(crate) async fn publish(&mut self, events: usize, published: Published) -> anyhow::Result<f64> {
        let room = self.room()?;
        let nats = broker::start(&room, false).await?;
        let url = nats.url();
        let rate = aside(move || {
            let messages = |numbers: Range<usize>| match published {
                Published::Whole => Ok(broker::whole_events(numbers)),
                Published::AsIngestDoes => {
                    let now = shared::clock::now();
                    let event = |number| payload::event(number, &payload::User::unknown(number), now);
                    broker::messages(&numbers.map(event).collect::<Vec<_>>())
                }
            };
            let (warm_up, measured) = (messages(0..WARM_UP)?, messages(WARM_UP..WARM_UP + events)?);
            on_one_thread(async {
                let context = broker::connect(&url).await?;
                broker::publish(&context, warm_up).await?;
                broker::publish(&context, measured).await
            })
        })
        .await?;
        drop(nats);
        Ok(rate)
    }

    /// A server of ours at full speed: `bare` or `simplest`.
    pub(crate) async fn server(
        &mut self,
        kind: &str,
        events: usize,
        connections: usize,
        always: bool,
    ) -> anyhow::Result<Served> {
        let running = self.start_ours(kind, always).await?;
        full_speed(running, events, connections).await
    }

    /// The real one at full speed.
    pub(crate) async fn ingest(
        &mut self,
        events: usize,
        connections: usize,
        always: bool,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Served> {
        let running = self.start_ingest(always, settings).await?;
        full_speed(running, events, connections).await
    }

    /// `simplest` or `ingest` at so many webhooks a second.
    pub(crate) async fn paced(
        &mut self,
        which: &str,
        events: usize,
        connections: usize,
        a_second: u32,
    ) -> anyhow::Result<Served> {
        let running = match which {
            "ingest" => self.start_ingest(false, &[]).await?,
            ours => self.start_ours(ours, false).await?,
        };
        let address = running.address;
        let before = running.cpu.read();
        let load = aside(move || {
            let requests = Arc::new(Requests::webhooks(0..WARM_UP + events)?);
            load::full_speed(address, &requests, 0..WARM_UP, connections)?.all_accepted()?;
            let schedule =
                Schedule::starting_in(Duration::from_millis(200), Duration::from_secs(1) / a_second);
            paced::paced(address, &requests, &(WARM_UP..WARM_UP + events), connections, schedule)?
                .all_accepted()
        })
        .await?;
        running.served(load, &before, WARM_UP + events)
    }

    async fn start_ours(&mut self, kind: &str, always: bool) -> anyhow::Result<Running> {
        let room = self.room()?;
        let nats = if kind == "bare" { None } else { Some(broker::start(&room, always).await?) };
        let url = nats.as_ref().map(Nats::url);
        let (process, address) = servers::start(&room, kind, url.as_deref()).await?;
        let cpu = Cpu::new(vec![
            ("server", address.to_string()),
            ("nats", room.join("nats.conf").display().to_string()),
        ]);
        Ok(Running { address, pid: process.pid(), _server: Box::new(process), _nats: nats, cpu })
    }

    async fn start_ingest(&mut self, always: bool, settings: &[(&str, &str)]) -> anyhow::Result<Running> {
        let room = self.room()?;
        let nats = broker::start(&room, always).await?;
        let mut all =
            env(&[("WORKOS_WEBHOOK_SECRET", SECRET), ("WORKOS_ENV", ENVIRONMENT), ("NATS_URL", &nats.url())]);
        all.extend(env(settings));
        let mut program = Program::ingest(&room, "ingest", &all)?;
        program.ready().await?;
        let url = program.url().context("ingest has no address")?;
        let address = url.trim_start_matches("http://").parse()?;
        let executable = support::services::binaries::directory()?.join("ingest").display().to_string();
        let cpu =
            Cpu::new(vec![("ingest", executable), ("nats", room.join("nats.conf").display().to_string())]);
        Ok(Running { address, pid: program.pid(), _server: Box::new(program), _nats: Some(nats), cpu })
    }
}

impl Running {
    fn served(self, load: Load, before: &machine::Reading, events: usize) -> anyhow::Result<Served> {
        let cpu = self.cpu.read().since(before, events);
        Ok(Served { load, peak_mib: machine::peak_rss(self.pid)?, cpu })
    }
}

async fn full_speed(running: Running, events: usize, connections: usize) -> anyhow::Result<Served> {
    let address = running.address;
    let requests = aside(move || Ok(Arc::new(Requests::webhooks(0..WARM_UP + events)?))).await?;
    let before = running.cpu.read();
    let load = aside(move || {
        load::full_speed(address, &requests, 0..WARM_UP, connections)?.all_accepted()?;
        load::full_speed(address, &requests, WARM_UP..WARM_UP + events, connections)?.all_accepted()
    })
    .await?;
    running.served(load, &before, WARM_UP + events)
}
