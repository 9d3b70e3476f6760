//! One copy at a time reads the Events API: the one that holds a lock of Postgres, which dies with its
//! connection.

use std::time::Duration;

use anyhow::Context as _;
use shared::config::Secret;
use sqlx::{Connection as _, PgConnection};

use super::records::{self, Position};
use crate::database::{self, Trouble};

/// Says of a host that vanished without a word within 15 seconds that it is gone, which gives its lock back.
const KEEPALIVE: &str =
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2";

/// A connection that holds the role, or asks for it.
pub(super) struct Role {
    env: String,
    connection: PgConnection,
}

impl Role {
    /// Connects; does not hold the role yet.
    pub(super) async fn connect(url: &Secret, env: &str) -> anyhow::Result<Self> {
        let connect = async {
            let mut connection = database::connect(url).await?;
            sqlx::raw_sql(KEEPALIVE).execute(&mut connection).await?;
            anyhow::Ok(connection)
        };
        let connection =
            tokio::time::timeout(database::TIMEOUT, connect).await.context("Postgres does not answer")??;
        Ok(Self { env: env.to_owned(), connection })
    }

    /// Takes the role if nobody holds it.
    pub(super) async fn take(&mut self) -> Result<bool, Trouble> {
        self.ask(async |connection, env| {
            sqlx::query_scalar!(
                r#"
                SELECT pg_try_advisory_lock(hashtextextended('workos_sync tail of ' || $1::text, 0)) AS "taken!"
                "#,
                env,
            )
            .fetch_one(connection)
            .await
        })
        .await
    }

    /// Where the reading stands.
    pub(super) async fn position(&mut self) -> Result<Option<Position>, Trouble> {
        self.ask(async |connection, env| records::position(connection, env).await).await
    }

    /// Asks Postgres over the connection that holds the role: an answer says that it still does.
    pub(super) async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut PgConnection, &str) -> sqlx::Result<T>,
    ) -> Result<T, Trouble> {
        let answer = tokio::time::timeout(database::TIMEOUT, question(&mut self.connection, &self.env)).await;
        answer.map_err(|_| Trouble::Unavailable)?.map_err(Trouble::from)
    }

    /// Gives the role back at once.
    pub(super) async fn leave(self) {
        // When it does not work, Postgres finds out by itself.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.connection.close()).await;
    }
}
