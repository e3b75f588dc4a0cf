//! Routers that speak BGP with the nodes of their subnets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use kube_source::{BfdSpec, BgpPeerSpec, NodeSelector};
use model::{Asn, Family};

use super::source::{self, Speaker, Text};
use super::{Machine, Topology, TopologyError};

/// The label of a node that says in which subnet of the lab it is.
pub const SUBNET_LABEL: &str = "lab.cambric.io/subnet";

/// What a router says in BGP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterBgp {
    /// Its AS.
    pub asn: Asn,
    /// The prefixes that it announces as its own.
    pub announce: Vec<IpNet>,
    /// Whether it watches the nodes by BFD (RFC 5880).
    pub bfd: bool,
    /// Whether the lab starts a speaker for it. If not, it is left to somebody else to run one in its namespace.
    pub speaker: bool,
}

/// A session between a router and a node, in one of the subnets and one of the families that they have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session<'t> {
    /// The node.
    pub node: &'t Machine,
    /// The position of the subnet in [`Topology::subnets`].
    pub subnet: usize,
    /// The router's address.
    pub router: IpAddr,
    /// The node's.
    pub peer: IpAddr,
}

pub(super) fn check(router: &Text, bgp: &source::RouterBgp) -> Result<RouterBgp, TopologyError> {
    let name = &router.value;
    let asn = Asn::new(bgp.asn.value)
        .map_err(|error| TopologyError::at(&bgp.asn, format!("router {name}: bgp.asn: {error}")))?;
    let prefix = |text: &Text| {
        let fail = |why: &str| {
            let message = format!("router {name}: bgp.announce: \"{}\" {why}", text.value);
            Err(TopologyError::at(text, message))
        };
        match text.value.parse::<IpNet>() {
            Ok(prefix) if prefix == prefix.trunc() => Ok(prefix),
            Ok(prefix) => fail(&format!("has bits set after its length; use {}", prefix.trunc())),
            Err(_) => fail("is not an address prefix; it would look like 198.51.100.0/24 or 2001:db8:2::/64"),
        }
    };
    let announce = bgp.announce.iter().map(prefix).collect::<Result<_, _>>()?;
    Ok(RouterBgp { asn, announce, bfd: bgp.bfd, speaker: bgp.speaker == Speaker::Cambric })
}

impl Topology {
    /// The routers that speak BGP.
    pub fn bgp_routers(&self) -> impl Iterator<Item = (&Machine, &RouterBgp)> {
        self.machines.iter().filter_map(|machine| Some((machine, machine.bgp.as_ref()?)))
    }

    /// The sessions that a router has: with every node of its subnets, one in each family.
    pub fn sessions<'t>(&'t self, router: &'t Machine) -> Vec<Session<'t>> {
        let mut sessions = Vec::new();
        for (ours, node) in
            router.interfaces.iter().flat_map(|ours| self.nodes().map(move |node| (ours, node)))
        {
            for theirs in node.interfaces.iter().filter(|theirs| theirs.subnet == ours.subnet) {
                let both =
                    |family| Some((ours.addresses.of(family)?.addr(), theirs.addresses.of(family)?.addr()));
                sessions.extend(Family::BOTH.into_iter().filter_map(both).map(|(router, peer)| Session {
                    node,
                    subnet: ours.subnet,
                    router,
                    peer,
                }));
            }
        }
        sessions
    }

    /// The routers as nodes know them: one peer in each subnet and family, for the nodes of the subnet.
    pub(super) fn router_peers(&self) -> BTreeMap<String, BgpPeerSpec> {
        let mut peers = BTreeMap::new();
        for (router, bgp) in self.bgp_routers() {
            for session in self.sessions(router) {
                let subnet = self.subnets.get(session.subnet).map_or("", |subnet| subnet.name.as_str());
                let family = Family::of(&session.router).to_string().to_lowercase();
                let peer = || BgpPeerSpec {
                    node_selector: NodeSelector {
                        match_labels: [(SUBNET_LABEL.to_owned(), subnet.to_owned())].into(),
                    },
                    address: session.router.to_string(),
                    port: None,
                    asn: bgp.asn.value().into(),
                    password_secret: None,
                    ttl_security: false,
                    hold_time_seconds: None,
                    bfd: bgp.bfd.then(BfdSpec::default),
                    max_prefixes: None,
                    import_filter: Vec::new(),
                    export_filter: Vec::new(),
                };
                peers.entry(format!("{}-{subnet}-{family}", router.name)).or_insert_with(peer);
            }
        }
        peers
    }
}
