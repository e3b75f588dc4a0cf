//! What the API holds of all nodes, for a look at the whole cluster.

use kube::{Client, ResourceExt};
use model::{Node, NodeName};

use crate::cluster_network::SINGLETON;
use crate::conversion::read_spec;
use crate::objects::{ClusterNetworkLite, NodeLite};
use crate::snapshot::{SnapshotError, list};
use crate::source::PAGE;
use crate::status::{Verdict, verdict};
use crate::track::read_node;

/// The cluster's nodes and network, as the API tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// What the `ClusterNetwork` amounts to; none if there is none.
    pub network: Option<Verdict>,
    /// The nodes, in the order of the API.
    pub nodes: Vec<NodeOverview>,
}

/// A node, as the API tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOverview {
    /// Its name.
    pub name: String,
    /// Whether its kubelet says that it is ready, or nothing yet.
    pub ready: bool,
    /// Whether an agent has said that the node's network is set up.
    pub set_up: bool,
    /// What the network takes of it, or why it takes nothing.
    pub node: Result<Node, String>,
}

/// Lists nodes and network.
///
/// # Errors
/// [`SnapshotError::List`] if they cannot be listed.
pub async fn overview(client: &Client) -> Result<Overview, SnapshotError> {
    let networks = list::<ClusterNetworkLite>(client, PAGE, None).await?;
    let ours = networks.iter().find(|network| network.name_any() == SINGLETON);
    let network = ours.map(|network| verdict(SINGLETON, read_spec(&network.spec).as_ref()));
    let nodes = list::<NodeLite>(client, PAGE, None).await?;
    Ok(Overview { network, nodes: nodes.iter().map(of_node).collect() })
}

fn of_node(lite: &NodeLite) -> NodeOverview {
    let name = lite.name_any();
    let named = NodeName::new(name.as_str()).map_err(|error| error.to_string());
    let node = named.and_then(|name| read_node(name, lite).map_err(|error| error.to_string()));
    NodeOverview { name, ready: lite.is_ready(), set_up: lite.says_network_available(), node }
}
