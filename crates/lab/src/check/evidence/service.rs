//! Connections to services, and what came of them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::{Carried, Heard, Party, Row, Sighting, Transport};

/// Connections of one kind: from the same client to the same address of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The row that it is to prove.
    pub row: Row,
    /// What of the row.
    pub aspect: Aspect,
    /// Who connects.
    pub from: Party,
    /// To what.
    pub to: Target,
    /// By what.
    pub transport: Transport,
    /// What the row says.
    pub expected: Fate,
    /// What the plans of the nodes say.
    pub predicted: Fate,
    /// The steps of each predicted way, each with the node and the object that it comes from.
    pub steps: Vec<Vec<String>>,
    /// What was tried.
    pub tries: Vec<Try>,
}

/// What of services is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Aspect {
    /// A connection reaches the service's endpoint.
    Answer,
    /// A pod reaches itself through its service.
    Itself,
    /// The traffic policy Local is kept.
    Local,
    /// Who asks for what nobody serves is told so at once.
    Refusal,
    /// Every endpoint gets connections.
    Share,
    /// A client stays with its endpoint.
    Affinity,
}

impl Aspect {
    /// All of them, in the order of the report.
    pub const ALL: [Aspect; 6] =
        [Aspect::Answer, Aspect::Itself, Aspect::Local, Aspect::Refusal, Aspect::Share, Aspect::Affinity];

    /// What its line of the report is called; `None` for what is the row itself.
    pub fn title(self) -> Option<&'static str> {
        match self {
            Aspect::Answer => None,
            Aspect::Itself => Some("a pod to itself"),
            Aspect::Local => Some("traffic policy Local"),
            Aspect::Refusal => Some("no endpoint: refusal"),
            Aspect::Share => Some("each endpoint in turn"),
            Aspect::Affinity => Some("one client, one endpoint"),
        }
    }
}

/// An address that is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Which kind of address, and of which service.
    pub name: String,
    /// The address and port.
    pub address: SocketAddr,
    /// The node by which a host outside of the cluster comes there.
    pub through: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.address)?;
        match &self.through {
            Some(node) => write!(f, " through {node}"),
            None => Ok(()),
        }
    }
}

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Fate {
    /// It goes one of these ways to an endpoint; sorted.
    Answered {
        /// The ways.
        paths: Vec<Path>,
    },
    /// It is refused, where it has come over these legs.
    Refused {
        /// The legs.
        legs: Vec<Leg>,
    },
    /// It is dropped without a word, where it has come over these legs.
    Silent {
        /// The legs.
        legs: Vec<Leg>,
    },
}

impl Fate {
    /// The ways, sorted: where there are several, chance decides.
    pub fn answered(paths: impl IntoIterator<Item = Path>) -> Fate {
        let paths: BTreeSet<Path> = paths.into_iter().collect();
        Fate::Answered { paths: paths.into_iter().collect() }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, legs) = match self {
            Fate::Answered { paths } => {
                for (index, path) in paths.iter().enumerate() {
                    write!(f, "{}{path}", if index == 0 { "" } else { "; or " })?;
                }
                return Ok(());
            }
            Fate::Refused { legs } => ("a refusal", legs),
            Fate::Silent { legs } => ("no answer", legs),
        };
        write!(f, "{word}, on the wire {}", in_words(legs))
    }
}

/// A way to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// The pod that answers, as namespace/name.
    pub by: String,
    /// The source address that it sees.
    pub source: IpAddr,
    /// How it comes there.
    pub legs: Vec<Leg>,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sees {}, on the wire {}", self.by, self.source, in_words(&self.legs))
    }
}

/// A part of a way that is on the underlay.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Leg {
    /// The machine that sends.
    pub from: String,
    /// The machine that receives.
    pub to: String,
    /// How the request is carried when it is sent.
    pub carried: Carried,
    /// How it is carried when it is received: otherwise, if a NAT gateway is between.
    pub arrives: Carried,
}

impl Leg {
    /// A part of a way on which nobody changes anything.
    pub fn new(from: impl fmt::Display, to: impl fmt::Display, carried: Carried) -> Leg {
        Leg { from: from.to_string(), to: to.to_string(), carried, arrives: carried }
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} {}", self.from, self.to, self.carried)?;
        if self.arrives == self.carried { Ok(()) } else { write!(f, " that arrives as {}", self.arrives) }
    }
}

/// One try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Try {
    /// What the client got.
    pub got: Got,
    /// After how many milliseconds.
    pub after: u64,
    /// What was on the underlay.
    pub wire: Vec<Sighting>,
}

/// What a client got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Got {
    /// An answer, which says whom the far end saw.
    Answer(Heard),
    /// A refusal: a TCP reset, or an ICMP error that the port cannot be reached.
    Refusal,
    /// Nothing, for as long as it waited.
    Nothing,
    /// Something else.
    Other(String),
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Got::Answer(heard) => write!(f, "{} (says {})", heard.source, heard.by),
            Got::Refusal => f.write_str("a refusal"),
            Got::Nothing => f.write_str("no answer"),
            Got::Other(what) => f.write_str(what),
        }
    }
}

/// Legs in words.
fn in_words(legs: &[Leg]) -> String {
    if legs.is_empty() {
        return "nothing".to_owned();
    }
    legs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ")
}
