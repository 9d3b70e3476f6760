//! `ingest`: takes webhooks from WorkOS and stores them in `JetStream`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ingest::config::Config;
use shared::config::Settings;
use shared::exit::Exit;
use shared::{admin, shutdown, telemetry};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes webhooks from WorkOS and stores them in `JetStream` before answering. Settings come from the
/// environment; without a command it serves.
#[derive(Parser)]
#[command(name = "ingest", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask the copy on this host whether it is ready: exit 0 when it is, for containers without a shell
    Healthcheck,
}

fn main() -> ExitCode {
    let exit = match Cli::parse().command {
        None => serve(),
        Some(Command::Healthcheck) => healthcheck(),
    };
    exit.into()
}

fn serve() -> Exit {
    let config = match Config::read(Settings::from_env()) {
        Ok(config) => config,
        Err(problems) => return refused(&problems),
    };
    telemetry::init(&config.telemetry);
    let ended = runtime().map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let shutdown = shutdown::on_signal()?;
            ingest::run(config, shutdown).await
        })
    });
    match ended {
        Ok(()) => Exit::Success,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "cannot serve");
            Exit::Unavailable
        }
    }
}

fn healthcheck() -> Exit {
    let address = match ingest::config::admin_address(Settings::from_env()) {
        Ok(address) => address,
        Err(problems) => return refused(&problems),
    };
    let asked =
        runtime().map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(admin::is_ready(address)));
    match asked {
        Ok(true) => Exit::Success,
        Ok(false) => {
            eprintln!("not ready; GET http://{address}/readyz says why");
            Exit::No
        }
        Err(error) => {
            eprintln!("{error:#}");
            Exit::Unavailable
        }
    }
}

fn refused(problems: &shared::config::Problems) -> Exit {
    eprintln!("{problems}");
    Exit::Usage
}

/// Everything of one thread runs on that thread, with no queue between threads; [`ingest::server`] starts others
/// like it.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
