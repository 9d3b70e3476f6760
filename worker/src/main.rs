//! The worker's commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::config::{Problems, Settings};
use shared::exit::Exit;
use worker::command::{
    self, BackfillArguments, ExplainArguments, StatusArguments, SyncArguments, VerifyArguments,
};
use worker::config::{CommandConfig, Config, DatabaseConfig, DeadLetterConfig, RecordsConfig};

/// A batch is thousands of small pieces that live as long as it does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps Postgres in step with WorkOS. Settings come from the environment.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Consume events, ask WorkOS, write Postgres (the default).
    Run,
    /// Apply migrations and exit.
    Migrate,
    /// List everything that WorkOS has and make the mirror agree; then bury what complete lists no longer have.
    ///
    /// Safe beside `worker run`, and safe to stop: run again with the same arguments, it goes on from where it was.
    /// Exit 0: done. 1: stopped, or some objects could not be written (they are named). 3: WorkOS or Postgres
    /// not available.
    Backfill(BackfillArguments),
    /// Compare the mirror with WorkOS, row by row: what is missing, what is extra, what differs in which columns.
    ///
    /// Exit 0: in step (or, with --repair, brought back in step). 1: drift. 2: could not check.
    Verify(VerifyArguments),
    /// Ask WorkOS for one object now, with what belongs to it, and say what changed.
    ///
    /// Exit 0: the mirror agrees. 1: neither WorkOS nor the mirror has it, or it could not be written. 3: WorkOS
    /// or Postgres not available.
    Sync(SyncArguments),
    /// Tell everything known of an object or an event: its events, attempts and changes, and what to do next.
    ///
    /// Exit 1: nothing is known of it.
    Explain(ExplainArguments),
    /// Tell how things are: what waits, dead letters, the Events API, counts, the last backfill and verify.
    Status(StatusArguments),
    /// Dead letters: events that could not be carried out and wait for a person.
    #[command(subcommand)]
    Dlq(Box<command::Dlq>),
    /// Exit 0 when the copy on `WORKER_ADMIN_ADDR` is ready.
    Healthcheck,
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Arguments::parse().command.unwrap_or(Command::Run) {
        Command::Run => match Config::from_settings(Settings::from_env()) {
            Ok(config) => command::run(config).await,
            Err(problems) => return usage(&problems),
        },
        Command::Migrate => match DatabaseConfig::from_settings(Settings::from_env()) {
            Ok(config) => command::migrate(config).await,
            Err(problems) => return usage(&problems),
        },
        Command::Backfill(arguments) => match CommandConfig::from_settings(Settings::from_env()) {
            Ok(config) => command::backfill(config, arguments).await,
            Err(problems) => return usage(&problems),
        },
        Command::Verify(arguments) => match CommandConfig::from_settings(Settings::from_env()) {
            Ok(config) => command::verify(config, arguments).await,
            Err(problems) => return usage(&problems),
        },
        Command::Sync(arguments) => match CommandConfig::from_settings(Settings::from_env()) {
            Ok(config) => command::sync_one(config, arguments).await,
            Err(problems) => return usage(&problems),
        },
        Command::Explain(arguments) => match RecordsConfig::from_settings(Settings::from_env()) {
            Ok(config) => command::explain(config, arguments).await,
            Err(problems) => return usage(&problems),
        },
        Command::Status(arguments) => match DeadLetterConfig::from_settings(Settings::from_env()) {
            Ok(config) => command::status(config, arguments).await,
            Err(problems) => return usage(&problems),
        },
        Command::Dlq(dlq) => match DeadLetterConfig::from_settings(Settings::from_env()) {
            Ok(config) => command::dlq(config, *dlq).await,
            Err(problems) => return usage(&problems),
        },
        Command::Healthcheck => command::healthcheck(Settings::from_env()).await,
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(error) if error.is::<Problems>() => {
            eprintln!("{error}");
            Exit::Usage.into()
        }
        Err(error) => {
            eprintln!("{error:#}");
            Exit::Unavailable.into()
        }
    }
}

fn usage(problems: &Problems) -> ExitCode {
    eprintln!("{problems}");
    Exit::Usage.into()
}
