//! Settings of the worker.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Url;
use shared::broker::BrokerConfig;
use shared::config::{Problems, Read, Secret, Settings};
use shared::telemetry::TelemetryConfig;

use crate::backoff::Schedule;
use crate::database;
use crate::failure::Retries;
use crate::workos::{self, Rate};

/// Settings of every command that needs the database.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `DATABASE_URL`; may hold a password.
    pub url: Secret,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

/// Settings of whatever asks WorkOS and writes the answer.
#[derive(Clone, Debug)]
pub struct AskConfig {
    /// `WORKOS_ENV`.
    pub env: String,
    /// `WORKOS_API_KEY`.
    pub api_key: Secret,
    /// `WORKOS_API_BASE_URL`.
    pub api_base: Url,
    /// `SYNC_FETCH_CONCURRENCY`.
    pub fetch_concurrency: usize,
    /// `SYNC_RATE_LIMIT`.
    pub rate: Rate,
    /// `SYNC_RATE_SHARE`: whether all copies share that rate.
    pub rate_share: bool,
    /// `SYNC_AUDIT_PII=keep`.
    pub keep_personal: bool,
}

/// Settings of the reading of the Events API.
#[derive(Clone, Copy, Debug)]
pub struct TailConfig {
    /// `SYNC_TAIL_INTERVAL`.
    pub interval: Duration,
    /// `SYNC_TAIL_OVERLAP`: how long after an event was read an older one may still appear before it.
    pub overlap: Duration,
    /// `SYNC_WEBHOOK_GRACE`: how long after the tail an event's webhook may come before it counts as missed.
    pub grace: Duration,
}

/// Settings of a command that asks WorkOS and writes the answers, and needs no broker.
#[derive(Clone, Debug)]
pub struct CommandConfig {
    /// How WorkOS is asked.
    pub ask: AskConfig,
    /// The mirror.
    pub database: DatabaseConfig,
}

impl CommandConfig {
    /// Reads every setting; `Err` names each that is missing or malformed.
    pub fn from_settings(mut settings: Settings) -> Result<Self, Problems> {
        let ask = AskConfig::read(&mut settings);
        let database = DatabaseConfig::read(&mut settings);
        settings.finish()?;
        Ok(Self { ask: ask?, database: database? })
    }
}

/// Settings of `worker run`.
#[derive(Clone, Debug)]
pub struct Config {
    /// How WorkOS is asked.
    pub ask: AskConfig,
    /// The mirror.
    pub database: DatabaseConfig,
    /// `SYNC_AUTO_MIGRATE`.
    pub auto_migrate: bool,
    /// `NATS_*`.
    pub broker: BrokerConfig,
    /// `WORKER_ADMIN_ADDR`.
    pub admin: SocketAddr,
    /// `SYNC_PAGE_TOKEN`: opens the operator page; without it there is none.
    pub page_token: Option<Secret>,
    /// `SYNC_BATCH_MAX`.
    pub batch_max: usize,
    /// `SYNC_BATCH_WAIT`.
    pub batch_wait: Duration,
    /// `SYNC_LIST_BURSTS`: whether the lists of the environment answer batches that ask for much that they show.
    pub list_bursts: bool,
    /// `SYNC_ACK_WAIT`: how long the broker waits for a worker that may have died.
    pub ack_wait: Duration,
    /// `SYNC_TAIL_INTERVAL`; `None` when it is `off`.
    pub tail: Option<TailConfig>,
    /// `SYNC_VERIFY_INTERVAL`: how often the mirror is compared and repaired; `None` is never.
    pub verify_interval: Option<Duration>,
    /// `SYNC_MAX_ATTEMPTS`, `SYNC_RETRY_FIRST`, `SYNC_RETRY_CEILING`.
    pub retries: Retries,
}

/// Settings of a command that only reads our records.
#[derive(Clone, Debug)]
pub struct RecordsConfig {
    /// `WORKOS_ENV`.
    pub env: String,
    /// Where they are.
    pub database: DatabaseConfig,
}

impl RecordsConfig {
    /// Reads every setting; `Err` names each that is missing or malformed.
    pub fn from_settings(mut settings: Settings) -> Result<Self, Problems> {
        let env = settings.environment();
        let database = DatabaseConfig::read(&mut settings);
        settings.finish()?;
        Ok(Self { env: env?, database: database? })
    }
}

/// Settings of the commands about dead letters, and of `worker status`.
#[derive(Clone, Debug)]
pub struct DeadLetterConfig {
    /// `WORKOS_ENV`.
    pub env: String,
    /// `NATS_*`.
    pub broker: BrokerConfig,
    /// The ledger.
    pub database: DatabaseConfig,
}

impl DeadLetterConfig {
    /// Reads every setting; `Err` names each that is missing or malformed.
    pub fn from_settings(mut settings: Settings) -> Result<Self, Problems> {
        let config = Self::read(&mut settings);
        settings.finish()?;
        Ok(config?)
    }

    fn read(settings: &mut Settings) -> Read<Self> {
        let env = settings.environment();
        let broker = BrokerConfig::read(settings);
        let database = DatabaseConfig::read(settings);
        Ok(Self { env: env?, broker: broker?, database: database? })
    }
}

impl DatabaseConfig {
    /// Reads the settings of a command that needs only the database.
    pub fn from_settings(mut settings: Settings) -> Result<Self, Problems> {
        let config = Self::read(&mut settings);
        settings.finish()?;
        Ok(config?)
    }

    fn read(settings: &mut Settings) -> Read<Self> {
        let url = settings
            .required_secret("DATABASE_URL", "the address of Postgres, postgres://user@host/database")
            .and_then(|url| {
                // It may hold a password, so it is not repeated.
                if database::is_address(url.reveal()) {
                    return Ok(url);
                }
                Err(settings.problem("DATABASE_URL: is malformed, wants postgres://user@host/database"))
            });
        let telemetry = TelemetryConfig::read(settings);
        Ok(Self { url: url?, telemetry: telemetry? })
    }
}

impl AskConfig {
    fn read(settings: &mut Settings) -> Read<Self> {
        let env = settings.environment();
        let api_key = settings
            .required_secret("WORKOS_API_KEY", "the secret key of the WorkOS environment, sk_...")
            .and_then(|key| match workos::bearer(&key) {
                Some(_) => Ok(key),
                None => Err(settings.problem(
                    "WORKOS_API_KEY: has characters that a header cannot carry, wants the secret key, sk_...",
                )),
            });
        let api_base = settings.parsed(
            "WORKOS_API_BASE_URL",
            "https://api.workos.com",
            "an http or https address",
            |value| {
                value
                    .parse::<Url>()
                    .ok()
                    .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            },
        );
        let fetch_concurrency = settings.number("SYNC_FETCH_CONCURRENCY", "32", 1);
        let rate =
            settings.parsed("SYNC_RATE_LIMIT", "90/s", "a rate such as 90/s or 5000/m, or `off`", |value| {
                value.parse().ok()
            });
        let rate_share = settings.switch("SYNC_RATE_SHARE", "off");
        let keep_personal =
            settings.parsed("SYNC_AUDIT_PII", "redact", "`redact` or `keep`", |value| match value {
                "keep" => Some(true),
                "redact" => Some(false),
                _ => None,
            });
        Ok(Self {
            env: env?,
            api_key: api_key?,
            api_base: api_base?,
            fetch_concurrency: fetch_concurrency?,
            rate: rate?,
            rate_share: rate_share?,
            keep_personal: keep_personal?,
        })
    }
}

impl TailConfig {
    /// Webhooks are usually there before the tail, and a first repetition takes WorkOS longer than an interval.
    const GRACE_INTERVALS: u32 = 6;

    fn read(settings: &mut Settings) -> Read<Option<Self>> {
        let interval = settings.duration_or_off("SYNC_TAIL_INTERVAL", "10s");
        // WorkOS holds events back "for a few seconds".
        let overlap = settings.duration("SYNC_TAIL_OVERLAP", "30s");
        let usual = interval.as_ref().ok().copied().flatten().unwrap_or_default() * Self::GRACE_INTERVALS;
        let grace = settings.duration("SYNC_WEBHOOK_GRACE", &format!("{}ms", usual.as_millis()));
        let (interval, overlap, grace) = (interval?, overlap?, grace?);
        Ok(interval.map(|interval| Self { interval, overlap, grace }))
    }
}

impl Config {
    /// Reads every setting; `Err` names each that is missing or malformed.
    pub fn from_settings(mut settings: Settings) -> Result<Self, Problems> {
        let config = Self::read(&mut settings);
        settings.finish()?;
        Ok(config?)
    }

    fn read(settings: &mut Settings) -> Read<Self> {
        let ask = AskConfig::read(settings);
        let database = DatabaseConfig::read(settings);
        let auto_migrate = settings.switch("SYNC_AUTO_MIGRATE", "false");
        let broker = BrokerConfig::read(settings);
        let admin = settings.address("WORKER_ADMIN_ADDR", "127.0.0.1:9102");
        let page_token = page_token(settings);
        let batch_max = settings.number("SYNC_BATCH_MAX", "200", 1);
        let batch_wait = settings.duration("SYNC_BATCH_WAIT", "5ms");
        let list_bursts = settings.switch("SYNC_LIST_BURSTS", "off");
        let ack_wait = settings.duration_of_at_least("SYNC_ACK_WAIT", "30s", ACK_WAIT_LEAST);
        let tail = TailConfig::read(settings);
        let verify_interval = settings.duration_or_off("SYNC_VERIFY_INTERVAL", "off");
        let attempts = settings.number("SYNC_MAX_ATTEMPTS", "12", 1);
        let retry_first = settings.duration("SYNC_RETRY_FIRST", "1s");
        let retry_ceiling = settings.duration("SYNC_RETRY_CEILING", "10m");
        Ok(Self {
            ask: ask?,
            database: database?,
            auto_migrate: auto_migrate?,
            broker: broker?,
            admin: admin?,
            page_token: page_token?,
            batch_max: batch_max?,
            batch_wait: batch_wait?,
            list_bursts: list_bursts?,
            ack_wait: ack_wait?,
            tail: tail?,
            verify_interval: verify_interval?,
            retries: Retries {
                attempts: u32::try_from(attempts?).unwrap_or(u32::MAX),
                schedule: Schedule::redelivery(retry_first?, retry_ceiling?),
            },
        })
    }
}

/// Signs of life are sent three times within it.
const ACK_WAIT_LEAST: Duration = Duration::from_millis(100);

/// Nobody guesses as many random characters.
const PAGE_TOKEN_LEAST: usize = 16;

fn page_token(settings: &mut Settings) -> Read<Option<Secret>> {
    match settings.secret("SYNC_PAGE_TOKEN")? {
        Some(token) if token.reveal().len() < PAGE_TOKEN_LEAST => Err(settings.problem(format!(
            "SYNC_PAGE_TOKEN: is too short, wants at least {PAGE_TOKEN_LEAST} random characters, such as \
             `openssl rand -hex 32` makes"
        ))),
        Some(token) if !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) => Err(settings.problem(
            "SYNC_PAGE_TOKEN: has characters that a header cannot carry, wants letters, digits and signs without \
             spaces",
        )),
        token => Ok(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_setting_is_told_at_once() {
        let settings = Settings::from_source(|name| match name {
            "SYNC_RATE_LIMIT" => Some("fast".to_owned()),
            "WORKOS_API_BASE_URL" => Some("ftp://x".to_owned()),
            _ => None,
        });
        let text = Config::from_settings(settings).expect_err("four problems").to_string();
        for name in ["WORKOS_API_KEY", "DATABASE_URL", "SYNC_RATE_LIMIT", "WORKOS_API_BASE_URL"] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} in {text}");
        }
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn malformed_secrets_are_told_at_once_and_not_repeated() {
        let bad = [
            ("WORKOS_API_KEY", "sk_hush\nhush"),
            ("DATABASE_URL", "mysql://hush@localhost/app"),
            ("NATS_URL", "nats://hush@"),
            ("NATS_CREDS", "hush"),
            ("NATS_NKEY", "hush"),
            ("NATS_TLS_CA", "/nonexistent/ca.pem"),
            ("SYNC_ACK_WAIT", "0s"),
        ];
        let settings = Settings::from_source(move |name| {
            bad.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        });
        let text = Config::from_settings(settings).expect_err("a problem each").to_string();
        for (name, _) in bad {
            let lines = text.lines().filter(|line| line.starts_with(&format!("{name}: ")));
            assert_eq!(lines.count(), 1, "{name} in {text}");
        }
        assert_eq!(text.lines().count(), bad.len(), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }

    #[test]
    fn a_short_page_token_is_refused_without_being_told() {
        for bad in ["letmein", "two words are no token"] {
            let settings = Settings::from_source(move |name| match name {
                "WORKOS_API_KEY" => Some("x".to_owned()),
                "DATABASE_URL" => Some("postgres://localhost/app".to_owned()),
                "SYNC_PAGE_TOKEN" => Some(bad.to_owned()),
                _ => None,
            });
            let text = Config::from_settings(settings).expect_err("a problem").to_string();
            assert!(text.starts_with("SYNC_PAGE_TOKEN: ") && !text.contains(bad), "{text}");
        }
    }
}
