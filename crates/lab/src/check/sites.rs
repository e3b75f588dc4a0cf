//! Nodes behind NAT gateways: by which stretches packets get from one node to another, whatever any plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use model::{Cluster, Family, Node, NodeName, PerFamily};
use plan::site::{Contact, Contacts, End};
use serde::Deserialize;
use trace::Gateway;

use super::bgp::{AGAIN, ROUTED_TIME};
use super::evidence::{Carried, Leg};
use super::view::View;
use super::ways::between;
use crate::fabric;
use crate::paths::LabName;
use crate::topology::{Machine, Topology};
use crate::{Error, Result};

/// The outer addresses that a node has heard of late, with the family of what came.
pub(crate) type Heard = BTreeSet<(IpAddr, Family)>;

/// What of a node's status is of interest here.
#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    heard: Vec<HeardFrom>,
}

#[derive(Debug, Deserialize)]
struct HeardFrom {
    address: IpAddr,
    inner: Family,
}

/// What a node's agent says that it hears.
fn heard(lab: &LabName, node: &NodeName) -> Result<Heard> {
    let path = lab.paths().node(node.as_str()).run().join("status.json");
    let bytes = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let status: Status = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Other(format!("{}: {error}", path.display())))?;
    Ok(status.heard.into_iter().map(|from| (from.address, from.inner)).collect())
}

/// What is known of a lab with gateways.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sites<'v> {
    pub(crate) topology: &'v Topology,
    pub(crate) cluster: &'v Cluster,
    /// Whom the nodes hear.
    pub(crate) heard: &'v BTreeMap<NodeName, Heard>,
}

/// What all nodes hear; nothing in a lab without gateways.
pub(crate) fn all_heard(lab: &LabName, cluster: &Cluster) -> Result<BTreeMap<NodeName, Heard>> {
    if cluster.nodes.values().all(|node| node.site.is_none()) {
        return Ok(BTreeMap::new());
    }
    cluster.nodes.keys().map(|node| Ok((node.clone(), heard(lab, node)?))).collect()
}

/// Waits until every site has a tunnel to every node outside and all nodes have ways to each other's pods, but not for
/// ever: what never is, the check is there to find.
pub(super) fn wait_open(view: &mut View, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + ROUTED_TIME;
    while !(are_open(view) && have_ways(view)?) && Instant::now() < deadline {
        go_on()?;
        std::thread::sleep(AGAIN);
        view.heard = all_heard(&view.lab, &view.cluster)?;
    }
    Ok(())
}

/// Whether all tunnels through gateways are heard at both ends, with all families in them.
fn are_open(view: &View) -> bool {
    let sites = view.sites();
    let nodes = || view.cluster.nodes.values();
    let hears = |node: &Node, address: Option<IpAddr>, inner: Family| {
        let heard = view.heard.get(&node.name);
        address.is_some_and(|address| heard.is_some_and(|heard| heard.contains(&(address, inner))))
    };
    let first = |addresses: &PerFamily<IpAddr>| addresses.iter().next().copied();
    nodes().filter(|inside| inside.site.is_some()).all(|inside| {
        let gateway = outer(&sites, &inside.name).and_then(|outer| first(&outer));
        nodes().filter(|outside| outside.site.is_none()).all(|outside| {
            view.families().into_iter().all(|inner| {
                let mut same = nodes().filter(|node| node.site == inside.site);
                hears(outside, gateway, inner)
                    && same.any(|node| hears(node, first(&outside.addresses), inner))
            })
        })
    })
}

/// Whether all nodes have routes to the pods of those that are across gateways.
fn have_ways(view: &View) -> Result<bool> {
    for from in view.cluster.nodes.keys() {
        let beyond = view.cluster.nodes.values().filter(|node| across(view, from, &node.name));
        let ranges: Vec<IpNet> =
            beyond.flat_map(|node| node.pod_ranges.iter()).map(|range| range.net()).collect();
        if ranges.is_empty() {
            continue;
        }
        let table = fabric::routes(&view.lab.namespace(from.as_str()))?;
        if !ranges.iter().all(|range| table.iter().any(|route| route.destination == *range)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a NAT gateway is between two nodes.
pub(super) fn across(view: &View, one: &NodeName, other: &NodeName) -> bool {
    site(view, one) != site(view, other)
}

/// The site of a node.
pub(super) fn site<'v>(view: &'v View, node: &NodeName) -> Option<&'v str> {
    view.cluster.nodes.get(node)?.site.as_deref()
}

/// The NAT gateways with whom they remember, as those hear who are remembered.
pub(crate) fn gateways(view: &Sites<'_>) -> Vec<Gateway> {
    let mut gateways: BTreeMap<&str, Gateway> = BTreeMap::new();
    for (name, node) in &view.cluster.nodes {
        let (Some(site), Some(outer)) = (&node.site, outer(view, name)) else { continue };
        let gateway = gateways.entry(site).or_insert_with(|| Gateway {
            site: site.clone(),
            outer,
            remembers: BTreeMap::new(),
        });
        for (address, inner) in view.heard.get(name).into_iter().flatten() {
            let outside = outside_with(view, address).map(|outside| (outside.clone(), *inner));
            gateway.remembers.extend(outside.map(|outside| (outside, name.clone())));
        }
    }
    gateways.into_values().collect()
}

/// What a node knows of the others, if all BGP sessions are up.
pub(crate) fn contacts(view: &Sites<'_>, local: &NodeName) -> Contacts {
    let site = |name: &NodeName| view.cluster.nodes.get(name).and_then(|node| node.site.as_deref());
    let own = site(local);
    let contact = |name: &NodeName, node: &Node| {
        let apart = site(name) != own;
        if name == local {
            return None;
        }
        let address = *node.addresses.iter().next()?;
        let outer = node.site.as_ref().filter(|_| apart).and_then(|_| outer(view, name));
        let seen = outer.and_then(|outer| outer.of(Family::of(&address)).copied()).unwrap_or(address);
        let heard = view.heard.get(name).into_iter().flatten();
        let heard = heard.filter_map(|(address, inner)| Some((end(view, node, address)?, *inner)));
        Some((name.clone(), Contact { seen, heard: heard.collect() }))
    };
    Contacts {
        others: view.cluster.nodes.iter().filter_map(|(name, node)| contact(name, node)).collect(),
        heard: view.heard.get(local).cloned().unwrap_or_default(),
    }
}

/// Whom a node hears at an address.
fn end(view: &Sites<'_>, node: &Node, address: &IpAddr) -> Option<End> {
    if node.site.is_some() {
        return outside_with(view, address).map(End::node);
    }
    let is_outer =
        |name: &NodeName| outer(view, name).is_some_and(|outer| outer.iter().any(|own| own == address));
    let inside = view.cluster.nodes.iter().find(|(name, node)| node.site.is_some() && is_outer(name));
    inside.and_then(|(_, node)| node.site.as_deref()).map(End::site)
}

fn outside_with<'v>(view: &Sites<'v>, address: &IpAddr) -> Option<&'v NodeName> {
    let has_it = |node: &Node| node.site.is_none() && node.addresses.iter().any(|own| own == address);
    view.cluster.nodes.iter().find(|(_, node)| has_it(node)).map(|(name, _)| name)
}

/// The outer addresses of the gateway that a node is behind.
fn outer(view: &Sites<'_>, node: &NodeName) -> Option<PerFamily<IpAddr>> {
    let machine = view.topology.machine(node.as_str())?;
    let addresses = &view.topology.gateway_of(machine).and_then(Machine::outer)?.addresses;
    let of = |family| addresses.of(family).map(|net| net.addr());
    Some(PerFamily { v4: of(Family::V4), v6: of(Family::V6) })
}

/// All ways in which packets may get from a node to one beyond a gateway: by whichever node has the tunnel. The addresses
/// are those of the packet.
pub(super) fn ways(
    view: &View,
    (from, source): (&NodeName, IpAddr),
    (to, destination): (&NodeName, IpAddr),
) -> Vec<Vec<Leg>> {
    let all = Ways { view, source, destination };
    match (site(view, from), site(view, to)) {
        (Some(_), None) => all.out(from, to),
        (None, Some(_)) => all.entering(from, to),
        (Some(_), Some(_)) => {
            let outside = view.cluster.nodes.values().filter(|node| node.site.is_none());
            let by = |relay: &Node| {
                let seconds = all.entering(&relay.name, to);
                let firsts = all.out(from, &relay.name).into_iter();
                firsts.flat_map(move |first| {
                    let join =
                        move |second: &Vec<Leg>| first.iter().chain(second).cloned().collect::<Vec<Leg>>();
                    seconds.iter().map(join).collect::<Vec<_>>()
                })
            };
            outside.flat_map(by).collect()
        }
        (None, None) => Vec::new(),
    }
}

struct Ways<'v> {
    view: &'v View,
    source: IpAddr,
    destination: IpAddr,
}

impl Ways<'_> {
    /// From inside to a node outside.
    fn out(&self, from: &NodeName, to: &NodeName) -> Vec<Vec<Leg>> {
        let through = |carrier: &NodeName| {
            let (inside, outside, gateway) = self.ends(carrier, to)?;
            let tunnel = Leg {
                from: carrier.to_string(),
                to: to.to_string(),
                carried: Carried::Ipip { source: inside, destination: outside },
                arrives: Carried::Ipip { source: gateway, destination: outside },
            };
            Some(self.within(from, carrier).into_iter().chain([tunnel]).collect())
        };
        self.carriers(from, to).iter().filter_map(through).collect()
    }

    /// From a node outside to one inside.
    fn entering(&self, from: &NodeName, to: &NodeName) -> Vec<Vec<Leg>> {
        let through = |carrier: &NodeName| {
            let (inside, outside, gateway) = self.ends(carrier, from)?;
            let tunnel = Leg {
                from: from.to_string(),
                to: carrier.to_string(),
                carried: Carried::Ipip { source: outside, destination: gateway },
                arrives: Carried::Ipip { source: outside, destination: inside },
            };
            Some([tunnel].into_iter().chain(self.within(carrier, to)).collect())
        };
        self.carriers(to, from).iter().filter_map(through).collect()
    }

    /// The nodes of a node's site that hear a node outside.
    fn carriers(&self, inside: &NodeName, outside: &NodeName) -> Vec<NodeName> {
        let Some(address) = self.address(outside) else { return Vec::new() };
        let inner = Family::of(&self.destination);
        let hears = |node: &NodeName| {
            site(self.view, node) == site(self.view, inside)
                && self.view.heard.get(node).is_some_and(|heard| heard.contains(&(address, inner)))
        };
        self.view.cluster.nodes.keys().filter(|node| hears(node)).cloned().collect()
    }

    /// Between nodes of one site.
    fn within(&self, from: &NodeName, to: &NodeName) -> Option<Leg> {
        match between(self.view, (from, self.source), (to, self.destination)) {
            Carried::Nowhere => None,
            carried => Some(Leg::new(from, to, carried)),
        }
    }

    /// The outer addresses of a tunnel: inside, outside, and the gateway's.
    fn ends(&self, inside: &NodeName, outside: &NodeName) -> Option<(IpAddr, IpAddr, IpAddr)> {
        let (inner, outer) = (self.address(inside)?, self.address(outside)?);
        let gateway = self::outer(&self.view.sites(), inside)?;
        Some((inner, outer, *gateway.of(Family::of(&outer))?))
    }

    /// A node's address for tunnels through gateways. All nodes of a lab have the same families.
    fn address(&self, node: &NodeName) -> Option<IpAddr> {
        self.view.cluster.nodes.get(node)?.addresses.iter().next().copied()
    }
}
