//! `worker backfill`: everything that WorkOS has.

use anyhow::Context as _;
use clap::Args;
use shared::exit::Exit;
use shared::id::Kind;
use shared::{shutdown, telemetry};

use super::{CONNECTIONS, OUTAGE};
use crate::backfill::{self, Backfill, Summary};
use crate::config::CommandConfig;
use crate::listing::{Interruption, Patience};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::runs;
use crate::sync::{Purpose, Sync};
use crate::workos::Lane;

/// What to backfill.
#[derive(Args)]
pub struct BackfillArguments {
    /// Only these, by table or kind, e.g. users,organizations. Default: everything.
    #[arg(long, value_delimiter = ',', value_parser = super::kind)]
    only: Vec<Kind>,
    /// Begin anew, whatever an interrupted run had done.
    #[arg(long)]
    restart: bool,
    /// Go on even if WorkOS has nothing of what the mirror has: everything was deleted there.
    #[arg(long)]
    even_if_all_is_gone: bool,
}

/// Lists and writes; prints what was done, by table.
pub async fn backfill(config: CommandConfig, arguments: BackfillArguments) -> anyhow::Result<Exit> {
    telemetry::init(&config.database.telemetry);
    let stop = shutdown::on_signal().context("failed to listen for signals")?;
    let pool = match super::ready_database(&config, CONNECTIONS).await? {
        Ok(pool) => pool,
        Err(exit) => return Ok(exit),
    };
    let sync = super::sync(&config.ask, pool, &Metrics::new(), Lane::Backfill)?;
    let backfill = Backfill {
        sync: Sync { purpose: Purpose::Backfill, ..sync },
        patience: Patience { limit: OUTAGE, stop },
        parallel: config.ask.fetch_concurrency,
        only: super::kinds(&arguments.only),
        restart: arguments.restart,
        even_if_all_is_gone: arguments.even_if_all_is_gone,
        actor: runs::actor(),
        progress: Progress::default(),
    };
    match backfill::run(&backfill).await {
        Ok(summary) => Ok(print(&summary)),
        Err(interruption) => {
            let resumed = match interruption {
                Interruption::Busy | Interruption::OtherEnvironment(_) => "",
                _ => "; run it again with the same arguments, it goes on from where it was",
            };
            eprintln!("the backfill did not come to its end: {interruption}{resumed}");
            Ok(super::exit_after(&interruption))
        }
    }
}

fn print(summary: &Summary) -> Exit {
    println!(
        "{:<32}{:>10}{:>10}{:>10}{:>10}{:>8}",
        "", "listed", "written", "unchanged", "deleted", "failed"
    );
    for (kind, counts) in &summary.counts {
        println!(
            "{:<32}{:>10}{:>10}{:>10}{:>10}{:>8}",
            super::rows_of(*kind),
            counts.listed,
            counts.written,
            counts.unchanged,
            counts.deleted,
            counts.failed
        );
    }
    for (object, reason) in &summary.failed {
        println!("could not be made to agree: {object} ({reason})");
    }
    if summary.counts.values().all(|counts| counts.failed == 0) { Exit::Success } else { Exit::No }
}
