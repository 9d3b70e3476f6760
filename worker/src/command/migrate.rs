//! `worker migrate`: apply migrations and exit.

use shared::exit::Exit;
use shared::telemetry;

use crate::config::DatabaseConfig;
use crate::database;

/// Applies what is missing and says how many that were.
pub async fn migrate(config: DatabaseConfig) -> anyhow::Result<Exit> {
    telemetry::init(&config.telemetry);
    let pool = database::pool(&config.url, 1)?;
    if !database::answers(&pool).await {
        eprintln!(
            "Postgres does not answer at DATABASE_URL; start it or correct the address, then run `worker migrate` again"
        );
        return Ok(Exit::Unavailable);
    }
    let applied = database::migrate(&pool).await?;
    println!("{applied} migration(s) applied, the database is up to date");
    Ok(Exit::Success)
}
