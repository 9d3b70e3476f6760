//! `worker healthcheck`: whether the copy on `WORKER_ADMIN_ADDR` is ready.

use shared::admin;
use shared::config::Settings;
use shared::exit::Exit;

/// Asks the copy on this host, for containers without a shell.
pub async fn healthcheck(mut settings: Settings) -> anyhow::Result<Exit> {
    let address = settings.address("WORKER_ADMIN_ADDR", "127.0.0.1:9102");
    settings.finish()?;
    let Ok(address) = address else { return Ok(Exit::Usage) };
    Ok(match admin::is_ready(address).await {
        Ok(true) => Exit::Success,
        Ok(false) => Exit::No,
        Err(error) => {
            eprintln!("{error:#}");
            Exit::Unavailable
        }
    })
}
