//! Times as WorkOS writes them.

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};

/// Reads a WorkOS time, kept to the millisecond so that two spellings of one moment compare equal.
///
/// Two formats are documented: ISO 8601 with zone (`2026-01-15T12:00:00.000Z`) and, in one sample of
/// an event, a space and no zone (`2023-04-28 20:05:31.093`), which is taken as UTC.
#[must_use]
pub fn parse(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.with_timezone(&Utc))
        .or_else(|_| {
            NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f")
                .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f"))
                .map(|time| time.and_utc())
        })
        .ok()
        .map(|time| time.trunc_subsecs(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_documented_formats_are_one_moment() {
        let iso = parse("2023-04-28T20:05:31.093Z");
        assert!(iso.is_some());
        assert_eq!(iso, parse("2023-04-28 20:05:31.093"));
        assert_eq!(iso, parse("2023-04-28T22:05:31.0931+02:00"));
    }

    #[test]
    fn what_is_no_time_is_none() {
        assert_eq!(parse("yesterday"), None);
        assert_eq!(parse(""), None);
    }
}
