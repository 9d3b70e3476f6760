//! How many webhooks `ingest` accepts and how soon, against what this machine can do at best, in the same
//! run: see `docs/benchmarks.md`.

#[path = "../common/mod.rs"]
mod common;
mod measure;
mod servers;

use std::process::ExitCode;

use common::report::{Figure, Judge, Report, say};
use common::settings::{Settings, asked_to_measure};
use common::{float, in_series, median};
use measure::{Bench, Published, Served};

/// As many connections as WorkOS might keep.
const CONNECTIONS: usize = 64;

/// Under `sync_interval: always` only what waits together can be stored together.
const CONNECTIONS_WHEN_SYNCED: usize = 256;

fn main() -> ExitCode {
    let wanted = servers::asked_to_serve();
    if wanted.is_none() && !asked_to_measure() {
        say("measures only under `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let ended = match wanted {
        Some(server) => servers::serve(&server),
        None => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(run())),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:?}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let settings = Settings::read()?;
    let mut report = Report::new("ingest");
    let mut bench = Bench::new()?;
    if settings.wants("full") {
        full_load(&settings, &mut bench, &mut report).await?;
    }
    if settings.wants("paced") {
        paced(&settings, &mut bench, &mut report).await?;
    }
    if settings.wants("always") {
        synced_always(&settings, &mut bench, &mut report).await?;
    }
    report.print();
    Ok(())
}

/// One turn of everything that is compared at full load.
struct Turn {
    bare: Served,
    publish: f64,
    publish_short: f64,
    simplest: Served,
    real: Served,
}

impl Turn {
    fn bound(&self) -> f64 {
        in_series(&[self.bare.load.rate(), self.publish])
    }

    fn bound_of_short_messages(&self) -> f64 {
        in_series(&[self.bare.load.rate(), self.publish_short])
    }
}

async fn full_load(settings: &Settings, bench: &mut Bench, report: &mut Report) -> anyhow::Result<()> {
    let events = settings.events(120_000);
    let mut turns = Vec::new();
    for _ in 0..settings.rounds {
        turns.push(Turn {
            bare: bench.server("bare", events, CONNECTIONS, false).await?,
            publish: bench.publish(events, Published::Whole).await?,
            publish_short: bench.publish(events, Published::AsIngestDoes).await?,
            simplest: bench.server("simplest", events, CONNECTIONS, false).await?,
            real: bench.ingest(events, CONNECTIONS, false, &[]).await?,
        });
    }
    let of = |value: &dyn Fn(&Turn) -> f64| median(turns.iter().map(value));
    let bound = of(&Turn::bound);
    let rate = |name: &str, value: &dyn Fn(&Turn) -> f64| Figure::new(name, of(value), "/s");
    report.add(rate("bare hyper server: verify, answer", &|turn| turn.bare.load.rate()));
    report.add(
        Figure::new("  its p99", of(&|turn| turn.bare.load.quantile_ms(0.99)), "ms")
            .note(format!("{CONNECTIONS} connections that always have a request on its way")),
    );
    report.add(rate("bare JetStream publish, 256 in flight, 1 KiB", &|turn| turn.publish));
    report.add(rate("  the same, as few bytes as ingest publishes", &|turn| turn.publish_short));
    report.add(Figure::new("ingest bound: both in series", bound, "/s"));
    report.add(
        rate("simplest ingest: hyper, verify, publish, ack", &|turn| turn.simplest.load.rate())
            .against(bound, of(&|turn| turn.simplest.load.rate() / turn.bound())),
    );
    report.add(Figure::new("  its p99", of(&|turn| turn.simplest.load.quantile_ms(0.99)), "ms"));
    report.add(
        rate("ingest, accepted", &|turn| turn.real.load.rate())
            .against(bound, of(&|turn| turn.real.load.rate() / turn.bound()))
            .judged(Judge::Ratio(0.80, 0.95))
            .note(turns.last().map(|turn| turn.real.cpu.clone()).unwrap_or_default()),
    );
    let short = of(&Turn::bound_of_short_messages);
    report.add(
        rate("  against the bound of such short messages", &|turn| turn.real.load.rate())
            .against(short, of(&|turn| turn.real.load.rate() / turn.bound_of_short_messages()))
            .note("stricter, for information"),
    );
    report.add(Figure::new("  its p50", of(&|turn| turn.real.load.quantile_ms(0.50)), "ms"));
    report.add(Figure::new("  its p99", of(&|turn| turn.real.load.quantile_ms(0.99)), "ms").against(
        of(&|turn| turn.bare.load.quantile_ms(0.99)),
        of(&|turn| turn.real.load.quantile_ms(0.99) / turn.bare.load.quantile_ms(0.99)),
    ));
    let memory = turns.iter().map(|turn| turn.real.peak_mib).fold(0.0, f64::max);
    report.add(
        Figure::new("ingest memory at full load", memory, "MiB")
            .judged(Judge::AtMost(30.0, 15.0))
            .note("the most it ever had resident"),
    );
    Ok(())
}

async fn paced(settings: &Settings, bench: &mut Bench, report: &mut Report) -> anyhow::Result<()> {
    const PACE: u32 = 5_000;
    let events = settings.events(40_000);
    let mut turns = Vec::new();
    for _ in 0..settings.rounds {
        turns.push((
            bench.paced("simplest", events, CONNECTIONS, PACE).await?,
            bench.paced("ingest", events, CONNECTIONS, PACE).await?,
        ));
    }
    for (name, quantile) in [("p50", 0.50), ("p99", 0.99)] {
        let simplest = median(turns.iter().map(|(simplest, _)| simplest.load.quantile_ms(quantile)));
        report.add(Figure::new(format!("simplest ingest {name} at 5,000/s"), simplest, "ms"));
        let real = median(turns.iter().map(|(_, real)| real.load.quantile_ms(quantile)));
        let ratio =
            median(turns.iter().map(|(simplest, real)| {
                real.load.quantile_ms(quantile) / simplest.load.quantile_ms(quantile)
            }));
        let figure = Figure::new(format!("ingest {name} at 5,000/s"), real, "ms").against(simplest, ratio);
        report.add(if name == "p99" { figure.judged(Judge::AtMost(2.0, 1.1)) } else { figure });
    }
    Ok(())
}

async fn synced_always(settings: &Settings, bench: &mut Bench, report: &mut Report) -> anyhow::Result<()> {
    if !bench.can_sync_always().await? {
        say("  this broker does not know `sync_interval: always` (it came with 2.10): skipped");
        return Ok(());
    }
    let events = settings.events(16_000);
    let mut turns = Vec::new();
    for _ in 0..settings.rounds {
        turns.push((
            bench.server("simplest", events, CONNECTIONS_WHEN_SYNCED, true).await?,
            bench.ingest(events, CONNECTIONS_WHEN_SYNCED, true, &[]).await?,
        ));
    }
    let simplest = median(turns.iter().map(|(simplest, _)| simplest.load.rate()));
    report.add(
        Figure::new("simplest ingest, broker with sync_interval: always", simplest, "/s")
            .note(format!("{CONNECTIONS_WHEN_SYNCED} connections, {} turns", float(turns.len()))),
    );
    let real = median(turns.iter().map(|(_, real)| real.load.rate()));
    let ratio = median(turns.iter().map(|(simplest, real)| real.load.rate() / simplest.load.rate()));
    report.add(
        Figure::new("ingest, broker with sync_interval: always", real, "/s")
            .against(simplest, ratio)
            .judged(Judge::Ratio(1.0, 5.0)),
    );
    let p99 = |load: &Served| load.load.quantile_ms(0.99);
    let simplest = median(turns.iter().map(|(simplest, _)| p99(simplest)));
    let ratio = median(turns.iter().map(|(simplest, real)| p99(real) / p99(simplest)));
    report.add(
        Figure::new("  its p99", median(turns.iter().map(|(_, real)| p99(real))), "ms")
            .against(simplest, ratio),
    );
    Ok(())
}
