//! Prediction and observation side by side.

use std::fmt::Write;

use serde_json::Value;

use super::compare::{Comparison, Row, at};
use crate::journey::text::wrapped;
use crate::journey::{Journey, Point};

/// The width of each of the two columns.
const COLUMN: usize = 37;

/// The comparison in words, 80 columns wide.
pub fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "  {:COLUMN$}   captured", "predicted");
    for (title, rows) in [("there", &comparison.there), ("back", &comparison.back)] {
        if !rows.is_empty() {
            let _ = writeln!(text, "{title}");
        }
        rows.iter().for_each(|row| text += &both(row));
    }
    text +=
        &wrapped("", &format!("the sender should get {} and got {}", comparison.expected, comparison.got));
    match &comparison.difference {
        None => text += "prediction and observation agree\n",
        Some(difference) => text += &wrapped("DIFFERENT ", difference),
    }
    text
}

/// A link, and under it what was predicted and what was captured there.
fn both(row: &Row) -> String {
    let Some(point) = row.predicted.as_ref().or(row.observed.as_ref()) else { return String::new() };
    let (predicted, observed) = (cell(row.predicted.as_ref()), cell(row.observed.as_ref()));
    let sign = if row.is_same() { "=" } else { "≠" };
    let mut text = format!(" {}\n", at(point));
    for index in 0..predicted.len().max(observed.len()) {
        let of = |cell: &[String]| cell.get(index).cloned().unwrap_or_default();
        let sign = if index == 0 { sign } else { " " };
        let line = format!("  {:COLUMN$} {sign} {}", of(&predicted), of(&observed));
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The lines of a column.
fn cell(point: Option<&Point>) -> Vec<String> {
    let Some(point) = point else { return vec!["nothing".to_owned()] };
    let to = crate::journey::address(point.destination, point.port);
    let packet = format!("{} > {to}", point.source);
    let around = point.outer.as_ref().map(|outer| format!("in {outer}"));
    let mut lines = Vec::new();
    for part in std::iter::once(packet).chain(around) {
        match part.split_once(" > ") {
            Some((from, to)) if part.chars().count() > COLUMN => {
                lines.push(from.to_owned());
                lines.push(format!(" > {to}"));
            }
            _ => lines.push(part),
        }
    }
    lines
}

/// The journey as JSON, with the comparison in its field `live`.
///
/// # Errors
/// If it cannot be encoded.
pub fn json(journey: &Journey, comparison: Option<&Comparison>) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(journey)?;
    value["live"] = serde_json::to_value(comparison)?;
    Ok(value)
}
