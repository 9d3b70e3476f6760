//! Settings of the way to the broker, `NATS_*`. What a file or a secret must hold is looked at here, before anything
//! is connected.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Read, Secret, Settings};

/// Where the broker is and how to prove who we are.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `NATS_URL`, without what it says of us.
    pub servers: Vec<ServerAddr>,
    /// What `NATS_URL` says of us.
    pub login: Option<Login>,
    /// `NATS_CREDS`: the text of a credentials file.
    pub credentials: Option<Secret>,
    /// `NATS_NKEY`: the seed of an nkey.
    pub nkey: Option<Secret>,
    /// `NATS_TLS_CA`: certificates to trust instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// `NATS_TLS_CERT` and `NATS_TLS_KEY`.
    pub tls_client: Option<(PathBuf, PathBuf)>,
    /// `NATS_REPLICAS`.
    pub replicas: usize,
}

/// Who we are, as an address of the broker tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// `nats://user:password@host`.
    User {
        /// The name.
        name: String,
        /// The password.
        password: Secret,
    },
    /// `nats://token@host`.
    Token(Secret),
}

impl BrokerConfig {
    /// Reads every `NATS_*` setting.
    pub fn read(settings: &mut Settings) -> Read<Self> {
        let addresses = addresses(settings);
        let replicas = settings.parsed("NATS_REPLICAS", "1", "1, 3 or 5", |value| {
            value.parse().ok().filter(|replicas| matches!(replicas, 1 | 3 | 5))
        });
        let credentials = checked(settings, "NATS_CREDS", "the text of a credentials file", |text| {
            ConnectOptions::new().credentials(text).is_ok()
        });
        let nkey = checked(settings, "NATS_NKEY", "the seed of an nkey, SU...", |seed| {
            nkeys::KeyPair::from_seed(seed).is_ok()
        });
        let tls_ca = authorities(settings);
        let tls_client = client_certificate(settings);
        let (servers, login) = addresses?;
        Ok(Self {
            servers,
            login,
            credentials: credentials?,
            nkey: nkey?,
            tls_ca: tls_ca?,
            tls_client: tls_client?,
            replicas: replicas?,
        })
    }
}

/// The value may carry a password, so it is read as a secret, and a malformed one is not repeated.
fn addresses(settings: &mut Settings) -> Read<(Vec<ServerAddr>, Option<Login>)> {
    const MALFORMED: &str =
        "NATS_URL: is malformed, wants nats://host:4222 or tls://host:4222, several comma separated";
    let urls = settings.secret("NATS_URL")?.unwrap_or_else(|| Secret::new("nats://127.0.0.1:4222"));
    let (mut servers, mut logins) = (Vec::new(), Vec::new());
    for url in urls.reveal().split(',') {
        let Some((server, login)) = address(url.trim()) else { return Err(settings.problem(MALFORMED)) };
        servers.push(server);
        logins.extend(login);
    }
    logins.dedup();
    if logins.len() > 1 {
        return Err(settings.problem("NATS_URL: names different users, wants one for all servers"));
    }
    Ok((servers, logins.pop()))
}

/// Splits an address of the broker: the client does not read who we are from it, and would log it.
fn address(url: &str) -> Option<(ServerAddr, Option<Login>)> {
    let server: ServerAddr = url.parse().ok()?;
    if server.host().is_empty() || !matches!(server.scheme(), "nats" | "tls") {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(String::from);
    let login = match (server.username(), server.password()) {
        (None, None) => return Some((server, None)),
        (name, Some(password)) => Login::User {
            name: decoded(name.unwrap_or_default())?,
            password: Secret::new(decoded(password)?),
        },
        (Some(token), None) => Login::Token(Secret::new(decoded(token)?)),
    };
    let mut url = server.into_inner();
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some((ServerAddr::from_url(url).ok()?, Some(login)))
}

/// A secret that must be of a form.
fn checked(
    settings: &mut Settings,
    name: &str,
    wants: &str,
    fits: impl FnOnce(&str) -> bool,
) -> Read<Option<Secret>> {
    match settings.secret(name)? {
        Some(secret) if !fits(secret.reveal()) => {
            Err(settings.problem(format!("{name}: is malformed, wants {wants}")))
        }
        secret => Ok(secret),
    }
}

fn authorities(settings: &mut Settings) -> Read<Option<PathBuf>> {
    let Some(path) = settings.optional("NATS_TLS_CA").map(PathBuf::from) else { return Ok(None) };
    match certificates(&path).and_then(|certificates| trusting(&certificates)) {
        Ok(_) => Ok(Some(path)),
        Err(why) => Err(settings.problem(format!("NATS_TLS_CA: {why}"))),
    }
}

fn client_certificate(settings: &mut Settings) -> Read<Option<(PathBuf, PathBuf)>> {
    let (cert, key) = match (settings.optional("NATS_TLS_CERT"), settings.optional("NATS_TLS_KEY")) {
        (Some(cert), Some(key)) => (PathBuf::from(cert), PathBuf::from(key)),
        (None, None) => return Ok(None),
        _ => return Err(settings.problem("NATS_TLS_CERT, NATS_TLS_KEY: one is set, wants both or none")),
    };
    let certificates = certificates(&cert).map_err(|why| settings.problem(format!("NATS_TLS_CERT: {why}")));
    let private_key = PrivateKeyDer::from_pem_file(&key).map_err(|error| {
        let path = key.display();
        settings.problem(format!("NATS_TLS_KEY: `{path}` is no private key: {error}; wants a file in PEM"))
    });
    let (certificates, private_key) = (certificates?, private_key?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(RootCertStore::empty())
                .with_client_auth_cert(certificates, private_key)
        })
        .map_err(|error| settings.problem(format!("NATS_TLS_CERT, NATS_TLS_KEY: cannot be used: {error}")))?;
    Ok(Some((cert, key)))
}

/// The certificates of a file, of which there is at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("`{}` holds no certificate, wants a file in PEM", path.display())),
        Err(error) => Err(format!("failed to read `{}`: {error}; wants a file in PEM", path.display())),
    }
}

fn trusting(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store
            .add(certificate.clone())
            .map_err(|error| format!("holds a certificate that cannot be used: {error}"))?;
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Noted;

    fn read(pairs: &'static [(&'static str, &'static str)]) -> Result<BrokerConfig, String> {
        let mut settings = Settings::from_source(move |name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        });
        let config = BrokerConfig::read(&mut settings);
        settings.finish().map_err(|problems| problems.to_string())?;
        config.map_err(|Noted| "noted nowhere".to_owned())
    }

    #[test]
    fn who_we_are_is_read_from_the_address_and_leaves_it() {
        let user = read(&[("NATS_URL", "nats://sync:p%40ss%2Fw%C3%B6rd@one:4222, two")]).expect("a user");
        assert_eq!(
            user.login,
            Some(Login::User { name: "sync".to_owned(), password: Secret::new("p@ss/w\u{f6}rd") })
        );
        let servers: Vec<_> = user.servers.iter().map(ServerAddr::as_url_str).collect();
        assert_eq!(servers, ["nats://one:4222", "nats://two"]);
        assert!(!format!("{user:?}").contains("p%40ss"), "{user:?}");
        let token = read(&[("NATS_URL", "tls://t0k3n%21@one")]).expect("a token");
        assert_eq!(token.login, Some(Login::Token(Secret::new("t0k3n!"))));
        assert_eq!(read(&[]).expect("the default").login, None);
    }

    #[test]
    fn a_bad_address_is_refused_without_being_told() {
        for bad in [
            &[("NATS_URL", "nats://sync:hush@")],
            &[("NATS_URL", "ftp://sync:hush@one")],
            &[("NATS_URL", "nats://sync:hush@one:99999")],
            &[("NATS_URL", "nats://sync:hush@one,")],
            &[("NATS_URL", "nats://sync:hush%ff@one")],
            &[("NATS_URL", "nats://sync:hush@one,nats://sync:other@two")],
        ] {
            let text = read(bad).expect_err("a bad address");
            assert!(text.starts_with("NATS_URL: ") && text.lines().count() == 1, "{text}");
            assert!(!text.contains("hush"), "{text}");
        }
    }

    #[test]
    fn what_proves_who_we_are_is_looked_at_before_anything_is_connected() {
        let text = read(&[
            ("NATS_CREDS", "no credentials"),
            ("NATS_NKEY", "SUanother"),
            ("NATS_TLS_CA", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
            ("NATS_TLS_CERT", "/nonexistent/cert.pem"),
            ("NATS_TLS_KEY", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
            ("NATS_REPLICAS", "2"),
        ])
        .expect_err("six problems");
        let names: Vec<_> = text.lines().filter_map(|line| line.split(':').next()).collect();
        let expected =
            ["NATS_REPLICAS", "NATS_CREDS", "NATS_NKEY", "NATS_TLS_CA", "NATS_TLS_CERT", "NATS_TLS_KEY"];
        assert_eq!(names, expected, "{text}");
        assert!(!text.contains("no credentials") && !text.contains("SUanother"), "{text}");
        let config = read(&[("NATS_NKEY", "SUANQDPB2RUOE4ETUA26CNX7FUKE5ZZKFCQIIW63OX225F2CO7UEXTM7ZY")]);
        assert!(config.expect("a seed").nkey.is_some());
    }
}
