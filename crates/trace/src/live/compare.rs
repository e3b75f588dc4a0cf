//! What was predicted of a packet and what was seen of it. No I/O.

use model::Protocol;
use serde::Serialize;

use super::{Observation, Reply};
use crate::journey::{Journey, Place, Point, Route, Way};

/// What was predicted and what was seen, point by point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The way that it has taken, or that is most like it: its position among the journey's.
    pub way: usize,
    /// The way there.
    pub there: Vec<Row>,
    /// The answer's.
    pub back: Vec<Row>,
    /// What the sender should have got.
    pub expected: &'static str,
    /// What it got.
    pub got: String,
    /// Where they differ first, and the likely reason; `None` if they are the same.
    pub difference: Option<String>,
}

/// A point of a way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What was predicted, if anything was.
    pub predicted: Option<Point>,
    /// What was seen, if anything was.
    pub observed: Option<Point>,
}

impl Row {
    /// Whether both are the same.
    pub fn is_same(&self) -> bool {
        match (&self.predicted, &self.observed) {
            (Some(predicted), Some(observed)) => {
                let port = predicted.port.or(observed.port);
                let always = predicted.always;
                let observed = Point { port: observed.port.or(port), always, ..observed.clone() };
                Point { port, ..predicted.clone() } == observed
            }
            _ => false,
        }
    }
}

/// Compares a journey with what came of its packet.
pub fn compare(journey: &Journey, observation: &Observation) -> Comparison {
    let compared =
        journey.ways.iter().enumerate().map(|(index, route)| one(journey, index, route, observation));
    let differences = |comparison: &Comparison| {
        let rows = comparison.there.iter().chain(&comparison.back);
        rows.filter(|row| !row.is_same()).count() + usize::from(comparison.difference.is_some())
    };
    // There is always a way, if only to nowhere.
    compared.min_by_key(differences).unwrap_or_else(|| Comparison {
        way: 0,
        there: Vec::new(),
        back: Vec::new(),
        expected: "nothing",
        got: words(&observation.reply),
        difference: Some("nothing was predicted".to_owned()),
    })
}

fn one(journey: &Journey, index: usize, route: &Route, observation: &Observation) -> Comparison {
    let tcp = journey.packet.protocol == Protocol::Tcp.number();
    let of = |answer: bool| {
        let fitting = observation.sightings.iter().filter(move |sighting| sighting.answer == answer);
        fitting.map(|sighting| sighting.point.clone()).collect::<Vec<Point>>()
    };
    let there = align(&route.points, of(false));
    let outside = route.end.as_ref().is_some_and(|end| end.kind == "outside");
    let silent = !observation.answers && observation.reply == Reply::Nothing;
    let answers = of(true);
    // Whether somebody outside answers is not ours to say, nor what a refusal on the way looks like.
    let skip = route.end.is_none() || ((outside || silent) && answers.is_empty());
    let back = if skip { Vec::new() } else { align(&route.points_back, answers) };
    let free = if outside { Some("whatever the host outside says") } else { None };
    let free = free.or_else(|| (!observation.answers).then_some("an answer, if whoever gets it gives one"));
    let (expected, fits) = fate(route, &observation.reply, free, tcp);
    let got = words(&observation.reply);
    let mut difference = differ(&there, "on the way there").or_else(|| differ(&back, "on the way back"));
    if difference.is_none() && !fits {
        difference = Some(format!("the sender should have got {expected}, and got {got}"));
    }
    if observation.blind {
        difference = Some("a capture missed packets, so nothing is known".to_owned());
    }
    Comparison { way: index, there, back, expected, got, difference }
}

/// What the sender should get, and whether it got that. `free` is what it may get where nobody can say.
fn fate(route: &Route, got: &Reply, free: Option<&'static str>, tcp: bool) -> (&'static str, bool) {
    let reached = !matches!(got, Reply::Nothing);
    match &route.lost {
        // Kernels send few ICMP errors in a second (net.ipv4.icmp_ratelimit), so a refusal of that kind may be missing.
        Some(lost) if lost.told => ("a refusal", matches!(got, Reply::Refusal) || (!tcp && !reached)),
        Some(_) => ("nothing", !reached),
        // Who refuses because nothing listens there has got the packet.
        None => free.map_or(("an answer", reached), |free| (free, true)),
    }
}

fn words(got: &Reply) -> String {
    match got {
        Reply::Answer(of) if of.is_empty() => "an answer".to_owned(),
        Reply::Answer(of) => format!("an answer {of}"),
        Reply::Refusal => "a refusal".to_owned(),
        Reply::Nothing => "nothing".to_owned(),
        Reply::Other(what) => what.clone(),
    }
}

/// Puts what was seen beside what was predicted: what is of one link and direction, in order.
fn align(predicted: &[Point], mut observed: Vec<Point>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for point in predicted {
        let same =
            |seen: &Point| (&seen.place, &seen.link, seen.way) == (&point.place, &point.link, point.way);
        let found = observed.iter().position(same).map(|index| observed.remove(index));
        if found.is_none() && !point.always {
            continue;
        }
        rows.push(Row { predicted: Some(point.clone()), observed: found });
    }
    rows.extend(observed.into_iter().map(|point| Row { predicted: None, observed: Some(point) }));
    rows
}

fn differ(rows: &[Row], when: &str) -> Option<String> {
    let index = rows.iter().position(|row| !row.is_same())?;
    let row = rows.get(index)?;
    let before = index.checked_sub(1).and_then(|index| rows.get(index)?.predicted.as_ref());
    Some(match (&row.predicted, &row.observed) {
        (Some(point), Some(_)) => format!(
            "{when}, at {}: the addresses are others; something that is not in the plans rewrites them before that \
             (nft list ruleset there shows all tables)",
            at(point)
        ),
        (Some(point), None) => format!("{when}, at {}: not seen; {}", at(point), reason(before, point)),
        (None, Some(point)) => format!("{when}, at {}: seen, and not predicted", at(point)),
        (None, None) => return None,
    })
}

/// Why a packet that was seen at one point does not come to the next.
fn reason(before: Option<&Point>, point: &Point) -> String {
    let node = |place: &Place| match place {
        Place::Node(name) | Place::Pod(name) => name.clone(),
    };
    match before {
        None => "it was not sent, or left by another link".to_owned(),
        Some(before) => match (&before.place, before.way, &point.place, point.way) {
            (Place::Node(from), Way::Out, Place::Node(to), Way::In) if from != to => {
                format!("it was lost between {from} and {to}, where the underlay is")
            }
            (_, _, Place::Node(name), _) => format!(
                "the kernel of {name} does not do what its plan says; is its agent running? (cambric status there)"
            ),
            (place, _, Place::Pod(pod), _) => {
                format!(
                    "the kernel of {} did not bring it to {pod}; is the pod's port there? (bridge link)",
                    node(place)
                )
            }
        },
    }
}

/// A point's link.
pub(super) fn at(point: &Point) -> String {
    let way = match point.way {
        Way::In => "in",
        Way::Out => "out",
    };
    match &point.place {
        Place::Node(name) | Place::Pod(name) => format!("{name} {} {way}", point.link),
    }
}
