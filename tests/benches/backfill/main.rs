//! What `worker backfill` and `worker verify` take for a large company: requests, memory, rows a second; within the
//! limits that WorkOS publishes, beside webhooks and killed on the way, and without limits. See `docs/benchmarks.md`.

#[path = "../common/mod.rs"]
mod common;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;
use shared::id::Kind;
use support::services::Running;
use support::sim::{Knobs, Sim};

use common::float;
use common::report::{Figure, Judge, Report, say};
use common::settings::{Settings, asked_to_measure};
use world::{Programs, World};

/// Users of the company, unless `BENCH_EVENTS` says otherwise. There are a fiftieth as many organizations, with a
/// domain each, and a fifth more memberships than users.
const USERS: usize = 100_000;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(30);

/// Between two changes of WorkOS while it is listed.
const BETWEEN_CHANGES: Duration = Duration::from_millis(200);

/// Between two looks at a command.
const LOOK: Duration = Duration::from_millis(50);

/// The kinds that the company has: others have lists of their own for each organization, which are not counted here.
const COMPANY: &str = "users,organizations,organization_domains,organization_memberships";
const BACKFILL: [&str; 3] = ["backfill", "--only", COMPANY];
const VERIFY: [&str; 3] = ["verify", "--only", COMPANY];

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
    let mut report = Report::new("backfill");
    let mut world = World::start(settings.events(USERS)).await?;
    if settings.wants("unlimited") {
        unlimited(&mut world, &mut report).await?;
    }
    if settings.wants("limits") {
        within_limits(&mut world, &mut report).await?;
    }
    report.print();
    Ok(())
}

/// A command that came to its end.
struct Done {
    elapsed: Duration,
    peak_mib: f64,
}

/// Runs a command to its end.
async fn finish(mut command: Running, began: Instant, code: i32) -> anyhow::Result<Done> {
    let mut peak_mib = 0.0_f64;
    while command.ended()?.is_none() {
        // It may end between the two.
        peak_mib = peak_mib.max(common::machine::peak_rss(command.pid()).unwrap_or(0.0));
        tokio::time::sleep(LOOK).await;
    }
    let elapsed = began.elapsed();
    let finished = command.finish(PATIENCE).await?;
    if finished.code() != Some(code) {
        bail!("ended with {}:\n{}\n{}", finished.status, finished.stdout, finished.stderr);
    }
    Ok(Done { elapsed, peak_mib })
}

fn rows(sim: &Sim) -> f64 {
    float(Kind::ALL.into_iter().map(|kind| sim.count(kind)).sum::<usize>())
}

/// Requests without which nobody can list it all.
fn fewest_requests(sim: &Sim) -> u64 {
    let count = |kind| sim.count(kind) as u64;
    count(Kind::User).div_ceil(100) + count(Kind::Organization).div_ceil(100) + count(Kind::Organization)
}

fn pages(sim: &Sim) -> u64 {
    let requests = sim.requests();
    Kind::ALL.into_iter().map(|kind| requests.lists(kind)).sum()
}

/// No limit and no latency: how fast rows are written, and compared.
async fn unlimited(world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    world.sim.set_knobs(Knobs::default());
    let database = world.database().await?;
    let limits = [("SYNC_RATE_LIMIT", "off"), ("DATABASE_URL", database.as_str())];
    let rows = rows(&world.sim);
    for (name, args) in [
        ("first backfill", &BACKFILL[..]),
        ("backfill of what is there already", &BACKFILL[..]),
        ("verify", &VERIFY[..]),
    ] {
        world.sim.reset_counters();
        let began = Instant::now();
        let done = finish(world.command(args, &limits)?, began, 0).await?;
        report.add(
            Figure::new(format!("{name}, no limits"), rows / done.elapsed.as_secs_f64(), "rows/s")
                .note(format!("{rows:.0} rows, {} requests", world.sim.requests().total())),
        );
        report.add(
            Figure::new(format!("{name}, memory"), done.peak_mib, "MiB").judged(Judge::AtMost(150.0, 60.0)),
        );
    }
    Ok(())
}

/// The published limits, 50 ms for an answer, webhooks flowing; killed in the middle.
async fn within_limits(world: &mut World, report: &mut Report) -> anyhow::Result<()> {
    world.sim.set_knobs(Knobs {
        rate_limits: Knobs::published_limits(),
        latency_ms: (50, 50),
        ..Knobs::default()
    });
    world.sim.reset_counters();
    let database = world.database().await?;
    let mut programs = Programs::start(world, &database).await?;
    let limits = [("SYNC_RATE_LIMIT", "80/s"), ("DATABASE_URL", database.as_str())];
    let changing = tokio::spawn(change(world.sim.clone()));

    let began = Instant::now();
    let mut first = world.command(&BACKFILL, &limits)?;
    let half = world.sim.count(Kind::Organization) as u64 / 2;
    let mut peak_mib = 0.0_f64;
    while world.sim.requests().lists(Kind::OrganizationMembership) < half {
        if let Some(status) = first.ended()? {
            bail!("the backfill ended ({status}) before it could be killed");
        }
        peak_mib = peak_mib.max(common::machine::peak_rss(first.pid())?);
        tokio::time::sleep(LOOK).await;
    }
    first.kill()?;
    say("  killed half-way through the memberships, going on");
    let done = finish(world.command(&BACKFILL, &limits)?, began, 0).await?;
    changing.abort();
    programs.settle(world).await?;
    world.check(&database).await?;

    let (asked, fewest) = (pages(&world.sim), fewest_requests(&world.sim));
    let requests = world.sim.requests();
    report.add(
        Figure::new("pages beyond the fewest possible", 100.0 * (float(asked) / float(fewest) - 1.0), "%")
            .judged(Judge::AtMost(5.0, 2.0))
            .note(format!(
                "{asked} pages, {fewest} would do; {} GETs for webhooks, {} answers of 429",
                requests.all_gets(),
                requests.with_status(429)
            )),
    );
    report.add(
        Figure::new("backfill within the published limits", done.elapsed.as_secs_f64(), "s")
            .note(format!("{:.0} rows, killed -9 on the way", rows(&world.sim))),
    );
    report.add(
        Figure::new("backfill within the published limits, memory", peak_mib.max(done.peak_mib), "MiB")
            .judged(Judge::AtMost(150.0, 60.0)),
    );
    Ok(())
}

/// WorkOS goes on changing.
async fn change(sim: Sim) {
    let (users, organizations) = (sim.ever(Kind::User), sim.ever(Kind::Organization));
    for n in 0_usize.. {
        let user = &users[n * 7_919 % users.len()];
        match n % 10 {
            0 => drop(sim.user(&format!("new.number{n}@example.com"))),
            1 => drop(sim.membership(user, &organizations[n * 31 % organizations.len()])),
            2 => drop(sim.delete(Kind::User, user)),
            _ => drop(sim.update(Kind::User, user, json!({"first_name": format!("Name {n}")}))),
        }
        tokio::time::sleep(BETWEEN_CHANGES).await;
    }
}
