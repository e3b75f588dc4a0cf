//! Who is there, and who hears whom through NAT gateways: what the routes to pod ranges say of the nodes that have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Node, NodeName};
use plan::site::{self, Contact};

/// What is known from BGP.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    /// By prefix. Whose it is, Node objects say.
    told: BTreeMap<IpNet, Contact>,
    /// Those prefixes of which an earlier run was told, and this one has not been yet.
    earlier: BTreeSet<IpNet>,
    /// Changes whenever what was told does.
    pub(crate) revision: u64,
    /// Whether something is another than when the news were last asked for.
    pub(crate) stale: bool,
}

impl Contacts {
    /// Goes by what an earlier run was told, until this one is told better.
    ///
    /// Tunnels outlive the agent, and nodes go on sending by them. One that took everybody to be gone would take a
    /// tunnel of another to be its own turn, and would accept nothing from gateways.
    pub(crate) fn restore(&mut self, told: BTreeMap<IpNet, Contact>) {
        self.earlier = told.keys().copied().collect();
        self.told = told;
        self.stale = true;
    }

    /// All have told what they have. What nobody has told again is no more.
    pub(crate) fn converged(&mut self) {
        for prefix in std::mem::take(&mut self.earlier) {
            self.hear(prefix, None);
        }
    }

    /// What was told, by prefix.
    pub(crate) fn told(&self) -> &BTreeMap<IpNet, Contact> {
        &self.told
    }

    /// Takes in who tells of a prefix.
    pub(crate) fn hear(&mut self, prefix: IpNet, contact: Option<Contact>) {
        self.earlier.remove(&prefix);
        let before = match contact.clone() {
            Some(contact) => self.told.insert(prefix, contact),
            None => self.told.remove(&prefix),
        };
        if before != contact {
            self.stale = true;
            self.revision += 1;
        }
    }

    /// What is another now than `known`.
    pub(crate) fn news(
        &mut self,
        local: Option<&Node>,
        nodes: &BTreeMap<NodeName, Node>,
        known: &site::Contacts,
    ) -> Vec<(NodeName, Option<Contact>)> {
        if !std::mem::take(&mut self.stale) {
            return Vec::new();
        }
        let names: BTreeSet<&NodeName> = nodes.keys().chain(known.others.keys()).collect();
        let now = |name: &NodeName| nodes.get(name).and_then(|node| self.contact(local?, node));
        names
            .into_iter()
            .map(|name| (name, now(name)))
            .filter(|(name, contact)| known.others.get(*name) != contact.as_ref())
            .map(|(name, contact)| (name.clone(), contact))
            .collect()
    }

    /// A node is there if there is a route to any of its ranges. Each range tells of its own family.
    ///
    /// What others pass on of it does not count, if it could be heard itself: they may know no better.
    fn contact(&self, local: &Node, node: &Node) -> Option<Contact> {
        let hidden = node.site.is_some() && node.site != local.site;
        let itself = |contact: &&Contact| hidden || node.addresses.iter().any(|own| *own == contact.seen);
        let told: Vec<&Contact> =
            node.pod_ranges.iter().filter_map(|range| self.told.get(&range.net())).filter(itself).collect();
        let seen: IpAddr = told.first()?.seen;
        Some(Contact { seen, heard: told.iter().flat_map(|contact| &contact.heard).copied().collect() })
    }
}
