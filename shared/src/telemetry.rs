//! Logs, and the trace context that travels with a message.

use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Noted, Settings};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Settings of the logs.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// `LOG_FORMAT`.
    pub format: LogFormat,
    /// `RUST_LOG`, by default `info`.
    pub filter: String,
    /// Whether `OTEL_EXPORTER_OTLP_ENDPOINT` is set: somebody expects traces.
    pub expects_traces: bool,
}

impl TelemetryConfig {
    /// Reads `LOG_FORMAT`, `RUST_LOG` and whether traces are expected.
    pub fn read(settings: &mut Settings) -> Result<Self, Noted> {
        let filter =
            settings.parsed("RUST_LOG", "info", "a filter such as info or worker=debug,info", |value| {
                EnvFilter::try_new(value).ok().map(|_| value.to_owned())
            });
        let format = settings.parsed("LOG_FORMAT", "auto", "`auto`, `json` or `text`", |value| match value {
            "auto" => Some(LogFormat::Auto),
            "json" => Some(LogFormat::Json),
            "text" => Some(LogFormat::Text),
            _ => None,
        });
        let expects_traces = settings.optional("OTEL_EXPORTER_OTLP_ENDPOINT").is_some();
        Ok(Self { format: format?, filter: filter?, expects_traces })
    }
}

/// Sends logs to standard error; standard output is for data.
pub fn init(config: &TelemetryConfig) {
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.filter))
        .with_writer(std::io::stderr);
    // A second initialization (a test in the same process) keeps the first.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    if config.expects_traces {
        tracing::warn!(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this version sends no spans; the trace context of a request \
             travels in the headers of its message"
        );
    }
}

/// A W3C trace context: who asked, in a form that other systems join.
#[derive(Clone, PartialEq, Eq)]
pub struct TraceParent(String);

impl TraceParent {
    /// Takes a `traceparent` header when it is well formed (version 00: 2-32-16-2 lower-case
    /// hexadecimal digits, neither id all zero).
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let parts: Vec<&str> = header.split('-').collect();
        let [version, trace, span, flags] = parts.as_slice() else { return None };
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let zero = |text: &str| text.bytes().all(|b| b == b'0');
        let well_formed = *version == "00"
            && hex(trace, 32)
            && hex(span, 16)
            && hex(flags, 2)
            && !zero(trace)
            && !zero(span);
        well_formed.then(|| Self(header.to_owned()))
    }

    /// The header's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_trace_context_is_passed_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceParent::parse(good).as_ref().map(TraceParent::as_str), Some(good));
        for bad in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nx",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad:?}");
        }
    }
}
