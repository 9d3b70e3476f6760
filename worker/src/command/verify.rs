//! `worker verify`: whether the mirror is in step with WorkOS.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use shared::exit::Exit;
use shared::id::Kind;
use shared::{shutdown, telemetry};

use super::{CONNECTIONS, OUTAGE};
use crate::config::CommandConfig;
use crate::listing::Patience;
use crate::metrics::Metrics;
use crate::object;
use crate::progress::Progress;
use crate::runs;
use crate::sync::{Purpose, Sync};
use crate::verify::{self, Counts, Report, Verify, What};
use crate::workos::Lane;

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// What to compare.
#[derive(Args)]
pub struct VerifyArguments {
    /// Only these, by table or kind, e.g. users,organizations. Default: everything.
    #[arg(long, value_delimiter = ',', value_parser = super::kind)]
    only: Vec<Kind>,
    /// Ask WorkOS again for what drifted, and write the answer.
    #[arg(long)]
    repair: bool,
    /// Go on even if WorkOS has nothing of what the mirror has: everything was deleted there.
    #[arg(long, requires = "repair")]
    even_if_all_is_gone: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Compares and prints. Whatever keeps it from comparing, the exit code is 2.
pub async fn verify(config: CommandConfig, arguments: VerifyArguments) -> anyhow::Result<Exit> {
    telemetry::init(&config.database.telemetry);
    let stop = shutdown::on_signal().context("failed to listen for signals")?;
    let could_not = |reason: &str| {
        eprintln!("could not check: {reason}");
        if arguments.format == Format::Json {
            println!("{}", json!({"env": config.ask.env, "result": "could_not_check", "reason": reason}));
        }
        Exit::Usage
    };
    let pool = match super::ready_database(&config, CONNECTIONS).await {
        Ok(Ok(pool)) => pool,
        Ok(Err(_)) => return Ok(could_not("the database is not ready")),
        Err(error) => return Ok(could_not(&format!("{error:#}"))),
    };
    let sync = super::sync(&config.ask, pool, &Metrics::new(), Lane::Backfill)?;
    let verify = Verify {
        sync: Sync { purpose: Purpose::Verify, ..sync },
        patience: Patience { limit: OUTAGE / 2, stop },
        parallel: config.ask.fetch_concurrency,
        only: super::kinds(&arguments.only),
        repair: arguments.repair,
        even_if_all_is_gone: arguments.even_if_all_is_gone,
        actor: runs::actor(),
        progress: Progress::default(),
    };
    match verify::run(&verify).await {
        Ok(report) => {
            match arguments.format {
                Format::Table => print_table(&report, arguments.repair),
                Format::Json => println!("{}", as_json(&config.ask.env, &report, arguments.repair)),
            }
            Ok(if report.is_in_step() { Exit::Success } else { Exit::No })
        }
        Err(interruption) => Ok(could_not(&interruption.to_string())),
    }
}

fn print_table(report: &Report, repair: bool) {
    print!("{:<32}{:>10}{:>10}{:>10}{:>10}", "", "in step", "missing", "extra", "different");
    println!("{}", if repair { format!("{:>10}", "repaired") } else { String::new() });
    for (kind, counts) in &report.counts {
        print!(
            "{:<32}{:>10}{:>10}{:>10}{:>10}",
            super::rows_of(*kind),
            counts.in_step,
            counts.missing,
            counts.extra,
            counts.different
        );
        println!("{}", if repair { format!("{:>10}", counts.repaired) } else { String::new() });
    }
    for drift in &report.drifts {
        let what = match drift.drift {
            What::Missing => "missing",
            What::Extra => "extra",
            What::Different => "different",
        };
        let columns = drift.columns.join(", ");
        let repaired = if drift.repaired { "repaired" } else { "" };
        println!("{}", format!("{what:<10} {} {}  {columns}  {repaired}", drift.kind, drift.id).trim_end());
    }
    let untold = untold(report);
    if untold > 0 {
        println!("... and {untold} more");
    }
}

fn untold(report: &Report) -> u64 {
    let all: u64 =
        report.counts.values().map(|counts| counts.missing + counts.extra + counts.different).sum();
    all.saturating_sub(report.drifts.len() as u64)
}

fn as_json(env: &str, report: &Report, repair: bool) -> Value {
    let mut tables: BTreeMap<&str, Counts> = BTreeMap::new();
    for (kind, counts) in &report.counts {
        tables.entry(object::table(*kind)).or_default().add(counts);
    }
    json!({
        "env": env,
        "result": if report.is_in_step() { "in_step" } else { "drift" },
        "repair": repair,
        "tables": tables,
        "drift": report.drifts,
        "not_named": untold(report),
    })
}
