//! Steps and ends in words.

use std::fmt;
use std::net::IpAddr;

use model::Protocol;
use plan::Value;

use super::{Loss, MapElement, Step};

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Dropped { chain, comment } => write!(f, "dropped in chain {chain}: {comment}"),
            Loss::Refused { chain, comment } => write!(f, "refused in chain {chain}: {comment}"),
            Loss::NoSuchChain(chain) => write!(f, "a map leads to chain {chain}, which is not there"),
            Loss::NoNeighbour(address) => write!(f, "no neighbour entry for the next hop {address}"),
            Loss::NoForwarding(mac) => write!(f, "no forwarding entry for {mac}"),
            Loss::NoSuchNode(address) => write!(f, "the way leads to {address}, which no node has"),
            Loss::TunnelMismatch(link) => {
                write!(f, "the tunnel device {link} at the other end is not its counterpart")
            }
            Loss::Stranger(address) => write!(f, "IP in IP from {address} is not taken at the other end"),
            Loss::Remembered { site, node } => {
                write!(f, "the NAT gateway of site {site} remembers {node} and lets nobody else through")
            }
            Loss::NotAsked { site } => {
                write!(f, "nobody behind the NAT gateway of site {site} has asked for it")
            }
            Loss::NoSuchPod(address) => write!(f, "no pod has the address {address}"),
            Loss::Loop => f.write_str("the way is a circle"),
        }
    }
}

impl fmt::Display for MapElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = |value: &Value| match value {
            // As nft shows it.
            Value::Protocol(number) => Protocol::from_number(*number)
                .map_or_else(|| number.to_string(), |protocol| protocol.to_string().to_lowercase()),
            value => value.to_string(),
        };
        let key: Vec<String> = self.key.iter().map(field).collect();
        write!(f, "{} {{ {} }}", self.map, key.join(" . "))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Rule { chain, comment, element: None } => write!(f, "rule in chain {chain}: {comment}"),
            Step::Rule { chain, comment, element: Some(element) } => {
                write!(f, "rule in chain {chain}: {comment}, by {element}")
            }
            Step::Bridged { bridge } => write!(f, "bridged by {bridge}"),
            Step::Routed { destination, via: Some(via), link: Some(link) } => {
                write!(f, "routed: {destination} via {via} dev {link}")
            }
            Step::Routed { destination, link: Some(link), .. } => {
                write!(f, "routed: {destination} dev {link}")
            }
            Step::Routed { .. } => f.write_str("routed: the node's own way out"),
            Step::Rewritten { destination: IpAddr::V4(address), port } => {
                write!(f, "destination becomes {address}:{port}")
            }
            Step::Rewritten { destination: IpAddr::V6(address), port } => {
                write!(f, "destination becomes [{address}]:{port}")
            }
            Step::SourceRewritten { source } | Step::Masqueraded { source } => {
                write!(f, "source becomes {source}")
            }
            Step::DestinationRestored { destination } => write!(f, "destination becomes {destination} again"),
            Step::SourceRestored { source } => write!(f, "source becomes {source} again"),
            Step::Encapsulated { link, source, destination, .. } => {
                write!(f, "into VXLAN by {link}: {source} to {destination}")
            }
            Step::Decapsulated { link } => write!(f, "out of VXLAN by {link}"),
            Step::Wrapped { link, source, destination, mtu } => {
                write!(f, "into IP in IP on {link}: {source} to {destination}")?;
                mtu.map_or(Ok(()), |mtu| write!(f, ", up to {mtu} bytes"))
            }
            Step::Translated { site, source, destination } => {
                write!(f, "through the NAT gateway of site {site}: {source} to {destination}")
            }
            Step::Unwrapped => f.write_str("out of IP in IP"),
        }
    }
}
