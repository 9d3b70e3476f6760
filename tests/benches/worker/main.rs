//! How many events `worker` carries into Postgres and how soon, against what this machine can do at best,
//! in the same run: see `docs/benchmarks.md`.

#[path = "../common/mod.rs"]
mod common;
mod down;
mod drain;
mod immediate;
mod lag;
mod roofs;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use common::report::{Figure, Judge, Report, say};
use common::settings::{Settings, asked_to_measure};
use common::{float, in_series, median};
use drain::Drained;
use roofs::Written;
use world::World;

/// No limit of our own, and as many requests at once as the roof has where WorkOS takes its time.
const UNBOUND: [(&str, &str); 2] = [("SYNC_RATE_LIMIT", "off"), ("SYNC_FETCH_CONCURRENCY", "256")];

/// The same where WorkOS answers at once.
const PROMPT: [(&str, &str); 2] = [UNBOUND[0], ("SYNC_FETCH_CONCURRENCY", "64")];

/// The same with the lists of the environment.
const WITH_LISTS: [(&str, &str); 3] = [PROMPT[0], PROMPT[1], ("SYNC_LIST_BURSTS", "on")];

/// Requests at once, of the roof and of the worker, where WorkOS takes its time.
const AT_ONCE: usize = 256;

/// The same where it answers at once.
const AT_ONCE_PROMPT: usize = 64;

/// What WorkOS is said to take for an answer.
const LATENCY: Duration = Duration::from_millis(50);

/// Users that WorkOS has: one for each event, where objects are distinct.
const USERS: usize = 100_000;

fn main() -> ExitCode {
    if !asked_to_measure() {
        say("measures only under `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let ended = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run()));
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
    let mut report = Report::new("worker");
    let mut world = World::start(USERS).await?;
    if settings.wants("drain") {
        full_speed(&settings, &mut world, &mut report).await?;
    }
    if settings.wants("latency") {
        slow_workos(&settings, &mut world, &mut report).await?;
    }
    if settings.wants("requests") {
        requests(&settings, &mut world, &mut report).await?;
    }
    if settings.wants("lag") {
        lag(&settings, &mut world, &mut report).await?;
    }
    if settings.wants("memory") {
        memory(&settings, &mut world, &mut report).await?;
    }
    if settings.wants("down") {
        down(&mut world, &mut report).await?;
    }
    // Last: it gives some users memberships.
    if settings.wants("immediate") {
        immediate(&settings, &mut world, &mut report).await?;
    }
    report.print();
    Ok(())
}

/// One turn of everything that is compared while WorkOS answers at once.
struct Turn {
    pull: f64,
    ask: f64,
    upsert: Written,
    own_tables: Written,
    real: Drained,
    by_list: Drained,
}

impl Turn {
    fn bound(&self) -> f64 {
        in_series(&[self.pull, self.ask, self.upsert.rate])
    }
}

async fn full_speed(settings: &Settings, world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    // All of them: of a drain that takes two seconds the start is a tenth.
    let events = settings.events(USERS).min(USERS);
    world.latency(Duration::ZERO).await?;
    let mut turns = Vec::new();
    for _ in 0..settings.rounds {
        turns.push(Turn {
            pull: roofs::pull(world, events).await?,
            ask: roofs::ask(world, events, AT_ONCE_PROMPT).await?,
            upsert: roofs::upsert(world, events, roofs::Tables::Plain).await?,
            own_tables: roofs::upsert(world, events, roofs::Tables::Own).await?,
            real: drain::drain(world, world.distinct(events), &PROMPT).await?,
            by_list: drain::drain(world, world.distinct(events), &WITH_LISTS).await?,
        });
    }
    let of = |value: &dyn Fn(&Turn) -> f64| median(turns.iter().map(value));
    let bound = of(&Turn::bound);
    report.add(Figure::new("bare pull and ack", of(&|turn| turn.pull), "/s"));
    report.add(Figure::new("bare GETs of the stand-in WorkOS, at once", of(&|turn| turn.ask), "/s"));
    let cpu =
        |of: &dyn Fn(&Turn) -> &Written| turns.last().map(|turn| of(turn).cpu.clone()).unwrap_or_default();
    report.add(
        Figure::new("bare batched upsert: user, ledger, audit", of(&|turn| turn.upsert.rate), "/s").note(
            format!(
                "200 a batch, 2 connections, tables with nothing but a primary key; {}",
                cpu(&|turn| &turn.upsert)
            ),
        ),
    );
    report.add(
        Figure::new("  the same into the tables of the mirror", of(&|turn| turn.own_tables.rate), "/s").note(
            format!(
                "with profile and guard, their indexes and checks; for information; {}",
                cpu(&|turn| &turn.own_tables)
            ),
        ),
    );
    report.add(Figure::new("worker bound: the three in series", bound, "/s"));
    report.add(
        Figure::new("worker, WorkOS answers at once", of(&|turn| turn.real.rate()), "/s")
            .against(bound, of(&|turn| turn.real.rate() / turn.bound()))
            .judged(Judge::Ratio(0.50, 0.80))
            .note(turns.last().map(|turn| turn.real.cpu.clone()).unwrap_or_default()),
    );
    let by_list = of(&|turn| turn.by_list.rate());
    report.add(
        Figure::new("  the same with SYNC_LIST_BURSTS=on", by_list, "/s")
            .against(bound, of(&|turn| turn.by_list.rate() / turn.bound()))
            .note(format!(
                "users made one after the other; {:.0} requests; for information",
                of(&|turn| float(turn.by_list.requests))
            )),
    );
    Ok(())
}

async fn slow_workos(settings: &Settings, world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    let events = settings.events(20_000).min(USERS);
    world.latency(LATENCY).await?;
    let mut turns = Vec::new();
    for _ in 0..settings.rounds {
        let roof = roofs::ask(world, events, AT_ONCE).await?;
        turns.push((roof, drain::drain(world, world.distinct(events), &UNBOUND).await?));
    }
    let roof = median(turns.iter().map(|(roof, _)| *roof));
    report.add(Figure::new("bare GETs, WorkOS takes 50 ms, 256 at once", roof, "/s"));
    let real = median(turns.iter().map(|(_, real)| real.rate()));
    report.add(
        Figure::new("worker, WorkOS takes 50 ms, 256 at once", real, "/s")
            .against(roof, median(turns.iter().map(|(roof, real)| real.rate() / roof)))
            .judged(Judge::Ratio(0.80, 0.95))
            .note(turns.last().map(|(_, real)| real.cpu.clone()).unwrap_or_default()),
    );
    Ok(())
}

async fn requests(settings: &Settings, world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    const OBJECTS: usize = 300;
    let events = settings.events(10_000);
    let cases = [
        ("at once", Duration::ZERO, false),
        ("in 50 ms", LATENCY, false),
        ("in 50 ms, 256 at once", LATENCY, true),
    ];
    for (name, latency, many_at_once) in cases {
        world.latency(latency).await?;
        let env = if many_at_once { &UNBOUND[..] } else { &UNBOUND[..1] };
        let drained = drain::drain(world, world.about(events, OBJECTS), env).await?;
        report.add(
            Figure::new(
                format!("requests for {events} events of 300 objects, {name}"),
                float(drained.requests),
                "",
            )
            .judged(Judge::AtMost(330.0, 300.0))
            .note(format!("{:.0} events/s", drained.rate())),
        );
    }
    Ok(())
}

async fn lag(settings: &Settings, world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    let events = settings.events(10_000).min(USERS);
    world.latency(Duration::ZERO).await?;
    let mut turns = Vec::new();
    for _ in 0..settings.rounds {
        turns.push(lag::measure(world, events).await?);
    }
    let of = |value: &dyn Fn(&lag::Lag) -> f64| median(turns.iter().map(value));
    let figure = |name: &str, value: &dyn Fn(&lag::Lag) -> f64| Figure::new(name, of(value), "ms");
    report.add(
        figure("webhook → visible row p50 at 1,000/s", &|turn| turn.visible(0.50))
            .note("as a reader sees it who looks every millisecond"),
    );
    report.add(
        figure("webhook → visible row p99 at 1,000/s", &|turn| turn.visible(0.99))
            .judged(Judge::AtMost(25.0, 9.0))
            .note(turns.last().map(|turn| turn.cpu.clone()).unwrap_or_default()),
    );
    report.add(figure("  webhook → answer p99", &|turn| turn.answered(0.99)));
    report.add(figure("  webhook → settled_at p50", &|turn| turn.settled[0]));
    report.add(
        figure("  webhook → settled_at p99", &|turn| turn.settled[1])
            .note("of every event; taken just before the ledger is written and committed"),
    );
    Ok(())
}

async fn memory(settings: &Settings, world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    let events = settings.events(100_000).min(USERS);
    world.latency(LATENCY).await?;
    let waiting = drain::work_for(world, world.distinct(events), Duration::from_secs(6), &[]).await?;
    world.latency(Duration::ZERO).await?;
    let drained = drain::drain(world, world.distinct(events), &UNBOUND).await?;
    report.add(
        Figure::new(format!("worker memory, {events} events waiting"), waiting, "MiB")
            .judged(Judge::AtMost(100.0, 50.0))
            .note("default settings, WorkOS takes 50 ms; the most it had resident"),
    );
    report.add(
        Figure::new(format!("worker memory, {events} events drained at full speed"), drained.peak_mib, "MiB")
            .judged(Judge::AtMost(100.0, 50.0))
            .note(format!("{:.0} events/s", drained.rate())),
    );
    Ok(())
}

async fn down(world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    world.latency(Duration::ZERO).await?;
    for down in down::Down::ALL {
        let longest = down::measure(world, down).await?;
        report.add(
            Figure::new(
                format!("sync request, longest answer beyond its wait, {}", down.name()),
                longest,
                "ms",
            )
            .judged(Judge::AtMost(100.0, 100.0)),
        );
    }
    Ok(())
}

async fn immediate(settings: &Settings, world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    const LOGINS: usize = 300;
    let backlog = settings.events(20_000).min(USERS / 2);
    world.latency(Duration::ZERO).await?;
    immediate::prepare(world, LOGINS).await?;
    world.latency(LATENCY).await?;
    let cases = [("at 90/s", &[][..]), ("as fast as it can", &UNBOUND[..1])];
    for (name, env) in cases {
        let mut turns = Vec::new();
        for _ in 0..settings.rounds {
            turns.push(immediate::measure(world, backlog, LOGINS, env).await?);
        }
        let of = |quantile| median(turns.iter().map(|turn| turn.answered(quantile)));
        let left = turns.iter().map(|turn| turn.left).min().unwrap_or_default();
        report.add(
            Figure::new(format!("immediate sync p50, {backlog} events worked on {name}"), of(0.50), "ms")
                .note("a user with two memberships, WorkOS takes 50 ms; from the request to 200, rows committed"),
        );
        report.add(
            Figure::new(format!("immediate sync p99, {backlog} events worked on {name}"), of(0.99), "ms")
                .judged(Judge::AtMost(250.0, 150.0))
                .note(format!(
                    "{left} events still waited at the end; {}",
                    turns.last().map(|turn| turn.cpu.clone()).unwrap_or_default()
                )),
        );
    }
    Ok(())
}
