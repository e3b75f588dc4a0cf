//! The cluster at one moment, listed once: for commands that look and go.

use std::collections::BTreeMap;

use kube::api::{Api, ListParams};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use model::{Cluster, NetworkConfig, NodeName, Pod};

use crate::cluster_network::SINGLETON;
use crate::namespaced::{Namespaced, Tracker};
use crate::objects::{ClusterNetworkLite, EndpointSliceLite, NodeLite, ServiceLite};
use crate::pod::PodLite;
use crate::source::{OURS, PAGE, PAGE_OF_SERVICES, PAGE_OF_SLICES, chain};
use crate::track::{Event, NetworkTracker, Object, read_node};

/// Pods per page of a list, of some 5 KiB of JSON each.
const PAGE_OF_PODS: u32 = 500;

/// The cluster as the API tells it, read as an agent reads it.
#[derive(Debug)]
pub struct Snapshot {
    /// What plans are made from.
    pub cluster: Cluster,
    /// The pods that have addresses.
    pub pods: Vec<Pod>,
    /// What cannot be used as it is, and is left out.
    pub refused: Vec<Refused>,
}

/// An object that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The object.
    pub object: Object,
    /// The field, its value, and what would be right.
    pub reason: String,
}

/// The cluster could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The API does not answer, or refuses.
    #[error("cannot list {what}: {reason}")]
    List {
        /// What was asked for.
        what: String,
        /// What the API or the connection says.
        reason: String,
    },
    /// There is no network.
    #[error("there is no ClusterNetwork \"{SINGLETON}\"; apply one, see README")]
    NoNetwork,
    /// The network cannot be put into force.
    #[error("ClusterNetwork {SINGLETON} is not in force: {0}")]
    Network(String),
}

/// Lists all that packets depend on.
///
/// # Errors
/// [`SnapshotError`] if something cannot be listed, or there is no network in force.
pub async fn snapshot(client: &Client) -> Result<Snapshot, SnapshotError> {
    let mut events = Vec::new();
    let mut networks = NetworkTracker::default();
    for network in list::<ClusterNetworkLite>(client, PAGE, None).await? {
        networks.take(watcher::Event::InitApply(network), &mut events);
    }
    for node in list::<NodeLite>(client, PAGE, None).await? {
        let named = NodeName::new(node.name_any()).map_err(|error| error.to_string());
        let read = named.and_then(|name| read_node(name, &node).map_err(|error| error.to_string()));
        events.push(match read {
            Ok(node) => Event::Node(node),
            Err(reason) => Event::Refused { object: Object { kind: "Node", name: node.name_any() }, reason },
        });
    }
    namespaced::<ServiceLite>(client, PAGE_OF_SERVICES, &mut events).await?;
    namespaced::<EndpointSliceLite>(client, PAGE_OF_SLICES, &mut events).await?;
    let pods = list::<PodLite>(client, PAGE_OF_PODS, None).await?.iter().filter_map(PodLite::read).collect();
    gathered(events, pods)
}

fn gathered(events: Vec<Event>, pods: Vec<Pod>) -> Result<Snapshot, SnapshotError> {
    let mut network: Option<NetworkConfig> = None;
    let (mut nodes, mut services, mut slices) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut refused: Vec<Refused> = Vec::new();
    for event in events {
        match event {
            Event::Network(config) => network = Some(config),
            Event::Node(node) => drop(nodes.insert(node.name.clone(), node)),
            Event::Service(service) => drop(services.insert(service.name.clone(), service)),
            Event::Slice(slice) => drop(slices.insert(slice.name.clone(), slice)),
            Event::Refused { object, reason } => refused.push(Refused { object, reason }),
            _ => {}
        }
    }
    let Some(network) = network else {
        let is_it = |each: &&Refused| each.object.kind == "ClusterNetwork" && each.object.name == SINGLETON;
        return Err(match refused.iter().find(is_it) {
            Some(refused) => SnapshotError::Network(refused.reason.clone()),
            None => SnapshotError::NoNetwork,
        });
    };
    Ok(Snapshot { cluster: Cluster { network, nodes, services, slices }, pods, refused })
}

async fn namespaced<K>(client: &Client, page: u32, events: &mut Vec<Event>) -> Result<(), SnapshotError>
where
    K: Namespaced + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut tracker = Tracker::<K>::default();
    for object in list::<K>(client, page, Some(OURS)).await? {
        tracker.take(watcher::Event::InitApply(object), events);
    }
    Ok(())
}

/// Lists all objects of a kind, page by page.
pub(crate) async fn list<K>(client: &Client, page: u32, labels: Option<&str>) -> Result<Vec<K>, SnapshotError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api = Api::<K>::all(client.clone());
    let mut params = ListParams::default().limit(page);
    params.label_selector = labels.map(str::to_owned);
    let mut all = Vec::new();
    loop {
        let listed = api.list(&params).await.map_err(|error| SnapshotError::List {
            what: K::plural(&()).into_owned(),
            reason: chain(&error),
        })?;
        all.extend(listed.items);
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}
