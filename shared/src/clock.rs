//! Time, handed in: what decides takes a time as a value; what runs asks here.

use chrono::{DateTime, Utc};

/// The current time. The one place that reads the clock, so that everything else can be tested with
/// any time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place that may")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
