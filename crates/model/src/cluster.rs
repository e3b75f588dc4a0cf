//! The whole cluster.

use std::collections::BTreeMap;

use crate::{NetworkConfig, Node, NodeName};

/// All that the plan of a node's network is made from, as the Kubernetes API holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The `ClusterNetwork` in force.
    pub network: NetworkConfig,
    /// The nodes by name.
    pub nodes: BTreeMap<NodeName, Node>,
}
