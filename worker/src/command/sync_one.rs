//! `worker sync <kind> <id>`: one object, now, with what belongs to it.

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use shared::exit::Exit;
use shared::id::{Kind, ObjectRef};
use shared::{shutdown, telemetry};

use super::OUTAGE;
use crate::config::CommandConfig;
use crate::ledger::{self, Changed};
use crate::listing::{Interruption, Patience};
use crate::metrics::Metrics;
use crate::object;
use crate::outcome::Outcome;
use crate::reconcile::{self, Settled};
use crate::sync::{Purpose, Sync, within_time};
use crate::workos::Lane;

/// What to sync.
#[derive(Args)]
pub struct SyncArguments {
    /// Its kind, e.g. user; the name of its table will do.
    #[arg(value_parser = super::kind)]
    kind: Kind,
    /// Its id, e.g. `user_01J8...`; what is known by another one too, e.g. a role, by either.
    id: String,
}

/// Refetches and prints what changed, column by column.
pub async fn sync_one(config: CommandConfig, arguments: SyncArguments) -> anyhow::Result<Exit> {
    telemetry::init(&config.database.telemetry);
    let stop = shutdown::on_signal().context("failed to listen for signals")?;
    let pool = match super::ready_database(&config, 4).await? {
        Ok(pool) => pool,
        Err(exit) => return Ok(exit),
    };
    let sync = super::sync(&config.ask, pool, &Metrics::new(), Lane::Immediate)?;
    let sync = Sync { purpose: Purpose::Sync, ..sync };
    let patience = Patience { limit: OUTAGE / 4, stop };
    let known_as = within_time(async {
        let mut connection = sync.database.acquire().await?;
        object::key_of(&mut connection, &sync.env, arguments.kind, &arguments.id).await
    });
    let object = match known_as.await? {
        Some(object) => {
            println!("{} is synced as {object}", arguments.id);
            object
        }
        None => ObjectRef::new(arguments.kind, arguments.id),
    };
    if let Some(form) = object.kind.form().filter(|_| !object.kind.takes(&object.id)) {
        eprintln!(
            "`{}` is no id of the kind {}, and the mirror has no row with it: it is {form}",
            object.id, object.kind
        );
        return Ok(Exit::Usage);
    }
    match carry_out(&sync, &patience, &object).await {
        Ok(exit) => Ok(exit),
        Err(interruption) => {
            eprintln!("{object} was not synced: {interruption}");
            Ok(super::exit_after(&interruption))
        }
    }
}

async fn carry_out(sync: &Sync, patience: &Patience, object: &ObjectRef) -> Result<Exit, Interruption> {
    let before = reconcile::known(sync, patience, &[object]).await?.remove(object);
    let mirrored = before.as_ref().is_some_and(|known| known.has_row);
    let last = within_time(ledger::last_audit(&sync.database)).await?;
    let settled = reconcile::with_relations(sync, patience, object).await?;

    // What another command syncs at this very moment is told too.
    let changes = within_time(ledger::changes_since(&sync.database, &sync.env, last, "sync")).await?;
    for change in &changes {
        print(change);
    }
    let itself = settled.iter().find(|(settled, _)| settled == object).map(|(_, settled)| settled);
    let failed: Vec<_> = settled
        .iter()
        .filter_map(|(object, settled)| match settled {
            Settled::Failed(reason) => Some((object, reason)),
            Settled::Agrees(_) => None,
        })
        .collect();
    for (object, reason) in &failed {
        eprintln!("{object} could not be made to agree ({reason})");
    }
    if matches!(itself, Some(Settled::Agrees(Outcome::Ignored))) {
        eprintln!(
            "WorkOS cannot be asked for {object}: it is kept within another object that the mirror does not know, or is \
             not listed; try `worker backfill --only {}`",
            object::table(object.kind)
        );
        return Ok(Exit::No);
    }
    if !mirrored
        && matches!(itself, Some(Settled::Agrees(Outcome::Deleted | Outcome::Unchanged)))
        && changes.is_empty()
    {
        eprintln!(
            "neither WorkOS nor the mirror has {object}; is the id right, and WORKOS_API_KEY of its environment?"
        );
        return Ok(Exit::No);
    }
    println!("{} changed, {} asked for", changes.len(), settled.len());
    Ok(if failed.is_empty() { Exit::Success } else { Exit::No })
}

/// `user/user_1: updated`, then a line for each column.
fn print(change: &Changed) {
    let cause = change.cause.as_ref().map(|cause| format!(", with {cause}")).unwrap_or_default();
    println!("{}/{}: {}{cause}", change.kind, change.object_id, change.action);
    let Value::Object(columns) = &change.changes else { return };
    for (column, values) in columns {
        println!("    {column}: {} -> {}", values["old"], values["new"]);
    }
}
