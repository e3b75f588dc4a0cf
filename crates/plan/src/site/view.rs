//! What one node makes of what it knows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{Family, Node, NodeName, RouteSource};

use super::{Contacts, End, Heard, Keepalive, NoWay, Sites, Way, weight};
use crate::ipip::Outer;

/// The nodes as one of them sees them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) nodes: &'a BTreeMap<NodeName, Node>,
    pub(crate) sites: &'a Sites,
    pub(crate) local: &'a Node,
    pub(crate) contacts: &'a Contacts,
    /// Without BGP nodes know neither who is there nor who hears whom. They take everybody to be there.
    pub(crate) source: RouteSource,
}

impl<'a> View<'a> {
    /// Whether a gateway is between this node and another.
    pub(crate) fn is_across(&self, remote: &Node) -> bool {
        self.local.site != remote.site
    }

    /// The way to the pods of a node, for packets of a family.
    pub(crate) fn way(&self, remote: &'a Node, inner: Family) -> Result<Way<'a>, NoWay<'a>> {
        match (&self.local.site, &remote.site) {
            (None, None) => Ok(Way::As(remote)),
            (Some(own), Some(other)) if own == other => Ok(Way::As(remote)),
            (Some(own), None) => self.way_out(own, self.detour(own, remote, inner), inner),
            (Some(own), Some(other)) => {
                let relay = self.relay(own, other, inner).ok_or(NoWay::Relay { own, other })?;
                self.way_out(own, relay, inner)
            }
            (None, Some(site)) => self.way_in(site, remote, inner),
        }
    }

    /// From which outer addresses packets of a node are taken. Those of another site's nodes are the gateway's; their
    /// own may be anybody's here.
    pub(crate) fn accepted(&self, remote: &Node) -> Vec<IpAddr> {
        if !self.is_across(remote) || remote.site.is_none() {
            return remote.addresses.iter().copied().collect();
        }
        if self.local.site.is_some() {
            return Vec::new();
        }
        let mut addresses: Vec<IpAddr> = remote.external.iter().copied().collect();
        addresses.extend(self.contacts.others.get(&remote.name).map(|contact| contact.seen));
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// The keepalives that keep the tunnel to a node beyond a gateway open, from either end.
    pub(crate) fn keepalives(&self, remote: &'a Node) -> Vec<Keepalive> {
        let mut keepalives = Vec::new();
        for inner in Family::BOTH {
            match (&self.local.site, &remote.site) {
                (Some(own), None) => {
                    let Some(outer) = outer(self.local, remote) else { continue };
                    let carrier = self.carrier(own, remote, inner);
                    let carries = carrier.is_some_and(|node| node.name == self.local.name);
                    // Nobody knows yet who else there is, while it is not even known that this one is there. But who has
                    // the tunnel keeps it, whatever others believe: the gateway lets nobody else in.
                    let carries = carries && self.is_there(&remote.name);
                    if carries || self.hears(outer.destination(), inner) {
                        keepalives.push(Keepalive { outer, inner });
                    }
                }
                // The inside is to know that it is heard.
                (None, Some(_)) => {
                    let heard =
                        self.accepted(remote).into_iter().filter(|address| self.hears(*address, inner));
                    keepalives.extend(heard.filter_map(|address| {
                        let own = *self.local.addresses.of(Family::of(&address))?;
                        Some(Keepalive { outer: Outer::new(own, address)?, inner })
                    }));
                }
                _ => {}
            }
        }
        keepalives
    }

    /// Whom this node hears through a gateway and tells of.
    pub(crate) fn heard(&self) -> Heard {
        let mut heard = Heard::new();
        for remote in self.nodes.values().filter(|remote| self.is_across(remote)) {
            let end = match (&self.local.site, &remote.site) {
                (Some(_), None) => End::node(&remote.name),
                (None, Some(site)) => End::site(site),
                _ => continue,
            };
            let addresses = self.accepted(remote);
            let families = Family::BOTH.into_iter();
            heard.extend(
                families
                    .filter(|inner| addresses.iter().any(|address| self.hears(*address, *inner)))
                    .map(|inner| (end, inner)),
            );
        }
        heard
    }

    /// From inside: to a node outside, directly or through the carrier.
    pub(super) fn way_out(&self, own: &str, outside: &'a Node, inner: Family) -> Result<Way<'a>, NoWay<'a>> {
        let carrier = self.carrier(own, outside, inner).ok_or(NoWay::Family(outside))?;
        if carrier.name != self.local.name {
            return Ok(Way::As(carrier));
        }
        let outer = outer(self.local, outside).ok_or(NoWay::Family(outside))?;
        Ok(Way::Tunnel { outer, held: false })
    }

    /// From outside: to where the site's gateway is, once that was heard.
    fn way_in(&self, site: &'a str, remote: &'a Node, inner: Family) -> Result<Way<'a>, NoWay<'a>> {
        // If nobody is there, what the node's object says is all there is.
        let members = self.carrier(site, self.local, inner).into_iter().chain(self.live(Some(site)));
        let mut members = members.chain([remote]);
        let Some(outer) = members.find_map(|member| self.outer_to_gateway(member)) else {
            return Err(if common_family(self.local, remote).is_some() {
                NoWay::Gateway(site)
            } else {
                NoWay::Family(remote)
            });
        };
        if self.knows() && !self.hears(outer.destination(), inner) {
            let end = (End::site(site), inner);
            let hears = |node: &&Node| self.told(node, end);
            let others = self.live(None).filter(|node| node.name != self.local.name).filter(hears);
            if let Some(other) = others.max_by_key(|node| weight(&[site, node.name.as_str()])) {
                return Ok(Way::As(other));
            }
        }
        Ok(Way::Tunnel { outer, held: true })
    }

    /// The node outside to go to on the way to another one outside: that one itself, unless no tunnel to it is open and
    /// one to another node is.
    fn detour(&self, own: &str, remote: &'a Node, inner: Family) -> &'a Node {
        if !self.knows() || self.is_open(own, remote, inner) {
            return remote;
        }
        let open = self.live(None).filter(|node| self.is_open(own, node, inner));
        open.max_by_key(|node| weight(&[own, remote.name.as_str(), node.name.as_str()])).unwrap_or(remote)
    }

    /// The node outside that passes packets on between two sites: the same in both directions and for all of their
    /// nodes, so that none sends back what another sent.
    fn relay(&self, own: &str, other: &str, inner: Family) -> Option<&'a Node> {
        let (first, second) = if own < other { (own, other) } else { (other, own) };
        let end = (End::site(other), inner);
        self.live(None).max_by_key(|node| {
            let near = self.knows() && self.is_open(own, node, inner);
            let far = self.knows() && self.told(node, end);
            (near, far, weight(&[first, second, node.name.as_str()]))
        })
    }

    /// The node of a site that has the tunnel to a node outside, or is to open it.
    ///
    /// They take turns, so that the end of one of them does not cut off the site. That a new node outside gives others
    /// other turns is no matter, as who has a tunnel keeps it.
    pub(super) fn carrier(&self, site: &str, outside: &Node, inner: Family) -> Option<&'a Node> {
        let mut members: Vec<&Node> =
            self.live(Some(site)).filter(|member| common_family(member, outside).is_some()).collect();
        members.sort_by_key(|member| weight(&[site, member.name.as_str()]));
        let has = members.iter().find(|member| self.carries(member, outside, inner));
        let turn = || {
            let turn = self.live(None).position(|node| node.name == outside.name)?;
            members.get(turn.checked_rem(members.len())?)
        };
        has.or_else(turn).copied()
    }

    /// Whether a tunnel from this node's site to a node outside is open.
    fn is_open(&self, own: &str, outside: &Node, inner: Family) -> bool {
        self.live(Some(own)).any(|member| self.carries(member, outside, inner))
    }

    /// Whether a node inside is known to hear one outside.
    fn carries(&self, member: &Node, outside: &Node, inner: Family) -> bool {
        if !self.knows() {
            return false;
        }
        if member.name == self.local.name {
            return outer(member, outside).is_some_and(|outer| self.hears(outer.destination(), inner));
        }
        self.told(member, (End::node(&outside.name), inner))
    }

    /// Whether another node is known to hear somebody.
    fn told(&self, node: &Node, end: (End, Family)) -> bool {
        self.contacts.others.get(&node.name).is_some_and(|contact| contact.heard.contains(&end))
    }

    /// The nodes of a site, or those outside, that are there.
    fn live(&self, site: Option<&str>) -> impl Iterator<Item = &'a Node> {
        let View { nodes, local, .. } = *self;
        let there = move |name: &&NodeName| **name == local.name || self.is_there(name);
        self.sites.of(site).filter(there).filter_map(|name| nodes.get(name))
    }

    fn is_there(&self, name: &NodeName) -> bool {
        !self.knows() || self.contacts.others.contains_key(name)
    }

    fn outer_to_gateway(&self, member: &Node) -> Option<Outer> {
        let family = common_family(self.local, member)?;
        let seen = self.contacts.others.get(&member.name).map(|contact| contact.seen);
        let seen = seen.filter(|seen| Family::of(seen) == family);
        Outer::new(*self.local.addresses.of(family)?, seen.or(member.external.of(family).copied())?)
    }

    fn hears(&self, address: IpAddr, inner: Family) -> bool {
        self.contacts.heard.contains(&(address, inner))
    }

    fn knows(&self) -> bool {
        self.source == RouteSource::Bgp
    }
}

/// The outer addresses between two nodes that reach each other by their own.
fn outer(from: &Node, to: &Node) -> Option<Outer> {
    let family = common_family(from, to)?;
    Outer::new(*from.addresses.of(family)?, *to.addresses.of(family)?)
}

/// The underlay family between two nodes: IPv4 if both have it.
fn common_family(one: &Node, other: &Node) -> Option<Family> {
    let both = |family: &Family| one.addresses.of(*family).is_some() && other.addresses.of(*family).is_some();
    Family::BOTH.into_iter().find(both)
}
