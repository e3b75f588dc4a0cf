//! What is wrong with a topology, and where.

use std::fmt;

use serde_saphyr::{Location, MessageFormatter, Spanned};

/// The first thing in a topology that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyError {
    /// The line it stands in, counted from 1; 0 if it has no place.
    pub line: u64,
    /// The column it begins in, in characters, counted from 1; 0 if it has no place.
    pub column: u64,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl TopologyError {
    pub(super) fn at<T>(place: &Spanned<T>, message: impl Into<String>) -> TopologyError {
        TopologyError::new(place.referenced, message.into())
    }

    fn new(location: Location, message: String) -> TopologyError {
        let (line, column) = match location == Location::UNKNOWN {
            true => (0, 0),
            false => (location.line(), location.column()),
        };
        TopologyError { line, column, message }
    }
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for TopologyError {}

impl From<serde_saphyr::Error> for TopologyError {
    fn from(error: serde_saphyr::Error) -> Self {
        let error = error.without_snippet();
        let location = error.location().unwrap_or(Location::UNKNOWN);
        let message = match error {
            serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
                format!("unknown field \"{field}\"; use one of {}", expected.join(", "))
            }
            serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => {
                format!("\"{variant}\" is not known here; use {}", alternatives(expected))
            }
            serde_saphyr::Error::SerdeMissingField { field, .. } => {
                format!("the field \"{field}\" is missing")
            }
            serde_saphyr::Error::Eof { .. } => {
                "there is nothing in it; a topology has at least network, subnets and nodes".to_owned()
            }
            other => {
                let words = serde_saphyr::UserMessageFormatter.format_message(other);
                words.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
            }
        };
        TopologyError::new(location, message)
    }
}

/// Names as a sentence lists what can be chosen from: `a, b or c`.
fn alternatives(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}
