//! What the watches say, as changes of the model. No I/O: watch events go in, events come out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use kube::ResourceExt;
use kube::runtime::watcher;
use model::{
    BgpPeer, EndpointSlice, NetworkConfig, Node, NodeError, NodeName, ObjectName, PasswordState,
    REFLECTOR_LABEL, SITE_LABEL, SecretKey, Service,
};

use crate::cluster_network::SINGLETON;
use crate::conversion::read_spec;
use crate::objects::{ClusterNetworkLite, NodeLite};
use crate::status::{Verdict, is_judged, verdict};

/// A change of the cluster, as far as the network is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All watches have listed all that there was: every event for it came before. Comes once.
    Synced,
    /// The configuration of the network is new or changed.
    Network(NetworkConfig),
    /// The `ClusterNetwork` was deleted.
    NetworkGone,
    /// A node is new or changed.
    Node(Node),
    /// A node was deleted.
    NodeGone(NodeName),
    /// A service is new or changed.
    Service(Service),
    /// A service was deleted, or is none of ours any more.
    ServiceGone(ObjectName),
    /// An endpoint slice is new or changed.
    Slice(EndpointSlice),
    /// An endpoint slice was deleted, or is none of ours any more.
    SliceGone(ObjectName),
    /// A BGP peer is new or changed.
    Peer(BgpPeer),
    /// A BGP peer was deleted.
    PeerGone(Box<str>),
    /// The passwords of the peers that this node is to speak with, as far as they are known.
    Passwords(BTreeMap<SecretKey, PasswordState>),
    /// A node's kubelet says that it is ready, or is not any more. Before, a node is taken to be ready.
    NodeReady(NodeName, bool),
    /// All labels of this node are others.
    LocalLabels(BTreeMap<String, String>),
    /// The Node object of this node was seen.
    LocalNode {
        /// Whether its condition `NetworkUnavailable` is `False` and written by us.
        says_available: bool,
    },
    /// An object cannot be used as it is; what it last said that could be used stays in force.
    Refused {
        /// The object.
        object: Object,
        /// The field, its value, and what would be right.
        reason: String,
    },
    /// An object that was refused can be used again, or is gone.
    Accepted(Object),
    /// A watch is broken and will be tried again; what is known stays in force.
    Disconnected {
        /// The watch.
        watched: Watched,
        /// What the API or the connection says.
        error: String,
    },
    /// A watch that was broken works again.
    Connected(Watched),
}

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Watched {
    /// Nodes.
    Nodes,
    /// `ClusterNetwork`s.
    ClusterNetworks,
    /// Services.
    Services,
    /// Endpoint slices.
    EndpointSlices,
    /// `BgpPeer`s.
    BgpPeers,
    /// The Secrets that the passwords of BGP peers are in.
    Secrets,
}

impl Watched {
    /// All that have to be listed before anything is done.
    pub(crate) const ALL: [Watched; 5] = [
        Watched::Nodes,
        Watched::ClusterNetworks,
        Watched::Services,
        Watched::EndpointSlices,
        Watched::BgpPeers,
    ];
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Watched::Nodes => "nodes",
            Watched::ClusterNetworks => "clusternetworks",
            Watched::Services => "services",
            Watched::EndpointSlices => "endpointslices",
            Watched::BgpPeers => "bgppeers",
            Watched::Secrets => "secrets",
        })
    }
}

/// An object of the cluster by kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Object {
    /// Its kind.
    pub kind: &'static str,
    /// Its name; with its namespace before it, as `default/web`, if it lives in one.
    pub name: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The objects that are refused now, so that each is reported once per reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals(pub(crate) BTreeMap<String, String>);

impl Refusals {
    pub(crate) fn refuse(&mut self, object: Object, reason: String, out: &mut Vec<Event>) {
        if self.0.get(&object.name) != Some(&reason) {
            self.0.insert(object.name.clone(), reason.clone());
            out.push(Event::Refused { object, reason });
        }
    }

    pub(crate) fn accept(&mut self, object: Object, out: &mut Vec<Event>) {
        if self.0.remove(&object.name).is_some() {
            out.push(Event::Accepted(object));
        }
    }
}

/// Which objects a list that is under way has named; what it has not named when it ends is gone.
#[derive(Debug, Default)]
pub(crate) struct Listing(pub(crate) HashSet<String>);

impl Listing {
    pub(crate) fn gone<'a>(&mut self, known: impl Iterator<Item = &'a str>) -> Vec<String> {
        let listed = std::mem::take(&mut self.0);
        known.filter(|name| !listed.contains(*name)).map(str::to_owned).collect()
    }
}

/// The nodes as last seen.
#[derive(Debug)]
pub(crate) struct NodeTracker {
    local: NodeName,
    known: HashMap<NodeName, Node>,
    refusals: Refusals,
    listing: Listing,
    unready: HashSet<NodeName>,
    local_says_available: Option<bool>,
    local_labels: Option<BTreeMap<String, String>>,
}

impl NodeTracker {
    pub(crate) fn new(local: NodeName) -> NodeTracker {
        NodeTracker {
            local,
            known: HashMap::new(),
            refusals: Refusals::default(),
            listing: Listing::default(),
            unready: HashSet::new(),
            local_says_available: None,
            local_labels: None,
        }
    }

    /// Takes in a watch event; says whether it completes a list.
    pub(crate) fn take(&mut self, event: watcher::Event<NodeLite>, out: &mut Vec<Event>) -> bool {
        match event {
            // A list that broke off begins anew.
            watcher::Event::Init => self.listing = Listing::default(),
            watcher::Event::InitApply(node) => {
                self.listing.0.insert(node.name_any());
                self.apply(&node, out);
            }
            watcher::Event::Apply(node) => self.apply(&node, out),
            watcher::Event::Delete(node) => self.delete(node.name_any(), out),
            watcher::Event::InitDone => {
                let known = self.known.keys().map(NodeName::as_str);
                let refused = self.refusals.0.keys().map(String::as_str);
                for name in self.listing.gone(known.chain(refused)) {
                    self.delete(name, out);
                }
                return true;
            }
        }
        false
    }

    fn apply(&mut self, lite: &NodeLite, out: &mut Vec<Event>) {
        let object = Object { kind: "Node", name: lite.name_any() };
        let name = match NodeName::new(object.name.clone()) {
            Ok(name) => name,
            Err(error) => return self.refusals.refuse(object, error.to_string(), out),
        };
        let local = name == self.local;
        let changed = match lite.is_ready() {
            true => self.unready.remove(&name),
            false => self.unready.insert(name.clone()),
        };
        if changed {
            out.push(Event::NodeReady(name.clone(), lite.is_ready()));
        }
        match read_node(name, lite) {
            Ok(node) => {
                self.refusals.accept(object, out);
                // Most changes of a Node are heartbeats and images, which do not concern the network.
                if self.known.get(&node.name) != Some(&node) {
                    self.known.insert(node.name.clone(), node.clone());
                    out.push(Event::Node(node));
                }
            }
            Err(error) => self.refusals.refuse(object, error.to_string(), out),
        }
        if local {
            let labels = lite.metadata.labels.clone().unwrap_or_default();
            if self.local_labels.as_ref() != Some(&labels) {
                self.local_labels = Some(labels.clone());
                out.push(Event::LocalLabels(labels));
            }
            let says_available = lite.says_network_available();
            if self.local_says_available.replace(says_available) != Some(says_available) {
                out.push(Event::LocalNode { says_available });
            }
        }
    }

    fn delete(&mut self, name: String, out: &mut Vec<Event>) {
        if let Ok(name) = NodeName::new(name.clone()) {
            if name == self.local {
                self.local_says_available = None;
            }
            self.unready.remove(&name);
            if self.known.remove(&name).is_some() {
                out.push(Event::NodeGone(name));
            }
        }
        self.refusals.accept(Object { kind: "Node", name }, out);
    }
}

/// What a Node says of itself.
pub(crate) fn read_node(name: NodeName, lite: &NodeLite) -> Result<Node, NodeError> {
    let node = Node::parse(name, lite.internal_ips(), lite.spec.pod_cidrs.iter().map(String::as_str))?
        .with_external(lite.external_ips())?
        .with_labels(lite.label(SITE_LABEL), lite.label(REFLECTOR_LABEL))?;
    Ok(Node { zone: lite.zone().map(Box::from), ..node })
}

/// A `ClusterNetwork` whose status says nothing about its generation yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unjudged {
    pub(crate) generation: Option<i64>,
    pub(crate) resource_version: Option<String>,
    pub(crate) verdict: Verdict,
}

/// The `ClusterNetwork`s as last seen.
#[derive(Debug, Default)]
pub(crate) struct NetworkTracker {
    known: Option<NetworkConfig>,
    names: HashSet<String>,
    refusals: Refusals,
    listing: Listing,
    /// Those whose status waits to be written, by name.
    pub(crate) unjudged: BTreeMap<String, Unjudged>,
}

impl NetworkTracker {
    /// Takes in a watch event; says whether it completes a list.
    pub(crate) fn take(&mut self, event: watcher::Event<ClusterNetworkLite>, out: &mut Vec<Event>) -> bool {
        match event {
            watcher::Event::Init => self.listing = Listing::default(),
            watcher::Event::InitApply(object) => {
                self.listing.0.insert(object.name_any());
                self.apply(&object, out);
            }
            watcher::Event::Apply(object) => self.apply(&object, out),
            watcher::Event::Delete(object) => self.delete(object.name_any(), out),
            watcher::Event::InitDone => {
                for name in self.listing.gone(self.names.iter().map(String::as_str)) {
                    self.delete(name, out);
                }
                return true;
            }
        }
        false
    }

    fn apply(&mut self, lite: &ClusterNetworkLite, out: &mut Vec<Event>) {
        let object = Object { kind: "ClusterNetwork", name: lite.name_any() };
        let name = object.name.clone();
        self.names.insert(name.clone());
        let network = read_spec(&lite.spec);
        let verdict = verdict(&name, network.as_ref());
        match (name.as_str(), network) {
            (SINGLETON, Ok(network)) => {
                self.refusals.accept(object, out);
                if self.known.as_ref() != Some(&network) {
                    self.known = Some(network.clone());
                    out.push(Event::Network(network));
                }
            }
            (SINGLETON, Err(error)) => self.refusals.refuse(object, error.to_string(), out),
            _ => self.refusals.refuse(object, verdict.message.clone(), out),
        }
        let generation = lite.metadata.generation;
        if is_judged(&lite.status, generation) {
            self.unjudged.remove(&name);
        } else {
            let resource_version = lite.metadata.resource_version.clone();
            self.unjudged.insert(name, Unjudged { generation, resource_version, verdict });
        }
    }

    fn delete(&mut self, name: String, out: &mut Vec<Event>) {
        self.names.remove(&name);
        self.unjudged.remove(&name);
        if name == SINGLETON && self.known.take().is_some() {
            out.push(Event::NetworkGone);
        }
        self.refusals.accept(Object { kind: "ClusterNetwork", name }, out);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, ip: &str, cidr: &str) -> NodeLite {
        serde_json::from_value(json!({
            "metadata": {"name": name, "resourceVersion": "1"},
            "spec": {"podCIDRs": [cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
        }))
        .unwrap()
    }

    fn network(name: &str, generation: i64, spec: &Value, status: &Value) -> ClusterNetworkLite {
        let metadata = json!({"name": name, "resourceVersion": "1", "generation": generation});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
    }

    fn nodes() -> NodeTracker {
        NodeTracker::new(NodeName::new("a").unwrap())
    }

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn feed(tracker: &mut NodeTracker, events: Vec<watcher::Event<NodeLite>>) -> Vec<Event> {
        let mut out = Vec::new();
        for event in events {
            tracker.take(event, &mut out);
        }
        out
    }

    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    #[test]
    fn a_relist_says_only_what_is_different() {
        let mut tracker = nodes();
        let (b, c) = (node("b", "192.0.2.2", "10.244.2.0/24"), node("c", "2001:db8::3", "fd00:3::/64"));
        let first = vec![Init, InitApply(b.clone()), InitApply(c), InitDone];
        assert_eq!(feed(&mut tracker, first).len(), 2);
        // The connection is lost, c is deleted and d comes meanwhile, and the history is compacted.
        let d = node("d", "192.0.2.4", "10.244.4.0/24");
        let events = feed(&mut tracker, vec![Init, InitApply(b), InitApply(d), InitDone]);
        assert!(
            matches!(&events[..], [Event::Node(d), Event::NodeGone(c)]
            if d.name == name("d") && *c == name("c")),
            "{events:?}"
        );
    }

    #[test]
    fn a_list_that_breaks_off_removes_nothing() {
        let mut tracker = nodes();
        let (b, c) = (node("b", "192.0.2.2", "10.244.2.0/24"), node("c", "192.0.2.3", "10.244.3.0/24"));
        feed(&mut tracker, vec![Init, InitApply(b.clone()), InitApply(c.clone()), InitDone]);
        assert_eq!(feed(&mut tracker, vec![Init, InitApply(b.clone()), Init]), []);
        assert_eq!(feed(&mut tracker, vec![InitApply(b), InitApply(c), InitDone]), []);
    }

    #[test]
    fn heartbeats_are_no_changes() {
        let mut tracker = nodes();
        let b = node("b", "192.0.2.2", "10.244.2.0/24");
        assert_eq!(feed(&mut tracker, vec![Apply(b.clone())]).len(), 1);
        assert_eq!(feed(&mut tracker, vec![Apply(b.clone()), Apply(b)]), []);
    }

    #[test]
    fn the_zone_of_a_node_is_followed() {
        let mut tracker = nodes();
        let mut b = node("b", "192.0.2.2", "10.244.2.0/24");
        feed(&mut tracker, vec![Apply(b.clone())]);
        b.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), "east".to_owned())].into());
        let events = feed(&mut tracker, vec![Apply(b.clone()), Apply(b)]);
        assert!(matches!(&events[..], [Event::Node(b)] if b.zone.as_deref() == Some("east")), "{events:?}");
    }

    #[test]
    fn what_labels_and_outer_addresses_say_of_a_node_is_followed() {
        let mut tracker = nodes();
        let label = |key: &str, value: &str| Some([(key.to_owned(), value.to_owned())].into());
        let mut b = node("b", "10.0.0.2", "10.244.2.0/24");
        b.metadata.labels = label("cambric.io/site", "east");
        b.status.addresses.extend(
            serde_json::from_value::<Vec<_>>(json!([{"type": "ExternalIP", "address": "198.51.100.1"}]))
                .unwrap(),
        );
        let events = feed(&mut tracker, vec![Apply(b.clone())]);
        let [Event::Node(read)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(read.site.as_deref(), Some("east"));
        assert_eq!(read.external.v4, Some("198.51.100.1".parse().unwrap()));
        b.metadata.labels = label("cambric.io/route-reflector", "1.0.0.1");
        let events = feed(&mut tracker, vec![Apply(b.clone())]);
        assert!(
            matches!(&events[..], [Event::Node(b)] if b.site.is_none() && b.reflector.is_some()),
            "{events:?}"
        );
        b.metadata.labels = label("cambric.io/route-reflector", "no");
        let events = feed(&mut tracker, vec![Apply(b)]);
        let [Event::Refused { reason, .. }] = &events[..] else { panic!("{events:?}") };
        assert!(
            reason.starts_with("Node b: label cambric.io/route-reflector: \"no\" is no cluster id"),
            "{reason}"
        );
    }

    #[test]
    fn the_labels_of_the_own_node_are_followed() {
        let mut tracker = nodes();
        let mut own = node("a", "192.0.2.1", "10.244.1.0/24");
        own.metadata.labels = Some([("rack".to_owned(), "1".to_owned())].into());
        let events = feed(&mut tracker, vec![Apply(own.clone())]);
        assert!(
            events.contains(&Event::LocalLabels([("rack".to_owned(), "1".to_owned())].into())),
            "{events:?}"
        );
        own.metadata.labels = None;
        assert_eq!(
            feed(&mut tracker, vec![Apply(own.clone()), Apply(own)]),
            [Event::LocalLabels(BTreeMap::new())]
        );
    }

    #[test]
    fn a_bad_node_keeps_its_last_good_state() {
        let mut tracker = nodes();
        feed(&mut tracker, vec![Apply(node("b", "192.0.2.2", "10.244.2.0/24"))]);
        let bad = node("b", "192.0.2.2", "10.244.2.0/31");
        let events = feed(&mut tracker, vec![Apply(bad.clone()), Apply(bad)]);
        let [Event::Refused { object, reason }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(object.to_string(), "Node b");
        assert!(reason.contains("spec.podCIDRs: pod range 10.244.2.0/31"), "{reason}");
        // The same as before: accepted, and nothing to do.
        let events = feed(&mut tracker, vec![Apply(node("b", "192.0.2.2", "10.244.2.0/24"))]);
        assert_eq!(events, [Event::Accepted(object.clone())]);
    }

    #[test]
    fn a_refused_node_that_goes_is_forgotten() {
        let mut tracker = nodes();
        let bad = node("b", "192.0.2.300", "10.244.2.0/24");
        feed(&mut tracker, vec![Init, InitApply(bad.clone()), InitDone]);
        let events = feed(&mut tracker, vec![Init, InitDone]);
        assert_eq!(events, [Event::Accepted(Object { kind: "Node", name: "b".to_owned() })]);
        feed(&mut tracker, vec![Apply(bad.clone())]);
        assert_eq!(feed(&mut tracker, vec![Delete(bad)]).len(), 1);
    }

    #[test]
    fn who_is_ready_is_followed() {
        let mut tracker = nodes();
        let ready = |status: &str| {
            let mut node = node("b", "192.0.2.2", "10.244.2.0/24");
            node.status.conditions =
                serde_json::from_value(json!([{"type": "Ready", "status": status}])).unwrap();
            node
        };
        let event = |ready| Event::NodeReady(NodeName::new("b").unwrap(), ready);
        assert!(feed(&mut tracker, vec![Apply(ready("Unknown"))]).contains(&event(false)));
        assert_eq!(feed(&mut tracker, vec![Apply(ready("False")), Apply(ready("True"))]), [event(true)]);
        assert_eq!(feed(&mut tracker, vec![Apply(ready("True"))]), []);
    }

    #[test]
    fn the_condition_of_the_own_node_is_followed() {
        let mut tracker = nodes();
        let mut own = node("a", "192.0.2.1", "10.244.1.0/24");
        let events = feed(&mut tracker, vec![Apply(own.clone())]);
        assert_eq!(events[1], Event::LocalLabels(BTreeMap::new()));
        assert_eq!(events[2], Event::LocalNode { says_available: false });
        own.status.conditions = serde_json::from_value(json!([
            {"type": "NetworkUnavailable", "status": "False", "reason": "CambricReady"},
        ]))
        .unwrap();
        let events = feed(&mut tracker, vec![Apply(own.clone()), Apply(own.clone())]);
        assert_eq!(events, [Event::LocalNode { says_available: true }]);
        // Deleted and registered again, the node needs it again.
        feed(&mut tracker, vec![Delete(own.clone())]);
        own.status.conditions.clear();
        assert!(feed(&mut tracker, vec![Apply(own)]).contains(&Event::LocalNode { says_available: false }));
    }

    #[test]
    fn a_bad_network_keeps_the_last_good_one_and_waits_for_its_status() {
        let mut tracker = NetworkTracker::default();
        let mut out = Vec::new();
        let good = json!({"podRanges": ["10.244.0.0/16"]});
        tracker.take(Apply(network("default", 1, &good, &Value::Null)), &mut out);
        assert!(matches!(&out[..], [Event::Network(_)]), "{out:?}");
        assert!(tracker.unjudged["default"].verdict.ready);
        let judged = json!({"observedGeneration": 1, "conditions": [{
            "type": "Ready", "status": "True", "reason": "InForce", "message": "",
            "lastTransitionTime": "2030-01-01T00:00:00Z",
        }]});
        out.clear();
        tracker.take(Apply(network("default", 1, &good, &judged)), &mut out);
        assert!(out.is_empty() && tracker.unjudged.is_empty(), "{out:?}");

        let bad = json!({"podRanges": ["10.244.0.0/16"], "mtu": 5});
        tracker.take(Apply(network("default", 2, &bad, &judged)), &mut out);
        assert!(
            matches!(&out[..], [Event::Refused { reason, .. }] if reason.contains("spec.mtu")),
            "{out:?}"
        );
        assert!(!tracker.unjudged["default"].verdict.ready);
        assert_eq!(tracker.unjudged["default"].generation, Some(2));
    }

    #[test]
    fn only_the_default_network_is_in_force() {
        let mut tracker = NetworkTracker::default();
        let mut out = Vec::new();
        let other = network("other", 1, &json!({"podRanges": ["10.9.0.0/16"]}), &Value::Null);
        assert!(!tracker.take(Init, &mut out));
        tracker.take(InitApply(other), &mut out);
        assert!(tracker.take(InitDone, &mut out));
        assert!(matches!(&out[..], [Event::Refused { reason, .. }] if reason.contains("other")), "{out:?}");
        assert_eq!(tracker.unjudged["other"].verdict.reason, "WrongName");
        out.clear();
        tracker.take(Init, &mut out);
        tracker.take(InitDone, &mut out);
        assert!(matches!(&out[..], [Event::Accepted(_)]) && tracker.unjudged.is_empty(), "{out:?}");
    }
}
