//! Names of labs, of their namespaces, and of their files.
//!
//! ```text
//! /run/cambric-lab/<lab>/            0700
//!   topology.yaml                    what the lab was made from
//!   state.json                       what was made, see the state module
//!   kubeconfig                       for kubectl in the root namespace
//!   bin/cambric                      the CNI plugin
//!   api/                             the API's database, keys and port
//!   nodes/<node>/kubeconfig          for the agent and the kubelet, 127.0.0.1:6443 in the node's namespace
//!   nodes/<node>/run/                the agent's run directory
//!   nodes/<node>/cni-conf/           network configuration lists, written by the agent
//!   nodes/<node>/cni-data/           address allocation, written by the plugin
//!   nodes/<node>/pods/               the kubelet's pods
//!   nodes/<node>/log/                agent.log, kubelet.log and what the pods print
//!   log/                             up.log, api.log, and bgp-<router>.log of routers that speak BGP
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the labs' directories are.
pub const LABS_DIR: &str = "/run/cambric-lab";

/// The longest name of a lab, in bytes.
pub const MAX_LAB_NAME: usize = 20;

/// The longest name of a node, router, NAT gateway, outside host or subnet, in bytes: the ports of the fabric are
/// named after them and a number, and an interface's name has at most 15 bytes.
pub const MAX_MEMBER_NAME: usize = 12;

/// The port of the API in every node's namespace.
pub const NODE_API_PORT: u16 = 6443;

/// The port of the agent's health and metrics server in its node's namespace.
pub const AGENT_PORT: u16 = 9469;

/// The name that no member of a lab can have: the namespace with the subnets' bridges has it.
pub const FABRIC: &str = "fabric";

/// The name of a lab: a DNS label (RFC 1123) of at most 20 bytes without "--".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(Box<str>);

/// A name that no lab can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" cannot name a lab: 1 to {MAX_LAB_NAME} lower-case letters, digits and single '-', beginning and ending with a \
     letter or digit"
)]
pub struct LabNameError(String);

impl LabName {
    /// Parses a lab's name.
    ///
    /// # Errors
    /// [`LabNameError`] if it is not a DNS label of at most 20 bytes, or holds "--".
    pub fn new(name: impl Into<String>) -> Result<LabName, LabNameError> {
        let name = name.into();
        if is_label(&name, MAX_LAB_NAME) { Ok(LabName(name.into())) } else { Err(LabNameError(name)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the namespace of a node, router, NAT gateway or outside host, as `ip netns` lists it.
    pub fn namespace(&self, member: &str) -> String {
        format!("cambric-{}-{member}", self.0)
    }

    /// The name of the namespace that holds the subnets' bridges.
    pub fn fabric_namespace(&self) -> String {
        self.namespace(FABRIC)
    }

    /// What the names of all namespaces of a node's pods begin with. No other namespace's name does: names of labs
    /// and members hold no "--".
    pub fn pod_namespace_prefix(&self, node: &str) -> String {
        format!("cambric-{}-{node}--", self.0)
    }

    /// The lab's files.
    pub fn paths(&self) -> LabPaths {
        LabPaths { root: Path::new(LABS_DIR).join(self.as_str()) }
    }
}

/// Whether a text is a DNS label (RFC 1123) of at most `longest` bytes without "--".
pub(crate) fn is_label(text: &str, longest: usize) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=longest).contains(&bytes.len())
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
        && !text.contains("--")
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LabName {
    type Err = LabNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        LabName::new(name)
    }
}

impl TryFrom<String> for LabName {
    type Error = LabNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        LabName::new(name)
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0.into()
    }
}

/// The files of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabPaths {
    root: PathBuf,
}

impl LabPaths {
    /// The lab's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The topology that the lab was made from, as it was read.
    pub fn topology(&self) -> PathBuf {
        self.root.join("topology.yaml")
    }

    /// What was made, see [`crate::state::State`].
    pub fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// The directory of the API's database and keys.
    pub fn api(&self) -> PathBuf {
        self.root.join("api")
    }

    /// The port of the API on the root namespace's loopback, as decimal text: chosen at the first start of the API,
    /// and the same after a restart.
    pub fn api_port(&self) -> PathBuf {
        self.api().join("port")
    }

    /// The kubeconfig for the root namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// The directory that CNI plugins are looked for in (`CNI_PATH`).
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The CNI plugin.
    pub fn plugin(&self) -> PathBuf {
        self.bin().join("cambric")
    }

    /// The logs of the processes that belong to no node.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The API's log.
    pub fn api_log(&self) -> PathBuf {
        self.log().join("api.log")
    }

    /// The log of a router's BGP speaker.
    pub fn speaker_log(&self, router: &str) -> PathBuf {
        self.log().join(format!("bgp-{router}.log"))
    }

    /// The files of one node.
    pub fn node(&self, node: &str) -> NodePaths {
        NodePaths { root: self.root.join("nodes").join(node) }
    }
}

/// The files of one node of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePaths {
    root: PathBuf,
}

impl NodePaths {
    /// The node's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The kubeconfig for the node's namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// The agent's run directory.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The directory of CNI network configuration lists.
    pub fn cni_conf(&self) -> PathBuf {
        self.root.join("cni-conf")
    }

    /// The directory of the CNI plugin's address allocation.
    pub fn cni_data(&self) -> PathBuf {
        self.root.join("cni-data")
    }

    /// The directory of what the kubelet has written down about its pods, one file each.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// The directory of the node's logs.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The agent's log.
    pub fn agent_log(&self) -> PathBuf {
        self.log().join("agent.log")
    }

    /// The kubelet's log.
    pub fn kubelet_log(&self) -> PathBuf {
        self.log().join("kubelet.log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_names_are_short_labels() {
        for good in ["a", "demo", "a-b", "0", &"a".repeat(20)] {
            assert!(LabName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a--b", "../x", "a/b", &"a".repeat(21)] {
            let error = LabName::new(bad).unwrap_err().to_string();
            assert!(error.contains("cannot name a lab: 1 to 20"), "{error}");
        }
    }

    #[test]
    fn pod_prefixes_of_one_lab_are_not_prefixes_of_anothers_namespaces() {
        let (outer, inner) = (LabName::new("a").unwrap(), LabName::new("a-b").unwrap());
        assert!(!inner.namespace("n").starts_with(&outer.pod_namespace_prefix("b")));
        assert!(!inner.pod_namespace_prefix("n").starts_with(&outer.pod_namespace_prefix("b")));
    }
}
