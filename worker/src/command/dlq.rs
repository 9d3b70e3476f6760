//! `worker dlq`: list, show, replay and discard dead letters.

use std::collections::{BTreeMap, HashSet};
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::connection::State;
use async_nats::jetstream;
use chrono::{DateTime, Utc};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shared::admin::Readiness;
use shared::exit::Exit;
use shared::id::Kind;
use shared::{broker, shutdown, telemetry};
use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::DeadLetterConfig;
use crate::database;
use crate::dead_letter::act::{Action, Counts, Order, Run};
use crate::dead_letter::list::{by_reason, moment, printable, total};
use crate::dead_letter::{self, DeadLetter, DeadLetters, Filter};
use crate::failure::Failure;
use crate::workos::Rate;

/// How long the broker may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often outcomes are looked for, and how many events at a time.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_AT: usize = 1_000;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// List them, oldest first, with the reason of each.
    List {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// How to print them.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show one, with what the ledger knows of its event.
    Show {
        /// Its number, as `list` shows it.
        seq: u64,
        /// How to print it.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Ask WorkOS again, now, about the objects of these: always safe, old ones end as superseded or unchanged.
    Replay {
        /// Which, and how.
        #[command(flatten)]
        act: Act,
        /// How long to wait for the next outcome before leaving the rest to the workers.
        #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
        wait: Duration,
    },
    /// Mark these as done without asking: their events stay `dead` in the ledger.
    Discard {
        /// Which, and how.
        #[command(flatten)]
        act: Act,
    },
}

/// Which dead letters are meant: what is given must all fit.
#[derive(Debug, Args)]
pub struct Which {
    /// Event type, e.g. user.updated.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Kind of object, e.g. user.
    #[arg(long)]
    kind: Option<Kind>,
    /// Id of the object, or of the event.
    #[arg(long)]
    id: Option<String>,
    /// Class of the failure.
    #[arg(long, value_parser = PossibleValuesParser::new(Failure::CLASSES))]
    reason: Option<String>,
    /// Died since then: a time such as 2026-01-15T12:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// Died before then.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<DateTime<Utc>>,
    /// Only the first so many, oldest first.
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// What replay and discard have in common.
#[derive(Debug, Args)]
pub struct Act {
    #[command(flatten)]
    which: Which,
    /// All of them. Without a filter it must be said.
    #[arg(long)]
    all: bool,
    /// Only say how many there are.
    #[arg(long)]
    dry_run: bool,
    /// How many a second (or minute, such as 600/m), or `off`.
    #[arg(long, default_value = "50/s", value_parser = rate)]
    rate: Rate,
    /// Do not ask for confirmation.
    #[arg(long, short = 'y')]
    yes: bool,
    /// Who does it, for the record; by default the user and host of this command.
    #[arg(long)]
    actor: Option<String>,
    /// Why, for the record.
    #[arg(long)]
    why: Option<String>,
    /// How to print the counts.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: docs/operations.md describes it, and it stays as it is.
    Json,
}

impl From<Which> for Filter {
    fn from(which: Which) -> Self {
        let Which { event_type, kind, id, reason, since, until, limit } = which;
        Self { event_type, kind, id, reason, since, until, limit }
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    text.parse().map_err(|()| "wants a rate such as 50/s or 600/m, or `off`".to_owned())
}

/// Runs `worker dlq`.
pub async fn dlq(config: DeadLetterConfig, command: Dlq) -> anyhow::Result<Exit> {
    telemetry::init(&config.database.telemetry);
    if let Dlq::Replay { act, .. } | Dlq::Discard { act } = &command
        && let Some(problem) = problem(act)
    {
        eprintln!("{problem}");
        return Ok(Exit::Usage);
    }
    let letters = connect(&config).await?;
    let database = database::pool(&config.database.url, 2)?;
    let ended = match command {
        Dlq::List { which, format } => list(&letters, &which.into(), format).await,
        Dlq::Show { seq, format } => show(&letters, &database, &config.env, seq, format).await,
        Dlq::Replay { act, wait } => carry_out(&letters, &database, Action::Replay, act, wait).await,
        Dlq::Discard { act } => carry_out(&letters, &database, Action::Discard, act, Duration::ZERO).await,
    };
    database.close().await;
    ended
}

/// What is missing to know what is meant, and that it is.
fn problem(act: &Act) -> Option<&'static str> {
    let Which { event_type, kind, id, reason, since, until, limit } = &act.which;
    let filtered = event_type.is_some()
        || kind.is_some()
        || id.is_some()
        || reason.is_some()
        || since.is_some()
        || until.is_some()
        || limit.is_some();
    if !filtered && !act.all {
        return Some(
            "say which dead letters: --all, or at least one of --type, --kind, --id, --reason, --since, --until, \
             --limit; with --dry-run it is only counted",
        );
    }
    if filtered && act.all {
        return Some("--all means all of them: leave it out, or the filters");
    }
    if !act.dry_run && !act.yes && !std::io::stdin().is_terminal() {
        return Some("there is no terminal to ask on: look with --dry-run, then say --yes");
    }
    None
}

async fn connect(config: &DeadLetterConfig) -> anyhow::Result<DeadLetters> {
    let client = broker::connect(&config.broker, "workos-sync worker dlq", &Readiness::default()).await?;
    let connected = async {
        while client.connection_state() != State::Connected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected)
        .await
        .context("NATS does not answer at NATS_URL; start it or correct the address")?;
    let letters = DeadLetters::new(&config.env, jetstream::new(client));
    letters.ensure(config.broker.replicas).await?;
    Ok(letters)
}

async fn list(letters: &DeadLetters, filter: &Filter, format: Format) -> anyhow::Result<Exit> {
    let letters = letters.list(filter).await?;
    let reasons = by_reason(&letters);
    match format {
        Format::Json => {
            let all = json!({"total": letters.len(), "by_reason": reasons, "dead_letters": letters});
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
        Format::Table => {
            let mut out = std::io::stdout().lock();
            if !letters.is_empty() {
                let header =
                    ["SEQ", "DIED AT", "REASON", "ATTEMPTS", "TYPE", "OBJECT", "ERROR"].map(str::to_owned);
                let rows = letters.iter().map(row).collect::<Vec<_>>();
                write!(out, "{}", table(&header, &rows))?;
            }
            writeln!(out, "{}", total(letters.len(), &reasons))?;
        }
    }
    Ok(Exit::Success)
}

fn row(letter: &DeadLetter) -> [String; 7] {
    [
        letter.seq.to_string(),
        letter.died_at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
        printable(&letter.reason),
        letter.attempts.to_string(),
        printable(&letter.event.event_type),
        printable(letter.event.object_id.as_deref().unwrap_or("-")),
        printable(&letter.error),
    ]
}

fn table<const N: usize>(header: &[String; N], rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in std::iter::once(header).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in std::iter::once(header).chain(rows) {
        let cells: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

async fn show(
    letters: &DeadLetters,
    database: &PgPool,
    env: &str,
    seq: u64,
    format: Format,
) -> anyhow::Result<Exit> {
    let Some(letter) = letters.show(seq).await? else {
        eprintln!("there is no dead letter {seq} of {env}; `worker dlq list` shows which there are");
        return Ok(Exit::No);
    };
    let entry = dead_letter::entry(database, env, &letter.event.id)
        .await
        .map_err(database::Trouble::from)
        .context("failed to look into the ledger; is DATABASE_URL right?")?;
    let mut all = serde_json::to_value(&letter)?;
    if let Value::Object(fields) = &mut all {
        fields.insert("ledger".to_owned(), serde_json::to_value(&entry)?);
    }
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&all)?),
        Format::Table => {
            let mut lines = Vec::new();
            flatten("", &all, &mut lines);
            print!("{}", table(&["FIELD".to_owned(), "VALUE".to_owned()], &lines));
            println!("\nask again with: worker dlq replay --id {}", printable(&letter.event.id));
        }
    }
    Ok(Exit::Success)
}

/// Every field by its path, one a line.
fn flatten(path: &str, value: &Value, lines: &mut Vec<[String; 2]>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, lines);
            }
        }
        Value::String(text) => lines.push([path.to_owned(), printable(text)]),
        Value::Null => lines.push([path.to_owned(), "-".to_owned()]),
        other => lines.push([path.to_owned(), other.to_string()]),
    }
}

async fn carry_out(
    letters: &DeadLetters,
    database: &PgPool,
    action: Action,
    act: Act,
    wait: Duration,
) -> anyhow::Result<Exit> {
    let Act { which, all: _, dry_run, rate, yes, actor, why, format } = act;
    let filter = Filter::from(which);
    let selected = letters.list(&filter).await?;
    let reasons = by_reason(&selected);
    let command = action.command();
    if dry_run {
        match format {
            Format::Json => {
                let counts = json!({
                    "command": command, "dry_run": true, "selected": selected.len(), "by_reason": reasons,
                });
                println!("{}", serde_json::to_string_pretty(&counts)?);
            }
            Format::Table => println!("would {command} {}", total(selected.len(), &reasons)),
        }
        return Ok(none_of_an_id(&filter, &selected));
    }
    if !database::answers(database).await {
        eprintln!("Postgres does not answer at DATABASE_URL; nothing was done, as it could not be recorded");
        return Ok(Exit::Unavailable);
    }
    if !selected.is_empty() && !yes && !confirmed(&format!("{command} {}?", total(selected.len(), &reasons)))?
    {
        eprintln!("nothing was done");
        return Ok(Exit::No);
    }
    let stop = shutdown::on_signal().context("failed to listen for signals")?;
    let order = Order {
        action,
        actor: actor.unwrap_or_else(somebody),
        why,
        arguments: serde_json::to_value(&filter)?,
        rate,
    };
    let bar = bar(selected.len(), action.done());
    let run = letters.act(database, &selected, &order, &stop, |counts| move_on(&bar, action, counts)).await;
    bar.finish_and_clear();
    let run = run.with_context(|| {
        format!("it broke off; run `worker dlq {command}` again, it goes on where it was")
    })?;
    let replayed = run.counts.done + run.counts.already;
    let outcomes = match action {
        Action::Replay => {
            let events: Vec<&str> =
                selected.iter().take(replayed).map(|letter| letter.event.id.as_str()).collect();
            outcomes(letters, database, &events, wait, &stop).await?
        }
        Action::Discard => BTreeMap::new(),
    };
    report(action, &run, &outcomes, format)?;
    Ok(none_of_an_id(&filter, &selected))
}

fn none_of_an_id(filter: &Filter, selected: &[DeadLetter]) -> Exit {
    if filter.id.is_some() && selected.is_empty() { Exit::No } else { Exit::Success }
}

/// Asks on the terminal.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("failed to read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The user and host of this command.
fn somebody() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    let host = std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"))
        .unwrap_or_default();
    format!("{user}@{}", host.trim())
}

/// A bar on a terminal; nothing elsewhere.
fn bar(count: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(count as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

fn move_on(bar: &ProgressBar, action: Action, counts: Counts) {
    let done = counts.done + counts.already;
    bar.set_position(done as u64);
    if bar.is_hidden() {
        tracing::info!(done, of = counts.selected, "{}", action.done());
    }
}

/// Waits for outcomes, as long as they keep coming. Counts them; what has none is `waiting`.
async fn outcomes(
    letters: &DeadLetters,
    database: &PgPool,
    events: &[&str],
    wait: Duration,
    stop: &CancellationToken,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let bar = bar(events.len(), "settled");
    let mut counts = BTreeMap::new();
    let mut waiting: HashSet<&str> = events.iter().copied().collect();
    let mut last = Instant::now();
    while !waiting.is_empty() {
        let all: Vec<&str> = waiting.iter().copied().collect();
        for some in all.chunks(LOOK_AT) {
            for (event, outcome) in letters.outcomes(database, some).await? {
                if waiting.remove(event.as_str()) {
                    *counts.entry(outcome).or_default() += 1;
                    last = Instant::now();
                }
            }
        }
        bar.set_position((events.len() - waiting.len()) as u64);
        if waiting.is_empty() || last.elapsed() >= wait || stop.is_cancelled() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    bar.finish_and_clear();
    if !waiting.is_empty() {
        counts.insert("waiting".to_owned(), waiting.len());
    }
    Ok(counts)
}

fn report(
    action: Action,
    run: &Run,
    outcomes: &BTreeMap<String, usize>,
    format: Format,
) -> anyhow::Result<()> {
    let Counts { selected, done, already } = run.counts;
    let left = selected - done - already;
    if format == Format::Json {
        let counts = json!({
            "command": action.command(),
            "dry_run": false,
            "run": run.id,
            "selected": selected,
            action.done(): done,
            "already": already,
            "left": left,
            "outcomes": outcomes,
        });
        println!("{}", serde_json::to_string_pretty(&counts)?);
        return Ok(());
    }
    println!("{} {done} of {selected} dead letters, run {}", action.done(), run.id);
    if already > 0 {
        println!("{already} were recorded by an earlier run that broke off");
    }
    for (outcome, count) in outcomes {
        match outcome.as_str() {
            "waiting" => {
                println!("{count} have no outcome yet: the workers go on with them; is one running?");
            }
            "dead" => println!("{count} are dead letters again"),
            outcome => println!("{count} {outcome}"),
        }
    }
    if run.stopped {
        println!("stopped: {left} are left; run it again to go on");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_obeys_no_control_characters() {
        let rows = [["1".to_owned(), printable("a\u{1b}[31m")], ["22".to_owned(), "b".to_owned()]];
        assert_eq!(table(&["N".to_owned(), "ID".to_owned()], &rows), "N   ID\n1   a\u{FFFD}[31m\n22  b\n");
    }
}
