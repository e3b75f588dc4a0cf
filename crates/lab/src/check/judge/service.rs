//! What is wrong with connections to services.

use std::collections::BTreeSet;

use super::Failure;
use crate::check::evidence::{Aspect, Connection, Fate, Got, Leg, Path, Row, Sighting, Transport, Try, Way};

/// The latest that a TCP refusal may come, in milliseconds: before anybody would have sent again (`TCP_TIMEOUT_INIT`,
/// net/tcp.h).
const AT_ONCE: u64 = 1000;

/// A connection with all that is wrong with it.
pub(super) fn outcome(connection: &Connection) -> Failure {
    let Connection { from, to, transport, tries, .. } = connection;
    let times = if tries.len() > 1 { format!(", {} times", tries.len()) } else { String::new() };
    Failure { tried: format!("{transport} {from} to {to}{times}"), faults: faults(connection) }
}

fn faults(connection: &Connection) -> Vec<String> {
    let Connection { expected, predicted, tries, .. } = connection;
    let is_predicted = match (predicted, expected) {
        // Which of the nodes that have tunnels is taken is for the nodes to choose, and the plans say which it is.
        (Fate::Answered { paths }, Fate::Answered { paths: all }) if connection.row == Row::BehindNat => {
            !paths.is_empty() && paths.iter().all(|path| all.contains(path))
        }
        _ => predicted == expected,
    };
    // Many tries can have the same fault; it is told once.
    let mut faults: BTreeSet<String> = tries.iter().flat_map(|one| try_faults(connection, one)).collect();
    faults.extend(together_faults(connection));
    if !is_predicted {
        faults.insert(format!("the plans lead to: {predicted}; it should be: {expected}"));
    }
    if tries.is_empty() {
        faults.insert("it was not tried".to_owned());
    }
    faults.into_iter().collect()
}

fn try_faults(connection: &Connection, one: &Try) -> Vec<String> {
    let mut faults = Vec::new();
    let fate = match connection.row {
        Row::BehindNat => &connection.predicted,
        _ => &connection.expected,
    };
    match (fate, &one.got) {
        (Fate::Answered { paths }, Got::Answer(heard)) => match paths.iter().find(|path| path.by == heard.by)
        {
            Some(path) => {
                if heard.source.ip() != path.source {
                    faults.push(format!("the far end saw {}, not {}", heard.source.ip(), path.source));
                }
                faults.extend(wire_faults(&path.legs, one, Answers::All));
            }
            None => faults.push(format!("{} answered", heard.by)),
        },
        (Fate::Refused { legs }, Got::Refusal) => {
            if connection.transport == Transport::Tcp && one.after >= AT_ONCE {
                faults.push(format!("it was refused, but only after {} ms", one.after));
            }
            // An ICMP error is no packet of the connection.
            faults.extend(wire_faults(legs, one, Answers::Any));
        }
        (Fate::Silent { legs }, Got::Nothing) => faults.extend(wire_faults(legs, one, Answers::None)),
        (_, Got::Answer(heard)) => {
            faults.push(format!("{} answered, and saw {}", heard.by, heard.source.ip()));
        }
        (_, Got::Refusal) => faults.push("it was refused".to_owned()),
        (_, Got::Nothing) => faults.push("there was neither an answer nor a refusal".to_owned()),
        (_, Got::Other(what)) => faults.push(what.clone()),
    }
    faults
}

/// What is wrong with all tries together.
fn together_faults(connection: &Connection) -> Vec<String> {
    let answered: BTreeSet<&str> = connection
        .tries
        .iter()
        .filter_map(|one| match &one.got {
            Got::Answer(heard) => Some(heard.by.as_str()),
            _ => None,
        })
        .collect();
    let Fate::Answered { paths } = &connection.expected else { return Vec::new() };
    match connection.aspect {
        Aspect::Affinity if answered.len() > 1 => {
            let all = answered.into_iter().collect::<Vec<_>>().join(" and ");
            vec![format!("the client did not stay with its endpoint: {all} answered")]
        }
        Aspect::Share => {
            let never = |path: &&Path| !answered.contains(path.by.as_str());
            paths.iter().filter(never).map(|path| format!("{} never answered", path.by)).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether answers must be on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    All,
    Any,
    None,
}

/// Every packet on the wire must be of one of the legs, and each leg must have been seen at both of its ends.
fn wire_faults(legs: &[Leg], one: &Try, answers: Answers) -> Vec<String> {
    let mut faults = Vec::new();
    let of_leg = |sighting: &Sighting, leg: &Leg| {
        let carried = match (sighting.answer, sighting.way) {
            (false, Way::Out) => leg.carried,
            (false, Way::In) => leg.arrives,
            (true, Way::Out) => leg.arrives.reversed(),
            (true, Way::In) => leg.carried.reversed(),
        };
        let sender = if sighting.answer { &leg.to } else { &leg.from };
        let receiver = if sighting.answer { &leg.from } else { &leg.to };
        let at = if sighting.way == Way::Out { sender } else { receiver };
        sighting.carried == carried && sighting.at == *at
    };
    for sighting in &one.wire {
        let known = legs.iter().any(|leg| of_leg(sighting, leg));
        if !known || (sighting.answer && answers == Answers::None) {
            faults.push(format!("on the wire at {} was {}", sighting.at, sighting.packet));
        }
    }
    for leg in legs {
        for answer in [false, true] {
            if answer && answers != Answers::All {
                continue;
            }
            for way in [Way::Out, Way::In] {
                let seen = one.wire.iter().any(|sighting| {
                    sighting.answer == answer && sighting.way == way && of_leg(sighting, leg)
                });
                if !seen {
                    let what = if answer { "answer" } else { "request" };
                    let direction = if (way == Way::Out) != answer { &leg.from } else { &leg.to };
                    faults.push(format!("no {what} of the way {leg} was seen at {direction}"));
                }
            }
        }
    }
    faults
}
