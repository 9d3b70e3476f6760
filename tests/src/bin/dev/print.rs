//! Printing. Nobody listening is no reason to fail: the reader may have seen enough.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

/// A line of data.
pub(crate) fn line(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// A line beside the data.
pub(crate) fn aside(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A heading, bold on a terminal.
pub(crate) fn heading(text: impl Display) {
    if io::stderr().is_terminal() {
        aside(format_args!("\n\x1b[1m{text}\x1b[0m"));
    } else {
        aside(format_args!("\n{text}"));
    }
}
