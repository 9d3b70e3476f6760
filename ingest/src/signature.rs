//! Proves that WorkOS wrote a body; pure, and the only maker of [`Verified`].
//!
//! `WorkOS-Signature: t=<unix milliseconds>, v1=<lower-case hex HMAC-SHA256 of "{t}.{raw body}">`.
//! Where the official SDKs read it differently, this takes the stricter reading that still accepts
//! what WorkOS sends; the table in the tests has every case they were compared on.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use shared::config::Secret;
use subtle::{Choice, ConstantTimeEq as _};

/// Hexadecimal digits of a digest.
const DIGEST_DIGITS: usize = 64;

/// Digits that always fit a `u64`; a time in milliseconds has 13 until the year 2286.
const MAX_TIME_DIGITS: usize = 19;

/// A body whose signature matched. Only [`Verifier::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified(Bytes);

impl Verified {
    /// The body, byte for byte as it was signed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why a signature was not accepted. For the metric; the caller is told nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The header is not of the documented form.
    #[error("the signature header is malformed")]
    Malformed,
    /// The time in the header is too far from ours.
    #[error("the signature is outside the tolerance")]
    OutsideTolerance,
    /// None of the secrets gives this digest for this body.
    #[error("no secret matches the signature")]
    Mismatch,
}

/// Checks signatures with any of several secrets.
#[derive(Clone)]
pub struct Verifier {
    /// One prepared key a secret: its two blocks are hashed once, not once a request.
    keys: Vec<Hmac<Sha256>>,
    tolerance: Duration,
}

impl Verifier {
    /// Accepts what one of `secrets` signed no longer than `tolerance` ago or ahead.
    pub fn new(secrets: &[Secret], tolerance: Duration) -> anyhow::Result<Self> {
        let keys = secrets
            .iter()
            .map(|secret| Hmac::new_from_slice(secret.reveal().as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { keys, tolerance })
    }

    /// The body, if `header` is a signature of it.
    pub fn verify(&self, header: &[u8], body: Bytes, now: DateTime<Utc>) -> Result<Verified, Rejected> {
        let Signature { time, millis, digest } = Signature::parse(header).ok_or(Rejected::Malformed)?;
        // A clock before 1970 accepts nothing that is signed today.
        let now = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        if u128::from(now.abs_diff(millis)) > self.tolerance.as_millis() {
            return Err(Rejected::OutsideTolerance);
        }
        // Every secret is tried, so that the time taken does not tell which one matched.
        let matched = self.keys.iter().fold(Choice::from(0), |matched, key| {
            let mut expected = key.clone();
            expected.update(time);
            expected.update(b".");
            expected.update(&body);
            let mut digits = [0; DIGEST_DIGITS];
            // The digest fits by its type; digits that stayed zero would match nothing.
            let _ = hex::encode_to_slice(expected.finalize().into_bytes(), &mut digits);
            matched | digits.ct_eq(digest)
        });
        if matched.into() { Ok(Verified(body)) } else { Err(Rejected::Mismatch) }
    }
}

/// The parts of a header of the documented form.
struct Signature<'a> {
    /// As it was sent: this text is signed, not the number.
    time: &'a [u8],
    millis: u64,
    digest: &'a [u8; DIGEST_DIGITS],
}

impl<'a> Signature<'a> {
    /// `t=`, digits, a comma, any number of spaces, `v1=`, 64 lower-case hexadecimal digits, and
    /// nothing else.
    fn parse(header: &'a [u8]) -> Option<Self> {
        let rest = header.strip_prefix(b"t=")?;
        let comma = rest.iter().position(|byte| *byte == b',')?;
        let (time, rest) = (rest.get(..comma)?, rest.get(comma + 1..)?);
        let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
        let digest: &[u8; DIGEST_DIGITS] = rest.get(spaces..)?.strip_prefix(b"v1=")?.try_into().ok()?;
        if !digest.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        Some(Self { time, millis: millis(time)?, digest })
    }
}

/// Digits only, without leading zeros: `u64::parse` would also take a sign.
fn millis(time: &[u8]) -> Option<u64> {
    let plain = (1..=MAX_TIME_DIGITS).contains(&time.len())
        && time.iter().all(u8::is_ascii_digit)
        && (time.len() == 1 || time.first() != Some(&b'0'));
    if !plain {
        return None;
    }
    std::str::from_utf8(time).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
