//! The worker's commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::config::{Problems, Settings};
use shared::exit::Exit;
use worker::command;
use worker::config::{Config, DatabaseConfig, DeadLetterConfig};

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
