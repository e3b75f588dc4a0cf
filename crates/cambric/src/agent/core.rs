//! What the agent knows of the cluster, and what it makes of it. No I/O and no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use kernel::Unplanned;
use kube_source::{Event, Object, Watched};
use model::{
    Attachment, BgpPeer, EndpointSlice, Family, NetworkConfig, Node, NodeFile, NodeName, ObjectName,
    PerFamily, Service,
};
use plan::bgp::{self, Peers, Speaker};
use plan::services::ServicePlan;
use plan::site::Contact;
use plan::{Change, Entries, Explained, Input, Key, Planned, Planner, Problem, Underlay};

use super::contacts::Contacts;
use super::keepalives::Keepalives;

/// The kind of the network's configuration.
const NETWORK: &str = "ClusterNetwork";

/// The objects of the cluster, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    pub(crate) services: BTreeMap<ObjectName, Service>,
    pub(crate) slices: BTreeMap<ObjectName, EndpointSlice>,
    pub(crate) peers: BTreeMap<Box<str>, BgpPeer>,
    /// The labels of this node.
    pub(crate) labels: BTreeMap<String, String>,
}

impl Objects {
    /// Takes in what a list says of services and endpoint slices.
    fn take(&mut self, input: Input) {
        match input {
            Input::Service(service) => drop(self.services.insert(service.name.clone(), service)),
            Input::ServiceGone(name) => drop(self.services.remove(&name)),
            Input::Slice(slice) => drop(self.slices.insert(slice.name.clone(), slice)),
            Input::SliceGone(name) => drop(self.slices.remove(&name)),
            // Nodes and the network have rules of their own, and the rest is in no list.
            _ => {}
        }
    }
}

/// The cluster as the agent sees it, and the plan of this node.
#[derive(Debug)]
pub(crate) struct Core {
    local: NodeName,
    planner: Planner,
    peers: Peers,
    /// The one that was last asked for; none before.
    speaker: Option<Option<Arc<Speaker>>>,
    /// How often routes have begun to come from elsewhere.
    epoch: u64,
    speaker_problems: Vec<Problem>,
    /// Whether what the speaker is made from has changed since it was made.
    speaker_stale: bool,
    announced: Announced,
    contacts: Contacts,
    /// What is being listed, until the list is complete: it then takes the place of what a file said.
    listing: Option<Objects>,
    listed_network: Option<NetworkConfig>,
    restored: bool,
    refused: BTreeMap<Object, String>,
    broken: BTreeMap<Watched, String>,
    network_gone: bool,
    local_gone: bool,
    says_available: Option<bool>,
    revision: u64,
}

/// Which addresses of services BGP peers are told, as news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Announced {
    /// Others in no relation to those before.
    All,
    /// These are told now, or not any more.
    Changed(BTreeMap<IpAddr, bool>),
}

/// What an event asks the agent to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Todo {
    /// Nothing for the kernel.
    Nothing,
    /// Apply the change.
    Apply(Change),
    /// Compare everything.
    Reconcile,
}

impl Core {
    /// Knows nothing yet.
    pub(crate) fn new(local: NodeName) -> Core {
        Core {
            planner: Planner::new(local.clone()),
            peers: Peers::default(),
            speaker: None,
            epoch: 0,
            speaker_problems: Vec::new(),
            speaker_stale: true,
            announced: Announced::All,
            contacts: Contacts::default(),
            listing: Some(Objects::default()),
            listed_network: None,
            restored: false,
            refused: BTreeMap::new(),
            broken: BTreeMap::new(),
            network_gone: false,
            local_gone: false,
            says_available: None,
            revision: 0,
            local,
        }
    }

    /// Takes what an earlier run knew, to go by until the API is heard.
    pub(crate) fn restore(&mut self, network: NetworkConfig, objects: Objects) {
        if self.listing.is_some() && self.planner.network().is_none() {
            self.restored = true;
            self.rebuild(Some(network), objects);
        }
    }

    /// Whether the lists, which are about to be complete, leave out what the API has: what is refused is in none of
    /// them, and how it was when it was good is known to an earlier run only.
    pub(crate) fn needs_earlier(&self) -> bool {
        let counts = |object: &Object| object.kind != NETWORK || object.name == kube_source::SINGLETON;
        self.listing.is_some() && self.planner.network().is_none() && self.refused.keys().any(counts)
    }

    /// Takes in an event of the API.
    pub(crate) fn take(&mut self, event: Event) -> Todo {
        match event {
            Event::Refused { object, reason } => {
                tracing::warn!(%object, reason, "refused; its last good state stays in force");
                self.refused.insert(object, reason);
            }
            Event::Accepted(object) => {
                tracing::info!(%object, "not refused any more");
                self.refused.remove(&object);
            }
            Event::Disconnected { watched, error } => {
                // The same error again and again is one line.
                if self.broken.insert(watched, error.clone()).as_ref() != Some(&error) {
                    tracing::warn!(%watched, error, "the API cannot be watched; what is known stays in force");
                }
            }
            Event::Connected(watched) => {
                tracing::info!(%watched, "the API is watched again");
                self.broken.remove(&watched);
            }
            Event::LocalNode { says_available } => self.says_available = Some(says_available),
            Event::Synced => return self.synced(),
            Event::Network(network) => return self.network(network),
            Event::NetworkGone => {
                tracing::warn!("ClusterNetwork default was deleted; its last state stays in force");
                self.network_gone = true;
            }
            Event::Node(node) => return self.node(node),
            Event::NodeGone(name) => return self.node_gone(name),
            Event::Service(service) => return self.hear(Input::Service(service)),
            Event::ServiceGone(name) => return self.hear(Input::ServiceGone(name)),
            Event::Slice(slice) => return self.hear(Input::Slice(slice)),
            Event::SliceGone(name) => return self.hear(Input::SliceGone(name)),
            Event::Peer(peer) => match &mut self.listing {
                Some(listing) => drop(listing.peers.insert(peer.name.clone(), peer)),
                None => self.change_peers(|peers| drop(peers.peers.insert(peer.name.clone(), peer))),
            },
            Event::PeerGone(name) => match &mut self.listing {
                Some(listing) => drop(listing.peers.remove(&name)),
                None => self.change_peers(|peers| drop(peers.peers.remove(&name))),
            },
            Event::LocalLabels(labels) => self.change_peers(|peers| peers.labels = labels),
            Event::Passwords(passwords) => self.change_peers(|peers| peers.passwords = passwords),
        }
        Todo::Nothing
    }

    fn change_peers(&mut self, change: impl FnOnce(&mut Peers)) {
        change(&mut self.peers);
        self.speaker_stale = true;
        self.revision += 1;
    }

    /// Whether what the BGP speaker depends on has changed since it was last asked for.
    pub(crate) fn is_speaker_stale(&self) -> bool {
        self.speaker_stale
    }

    /// The BGP speaker that this node should be, if it is another than when this was last asked.
    pub(crate) fn new_speaker(&mut self) -> Option<Option<Arc<Speaker>>> {
        if !std::mem::take(&mut self.speaker_stale) {
            return None;
        }
        self.speaker_problems.clear();
        let speaker = match (self.planner.network(), self.planner.local_node()) {
            (Some(network), Some(local)) => {
                let underlay = &self.planner.facts().underlay;
                let view =
                    bgp::View { network, nodes: self.planner.nodes(), local, underlay, peers: &self.peers };
                let speaker = bgp::speaker(view, &mut self.speaker_problems);
                speaker.map(|speaker| Speaker { heard: self.planner.heard(), ..speaker })
            }
            _ => None,
        };
        if self.speaker.as_ref().is_some_and(|before| before.as_deref() == speaker.as_ref()) {
            return None;
        }
        let speaker = speaker.map(Arc::new);
        self.speaker = Some(speaker.clone());
        Some(speaker)
    }

    /// How often routes have begun to come from elsewhere: what was heard for an earlier epoch says nothing of this one.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes in what routes say of who tells them.
    pub(crate) fn hear_contacts(&mut self, contacts: Vec<(IpNet, Option<Contact>)>) {
        for (prefix, contact) in contacts {
            self.contacts.hear(prefix, contact);
        }
    }

    /// What routes have said of who tells them.
    pub(crate) fn contacts(&self) -> &Contacts {
        &self.contacts
    }

    /// Goes by what routes have told an earlier run, until BGP has converged.
    pub(crate) fn restore_contacts(&mut self, told: BTreeMap<IpNet, Contact>) {
        self.contacts.restore(told);
    }

    /// BGP has converged: what only an earlier run was told is no more.
    pub(crate) fn forget_earlier_contacts(&mut self) {
        self.contacts.converged();
    }

    /// What of it says who is there beyond NAT gateways, and changes the plan.
    pub(crate) fn new_contacts(&mut self) -> Change {
        let mut change = Change::default();
        if self.planner.has_sites() {
            for (name, contact) in self.contacts.news(
                self.planner.local_node(),
                self.planner.nodes(),
                &self.planner.facts().contacts,
            ) {
                change.extend(self.change_plan(Input::Contact(name, contact)));
            }
        }
        change
    }

    /// Whether there are nodes behind NAT gateways.
    pub(crate) fn has_sites(&self) -> bool {
        self.planner.has_sites()
    }

    /// The outer addresses that this node hears.
    pub(crate) fn heard(&self) -> &BTreeSet<(IpAddr, Family)> {
        &self.planner.facts().contacts.heard
    }

    /// What is to be sent again and again, so that tunnels through gateways stay open.
    pub(crate) fn keepalives(&self) -> Keepalives {
        if self.has_sites() { self.planner.keepalives() } else { Keepalives::new() }
    }

    /// Which addresses of services BGP peers are to be told, as news since this was last asked.
    pub(crate) fn new_announced(&mut self) -> Announced {
        std::mem::replace(&mut self.announced, Announced::Changed(BTreeMap::new()))
    }

    /// All addresses of services that BGP peers are to be told.
    pub(crate) fn announced(&self) -> &BTreeSet<IpAddr> {
        &self.planner.services().announced
    }

    /// The BGP peers, and what is known for them.
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Takes in what the kernel says of the node. The change is part of what a comparison would find.
    pub(crate) fn observe(&mut self, input: Input) -> Change {
        self.change_plan(input)
    }

    fn change_plan(&mut self, input: Input) -> Change {
        // Services and pods come and go all the time, and with whom this node speaks does not depend on them.
        self.speaker_stale |=
            matches!(input, Input::Network(_) | Input::Node(_) | Input::NodeGone(_) | Input::Underlay(_));
        self.speaker_stale |=
            matches!(input, Input::Heard(_) | Input::Contact(..)) && self.planner.has_sites();
        self.contacts.stale |= matches!(input, Input::Network(_) | Input::Node(_) | Input::NodeGone(_));
        if let Input::Network(network) = &input {
            self.note_source(network);
        }
        let mut change = self.planner.update(input);
        if let Announced::Changed(changed) = &mut self.announced {
            changed.append(&mut change.services.announced);
        }
        change
    }

    /// When routes come from elsewhere, who speaks, or says that there is nobody, is asked anew for all that there is to
    /// learn.
    fn note_source(&mut self, network: &NetworkConfig) {
        if self.planner.network().is_some_and(|before| before.route_source != network.route_source) {
            self.speaker = None;
            self.epoch += 1;
        }
    }

    /// Whether there is a plan: without one nothing may be touched, least of all what an earlier run has made.
    pub(crate) fn has_plan(&self) -> bool {
        let known = self.planner.network().is_some() && self.planner.local_node().is_some();
        known && (self.listing.is_none() || self.restored)
    }

    /// Why there is no plan, for the operator.
    pub(crate) fn missing(&self) -> Option<String> {
        if self.has_plan() {
            return None;
        }
        if let Some((watched, error)) = self.broken.iter().next() {
            return Some(format!("the API cannot be watched ({watched}): {error}"));
        }
        if self.listing.is_some() {
            return Some(
                "the API has not listed all nodes, ClusterNetworks, services and endpoints yet".to_owned(),
            );
        }
        if self.planner.network().is_none() {
            return Some(match self.refusal(NETWORK, kube_source::SINGLETON) {
                Some(reason) => format!("{NETWORK} {}: {reason}", kube_source::SINGLETON),
                None => {
                    "there is no ClusterNetwork named \"default\"; create one to say what the network should be"
                        .to_owned()
                }
            });
        }
        Some(match self.refusal("Node", &self.local) {
            Some(reason) => reason.clone(),
            None => format!(
                "the API has no Node {}; see that the kubelet registers it, or name it with --node-name",
                self.local
            ),
        })
    }

    /// What is planned under a key.
    pub(crate) fn planned(&self, key: &Key) -> Option<&Planned> {
        self.planner.planned(key)
    }

    /// What the kernel should hold.
    pub(crate) fn entries(&self) -> &Entries {
        self.planner.entries()
    }

    /// The planned routes with their reasons.
    pub(crate) fn routes(&self) -> impl Iterator<Item = Explained<'_>> {
        self.planner.routes()
    }

    /// Changes whenever the routes or their reasons do.
    pub(crate) fn routes_revision(&self) -> u64 {
        self.planner.routes_revision()
    }

    /// What of ours stays in the kernel though the plan does not have it.
    pub(crate) fn unplanned(&self) -> Unplanned {
        match self.planner.retains_learned(!self.peers.peers.is_empty()) {
            true => Unplanned::Learned,
            false => Unplanned::Nothing,
        }
    }

    /// What the CNI plugin is to be told; `None` while the node has no pod range.
    pub(crate) fn node_file(&self) -> Option<NodeFile> {
        let (network, node) = (self.planner.network()?, self.planner.local_node()?);
        plan::node_file(network, node, &self.planner.facts().underlay)
    }

    /// All that is wrong, for the operator.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.restored && self.listing.is_some() {
            problems
                .push("the API has not been heard since the start; the last known state is kept".to_owned());
        }
        if self.network_gone {
            problems.push("ClusterNetwork default was deleted; its last state stays in force".to_owned());
        }
        if self.local_gone {
            problems.push(format!("Node {} was deleted; its last state stays in force", self.local));
        }
        problems.extend(self.broken.iter().map(|(watched, error)| format!("watching {watched}: {error}")));
        problems.extend(self.refused.iter().map(
            |(object, reason)| match reason.contains(&object.to_string()) {
                true => reason.clone(),
                false => format!("{object}: {reason}"),
            },
        ));
        problems.extend(self.planner.problems().iter().map(ToString::to_string));
        problems.extend(self.speaker_problems.iter().map(ToString::to_string));
        problems
    }

    /// Whether the Node object does not say yet that its network is available.
    pub(crate) fn wants_condition(&self) -> bool {
        self.says_available == Some(false) && !self.local_gone
    }

    /// The configuration in force.
    pub(crate) fn network_in_force(&self) -> Option<&NetworkConfig> {
        self.planner.network()
    }

    /// This node.
    pub(crate) fn local_node(&self) -> Option<&Node> {
        self.planner.local_node()
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> &BTreeMap<NodeName, Node> {
        self.planner.nodes()
    }

    /// All services.
    pub(crate) fn known_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.planner.known_services()
    }

    /// All endpoint slices.
    pub(crate) fn known_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.planner.known_slices()
    }

    /// The services' part of the plan.
    pub(crate) fn services(&self) -> &ServicePlan {
        self.planner.services()
    }

    /// Changes whenever the network or an object does.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The pods' interfaces on the node.
    pub(crate) fn attachments(&self) -> &[Attachment] {
        &self.planner.facts().attachments
    }

    /// The node's own addresses.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.planner.facts().addresses
    }

    /// The links that have the node's underlay addresses.
    pub(crate) fn underlay(&self) -> &PerFamily<Underlay> {
        &self.planner.facts().underlay
    }

    /// Why an object is refused, if it is.
    fn refusal(&self, kind: &'static str, name: &(impl ToString + ?Sized)) -> Option<&String> {
        self.refused.get(&Object { kind, name: name.to_string() })
    }

    /// The lists are complete. What they do not have is gone, except for what is refused and what a plan cannot be
    /// without.
    fn synced(&mut self) -> Todo {
        let Some(mut objects) = self.listing.take() else { return Todo::Nothing };
        tracing::info!(
            nodes = objects.nodes.len(),
            services = objects.services.len(),
            slices = objects.slices.len(),
            "the API has listed all objects"
        );
        let network = self.listed_network.take().or_else(|| {
            let refused = self.refusal(NETWORK, kube_source::SINGLETON).is_some();
            self.network_gone = !refused && self.planner.network().is_some();
            self.planner.network().cloned()
        });
        self.keep_refused(&mut objects);
        if !objects.nodes.contains_key(&self.local)
            && let Some(node) = self.planner.local_node()
        {
            self.local_gone = true;
            objects.nodes.insert(self.local.clone(), node.clone());
        }
        self.rebuild(network, objects);
        Todo::Reconcile
    }

    /// Of what is refused now the last good state stays.
    fn keep_refused(&self, objects: &mut Objects) {
        if self.refused.is_empty() {
            return;
        }
        for node in self.planner.nodes().values() {
            if self.refusal("Node", &node.name).is_some() {
                objects.nodes.entry(node.name.clone()).or_insert_with(|| node.clone());
            }
        }
        for service in self.planner.known_services() {
            if self.refusal("Service", &service.name).is_some() {
                objects.services.entry(service.name.clone()).or_insert_with(|| Service::clone(service));
            }
        }
        for (name, peer) in &self.peers.peers {
            if self.refusal("BgpPeer", name).is_some() {
                objects.peers.entry(name.clone()).or_insert_with(|| peer.clone());
            }
        }
        for slice in self.planner.known_slices() {
            if self.refusal("EndpointSlice", &slice.name).is_some() {
                objects.slices.entry(slice.name.clone()).or_insert_with(|| EndpointSlice::clone(slice));
            }
        }
    }

    fn network(&mut self, network: NetworkConfig) -> Todo {
        if self.listing.is_some() {
            self.listed_network = Some(network);
            return Todo::Nothing;
        }
        self.network_gone = false;
        self.update(Input::Network(network))
    }

    fn node(&mut self, node: Node) -> Todo {
        if let Some(listing) = &mut self.listing {
            listing.nodes.insert(node.name.clone(), node);
            return Todo::Nothing;
        }
        if node.name == self.local {
            self.local_gone = false;
        }
        self.update(Input::Node(node))
    }

    fn node_gone(&mut self, name: NodeName) -> Todo {
        if let Some(listing) = &mut self.listing {
            listing.nodes.remove(&name);
            return Todo::Nothing;
        }
        if name == self.local {
            // Without it the plan would be empty, and pods still run here.
            tracing::warn!(node = %name, "this node was deleted from the API; its last state stays in force");
            self.local_gone = true;
            self.says_available = None;
            return Todo::Nothing;
        }
        self.update(Input::NodeGone(name))
    }

    /// Goes to the list that is under way, or else into the plan.
    fn hear(&mut self, input: Input) -> Todo {
        match &mut self.listing {
            Some(listing) => {
                listing.take(input);
                Todo::Nothing
            }
            None => self.update(input),
        }
    }

    fn update(&mut self, input: Input) -> Todo {
        self.revision += 1;
        Todo::Apply(self.change_plan(input))
    }

    fn rebuild(&mut self, network: Option<NetworkConfig>, objects: Objects) {
        let Objects { mut nodes, services, slices, peers, labels } = objects;
        self.peers.peers = peers;
        if self.peers.labels.is_empty() {
            self.peers.labels = labels;
        }
        self.speaker_stale = true;
        self.announced = Announced::All;
        if let Some(network) = &network {
            self.note_source(network);
        }
        let mut planner = self.planner.start_over();
        // One by one, and what all depend on first: the other way round everything would be planned twice, and the
        // change of the last step would hold a copy of all of it.
        if let Some(network) = network {
            planner.update(Input::Network(network));
        }
        let local = nodes.remove(&self.local);
        for node in local.into_iter().chain(nodes.into_values()) {
            planner.update(Input::Node(node));
        }
        self.contacts.stale = true;
        // Slices wait for their services, so that each service is planned once.
        for slice in slices.into_values() {
            planner.update(Input::Slice(slice));
        }
        for service in services.into_values() {
            planner.update(Input::Service(service));
        }
        self.planner = planner;
        self.revision += 1;
    }
}

#[cfg(test)]
mod tests;
