//! A migrated database for every world, in a fraction of a second: a copy of a template, in a server
//! that all worlds of this process share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::OnceCell;

use crate::services::{Durability, Place, Postgres, Program};

const TEMPLATE: &str = "template_world";

/// How many databases there are already.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// How long applying the migrations may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A database, and its server where the world has one of its own.
pub(super) struct Database {
    pub(super) url: String,
    pub(super) private: Option<Postgres>,
}

/// The server of this process. It is never dropped: the guardian ends it.
struct Shared {
    postgres: Postgres,
    _place: Place,
}

impl Database {
    pub(super) async fn new(place: &Place, private: bool) -> anyhow::Result<Self> {
        if private {
            let postgres = Postgres::start(&place.room("postgres")?, Durability::Volatile).await?;
            postgres.create_database("world").await?;
            let url = postgres.url("world");
            migrate(place, &url).await?;
            return Ok(Self { url, private: Some(postgres) });
        }
        let name = format!("world_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let shared = shared().await?;
        shared.postgres.copy_database(TEMPLATE, &name).await?;
        Ok(Self { url: shared.postgres.url(&name), private: None })
    }
}

/// Started by the first world of this process.
async fn shared() -> anyhow::Result<&'static Shared> {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_try_init(|| async {
            let place = Place::new("worlds")?;
            let postgres = Postgres::start(&place.room("postgres")?, Durability::Volatile).await?;
            postgres.create_database(TEMPLATE).await?;
            migrate(&place, &postgres.url(TEMPLATE)).await?;
            Ok(Shared { postgres, _place: place })
        })
        .await
}

/// Applies the migrations as an operator does.
async fn migrate(place: &Place, url: &str) -> anyhow::Result<()> {
    let env = [
        ("DATABASE_URL", url),
        // Nothing of these is used; a worker wants them set.
        ("WORKOS_API_KEY", "sk_unused"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let migrated = Program::run(place.path(), "worker", &["migrate"], &env, PATIENCE).await?;
    migrated.success().context("failed to apply the migrations").map(drop)
}
