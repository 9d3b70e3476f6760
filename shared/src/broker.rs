//! Connecting to NATS and preparing the streams.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, stream};
use chrono::{DateTime, Utc};

use crate::admin::Readiness;
use crate::subject;

mod config;

pub use config::{BrokerConfig, Login};

/// How long events stay in the stream after they were handled: enough to look back over a long
/// weekend.
const EVENTS_MAX_AGE: Duration = Duration::from_hours(7 * 24);

/// How long dead letters wait for a person.
const DEAD_LETTERS_MAX_AGE: Duration = Duration::from_hours(90 * 24);

/// How long the broker remembers message ids. WorkOS repeats a webhook within seconds far more often
/// than later; what comes later is caught by the ledger.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// How long a wish for an immediate sync may wait for a worker. Nothing depends on an older one: the
/// webhook of what happened then was stored.
const SYNC_MAX_AGE: Duration = Duration::from_hours(1);

/// Wishes about one object that may wait; further ones replace the oldest, and one answer serves all.
const SYNC_MAX_PER_OBJECT: i64 = 16;

/// Wishes that may wait, so that a loop somewhere cannot fill the disk of the broker.
const SYNC_MAX_MESSAGES: i64 = 100_000;

/// Connects, and keeps connecting: a broker that is down at the start is waited for, and readiness
/// (`nats`) tells.
pub async fn connect(
    config: &BrokerConfig,
    name: &str,
    readiness: &Readiness,
) -> anyhow::Result<async_nats::Client> {
    readiness.unready("nats", "not connected yet");
    let on_event = readiness.clone();
    let mut options = ConnectOptions::new()
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(Duration::from_secs(2))
        .ping_interval(Duration::from_secs(5))
        .reconnect_delay_callback(|attempts| {
            // 50 ms, 100 ms, 200 ms ... up to 2 s.
            Duration::from_millis(50 << attempts.min(6)).min(Duration::from_secs(2))
        })
        .event_callback(move |event| {
            let readiness = on_event.clone();
            async move {
                match event {
                    async_nats::Event::Connected => {
                        tracing::info!("connected to NATS");
                        readiness.ready("nats");
                    }
                    async_nats::Event::Disconnected => {
                        tracing::warn!("lost the connection to NATS, reconnecting");
                        readiness.unready("nats", "not connected");
                    }
                    other => tracing::debug!(event = %other, "NATS connection event"),
                }
            }
        });
    match &config.login {
        Some(Login::User { name, password }) => {
            options = options.user_and_password(name.clone(), password.reveal().to_owned());
        }
        Some(Login::Token(token)) => options = options.token(token.reveal().to_owned()),
        None => {}
    }
    if let Some(credentials) = &config.credentials {
        options = options
            .credentials(credentials.reveal())
            .context("NATS_CREDS is not the text of a credentials file")?;
    }
    if let Some(nkey) = &config.nkey {
        options = options.nkey(nkey.reveal().to_owned());
    }
    if let Some(ca) = &config.tls_ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((cert, key)) = &config.tls_client {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    options.connect(config.servers.as_slice()).await.context("failed to connect to NATS")
}

/// A stream as it is, not as we asked for it.
#[derive(Clone, Debug)]
pub struct StreamFacts {
    /// When it was created: its identity, since sequences start again when it is made anew.
    pub created: DateTime<Utc>,
    /// How many servers hold it.
    pub replicas: usize,
    /// Whether it is on disk.
    pub on_disk: bool,
    /// Whether it takes groups of messages as one (atomic batches, NATS 2.12). An older broker forgets that it was
    /// asked to.
    pub takes_groups: bool,
}

impl StreamFacts {
    /// What an acknowledgement is worth there, in a sentence for the log.
    #[must_use]
    pub fn durability(&self) -> String {
        match (self.on_disk, self.replicas) {
            (false, _) => "memory storage: an acknowledged event is lost when the broker restarts; \
                           the Events API tail fetches it again"
                .to_owned(),
            (true, 1) => {
                "file storage on one server: an acknowledged event survives a crash of the broker; a power \
                          loss can take the last minutes unless the broker runs with `sync_interval: always`"
                    .to_owned()
            }
            (true, replicas) => format!(
                "file storage on {replicas} servers: an acknowledged event survives the loss of {}",
                match (replicas - 1) / 2 {
                    1 => "one of them".to_owned(),
                    n => format!("{n} of them"),
                }
            ),
        }
    }
}

fn facts(info: &stream::Info) -> StreamFacts {
    StreamFacts {
        created: info.created,
        replicas: info.config.num_replicas.max(1),
        on_disk: info.config.storage == stream::StorageType::File,
        takes_groups: info.config.allow_atomic_publish,
    }
}

/// A stream of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// `WORKOS_EVENTS`.
    Events,
    /// `WORKOS_SYNC`.
    Sync,
}

impl Stream {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => subject::EVENTS_STREAM,
            Self::Sync => subject::SYNC_STREAM,
        }
    }
}

/// Makes sure that a stream exists.
pub async fn ensure(
    jetstream: &jetstream::Context,
    stream: Stream,
    replicas: usize,
) -> anyhow::Result<StreamFacts> {
    match stream {
        Stream::Events => ensure_events(jetstream, replicas).await,
        Stream::Sync => ensure_sync(jetstream, replicas).await,
    }
}

/// Makes sure that `WORKOS_EVENTS` exists. One that exists keeps the settings its owner gave it, as
/// long as it takes our subjects.
pub async fn ensure_events(jetstream: &jetstream::Context, replicas: usize) -> anyhow::Result<StreamFacts> {
    let config = stream::Config {
        name: subject::EVENTS_STREAM.to_owned(),
        description: Some("What WorkOS announced: identifiers and times, no personal data".to_owned()),
        subjects: vec![subject::EVENTS_SUBJECTS.to_owned()],
        storage: stream::StorageType::File,
        retention: stream::RetentionPolicy::Limits,
        max_age: EVENTS_MAX_AGE,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: replicas,
        allow_atomic_publish: true,
        ..stream::Config::default()
    };
    get_or_create(jetstream, config, subject::EVENTS_SUBJECTS).await
}

/// Makes sure that `WORKOS_SYNC` exists, in the same way.
pub async fn ensure_sync(jetstream: &jetstream::Context, replicas: usize) -> anyhow::Result<StreamFacts> {
    let config = stream::Config {
        name: subject::SYNC_STREAM.to_owned(),
        description: Some("Immediate syncs that were asked for: identifiers, no personal data".to_owned()),
        subjects: vec![subject::SYNC_SUBJECTS.to_owned()],
        storage: stream::StorageType::File,
        retention: stream::RetentionPolicy::Limits,
        discard: stream::DiscardPolicy::Old,
        max_age: SYNC_MAX_AGE,
        max_messages: SYNC_MAX_MESSAGES,
        max_messages_per_subject: SYNC_MAX_PER_OBJECT,
        num_replicas: replicas,
        ..stream::Config::default()
    };
    get_or_create(jetstream, config, subject::SYNC_SUBJECTS).await
}

async fn get_or_create(
    jetstream: &jetstream::Context,
    config: stream::Config,
    subjects: &str,
) -> anyhow::Result<StreamFacts> {
    let name = config.name.clone();
    let stream = jetstream
        .get_or_create_stream(config)
        .await
        .with_context(|| format!("failed to create the stream {name}"))?;
    let info = stream.cached_info();
    if !info.config.subjects.iter().any(|taken| taken == subjects) {
        bail!(
            "the stream {name} exists but does not take {subjects}; add that subject to it, or rename the stream"
        );
    }
    Ok(facts(info))
}

/// Makes sure that `WORKOS_DLQ` and `WORKOS_ADVISORIES` exist. Those that exist keep their settings.
pub async fn ensure_dead_letters(jetstream: &jetstream::Context, replicas: usize) -> anyhow::Result<()> {
    let streams = [
        (
            subject::DEAD_LETTERS_STREAM,
            subject::DEAD_LETTERS_SUBJECTS,
            "Events set aside for a person: identifiers, times and reasons, no personal data",
        ),
        (
            subject::ADVISORIES_STREAM,
            subject::ADVISORIES_SUBJECTS,
            "Events that the broker will not deliver again, until a worker has seen to them",
        ),
    ];
    for (name, subjects, description) in streams {
        jetstream
            .get_or_create_stream(stream::Config {
                name: name.to_owned(),
                description: Some(description.to_owned()),
                subjects: vec![subjects.to_owned()],
                storage: stream::StorageType::File,
                retention: stream::RetentionPolicy::Limits,
                max_age: DEAD_LETTERS_MAX_AGE,
                duplicate_window: DUPLICATE_WINDOW,
                num_replicas: replicas,
                ..stream::Config::default()
            })
            .await
            .with_context(|| format!("failed to create the stream {name}"))?;
    }
    Ok(())
}
