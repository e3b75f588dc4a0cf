//! What the agent publishes for the CNI plugin.

use serde::{Deserialize, Serialize};

use crate::{LinkName, PodRange};

/// The content of the node file (`/run/cambric/node.json`), which the agent writes by rename and the CNI plugin
/// reads on every ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFile {
    /// The node's name.
    pub node: String,
    /// The bridge to attach pods to.
    pub bridge: LinkName,
    /// The MTU of a pod's interface, in bytes of IP packet.
    pub mtu: u32,
    /// The node's pod ranges, at most one per family, IPv4 first.
    pub pod_ranges: Vec<PodRange>,
}
