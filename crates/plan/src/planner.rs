//! The plan of one node, kept and changed object by object.

mod beyond;

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{
    Attachment, AttachmentId, Cluster, EndpointSlice, Family, NetworkConfig, Node, NodeName, ObjectName,
    PerFamily, RouteSource, Service,
};

use crate::attachments::attachment;
use crate::learned::{Learned, LearnedPath, Places};
use crate::services::{ServicePlan, ServicePlanner, node_port_addresses, strays};
use crate::site::{Contact, Contacts, Keepalive, Sites};
use crate::way::Ground;
use crate::{
    Change, Entries, Entry, Key, NodePlan, Origin, Planned, Problem, Underlay, across, local, remote,
};

/// What the node's kernel says of itself and the plan depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The links that have the node's underlay addresses, by family of the address.
    pub underlay: PerFamily<Underlay>,
    /// The addresses of the node that are not link-local.
    pub addresses: Vec<IpAddr>,
    /// The pods' interfaces on the node.
    pub attachments: Vec<Attachment>,
    /// What is known of others beyond their Node objects.
    pub contacts: Contacts,
}

/// A change of what a plan is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The `ClusterNetwork` in force.
    Network(NetworkConfig),
    /// A node that is new or changed.
    Node(Node),
    /// A node that is gone.
    NodeGone(NodeName),
    /// The links that have the node's underlay addresses, by family of the address.
    Underlay(PerFamily<Underlay>),
    /// All addresses of the node that are not link-local.
    Addresses(Vec<IpAddr>),
    /// All of the pods' interfaces on the node.
    Attachments(Vec<Attachment>),
    /// A service that is new or changed.
    Service(Service),
    /// A service that is gone.
    ServiceGone(ObjectName),
    /// An endpoint slice that is new or changed.
    Slice(EndpointSlice),
    /// An endpoint slice that is gone.
    SliceGone(ObjectName),
    /// What is known of another node that is there; none when it is there no more.
    Contact(NodeName, Option<Contact>),
    /// The outer addresses that this node has heard within [`crate::site::HOLD`], by inner family.
    Heard(BTreeSet<(IpAddr, Family)>),
    /// The paths to a prefix that BGP peers have told, the best first; none if it is gone.
    Learned(IpNet, Vec<LearnedPath>),
    /// Every peer has told all that it has, or has had its time: after a start, and again after routes have begun to
    /// come from BGP instead of the Node objects. What of an earlier run has not been told by now is gone, so the whole
    /// plan is to be compared with the kernel.
    Converged,
}

/// Makes the whole plan of one node.
pub fn plan(cluster: &Cluster, node: &NodeName, facts: &Facts) -> NodePlan {
    let mut planner = Planner::new(node.clone());
    planner.facts = facts.clone();
    planner.nodes.clone_from(&cluster.nodes);
    for node in cluster.nodes.values() {
        planner.sites.replace(None, Some(node));
        planner.places.insert(node);
        planner.services.node(node, true, &mut Default::default());
    }
    planner.update(Input::Network(cluster.network.clone()));
    for service in cluster.services.values() {
        planner.update(Input::Service(service.clone()));
    }
    for slice in cluster.slices.values() {
        planner.update(Input::Slice(slice.clone()));
    }
    NodePlan {
        problems: planner.problems(),
        keepalives: planner.keepalives(),
        services: planner.services.into_plan(),
        entries: planner.entries,
    }
}

/// Keeps the plan of one node. A change of one node, or of one pod's interface, costs that one and not the cluster.
#[derive(Debug)]
pub struct Planner {
    pub(crate) local: NodeName,
    pub(crate) network: Option<NetworkConfig>,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    pub(crate) sites: Sites,
    pub(crate) places: Places,
    pub(crate) learned: Learned,
    pub(crate) facts: Facts,
    /// What the kernel should hold. Of several claims to one key the first by origin counts, on every node the same.
    pub(crate) entries: Entries,
    /// The other claims, in the order of their origins. Nearly every key has one claimant.
    losers: BTreeMap<Key, Vec<Planned>>,
    /// What each object claims, and what is wrong with it.
    parts: BTreeMap<Origin, Part>,
    services: ServicePlanner,
    pub(crate) routes_revision: u64,
}

#[derive(Debug, Default)]
struct Part {
    keys: Box<[Key]>,
    problems: Box<[Problem]>,
    keepalives: Box<[Keepalive]>,
}

impl Planner {
    /// An empty plan for a node.
    pub fn new(local: NodeName) -> Planner {
        Planner {
            local,
            network: None,
            nodes: BTreeMap::new(),
            sites: Sites::default(),
            places: Places::default(),
            learned: Learned::default(),
            facts: Facts::default(),
            entries: Entries::new(),
            losers: BTreeMap::new(),
            parts: BTreeMap::new(),
            services: ServicePlanner::default(),
            routes_revision: 0,
        }
    }

    /// An empty plan for the same node, to be made from other objects of the cluster. What the kernel and peers have said
    /// is no object, and goes on to be known; the network does until there is another.
    pub fn start_over(&mut self) -> Planner {
        Planner {
            network: self.network.take(),
            facts: mem::take(&mut self.facts),
            learned: mem::take(&mut self.learned),
            routes_revision: self.routes_revision + 1,
            ..Planner::new(self.local.clone())
        }
    }

    /// Takes in a change and says what changes in the plan.
    pub fn update(&mut self, input: Input) -> Change {
        let mut change = Change::default();
        let may_change_reasons = matches!(input, Input::Network(_) | Input::Learned(..));
        match input {
            Input::Network(network) => {
                let source = network.route_source;
                let before = self.network.replace(network).map(|network| network.route_source);
                if before.is_some_and(|before| before != source) && source == RouteSource::Bgp {
                    // Nodes have not spoken with each other until now.
                    self.learned.converged = false;
                }
                self.replan_all(&mut change);
                self.replan_services(&mut change);
            }
            Input::Underlay(underlay) => {
                let settled = self.facts.underlay == underlay;
                self.facts.underlay = underlay;
                self.replan_local(&mut change);
                if !settled {
                    self.replan_all_learned(&mut change);
                    self.replan_remotes(&mut change);
                }
            }
            Input::Node(node) => {
                let name = node.name.clone();
                let strays = self.is_stray(&node);
                self.services.node(&node, true, &mut change.services);
                let before = self.nodes.insert(name.clone(), node.clone());
                self.sites.replace(before.as_ref(), Some(&node));
                if let Some(before) = &before {
                    self.services.node(before, false, &mut change.services);
                }
                self.replan_node(&name, before.as_ref(), &mut change);
                self.replan_beyond(before.as_ref(), Some(&node), &mut change);
                if name == self.local || strays || before.is_some_and(|node| self.is_stray(&node)) {
                    self.replan_services(&mut change);
                }
            }
            Input::NodeGone(name) => {
                let before = self.nodes.remove(&name);
                self.sites.replace(before.as_ref(), None);
                if let Some(before) = &before {
                    self.services.node(before, false, &mut change.services);
                }
                self.replan_node(&name, before.as_ref(), &mut change);
                self.replan_beyond(before.as_ref(), None, &mut change);
                if name == self.local || before.is_some_and(|node| self.is_stray(&node)) {
                    self.replan_services(&mut change);
                }
            }
            Input::Contact(name, contact) => self.take_contact(name, contact, &mut change),
            Input::Heard(heard) => self.take_heard(heard, &mut change),
            Input::Addresses(addresses) => {
                let before = mem::replace(&mut self.facts.addresses, addresses);
                let either = [before, self.facts.addresses.clone()].concat();
                self.replan_learned_at(&either, &mut change);
                self.replan_services(&mut change);
            }
            Input::Service(service) => self.services.service(service, &mut change.services),
            Input::ServiceGone(name) => self.services.service_gone(&name, &mut change.services),
            Input::Slice(slice) => self.services.slice(slice, &mut change.services),
            Input::SliceGone(name) => self.services.slice_gone(&name, &mut change.services),
            Input::Attachments(attachments) => {
                self.facts.attachments = attachments;
                self.replan_attachments(&mut change);
            }
            Input::Learned(prefix, paths) => self.learn(prefix, paths, &mut change),
            Input::Converged => self.converged(&mut change),
        }
        // Routes are the last of all kinds of keys.
        let changes_routes = matches!(change.keys.last_key_value(), Some((Key::Route(_), _)));
        self.routes_revision += u64::from(changes_routes || may_change_reasons);
        change
    }

    /// What the kernel should hold.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// A copy of the plan as it stands.
    pub fn plan(&self) -> NodePlan {
        NodePlan {
            entries: self.entries.clone(),
            services: self.services.plan().clone(),
            problems: self.problems(),
            keepalives: self.keepalives(),
        }
    }

    /// The services' part of the plan.
    pub fn services(&self) -> &ServicePlan {
        self.services.plan()
    }

    /// What is planned under a key.
    pub fn planned(&self, key: &Key) -> Option<&Planned> {
        self.entries.get(key)
    }

    /// What could not be planned, and why.
    pub fn problems(&self) -> Vec<Problem> {
        let conflicts = self.losers.iter().flat_map(|(key, losers)| {
            let winner = self.entries.get(key).map(|planned| &planned.origin);
            winner.into_iter().flat_map(move |winner| {
                losers.iter().map(move |loser| Problem::Conflict {
                    key: Box::new(key.clone()),
                    winner: winner.clone(),
                    loser: loser.origin.clone(),
                })
            })
        });
        self.parts
            .values()
            .flat_map(|part| part.problems.iter().cloned())
            .chain(conflicts)
            .chain(self.learned.refused().map(|(refusal, first, count)| Problem::Learned {
                prefix: first,
                others: count - 1,
                refusal: refusal.clone(),
            }))
            .chain(self.services.problems())
            .collect()
    }

    /// The network configuration in force, if there is one.
    pub fn network(&self) -> Option<&NetworkConfig> {
        self.network.as_ref()
    }

    /// The node that is planned for, if it is known.
    pub fn local_node(&self) -> Option<&Node> {
        self.nodes.get(&self.local)
    }

    /// What is known of the node's kernel.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How many nodes are known, this one included.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes that are known, this one included.
    pub fn nodes(&self) -> &BTreeMap<NodeName, Node> {
        &self.nodes
    }

    /// The services that are known. Shared, so that whoever looks at all of them later need not copy them.
    pub fn known_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.known()
    }

    /// The endpoint slices that are known, shared likewise.
    pub fn known_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.services.known_slices()
    }

    fn replan_all(&mut self, change: &mut Change) {
        self.replan_local(change);
        self.replan_all_learned(change);
        self.replan_remotes(change);
        self.replan_sites(change);
        self.replan_attachments(change);
    }

    pub(crate) fn replan_remotes(&mut self, change: &mut Change) {
        for name in self.nodes.keys().filter(|name| **name != self.local).cloned().collect::<Vec<_>>() {
            self.replan_remote(&name, change);
        }
    }

    fn replan_node(&mut self, name: &NodeName, before: Option<&Node>, change: &mut Change) {
        let now = self.nodes.get(name).cloned();
        if let Some(before) = before {
            self.places.remove(before);
        }
        if let Some(now) = &now {
            self.places.insert(now);
        }
        if *name == self.local {
            // Every way to another node begins here.
            self.replan_all(change);
        } else {
            self.replan_learned_by([before, now.as_ref()], change);
            self.replan_remote(name, change);
        }
    }

    fn is_stray(&self, node: &Node) -> bool {
        let nodes = std::iter::once(node);
        self.network.as_ref().is_some_and(|network| strays(network, nodes).next().is_some())
    }

    fn replan_services(&mut self, change: &mut Change) {
        match (&self.network, self.nodes.get(&self.local)) {
            (Some(network), Some(local)) => {
                let addresses = node_port_addresses(network, local, &self.facts.addresses);
                let strays = strays(network, self.nodes.values());
                self.services.place(network, local, strays, addresses, &mut change.services);
            }
            _ => self.services.displace(&mut change.services),
        }
    }

    fn replan_local(&mut self, change: &mut Change) {
        let mut problems = Vec::new();
        let entries = match (&self.network, self.nodes.get(&self.local)) {
            (Some(network), Some(node)) => local::local(network, node, &self.facts.underlay, &mut problems),
            _ => Vec::new(),
        };
        self.replace(Origin::ClusterNetwork, entries, problems, change);
    }

    pub(crate) fn replan_remote(&mut self, name: &NodeName, change: &mut Change) {
        let (mut problems, mut keepalives) = (Vec::new(), Vec::new());
        let entries = match (&self.network, self.view(), self.nodes.get(name)) {
            (Some(network), Some(view), Some(node)) => {
                let ground = Ground { network, local: view.local, subnets: &self.facts.underlay };
                if view.is_across(node) {
                    keepalives = view.keepalives(node);
                    let routed = self.falls_back() || self.may_be_there(name);
                    across::across(&ground, view, node, routed, &mut problems)
                } else {
                    remote::remote(&ground, node, |range| self.is_routed_by_node(range), &mut problems)
                }
            }
            _ => Vec::new(),
        };
        let origin = Origin::Node(name.clone());
        self.replace(origin.clone(), entries, problems, change);
        self.keep_alive(&origin, keepalives.into());
    }

    fn replan_attachments(&mut self, change: &mut Change) {
        let ready = self.network.is_some() && self.nodes.contains_key(&self.local);
        let attachments = if ready { self.facts.attachments.clone() } else { Vec::new() };
        let first = Origin::Attachment(AttachmentId { container_id: String::new(), ifname: String::new() });
        let mut gone: BTreeSet<Origin> =
            self.parts.range(first..).map(|(origin, _)| origin.clone()).collect();
        for each in &attachments {
            let origin = Origin::Attachment(each.id.clone());
            gone.remove(&origin);
            self.replace(origin, attachment(each), Vec::new(), change);
        }
        for origin in gone {
            self.replace(origin, Vec::new(), Vec::new(), change);
        }
    }

    /// Puts an object's entries in the place of those that it had.
    fn replace(&mut self, origin: Origin, entries: Vec<Entry>, problems: Vec<Problem>, change: &mut Change) {
        let old = self.parts.remove(&origin).unwrap_or_default();
        let mut new: BTreeMap<Key, Entry> = entries.into_iter().map(|entry| (entry.key(), entry)).collect();
        let keys = new.keys().cloned().collect();
        let part = Part { keys, problems: problems.into(), keepalives: Box::default() };
        for key in old.keys {
            match new.remove(&key) {
                Some(entry) => self.claim(key, Planned { entry, origin: origin.clone() }, change),
                None => self.release(&key, &origin, change),
            }
        }
        for (key, entry) in new {
            self.claim(key, Planned { entry, origin: origin.clone() }, change);
        }
        if !part.keys.is_empty() || !part.problems.is_empty() {
            self.parts.insert(origin, part);
        }
    }

    pub(crate) fn claim(&mut self, key: Key, mut planned: Planned, change: &mut Change) {
        match self.entries.entry(key) {
            btree_map::Entry::Vacant(vacant) => {
                change.keys.insert(vacant.key().clone(), Some(planned.clone()));
                vacant.insert(planned);
            }
            btree_map::Entry::Occupied(mut occupied) => {
                let key = occupied.key().clone();
                let winner = occupied.get_mut();
                let mut losers = self.losers.remove(&key).unwrap_or_default();
                losers.retain(|loser| loser.origin != planned.origin);
                if planned.origin <= winner.origin {
                    if planned != *winner {
                        change.keys.insert(key.clone(), Some(planned.clone()));
                    }
                    mem::swap(&mut planned, winner);
                }
                // What is left has lost, or is what the same origin claimed before.
                if planned.origin != winner.origin {
                    losers.push(planned);
                    losers.sort_by(|one, other| one.origin.cmp(&other.origin));
                }
                if !losers.is_empty() {
                    self.losers.insert(key, losers);
                }
            }
        }
    }

    pub(crate) fn release(&mut self, key: &Key, origin: &Origin, change: &mut Change) {
        let Some(winner) = self.entries.get_mut(key) else { return };
        let mut losers = self.losers.remove(key).unwrap_or_default();
        if winner.origin != *origin {
            losers.retain(|loser| loser.origin != *origin);
        } else if losers.is_empty() {
            self.entries.remove(key);
            change.keys.insert(key.clone(), None);
        } else {
            *winner = losers.remove(0);
            change.keys.insert(key.clone(), Some(winner.clone()));
        }
        if !losers.is_empty() {
            self.losers.insert(key.clone(), losers);
        }
    }
}
