//! A stand-in for WorkOS, for demonstrations and benchmarks.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;
use support::sim::{Company, Knobs, Sim, SimConfig};

/// Serves the WorkOS API of a small world, and posts signed webhooks about it.
///
/// Prints one line of JSON with its URL and key when it is ready. What can be changed is under
/// `/_sim/`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:4100")]
    addr: SocketAddr,
    /// The only API key that is accepted.
    #[arg(long, default_value = "sk_test_simulator")]
    api_key: String,
    /// What chance is made of.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to post webhooks.
    #[arg(long, requires = "webhook_secret")]
    webhook_url: Option<String>,
    /// What to sign them with.
    #[arg(long, env = "WORKOS_WEBHOOK_SECRET", hide_env_values = true)]
    webhook_secret: Option<String>,
    /// How many webhooks may be on their way at once.
    #[arg(long, default_value_t = 64)]
    webhooks_at_once: usize,
    /// Users to begin with, without events.
    #[arg(long, default_value_t = 0)]
    users: usize,
    /// Organizations to begin with. Each user is a member of one, each has one domain.
    #[arg(long, default_value_t = 0)]
    organizations: usize,
    /// Knobs: a JSON object, or a file that holds one.
    #[arg(long, default_value = "{}")]
    knobs: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let knobs = read_knobs(&arguments.knobs)?;
    let shutdown = shared::shutdown::on_signal()?;
    let sim = Sim::start(SimConfig {
        address: arguments.addr,
        api_key: arguments.api_key,
        seed: arguments.seed,
        knobs,
        webhooks_at_once: arguments.webhooks_at_once,
    })?;
    sim.seed(&Company {
        users: arguments.users,
        organizations: arguments.organizations,
        domains_per_organization: 1,
        memberships_per_user: 1,
        announce: false,
    });
    if let (Some(url), Some(secret)) = (&arguments.webhook_url, &arguments.webhook_secret) {
        sim.add_endpoint(url, secret);
    }
    writeln!(std::io::stdout(), "{}", json!({"url": sim.url(), "api_key": sim.api_key()}))
        .context("failed to say that it is ready")?;
    shutdown.cancelled().await;
    sim.stop();
    Ok(())
}

fn read_knobs(text: &str) -> anyhow::Result<Knobs> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).context("failed to read --knobs");
    }
    let file = std::fs::read_to_string(text).with_context(|| format!("failed to read {text}"))?;
    serde_json::from_str(&file).with_context(|| format!("failed to read {text}"))
}
