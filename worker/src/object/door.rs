//! What does not come in: secrets, and characters that Postgres cannot hold. Every answer passes here first.

use serde_json::Value;

use super::columns::Fields;

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

/// Drops what is secret from an object and from everything in it.
pub(super) fn strip(fields: &mut Fields) {
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

/// Replaces the NUL characters that Postgres cannot hold.
pub(super) fn replace_nul(value: &mut Value) {
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
