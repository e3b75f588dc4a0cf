//! Routes, and who has put them there.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::Row;
use crate::fabric::{Found, FoundHop};

/// What a machine's kernel has for a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteFinding {
    /// The row that it is to prove.
    pub row: Row,
    /// The machine.
    pub at: String,
    /// Where to.
    pub destination: IpNet,
    /// What the row says.
    pub expected: ExpectedRoute,
    /// The routes to it that are there.
    pub found: Vec<Found>,
}

/// What a row says of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpectedRoute {
    /// Who may have put it there (`rtm_protocol`, rtnetlink(7)).
    pub protocols: Vec<u8>,
    /// Where it leads.
    pub way: RouteWay,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "to")]
pub enum RouteWay {
    /// To a neighbour, and to nobody else.
    Neighbour {
        /// The neighbour.
        via: IpAddr,
        /// The link.
        link: String,
    },
    /// Into a tunnel device.
    Tunnel {
        /// The devices that are.
        links: Vec<String>,
    },
}

impl RouteFinding {
    /// Everything that is wrong with it.
    pub fn faults(&self) -> Vec<String> {
        let Some((first, more)) = self.found.split_first() else {
            return vec!["there is no route".to_owned()];
        };
        let mut faults: Vec<String> =
            more.iter().map(|other| format!("there is another route: {}", Shown(other))).collect();
        if !self.expected.protocols.contains(&first.protocol) {
            let right: Vec<String> = self.expected.protocols.iter().map(ToString::to_string).collect();
            faults.push(format!("{} is not of protocol {}", Shown(first), right.join(" or ")));
        }
        if first.next_hops.is_empty() || !first.next_hops.iter().all(|hop| self.expected.way.is_taken_by(hop))
        {
            faults.push(format!("{} does not lead {}", Shown(first), self.expected.way));
        }
        faults
    }
}

impl RouteWay {
    fn is_taken_by(&self, hop: &FoundHop) -> bool {
        match self {
            RouteWay::Neighbour { via, link } => hop.via == Some(*via) && hop.link == *link,
            RouteWay::Tunnel { links } => links.contains(&hop.link),
        }
    }
}

impl fmt::Display for RouteWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteWay::Neighbour { via, link } => write!(f, "via {via} dev {link}"),
            RouteWay::Tunnel { links } => write!(f, "into {}", links.join(" or ")),
        }
    }
}

/// A route as `ip route` shows it.
pub struct Shown<'a>(pub &'a Found);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.destination)?;
        for hop in &self.0.next_hops {
            if self.0.next_hops.len() > 1 {
                write!(f, " nexthop")?;
            }
            if let Some(via) = hop.via {
                write!(f, " via {via}")?;
            }
            write!(f, " dev {}{}", hop.link, if hop.onlink { " onlink" } else { "" })?;
        }
        write!(f, " proto {}", self.0.protocol)
    }
}
