//! What `deploy/dev` runs: everything on this machine for trying it out, and every check that CI runs.
//!
//! [`up`] starts the servers, the programs and WorkOS; `company` changes WorkOS, `live` watches the
//! mirror follow, `summary` says whether it did. [`checks`] is `deploy/dev test`, `queries` keeps the
//! offline data of the SQL in the code.

mod checks;
mod company;
mod live;
mod print;
mod queries;
mod summary;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use shared::exit::Exit;

/// Develop workos-sync on this machine.
#[derive(Parser)]
#[command(name = "deploy/dev", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything, print where it listens, and a line per change. Ctrl-C leaves nothing running.
    ///
    /// Without `WORKOS_API_KEY`, WorkOS is simulated: a small company that keeps changing. With it and
    /// `WORKOS_WEBHOOK_SECRET`, it is the real one.
    Up(Up),
    /// Run every check that CI runs, one after the other, until one fails.
    Test,
    /// Run the benchmarks; arguments go to `cargo bench`.
    Bench {
        /// Arguments of `cargo bench`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write the offline data of the SQL in the code (`.sqlx`) again.
    Sqlx,
}

#[derive(clap::Args)]
struct Up {
    /// End after this long, e.g. `20s`; exit 0 only if the mirror then equals WorkOS.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime_duration)]
    duration: Option<Duration>,
    /// Print changes and summary as JSON, one object a line; everything else goes to standard error.
    #[arg(long)]
    json: bool,
}

fn humantime_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "wants a duration such as 20s or 5m".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(arguments) => up::run(&arguments).await,
        Command::Test => checks::run().await,
        Command::Bench { arguments } => checks::bench(&arguments),
        Command::Sqlx => queries::write().await,
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            print::aside(format_args!("\ndeploy/dev: {error:#}"));
            Exit::Unavailable.into()
        }
    }
}
