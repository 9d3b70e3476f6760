//! What the first import of a directory takes, with WorkOS enforcing the limits that it publishes: requests, requests for
//! each event, time; compared with the fewest requests at the pace that WorkOS allows. See `docs/benchmarks.md`.

#[path = "../common/mod.rs"]
mod common;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use shared::id::Kind;

use common::float;
use common::report::{Figure, Judge, Report, say};
use common::settings::{Settings, asked_to_measure};
use world::{Programs, World};

/// Users of the directory, unless `BENCH_EVENTS` says otherwise; there is a group for each fifty, and each is in one.
const USERS: usize = 10_000;

/// How many are in a group.
const MEMBERS: usize = 50;

/// Requests that the import of so many users may cost at most.
const ALLOWED: f64 = 400.0;

/// Requests that WorkOS allows for the users of one directory in a second.
const LIMIT: f64 = 4.0;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(15);

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
    let users = settings.events(USERS);
    let mut report = Report::new("directory");
    let mut world = World::start().await?;
    if settings.wants("waiting") {
        import(&mut world, &mut report, "waiting events", users, false).await?;
    }
    if settings.wants("live") {
        import(&mut world, &mut report, "webhooks as they come", users, true).await?;
    }
    report.print();
    Ok(())
}

/// Pages without which nobody can list it all: users, groups, and the users of each group. Those of users and of their
/// groups have the limit.
fn fewest(users: usize) -> (usize, usize) {
    let groups = users.div_ceil(MEMBERS);
    let limited = users.div_ceil(100) + groups;
    (limited, limited + groups.div_ceil(100))
}

/// Requests that an import may cost: as many as that of the full size, in proportion to the pages that cannot be done without.
fn allowed(users: usize) -> f64 {
    let ((_, pages), (_, of_all)) = (fewest(users), fewest(USERS));
    ALLOWED * float(pages) / float(of_all)
}

/// The directory is deleted, which one event says for all it holds: how long that takes.
async fn deletion(programs: &mut Programs<'_>) -> anyhow::Result<f64> {
    let directory = programs.sim.ever(Kind::Directory).pop().context("a directory")?;
    let began = Instant::now();
    programs.sim.delete(Kind::Directory, &directory);
    programs.settled().await?;
    let elapsed = began.elapsed().as_secs_f64();
    programs.check().await?;
    Ok(elapsed)
}

/// A directory is connected: an event for each user, group and membership, all waiting in the stream when the worker
/// comes, or while it runs.
async fn import(
    world: &mut World,
    report: &mut Report,
    how: &str,
    users: usize,
    live: bool,
) -> anyhow::Result<()> {
    let mut programs = world.programs().await?;
    let sim = programs.sim.clone();
    if live {
        programs.start_worker().await?;
    }
    World::connect_directory(&sim, users, MEMBERS);
    if !live {
        programs.all_stored().await?;
    }
    let began = Instant::now();
    if !live {
        programs.start_worker().await?;
    }
    let memory = programs.settled().await?;
    let elapsed = began.elapsed().as_secs_f64();
    programs.check().await?;
    let (events, requests) = (sim.events().len(), sim.requests());
    let gone = deletion(&mut programs).await?;

    let (limited, pages) = fewest(users);
    let bound = float(limited) / LIMIT;
    report.add(
        Figure::new(format!("requests, {how}"), float(requests.total()), "requests")
            .judged(Judge::AtMost(allowed(users), (float(pages) * 1.1).round()))
            .note(format!(
                "{events} events, {pages} pages would do; {} GETs, {} pages of users, {} of groups, {} answers of 429",
                requests.all_gets(),
                requests.lists(Kind::DirectoryUser),
                requests.lists(Kind::DirectoryGroup),
                requests.with_status(429),
            )),
    );
    report.add(Figure::new(
        format!("requests for an event, {how}"),
        float(requests.total()) / float(events),
        "",
    ));
    report.add(
        Figure::new(format!("drain time, {how}"), elapsed, "s")
            .against(bound, bound / elapsed)
            .judged(Judge::Ratio(0.6, 0.85))
            .note("the roof is the time that the limit of four requests a second makes"),
    );
    report.add(Figure::new(format!("memory of the worker, {how}"), memory, "MiB"));
    report.add(
        Figure::new(format!("deletion of the directory, {how}"), gone, "s")
            .note("one event, a tombstone for everything the directory held"),
    );
    Ok(())
}
