//! What of the plan depends on who is behind which NAT gateway, and on who is there at all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::{Family, Node, NodeName, RouteSource, Sending};

use super::Planner;
use crate::site::{Contact, Heard, Keepalive, View};
use crate::{Change, Entry, Origin};

impl Planner {
    /// What is to be sent every [`crate::site::KEEPALIVE_INTERVAL`].
    pub fn keepalives(&self) -> BTreeSet<Keepalive> {
        self.parts.values().flat_map(|part| part.keepalives.iter().copied()).collect()
    }

    /// Whether there are nodes behind NAT gateways.
    pub fn has_sites(&self) -> bool {
        self.sites.are_there()
    }

    /// Whom this node hears through gateways and is to tell others of.
    pub fn heard(&self) -> Heard {
        match self.view() {
            Some(view) if self.has_sites() => view.heard(),
            _ => Heard::new(),
        }
    }

    /// The nodes as this one sees them.
    pub(super) fn view(&self) -> Option<View<'_>> {
        Some(View {
            nodes: &self.nodes,
            sites: &self.sites,
            local: self.nodes.get(&self.local)?,
            contacts: &self.facts.contacts,
            source: self.network.as_ref()?.route_source,
        })
    }

    /// Takes in what is known of another node now.
    pub(super) fn take_contact(&mut self, name: NodeName, contact: Option<Contact>, change: &mut Change) {
        let others = &mut self.facts.contacts.others;
        let before = match contact.clone() {
            Some(contact) => others.insert(name.clone(), contact),
            None => others.remove(&name),
        };
        if before != contact
            && let Some(node) = self.nodes.get(&name).cloned()
        {
            self.replan_around(&node, true, change);
        }
    }

    /// Takes in whom this node hears now.
    pub(super) fn take_heard(&mut self, heard: BTreeSet<(IpAddr, Family)>, change: &mut Change) {
        if self.facts.contacts.heard != heard {
            self.facts.contacts.heard = heard;
            self.replan_across(change);
            self.replan_sites(change);
        }
    }

    /// Plans anew what depends on a node that has come, changed or gone, and is not its own part.
    pub(super) fn replan_beyond(&mut self, before: Option<&Node>, after: Option<&Node>, change: &mut Change) {
        // All is planned anew if it is this node, and most changes of others are of no concern.
        let place = |node: &Node| (node.site.clone(), node.addresses.clone(), node.external.clone());
        if before.map(place) == after.map(place) {
            return;
        }
        for node in before
            .into_iter()
            .chain(after)
            .filter(|node| node.name != self.local)
            .cloned()
            .collect::<Vec<_>>()
        {
            let is_there = self.may_be_there(&node.name);
            self.replan_around(&node, is_there, change);
        }
    }

    /// Plans anew what depends on a node and is not its own part. `is_there` is whether it may be one of those that
    /// others are reached by.
    fn replan_around(&mut self, node: &Node, is_there: bool, change: &mut Change) {
        let Some(local) = self.nodes.get(&self.local) else { return };
        let own = local.site.clone();
        if !self.has_sites() && node.site.is_none() {
            return;
        }
        if let Some(site) = node.site.as_deref().filter(|_| own.is_none()) {
            self.replan_site(site, change);
        }
        if !is_there {
            return;
        }
        match (own.as_deref(), node.site.as_deref()) {
            (None, Some(site)) => {
                let members: Vec<NodeName> = self.sites.of(Some(site)).cloned().collect();
                members.iter().for_each(|name| self.replan_remote(name, change));
            }
            // No way to a third node leads through another site, but whether it is there decides of its own.
            (Some(own), Some(other)) if own != other => self.replan_remote(&node.name, change),
            _ => self.replan_across(change),
        }
    }

    /// Whether ways may lead through a node: without BGP nobody knows who is there.
    pub(super) fn may_be_there(&self, name: &NodeName) -> bool {
        let source = self.network.as_ref().map(|network| network.route_source);
        source != Some(RouteSource::Bgp) || self.facts.contacts.others.contains_key(name)
    }

    /// What this node has to take from where gateways are, and to send there.
    pub(super) fn replan_sites(&mut self, change: &mut Change) {
        let known = self.parts.keys().filter_map(|origin| match origin {
            Origin::Site(site) => Some(site.clone()),
            _ => None,
        });
        let sites: BTreeSet<Box<str>> = known.chain(self.sites.names().map(Box::from)).collect();
        sites.iter().for_each(|site| self.replan_site(site, change));
    }

    fn replan_across(&mut self, change: &mut Change) {
        let Some(local) = self.nodes.get(&self.local) else { return };
        let across = self.nodes.values().filter(|node| node.site != local.site);
        let names: Vec<NodeName> = across.map(|node| node.name.clone()).collect();
        names.iter().for_each(|name| self.replan_remote(name, change));
    }

    fn replan_site(&mut self, site: &str, change: &mut Change) {
        let (mut addresses, mut keepalives) = (BTreeSet::new(), BTreeSet::new());
        if let Some(view) = self.view().filter(|view| view.local.site.is_none()) {
            for member in self.sites.of(Some(site)).filter_map(|name| self.nodes.get(name)) {
                addresses.extend(view.accepted(member));
                keepalives.extend(view.keepalives(member));
            }
        }
        let origin = Origin::Site(site.into());
        let entries = addresses.into_iter().map(Entry::TunnelNode).collect();
        self.replace(origin.clone(), entries, Vec::new(), change);
        self.keep_alive(&origin, keepalives.into_iter().collect());
    }

    /// Notes the keepalives that an object asks for, if what they keep open is gone by.
    pub(super) fn keep_alive(&mut self, origin: &Origin, keepalives: Box<[Keepalive]>) {
        let sending = self.network.as_ref().map(|network| network.encapsulation.sending);
        if let Some(part) = self.parts.get_mut(origin).filter(|_| matches!(sending, Some(Sending::Ipip(_)))) {
            part.keepalives = keepalives;
        }
    }
}
