//! Prediction and observation side by side.

use std::fmt::Write;

use serde_json::Value;
use trace::journey::{Journey, Point};

use super::compare::{Comparison, Row, at};

/// The comparison in words, 80 columns wide.
pub fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    for (title, rows) in [("there", &comparison.there), ("back", &comparison.back)] {
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{title}: predicted, and captured on the link");
        for row in rows {
            text += &line(row);
        }
    }
    let _ = writeln!(text, "the sender should get {} and got {}", comparison.expected, comparison.got);
    match &comparison.difference {
        None => text += "prediction and observation agree\n",
        Some(difference) => {
            let _ = writeln!(text, "DIFFERENT {difference}");
        }
    }
    text
}

fn line(row: &Row) -> String {
    let looks = |point: &Point| {
        let packet = format!("{} > {}", point.source, trace::journey::address(point.destination, point.port));
        let around = point.outer.as_ref().map(|outer| format!(" in {outer}")).unwrap_or_default();
        packet + &around
    };
    let mark = if row.is_same() { "ok" } else { "!!" };
    let Some(point) = row.predicted.as_ref().or(row.observed.as_ref()) else { return String::new() };
    let mut text = format!("  {mark} {}\n", at(point));
    match (&row.predicted, &row.observed) {
        (Some(predicted), Some(_)) if row.is_same() => {
            let _ = writeln!(text, "       both       {}", looks(predicted));
        }
        (predicted, observed) => {
            let shown = |point: &Option<Point>| point.as_ref().map_or_else(|| "nothing".to_owned(), looks);
            let _ = writeln!(text, "       predicted  {}", shown(predicted));
            let _ = writeln!(text, "       observed   {}", shown(observed));
        }
    }
    text
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
