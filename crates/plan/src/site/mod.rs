//! Nodes behind NAT gateways: which way leads to them, who keeps it open, and whom to believe.
//!
//! A node with a site is behind the gateway of that site. The gateway remembers, for each node outside, one node inside
//! that has sent to it: protocols 4 and 41 have no ports by which it could tell more of them apart. So for each node
//! outside one node of the site, the carrier, has the tunnel; the others go through the carrier, and it passes on what
//! comes back. Nodes of two sites have no way to each other but through a node outside, the relay.
//!
//! Which node carries is not for the nodes to choose freely: it is the one that the gateway remembers, for as long as
//! that one sends. So a node that hears another through a gateway tells so, and others go by what they are told. Where
//! nobody hears anybody yet, the nodes of a site take turns.

#[cfg(test)]
mod properties;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use model::{Family, Node, NodeName, fnv1a};

use crate::ipip::Outer;

pub(crate) use view::View;

/// How often a keepalive is sent. So long at most lasts the silence after a gateway has forgotten.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// For how long the outside sends without hearing the inside: long enough for the agent inside to be restarted, and
/// less than any gateway's time for a flow without ports.
pub const HOLD: Duration = Duration::from_secs(10);

/// One packet that is to be sent every [`KEEPALIVE_INTERVAL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keepalive {
    /// From where to where.
    pub outer: Outer,
    /// The family of the header inside: gateways know the two as different flows.
    pub inner: Family,
}

/// Somebody who was heard through a gateway, as nodes tell it to each other: a node outside, heard by one inside, or a
/// site, heard by a node outside.
///
/// It is a hash of a name, short enough for a BGP community. If two were the same, a node would believe that an open
/// tunnel is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End(u32);

impl End {
    /// A node outside.
    pub fn node(name: &NodeName) -> End {
        End::hash("node", name.as_str())
    }

    /// A site.
    pub fn site(site: &str) -> End {
        End::hash("site", site)
    }

    /// As a number.
    pub fn value(self) -> u32 {
        self.0
    }

    fn hash(kind: &str, name: &str) -> End {
        End(weight(&[kind, name]) as u32)
    }
}

impl From<u32> for End {
    fn from(value: u32) -> End {
        End(value)
    }
}

/// What a node tells of tunnels through gateways: whom it hears, by the family of what is in them.
pub type Heard = BTreeSet<(End, Family)>;

/// What a node knows of others beyond their Node objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contacts {
    /// The nodes that are there, as BGP knows it.
    pub others: BTreeMap<NodeName, Contact>,
    /// The outer addresses that this node has heard within [`HOLD`], by inner family.
    pub heard: BTreeSet<(IpAddr, Family)>,
}

/// What is known of a node that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Where it was seen: behind a gateway, at the gateway's outer address.
    pub seen: IpAddr,
    /// Whom it hears through gateways.
    pub heard: Heard,
}

/// How packets for a node's pods leave this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way<'a> {
    /// As those to this node's own pods: there is no gateway between. It passes them on if they are for others.
    As(&'a Node),
    /// In IPIP between these addresses.
    Tunnel {
        /// The outer addresses.
        outer: Outer,
        /// Whether the other end must be heard first.
        held: bool,
    },
}

/// Why no way leads to a node beyond a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoWay<'a> {
    /// No node outside is there to pass packets on between two sites.
    Relay {
        /// The site of this node.
        own: &'a str,
        /// The other one.
        other: &'a str,
    },
    /// The outer address of the gateway of a site is not known.
    Gateway(&'a str),
    /// No node of the site has an underlay family in common with this one outside.
    Family(&'a Node),
}

/// Which nodes are on which side of which gateway.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    /// By site; those outside under none.
    members: BTreeMap<Option<Box<str>>, BTreeSet<NodeName>>,
}

impl Sites {
    /// Takes in that a node is another now, or gone, or new.
    pub(crate) fn replace(&mut self, before: Option<&Node>, after: Option<&Node>) {
        if let Some(node) = before
            && let Some(members) = self.members.get_mut(&node.site)
        {
            members.remove(&node.name);
            if members.is_empty() {
                self.members.remove(&node.site);
            }
        }
        if let Some(node) = after {
            self.members.entry(node.site.clone()).or_default().insert(node.name.clone());
        }
    }

    /// Whether there is a gateway at all.
    pub(crate) fn are_there(&self) -> bool {
        self.members.keys().any(Option::is_some)
    }

    /// The sites that have nodes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().filter_map(Option::as_deref)
    }

    /// The nodes of a site, or those outside.
    pub(crate) fn of(&self, site: Option<&str>) -> impl Iterator<Item = &NodeName> {
        let site: Option<Box<str>> = site.map(Into::into);
        self.members.get(&site).into_iter().flatten()
    }
}

/// A number that is the same on every node and in every release; names that differ little have numbers that differ much.
fn weight(names: &[&str]) -> u64 {
    let mut bytes = Vec::new();
    for name in names {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
    }
    // The last bytes change only the low bits of FNV-1a. What follows is the end of MurmurHash3 (public domain).
    let mut hash = fnv1a(&bytes);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}
