//! The whole cluster.

use std::collections::BTreeMap;

use crate::{EndpointSlice, NetworkConfig, Node, NodeName, ObjectName, Service};

/// All that the plan of a node's network is made from, as the Kubernetes API holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The `ClusterNetwork` in force.
    pub network: NetworkConfig,
    /// The nodes by name.
    pub nodes: BTreeMap<NodeName, Node>,
    /// The services by name.
    pub services: BTreeMap<ObjectName, Service>,
    /// The endpoint slices by name.
    pub slices: BTreeMap<ObjectName, EndpointSlice>,
}
