//! Routes with their reasons, for people.

use std::fmt;

use model::{LinkName, RouteSource, Sending, When};
use serde::{Deserialize, Serialize};

use crate::{Entry, Key, LearnedPath, Origin, Planned, Planner, Route};

/// A planned route, and why it is as it is.
#[derive(Debug)]
pub struct Explained<'p> {
    /// The route.
    pub route: &'p Route,
    /// The object that it comes from.
    pub origin: &'p Origin,
    /// What peers have told of its destination, the best first; nothing if it comes from a Node object.
    pub paths: &'p [LearnedPath],
    /// What its packets are wrapped in.
    pub tunnel: Tunnel,
    /// In words.
    pub why: String,
}

/// What packets are wrapped in on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tunnel {
    /// Nothing.
    None,
    /// VXLAN; of several next hops not all need be reached by it.
    Vxlan,
    /// IP in IP.
    Ipip,
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tunnel::None => "none",
            Tunnel::Vxlan => "vxlan",
            Tunnel::Ipip => "ipip",
        })
    }
}

impl Planner {
    /// The planned routes in the order of their destinations, with their reasons.
    pub fn routes(&self) -> impl Iterator<Item = Explained<'_>> {
        self.entries.values().filter_map(|planned| match planned {
            Planned { entry: Entry::Route(route), origin } => Some(self.explain(route, origin)),
            _ => None,
        })
    }

    /// Changes whenever the routes or their reasons do.
    pub fn routes_revision(&self) -> u64 {
        self.routes_revision
    }

    fn explain<'p>(&'p self, route: &'p Route, origin: &'p Origin) -> Explained<'p> {
        let paths = match route.learned {
            RouteSource::Bgp => self.learned(&route.destination),
            RouteSource::Kubernetes => &[],
        };
        let is_vxlan = |link: &LinkName| [LinkName::vxlan_v4(), LinkName::vxlan_v6()].contains(link);
        let tunnel = if self.entries.contains_key(&Key::TunnelRoute(route.destination)) {
            Tunnel::Ipip
        } else if route.hops.iter().any(|hop| is_vxlan(&hop.link)) {
            Tunnel::Vxlan
        } else {
            Tunnel::None
        };
        let mut reasons = Vec::new();
        if !paths.is_empty() {
            let mut peers: Vec<&str> = paths.iter().map(|path| &*path.peer).collect();
            peers.dedup();
            reasons.push(format!("learned from {}", peers.join(" and ")));
        }
        reasons.push(self.way_in_words(paths, tunnel).to_owned());
        if !paths.is_empty() && paths.iter().all(|path| path.stale) {
            reasons.push("kept until its peer is back".to_owned());
        }
        Explained { route, origin, paths, tunnel, why: reasons.join(", ") }
    }

    fn way_in_words(&self, paths: &[LearnedPath], tunnel: Tunnel) -> &'static str {
        let sending = self.network.as_ref().map(|network| network.encapsulation.sending);
        let is_always = matches!(sending, Some(Sending::Vxlan(When::Always) | Sending::Ipip(When::Always)));
        let by_node = paths.is_empty() || paths.iter().any(|path| self.node_at(&path.next_hop).is_some());
        match (tunnel, is_always) {
            (Tunnel::Vxlan, true) => "always encapsulated by VXLAN",
            (Tunnel::Vxlan, false) => "other subnet, encapsulated by VXLAN",
            (Tunnel::Ipip, true) => "always encapsulated in IP",
            (Tunnel::Ipip, false) => "other subnet, encapsulated in IP",
            (Tunnel::None, _) if by_node => "same subnet",
            (Tunnel::None, _) => "by a router in a subnet of this node",
        }
    }
}
