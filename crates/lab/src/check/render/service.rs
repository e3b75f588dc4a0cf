//! Connections to services in the report.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{carried_word, list, write_wire};
use crate::check::evidence::{Carried, Connection, Evidence, Fate, Got, Leg};

/// In a word or two, whom the far ends saw, or what the clients got instead.
pub(super) fn saw(evidence: &Evidence, connections: &[&Connection]) -> String {
    let words = connections.iter().flat_map(|connection| {
        let word = move |got: &Got| match got {
            Got::Answer(heard) if heard.source.ip() == connection.from.address => "sender".to_owned(),
            Got::Answer(heard) if evidence.gateways.contains(&heard.source.ip()) => "gateway".to_owned(),
            Got::Answer(heard) if left_as(connection).contains(&heard.source.ip()) => "node".to_owned(),
            Got::Answer(heard) => heard.source.ip().to_string(),
            Got::Refusal => "refusal".to_owned(),
            Got::Nothing => "nothing".to_owned(),
            Got::Other(_) => "an error".to_owned(),
        };
        connection.tries.iter().map(move |one| word(&one.got))
    });
    list(words)
}

/// The addresses under which the connection has left its first machine, by the row.
fn left_as(connection: &Connection) -> Vec<IpAddr> {
    let Fate::Answered { paths } = &connection.expected else { return Vec::new() };
    let first = paths.iter().filter_map(|path| path.legs.first());
    let source = |leg: &Leg| match leg.carried {
        Carried::Plain { source, .. } => Some(source),
        _ => None,
    };
    first.filter_map(source).collect()
}

/// In a word or two, how the packets were on the wire.
pub(super) fn wire(connections: &[&Connection]) -> String {
    let tries = connections.iter().flat_map(|connection| &connection.tries);
    let seen = tries.flat_map(|one| one.wire.iter().map(|sighting| carried_word(sighting.carried)));
    match list(seen) {
        none if none.is_empty() => "nothing".to_owned(),
        words => words,
    }
}

pub(super) fn write_connection(out: &mut String, connection: &Connection) -> std::fmt::Result {
    let Connection { row, from, to, transport, expected, predicted, steps, tries, .. } = connection;
    writeln!(out, "row {}  {transport} {from} to {to}", row.number())?;
    writeln!(out, "       expected     {expected}")?;
    // What came of many tries of one kind is told by how often it came.
    let mut results: BTreeMap<String, usize> = BTreeMap::new();
    for one in tries {
        let result = match &one.got {
            Got::Answer(heard) if tries.len() > 1 => format!("{} saw {}", heard.by, heard.source.ip()),
            got => format!("{got}, after {} ms", one.after),
        };
        *results.entry(result).or_default() += 1;
    }
    for (result, count) in results {
        let times = if count > 1 { format!(", {count} times") } else { String::new() };
        writeln!(out, "       came of it   {result}{times}")?;
    }
    writeln!(out, "       predicted    {predicted}")?;
    for (index, steps) in steps.iter().enumerate() {
        if index > 0 {
            writeln!(out, "                 or")?;
        }
        for step in steps {
            writeln!(out, "                    {step}")?;
        }
    }
    // All tries of a kind look alike.
    tries.first().map_or(Ok(()), |first| write_wire(out, &first.wire))
}
