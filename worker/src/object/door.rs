//! What does not come in: secrets, and characters that Postgres cannot hold. Every answer passes here first.

use std::borrow::Cow;

use serde_json::value::to_raw_value;
use serde_json::{Map, Value};

use super::fields::Fields;

/// Fields of an object that WorkOS documents as secret. They are dropped at the door, wherever they stand in an answer.
const SECRETS: [&str; 9] = [
    "verification_token",
    "token",
    "accept_invitation_url",
    "code",
    "secret",
    "password_reset_token",
    "password_reset_url",
    // Of an API key. What is kept of it is its obfuscated value.
    "value",
    "client_secret",
];

/// Fields whose content is not WorkOS's and may use the same names: what the application or the directory keeps there. The
/// addresses of a directory user are a `value` each, and no secret.
const SPARED: [&str; 4] = ["metadata", "custom_attributes", "raw_attributes", "emails"];

/// Drops what is secret from an object and from everything in it, and replaces what Postgres cannot hold. Only what may
/// hold either is taken apart for that.
pub(super) fn clean(fields: &mut Fields<'_>) -> serde_json::Result<()> {
    fields.retain(|name| !SECRETS.contains(&name));
    fields.change(|name, value| {
        let is_spared = SPARED.contains(&&**name);
        let is_named_badly = name.contains('\0');
        if is_named_badly {
            *name = Cow::Owned(name.replace('\0', "\u{FFFD}"));
        }
        let text = value.get();
        // Escaped, a NUL or a name can hide.
        let hides = text.contains('\\');
        let holds_secrets = !is_spared
            && text.starts_with(['{', '['])
            && (hides || SECRETS.iter().any(|secret| text.contains(secret)));
        if !hides && !holds_secrets {
            return Ok(is_named_badly);
        }
        let mut parsed: Value = serde_json::from_str(text)?;
        if holds_secrets {
            strip_within(&mut parsed);
        }
        replace_nul(&mut parsed);
        *value = Cow::Owned(to_raw_value(&parsed)?);
        Ok(true)
    })
}

fn strip(fields: &mut Map<String, Value>) {
    fields.retain(|name, value| {
        let is_kept = !SECRETS.contains(&name.as_str());
        if is_kept && !SPARED.contains(&name.as_str()) {
            strip_within(value);
        }
        is_kept
    });
}

fn strip_within(value: &mut Value) {
    match value {
        Value::Object(fields) => strip(fields),
        Value::Array(items) => items.iter_mut().for_each(strip_within),
        _ => {}
    }
}

fn replace_nul(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(replace_nul);
            if fields.keys().any(|key| key.contains('\0')) {
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(key, value)| (key.replace('\0', "\u{FFFD}"), value))
                    .collect();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{FFFD}"),
        _ => {}
    }
}
