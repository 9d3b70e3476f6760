//! Who may come in: the token opens a session, which a cookie carries; each session has a word of its own that must be
//! in every form it sends. Sessions live in memory, and end with the program.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use sha2::{Digest as _, Sha256};
use shared::config::Secret;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

/// Name of the cookie.
const COOKIE_NAME: &str = "workos_sync_operator";
/// How long a session lasts: a working day.
const LIFE: Duration = Duration::from_hours(8);
/// More people than that do not look at once; the session that ends first makes room.
const MOST_SESSIONS: usize = 64;
/// Wrong tokens within [`PATIENCE`], before no token is looked at any more.
const WRONG_TOKENS: usize = 10;
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) struct Door {
    token: [u8; 32],
    /// The word of whoever shows the token itself with each request.
    bearer: Visitor,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<String, Session>,
    wrong: VecDeque<Instant>,
}

struct Session {
    word: String,
    ends: Instant,
}

/// Somebody who may come in.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    /// What must be in every form.
    pub(super) word: String,
    /// The session, unless each request brings the token itself.
    session: Option<String>,
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no token, no session, or a wrong one.
    Unknown,
    /// There were too many wrong tokens: try again in a minute.
    TooOften,
}

impl Door {
    pub(super) fn new(token: &Secret) -> anyhow::Result<Self> {
        Ok(Self {
            token: Sha256::digest(token.reveal()).into(),
            bearer: Visitor { word: random()?, session: None },
            state: Mutex::default(),
        })
    }

    /// Who sends these headers.
    pub(super) fn visitor(&self, headers: &HeaderMap, now: Instant) -> Result<Visitor, Refused> {
        if let Some(shown) = headers.get(AUTHORIZATION) {
            let token = shown.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default();
            self.check(token, now)?;
            return Ok(self.bearer.clone());
        }
        let id = cookie(headers).ok_or(Refused::Unknown)?;
        let state = self.lock();
        let session = state.sessions.get(id).filter(|session| session.ends > now).ok_or(Refused::Unknown)?;
        Ok(Visitor { word: session.word.clone(), session: Some(id.to_owned()) })
    }

    /// Opens a session to whoever knows the token; returns its cookie.
    pub(super) fn sign_in(
        &self,
        token: &str,
        headers: &HeaderMap,
        now: Instant,
    ) -> anyhow::Result<Result<String, Refused>> {
        if let Err(refused) = self.check(token.trim().as_bytes(), now) {
            return Ok(Err(refused));
        }
        let (id, word) = (random()?, random()?);
        let mut state = self.lock();
        state.sessions.retain(|_, session| session.ends > now);
        if state.sessions.len() >= MOST_SESSIONS {
            let first =
                state.sessions.iter().min_by_key(|(_, session)| session.ends).map(|(id, _)| id.clone());
            state.sessions.remove(&first.unwrap_or_default());
        }
        state.sessions.insert(id.clone(), Session { word, ends: now + LIFE });
        Ok(Ok(set_cookie(&id, LIFE, headers)))
    }

    /// Ends the session; returns the cookie that says so.
    pub(super) fn sign_out(&self, visitor: &Visitor, headers: &HeaderMap) -> String {
        if let Some(id) = &visitor.session {
            self.lock().sessions.remove(id);
        }
        set_cookie("", Duration::ZERO, headers)
    }

    fn check(&self, token: &[u8], now: Instant) -> Result<(), Refused> {
        let mut state = self.lock();
        while state.wrong.front().is_some_and(|at| now.duration_since(*at) >= PATIENCE) {
            state.wrong.pop_front();
        }
        if state.wrong.len() >= WRONG_TOKENS {
            return Err(Refused::TooOften);
        }
        // Of two digests, the time of comparing tells nothing.
        let shown: [u8; 32] = Sha256::digest(token).into();
        if bool::from(shown.ct_eq(&self.token)) {
            return Ok(());
        }
        state.wrong.push_back(now);
        tracing::warn!("somebody showed a wrong token to the operator page");
        Err(Refused::Unknown)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visitor {
    /// Whether a form with this word is theirs.
    pub(super) fn sent(&self, word: &str) -> bool {
        bool::from(self.word.as_bytes().ct_eq(word.as_bytes()))
    }
}

/// Whether a form comes from our own pages, as far as the browser says. A browser that keeps the origin to itself
/// (`null`, as our pages ask it to) says nothing.
pub(super) fn is_from_here(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let Some(origin) = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()) else {
        return !headers.contains_key(ORIGIN);
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    origin == "null" || origin.split_once("://").is_some_and(|(_, place)| Some(place) == host)
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE_NAME).then_some(value))
}

fn set_cookie(id: &str, life: Duration, headers: &HeaderMap) -> String {
    let by_https = headers.get("x-forwarded-proto").is_some_and(|by| by == "https");
    format!(
        "{COOKIE_NAME}={id}; Path={}; Max-Age={}; HttpOnly; SameSite=Strict{}",
        super::PATH,
        life.as_secs(),
        if by_https { "; Secure" } else { "" }
    )
}

/// What nobody can guess.
fn random() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .ok()
        .context("the system has no randomness")?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    hyper::header::HeaderName::from_static(name),
                    HeaderValue::from_str(value).expect("a header"),
                )
            })
            .collect()
    }

    fn door() -> Door {
        Door::new(&Secret::new("the-token-of-this-test")).expect("a door")
    }

    #[test]
    fn a_session_lasts_a_working_day_and_ends_when_signed_out() {
        let (door, now) = (door(), Instant::now());
        let cookie =
            door.sign_in("the-token-of-this-test", &HeaderMap::new(), now).expect("randomness").expect("in");
        assert!(cookie.ends_with("; Path=/operator; Max-Age=28800; HttpOnly; SameSite=Strict"), "{cookie}");
        let sent = headers(&[("cookie", cookie.split(';').next().expect("a pair"))]);
        let visitor = door.visitor(&sent, now).expect("they are known");
        assert!(visitor.sent(&visitor.word) && !visitor.sent("") && !visitor.sent(&door.bearer.word));
        assert_eq!(door.visitor(&sent, now + LIFE).err(), Some(Refused::Unknown));
        door.sign_out(&visitor, &sent);
        assert_eq!(door.visitor(&sent, now).err(), Some(Refused::Unknown));
    }

    #[test]
    fn by_https_the_cookie_goes_by_https_only() {
        let by = headers(&[("x-forwarded-proto", "https")]);
        let cookie = door().sign_in("the-token-of-this-test", &by, Instant::now()).expect("randomness");
        assert!(cookie.expect("in").ends_with("; Secure"));
    }

    #[test]
    fn whoever_guesses_is_not_listened_to_for_a_minute() {
        let (door, now) = (door(), Instant::now());
        let guess = |token: &str, at| {
            let bearer = format!("Bearer {token}");
            door.visitor(&headers(&[("authorization", &bearer)]), at).err()
        };
        for _ in 0..WRONG_TOKENS {
            assert_eq!(guess("wrong", now), Some(Refused::Unknown));
        }
        assert_eq!(guess("the-token-of-this-test", now), Some(Refused::TooOften));
        assert_eq!(guess("the-token-of-this-test", now + PATIENCE), None);
    }

    #[test]
    fn forms_of_other_sites_are_told_apart() {
        let from = |pairs: &[(&'static str, &str)]| is_from_here(&headers(pairs));
        assert!(from(&[]) && from(&[("origin", "null")]));
        assert!(from(&[("origin", "http://worker:9102"), ("host", "worker:9102")]));
        assert!(!from(&[("origin", "http://elsewhere"), ("host", "worker:9102")]));
        assert!(!from(&[("sec-fetch-site", "cross-site"), ("origin", "null")]));
        assert!(!from(&[("sec-fetch-site", "same-site")]));
        assert!(from(&[
            ("sec-fetch-site", "same-origin"),
            ("origin", "https://proxy"),
            ("host", "worker:9102")
        ]));
    }

    #[test]
    fn sessions_are_bounded() {
        let (door, now) = (door(), Instant::now());
        for _ in 0..MOST_SESSIONS + 5 {
            let _ = door.sign_in("the-token-of-this-test", &HeaderMap::new(), now).expect("randomness");
        }
        assert_eq!(door.lock().sessions.len(), MOST_SESSIONS);
    }
}
