//! Reading settings from the environment: every problem is collected, each names its setting, what
//! it got and what it wants; a secret's value is never shown.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// A value that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(Vec<String>);

/// Stands for a value whose problem was noted; [`Settings::finish`] tells it.
#[derive(Debug)]
pub struct Noted;

impl From<Noted> for Problems {
    fn from(_: Noted) -> Self {
        Self(vec!["a setting is missing or malformed".to_owned()])
    }
}

type Source = Box<dyn Fn(&str) -> Option<String> + Send>;

/// The outcome of reading one setting.
pub type Read<T> = Result<T, Noted>;

/// Reads settings and collects what is wrong with them.
///
/// Read everything, call [`Settings::finish`], and only then unpack the values with `?`.
pub struct Settings {
    source: Source,
    problems: Vec<String>,
}

impl Settings {
    /// Settings of this process. A value that is not Unicode counts as malformed, not as absent.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_source(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Settings from anywhere, for tests.
    pub fn from_source(source: impl Fn(&str) -> Option<String> + Send + 'static) -> Self {
        Self { source: Box::new(source), problems: Vec::new() }
    }

    /// Ends reading: `Err` with every problem, if there was one.
    pub fn finish(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }

    /// Notes a problem that concerns more than one setting.
    pub fn problem(&mut self, line: impl Into<String>) -> Noted {
        self.problems.push(line.into());
        Noted
    }

    /// The value, if it is set to something.
    fn raw(&self, name: &str) -> Option<String> {
        (self.source)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A text, or its default.
    #[must_use]
    pub fn text(&self, name: &str, default: &str) -> String {
        self.raw(name).unwrap_or_else(|| default.to_owned())
    }

    /// A text that may be absent.
    #[must_use]
    pub fn optional(&self, name: &str) -> Option<String> {
        self.raw(name)
    }

    /// A value that `parse` understands, or its default; `wants` completes "wants ...".
    pub fn parsed<T>(
        &mut self,
        name: &str,
        default: &str,
        wants: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Read<T> {
        let value = self.raw(name).unwrap_or_else(|| default.to_owned());
        parse(&value).ok_or_else(|| self.problem(format!("{name}: got `{value}`, wants {wants}")))
    }

    /// A duration such as `180s` or `5ms`.
    pub fn duration(&mut self, name: &str, default: &str) -> Read<Duration> {
        self.parsed(name, default, "a duration such as 180s, 5ms or 2h", |value| {
            humantime::parse_duration(value).ok()
        })
    }

    /// A duration of at least `least`.
    pub fn duration_of_at_least(&mut self, name: &str, default: &str, least: Duration) -> Read<Duration> {
        let wants = format!("a duration such as 30s, at least {}", humantime::format_duration(least));
        self.parsed(name, default, &wants, |value| {
            humantime::parse_duration(value).ok().filter(|duration| *duration >= least)
        })
    }

    /// A duration, or `off`.
    pub fn duration_or_off(&mut self, name: &str, default: &str) -> Read<Option<Duration>> {
        self.parsed(name, default, "a duration such as 10s or 1h, or `off`", |value| match value {
            "off" => Some(None),
            value => humantime::parse_duration(value).ok().filter(|d| !d.is_zero()).map(Some),
        })
    }

    /// A whole number of at least `least`.
    pub fn number(&mut self, name: &str, default: &str, least: usize) -> Read<usize> {
        self.parsed(name, default, &format!("a whole number of at least {least}"), |value| {
            value.parse().ok().filter(|number| *number >= least)
        })
    }

    /// A size in bytes such as `1MiB`.
    pub fn size(&mut self, name: &str, default: &str) -> Read<usize> {
        self.parsed(name, default, "a size such as 1MiB or 65536", |value| {
            let size: bytesize::ByteSize = value.parse().ok()?;
            usize::try_from(size.as_u64()).ok().filter(|size| *size > 0)
        })
    }

    /// An address to listen on, such as `0.0.0.0:8080`.
    pub fn address(&mut self, name: &str, default: &str) -> Read<SocketAddr> {
        self.parsed(name, default, "an address and port such as 127.0.0.1:8080", |value| value.parse().ok())
    }

    /// `true` or `false`, also `on`/`off` and `1`/`0`.
    pub fn switch(&mut self, name: &str, default: &str) -> Read<bool> {
        self.parsed(name, default, "`true` or `false`", |value| match value.to_ascii_lowercase().as_str() {
            "true" | "on" | "1" | "yes" => Some(true),
            "false" | "off" | "0" | "no" => Some(false),
            _ => None,
        })
    }

    /// The label of the WorkOS environment: a token of a subject and a value in every row.
    pub fn environment(&mut self) -> Read<String> {
        self.parsed("WORKOS_ENV", "production", "1 to 32 letters, digits, `-` or `_`", |value| {
            let fits = (1..=32).contains(&value.len())
                && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
            fits.then(|| value.to_owned())
        })
    }

    /// A secret from `NAME`, or from the file that `NAME_FILE` names.
    pub fn secret(&mut self, name: &str) -> Read<Option<Secret>> {
        let file_name = format!("{name}_FILE");
        match (self.raw(name), self.raw(&file_name)) {
            (Some(_), Some(_)) => {
                Err(self.problem(format!("{name}: is set, and so is {file_name}; wants only one of them")))
            }
            (Some(value), None) => Ok(Some(Secret(value))),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) if !text.trim().is_empty() => Ok(Some(Secret(text.trim().to_owned()))),
                Ok(_) => {
                    Err(self.problem(format!("{file_name}: `{path}` is empty, wants a file with the secret")))
                }
                Err(error) => Err(self.problem(format!("{file_name}: failed to read `{path}`: {error}"))),
            },
            (None, None) => Ok(None),
        }
    }

    /// A secret that must be there; `what` says what to put there.
    pub fn required_secret(&mut self, name: &str, what: &str) -> Read<Secret> {
        self.secret(name)?.ok_or_else(|| {
            self.problem(format!("{name}: is not set, wants {what} (or {name}_FILE, a file with it)"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &'static [(&'static str, &'static str)]) -> Settings {
        Settings::from_source(move |name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_problem_is_told_and_names_its_setting() {
        let mut settings = settings(&[("A", "soon"), ("B", "-1"), ("C_FILE", "/nonexistent/secret")]);
        let _ = settings.duration("A", "1s");
        let _ = settings.number("B", "1", 1);
        let _ = settings.required_secret("C", "a key");
        let _ = settings.required_secret("D", "a key");
        let text = settings.finish().expect_err("four problems").to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].starts_with("A: got `soon`, wants a duration"));
        assert!(lines[1].starts_with("B: got `-1`, wants a whole number"));
        assert!(lines[2].starts_with("C_FILE: failed to read"));
        assert!(lines[3].starts_with("D: is not set, wants a key"));
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("sk_live_1");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn an_environment_label_is_safe_in_a_subject() {
        for bad in ["a.b", "a b", "*", ">", "ä", "x123456789012345678901234567890123"] {
            let mut settings = Settings::from_source(move |_| Some(bad.to_owned()));
            assert!(settings.environment().is_err(), "{bad}");
        }
        assert_eq!(settings(&[]).environment().ok().as_deref(), Some("production"));
    }

    #[test]
    fn sizes_and_switches_are_read() {
        let mut settings = settings(&[("A", "1MiB"), ("B", "off")]);
        assert_eq!(settings.size("A", "1").ok(), Some(1 << 20));
        assert_eq!(settings.duration_or_off("B", "10s").ok(), Some(None));
        assert_eq!(settings.switch("B", "true").ok(), Some(false));
    }
}
