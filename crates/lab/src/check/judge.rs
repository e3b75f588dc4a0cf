//! Evidence to verdict: pure, and the only place that says whether something is so.

mod service;

use serde::Serialize;

use super::evidence::{
    Aspect, Carried, Connection, Evidence, Exchange, Forgery, ForgeryKind, Row, SharedNamespace, Sighting,
    Way,
};

/// What the line of a row's routes is called.
pub const ROUTES: &str = "routes from BGP";

/// A row with what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// The row.
    pub row: Row,
    /// What a line of the report is about: the row itself, or an addition to it.
    pub title: &'static str,
    /// How many things were tried.
    pub tried: usize,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "is", content = "because")]
pub enum Verdict {
    /// All that was tried was so.
    So,
    /// Something was not so.
    NotSo(Vec<Failure>),
    /// This lab cannot have the row.
    Impossible(String),
}

/// Something that was not so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What was tried.
    pub tried: String,
    /// Everything that was wrong with it.
    pub faults: Vec<String>,
}

/// Whether nothing was found that is not so.
pub fn all_so(judged: &[Judged]) -> bool {
    !judged.iter().any(|judged| matches!(judged.verdict, Verdict::NotSo(_)))
}

/// Judges all rows, and what belongs to them.
pub fn judge(evidence: &Evidence) -> Vec<Judged> {
    Row::ALL.into_iter().flat_map(|row| judge_row(evidence, row)).collect()
}

fn judge_row(evidence: &Evidence, row: Row) -> Vec<Judged> {
    let exchanges =
        evidence.exchanges.iter().filter(|exchange| exchange.row == row).map(|exchange| Failure {
            tried: format!("{} {} to {}", exchange.transport, exchange.from, exchange.to),
            faults: exchange_faults(exchange),
        });
    let namespaces = evidence.namespaces.iter().filter(|_| row == Row::Containers).map(|shared| Failure {
        tried: format!("network namespace of {} on {}", shared.pod, shared.node),
        faults: namespace_faults(shared),
    });
    let connections = |aspect: Aspect| {
        let fits = move |one: &&Connection| one.row == row && one.aspect == aspect;
        evidence.connections.iter().filter(fits).map(service::outcome)
    };
    let both = (row == Row::CrossSubnet).then(|| both_ways(evidence)).flatten();
    let main = namespaces.chain(exchanges).chain(both).chain(connections(Aspect::Answer)).collect();
    let (tried, main) = verdict(evidence, row, main);
    let mut lines = vec![Judged { row, title: row.title(), tried, verdict: main }];
    for aspect in Aspect::ALL {
        let outcomes: Vec<Failure> = connections(aspect).collect();
        if let Some(title) = aspect.title().filter(|_| !outcomes.is_empty()) {
            let (tried, verdict) = verdict(evidence, row, outcomes);
            lines.push(Judged { row, title, tried, verdict });
        }
    }
    let routes = evidence.routes.iter().filter(|finding| finding.row == row);
    let outcomes: Vec<Failure> = routes
        .map(|finding| Failure {
            tried: format!("route to {} at {}", finding.destination, finding.at),
            faults: finding.faults(),
        })
        .collect();
    if row.about_routes() && lines.iter().any(|line| matches!(line.verdict, Verdict::So | Verdict::NotSo(_)))
    {
        let (tried, verdict) = verdict(evidence, row, outcomes);
        lines.push(Judged { row, title: ROUTES, tried, verdict });
    }
    for kind in [ForgeryKind::StrangersVxlan, ForgeryKind::StrangersIpip, ForgeryKind::SpoofedSource] {
        let of_kind = |forgery: &&Forgery| forgery.row == row && forgery.kind == kind;
        let outcomes: Vec<Failure> = evidence
            .forgeries
            .iter()
            .filter(of_kind)
            .map(|forgery| Failure {
                tried: format!(
                    "{} from {} as {} to {}",
                    kind.title(),
                    forgery.from,
                    forgery.pretended,
                    forgery.to
                ),
                faults: forgery_faults(forgery),
            })
            .collect();
        if !outcomes.is_empty() {
            let (tried, verdict) = verdict(evidence, row, outcomes);
            lines.push(Judged { row, title: kind.title(), tried, verdict });
        }
    }
    lines
}

/// How much was tried, and what came of it.
fn verdict(evidence: &Evidence, row: Row, outcomes: Vec<Failure>) -> (usize, Verdict) {
    let tried = outcomes.len();
    if let Some((_, why)) = evidence.impossible.iter().find(|(impossible, _)| *impossible == row) {
        return (tried, Verdict::Impossible(why.clone()));
    }
    let mut failures: Vec<Failure> = outcomes.into_iter().filter(|one| !one.faults.is_empty()).collect();
    // Nothing tried is nothing proved.
    if tried == 0 {
        let faults = vec!["nothing was tried, so nothing is proved".to_owned()];
        failures.push(Failure { tried: row.title().to_owned(), faults });
    }
    if !evidence.blind.is_empty() {
        let faults = evidence.blind.iter().map(|at| format!("the capture on {at} misses packets"));
        failures.push(Failure { tried: "captures".to_owned(), faults: faults.collect() });
    }
    (tried, if failures.is_empty() { Verdict::So } else { Verdict::NotSo(failures) })
}

/// Plain packets and encapsulated ones must both have been tried, or their difference is not proved.
fn both_ways(evidence: &Evidence) -> Option<Failure> {
    let of_row = evidence.exchanges.iter().filter(|exchange| exchange.row == Row::CrossSubnet);
    let (plain, other): (Vec<&Exchange>, Vec<&Exchange>) =
        of_row.partition(|exchange| matches!(exchange.expected.carried, Carried::Plain { .. }));
    let missing = match (plain.is_empty(), other.is_empty()) {
        (true, false) => "no two pods of one subnet were tried",
        (false, true) => "no two pods of different subnets were tried",
        _ => return None,
    };
    Some(Failure { tried: Row::CrossSubnet.title().to_owned(), faults: vec![missing.to_owned()] })
}

fn namespace_faults(shared: &SharedNamespace) -> Vec<String> {
    let mut faults = Vec::new();
    if shared.containers < 2 {
        faults.push(format!("the pod has {} container, which shares nothing", shared.containers));
    }
    if shared.processes.len() < shared.containers {
        faults.push(format!(
            "only {} of {} containers have a process",
            shared.processes.len(),
            shared.containers
        ));
    }
    let apart = shared.processes.iter().filter(|(_, inode)| *inode != shared.inode);
    faults.extend(apart.map(|(container, inode)| {
        format!("container {container} is in network namespace {inode}, the pod in {}", shared.inode)
    }));
    faults
}

fn exchange_faults(exchange: &Exchange) -> Vec<String> {
    let mut faults = Vec::new();
    let expected = &exchange.expected;
    match &exchange.heard {
        Err(error) => faults.push(error.clone()),
        Ok(heard) => {
            if heard.by != exchange.to.name {
                faults.push(format!("{} answered", heard.by));
            }
            if heard.source.ip() != expected.source {
                faults.push(format!("the far end saw {}, not {}", heard.source.ip(), expected.source));
            }
        }
    }
    if let Some(predicted) = &exchange.predicted {
        if predicted.end != exchange.to.name {
            faults.push(format!("the plans lead to {}", predicted.end));
        }
        if predicted.source != expected.source {
            faults.push(format!("by the plans the far end sees {}", predicted.source));
        }
        if predicted.carried != expected.carried {
            faults.push(format!("by the plans there is on the wire: {}", predicted.carried));
        }
    }
    faults.extend(wire_faults(exchange));
    faults
}

/// Every packet on the wire must be as the row says, and where there should be packets each way must have been seen.
fn wire_faults(exchange: &Exchange) -> Vec<String> {
    let carried = exchange.expected.carried;
    let so =
        |sighting: &Sighting| sighting.carried == if sighting.answer { carried.reversed() } else { carried };
    let mut faults: Vec<String> = Vec::new();
    for wrong in exchange.wire.iter().filter(|sighting| !so(sighting)) {
        let right = if wrong.answer { carried.reversed() } else { carried };
        faults.push(format!("on the wire at {} was {}, not {right}", wrong.at, wrong.packet));
    }
    if carried == Carried::Nowhere {
        return faults;
    }
    for (answer, machine, way) in [
        (false, &exchange.from.machine, Way::Out),
        (false, &exchange.to.machine, Way::In),
        (true, &exchange.to.machine, Way::Out),
        (true, &exchange.from.machine, Way::In),
    ] {
        let seen = exchange.wire.iter().any(|sighting| {
            sighting.at == *machine && sighting.way == way && sighting.answer == answer && so(sighting)
        });
        if !seen {
            let what = if answer { "answer" } else { "request" };
            let direction = if way == Way::Out { "out of" } else { "into" };
            let right = if answer { carried.reversed() } else { carried };
            faults.push(format!("no {what} was seen going {direction} {machine} as {right}"));
        }
    }
    faults
}

fn forgery_faults(forgery: &Forgery) -> Vec<String> {
    let mut faults = Vec::new();
    if forgery.arrived {
        faults.push("it arrived".to_owned());
    }
    if forgery.seen.is_none() {
        faults.push("it was never seen leaving, so its absence proves nothing".to_owned());
    }
    match &forgery.control {
        Ok(true) => {}
        Ok(false) => faults.push("an honest packet did not arrive either, so this proves nothing".to_owned()),
        Err(error) => faults.push(format!("an honest packet could not be sent: {error}")),
    }
    faults
}

#[cfg(test)]
#[path = "judge_tests.rs"]
pub(super) mod tests;
