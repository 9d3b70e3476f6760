//! Every setting of `ingest`, read before anything is bound or connected.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use shared::broker::BrokerConfig;
use shared::config::{Problems, Read, Secret, Settings};
use shared::telemetry::TelemetryConfig;

/// The addresses WorkOS posts from, by its documentation.
const WORKOS_ADDRESSES: [[u8; 4]; 9] = [
    [3, 217, 146, 166],
    [23, 21, 184, 92],
    [34, 204, 154, 149],
    [44, 213, 245, 178],
    [44, 215, 236, 82],
    [50, 16, 203, 9],
    [52, 1, 251, 34],
    [52, 21, 49, 187],
    [174, 129, 36, 47],
];

/// What `ingest` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `WORKOS_ENV`: the label of the WorkOS environment.
    pub env: String,
    /// `INGEST_ADDR`: where webhooks arrive.
    pub address: SocketAddr,
    /// `INGEST_ADMIN_ADDR`: health and metrics.
    pub admin_address: SocketAddr,
    /// `WORKOS_WEBHOOK_SECRET`: any of these may have signed.
    pub secrets: Vec<Secret>,
    /// `WORKOS_WEBHOOK_TOLERANCE`: how far a signature's time may be from ours, either way.
    pub tolerance: Duration,
    /// `INGEST_MAX_BODY`, in bytes.
    pub max_body: usize,
    /// `INGEST_ALLOWED_IPS`: who may post; empty means anybody.
    pub allowed: Vec<IpNet>,
    /// `INGEST_TRUSTED_PROXIES`: whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `SYNC_TOKEN`: opens the route of sync requests; without it there is none.
    pub sync_token: Option<Secret>,
    /// `INGEST_MAX_CONNECTIONS`: further ones wait in the accept queue.
    pub max_connections: usize,
    /// `INGEST_MAX_IN_FLIGHT`: publishes that may await their acknowledgement; over it the answer is
    /// 503.
    pub max_in_flight: usize,
    /// `INGEST_MAX_BUFFERED`: bytes of all bodies together that may be in memory; over it the answer
    /// is 503.
    pub max_buffered: usize,
    /// `INGEST_THREADS`.
    pub threads: usize,
    /// `NATS_*`.
    pub broker: BrokerConfig,
    /// `LOG_FORMAT`, `RUST_LOG`.
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// Reads every setting, and tells every problem at once.
    pub fn read(mut settings: Settings) -> Result<Self, Problems> {
        let env = settings.environment();
        let address = settings.address("INGEST_ADDR", "0.0.0.0:8080");
        let admin_address = admin(&mut settings);
        let secrets = secrets(&mut settings);
        let tolerance = settings.duration("WORKOS_WEBHOOK_TOLERANCE", "180s");
        let max_body = settings.size("INGEST_MAX_BODY", "1MiB");
        let allowed = networks(&mut settings, "INGEST_ALLOWED_IPS");
        let trusted_proxies = networks(&mut settings, "INGEST_TRUSTED_PROXIES");
        let sync_token = sync_token(&mut settings);
        // Below the usual limit of 1024 open files.
        let max_connections = settings.number("INGEST_MAX_CONNECTIONS", "1000", 1);
        let max_in_flight = settings.number("INGEST_MAX_IN_FLIGHT", "1024", 1);
        let max_buffered = settings.size("INGEST_MAX_BUFFERED", "64MiB");
        // Measured: one thread is a little faster than two while the broker shares the machine.
        let threads = settings.parsed(
            "INGEST_THREADS",
            "auto",
            "a whole number from 1 to 64, or `auto`: one a core, up to 4",
            |value| match value {
                "auto" => Some(std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4))),
                value => value.parse().ok().filter(|threads| (1..=64).contains(threads)),
            },
        );
        let broker = BrokerConfig::read(&mut settings);
        let telemetry = TelemetryConfig::read(&mut settings);
        if let (Ok(max_body), Ok(max_buffered)) = (&max_body, &max_buffered)
            && max_body > max_buffered
        {
            settings.problem(format!(
                "INGEST_MAX_BUFFERED: is {max_buffered} bytes, wants at least INGEST_MAX_BODY, which is {max_body}"
            ));
        }
        settings.finish()?;
        Ok(Self {
            env: env?,
            address: address?,
            admin_address: admin_address?,
            secrets: secrets?,
            tolerance: tolerance?,
            max_body: max_body?,
            allowed: allowed?,
            trusted_proxies: trusted_proxies?,
            sync_token: sync_token?,
            max_connections: max_connections?,
            max_in_flight: max_in_flight?,
            max_buffered: max_buffered?,
            threads: threads?,
            broker: broker?,
            telemetry: telemetry?,
        })
    }
}

/// Only the admin address: a healthcheck has no business with secrets.
pub fn admin_address(mut settings: Settings) -> Result<SocketAddr, Problems> {
    let address = admin(&mut settings);
    settings.finish()?;
    Ok(address?)
}

fn admin(settings: &mut Settings) -> Read<SocketAddr> {
    settings.address("INGEST_ADMIN_ADDR", "127.0.0.1:9101")
}

fn secrets(settings: &mut Settings) -> Read<Vec<Secret>> {
    let all = settings.required_secret(
        "WORKOS_WEBHOOK_SECRET",
        "the secret of the webhook endpoint, several comma separated",
    )?;
    let secrets: Vec<_> = all.reveal().split(',').map(str::trim).map(Secret::new).collect();
    if secrets.iter().any(|secret| secret.reveal().is_empty()) {
        // Anybody can sign with an empty key.
        return Err(
            settings.problem("WORKOS_WEBHOOK_SECRET: has an empty part, wants secrets between commas")
        );
    }
    Ok(secrets)
}

fn sync_token(settings: &mut Settings) -> Read<Option<Secret>> {
    match settings.secret("SYNC_TOKEN")? {
        Some(token) if !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) => Err(settings
            .problem("SYNC_TOKEN: has characters that a header cannot carry, wants letters, digits and signs without spaces")),
        token => Ok(token),
    }
}

fn networks(settings: &mut Settings, name: &str) -> Read<Vec<IpNet>> {
    let wants = "addresses or ranges such as 10.0.0.0/8, comma separated, or `workos`";
    // An unset list is empty; a set one has no empty part.
    match settings.optional(name) {
        None => Ok(Vec::new()),
        Some(_) => settings.parsed(name, "", wants, |list| {
            let parts = list.split(',').map(|part| network(part.trim())).collect::<Option<Vec<_>>>()?;
            Some(parts.concat())
        }),
    }
}

fn network(part: &str) -> Option<Vec<IpNet>> {
    if part == "workos" {
        return Some(
            WORKOS_ADDRESSES.into_iter().map(|address| IpNet::from(IpAddr::from(address))).collect(),
        );
    }
    let one = part.parse::<IpNet>().ok().or_else(|| part.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some(vec![one])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &'static [(&'static str, &'static str)]) -> Result<Config, Problems> {
        Config::read(Settings::from_source(move |name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        }))
    }

    #[test]
    fn only_the_webhook_secret_is_required() {
        let config = read(&[("WORKOS_WEBHOOK_SECRET", "whsec_1")]).expect("defaults for the rest");
        assert_eq!(config.env, "production");
        assert_eq!(config.tolerance, Duration::from_mins(3));
        assert_eq!(config.max_body, 1 << 20);
        assert!(config.allowed.is_empty());
        let problems = read(&[]).expect_err("no secret").to_string();
        assert!(problems.starts_with("WORKOS_WEBHOOK_SECRET: is not set"), "{problems}");
        assert_eq!(problems.lines().count(), 1);
    }

    #[test]
    fn several_secrets_are_read_and_none_is_empty() {
        let config = read(&[("WORKOS_WEBHOOK_SECRET", "whsec_1, whsec_2")]).expect("two secrets");
        let secrets: Vec<_> = config.secrets.iter().map(Secret::reveal).collect();
        assert_eq!(secrets, ["whsec_1", "whsec_2"]);
        for bad in [
            &[("WORKOS_WEBHOOK_SECRET", "whsec_1,,whsec_2")],
            &[("WORKOS_WEBHOOK_SECRET", "whsec_1,")],
            &[("WORKOS_WEBHOOK_SECRET", ",")],
        ] {
            let problems = read(bad).expect_err("an empty secret").to_string();
            assert!(problems.starts_with("WORKOS_WEBHOOK_SECRET: has an empty part"), "{problems}");
            assert!(!problems.contains("whsec"), "{problems}");
        }
    }

    #[test]
    fn without_a_token_there_are_no_sync_requests_and_a_bad_one_is_not_repeated() {
        assert!(read(&[("WORKOS_WEBHOOK_SECRET", "s")]).expect("no token").sync_token.is_none());
        let config = read(&[("WORKOS_WEBHOOK_SECRET", "s"), ("SYNC_TOKEN", "t0k3n+/=")]).expect("a token");
        assert_eq!(config.sync_token, Some(Secret::new("t0k3n+/=")));
        let problems = read(&[("WORKOS_WEBHOOK_SECRET", "s"), ("SYNC_TOKEN", "two words")]);
        let problems = problems.expect_err("a space").to_string();
        assert!(problems.starts_with("SYNC_TOKEN: ") && !problems.contains("two"), "{problems}");
    }

    #[test]
    fn a_tolerance_of_a_century_is_fine() {
        for long in [
            &[("WORKOS_WEBHOOK_SECRET", "s"), ("WORKOS_WEBHOOK_TOLERANCE", "100years")],
            &[("WORKOS_WEBHOOK_SECRET", "s"), ("WORKOS_WEBHOOK_TOLERANCE", "1000000h")],
        ] {
            assert!(read(long).expect("a long tolerance").tolerance > Duration::from_hours(24 * 365 * 99));
        }
    }

    #[test]
    fn address_lists_take_ranges_single_addresses_and_workos() {
        let config = read(&[
            ("WORKOS_WEBHOOK_SECRET", "s"),
            ("INGEST_ALLOWED_IPS", "workos, 10.0.0.0/8,::1"),
            ("INGEST_TRUSTED_PROXIES", "192.168.1.1"),
        ])
        .expect("well-formed lists");
        assert_eq!(config.allowed.len(), 11);
        assert_eq!(config.trusted_proxies.len(), 1);
        let problems = read(&[
            ("WORKOS_WEBHOOK_SECRET", "s"),
            ("INGEST_ALLOWED_IPS", "10.0.0.0/8,"),
            ("INGEST_TRUSTED_PROXIES", "proxy.internal"),
            ("INGEST_MAX_BODY", "65MiB"),
            ("NATS_REPLICAS", "many"),
        ])
        .expect_err("malformed lists")
        .to_string();
        let names: Vec<_> = problems.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(
            names,
            ["INGEST_ALLOWED_IPS", "INGEST_TRUSTED_PROXIES", "NATS_REPLICAS", "INGEST_MAX_BUFFERED"],
            "{problems}"
        );
    }
}
