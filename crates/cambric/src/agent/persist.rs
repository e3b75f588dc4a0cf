//! The last state of the cluster on disk, so that an agent that starts while the API is away still has a plan to
//! repair by.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use kube_source::ClusterNetworkSpec;
use model::{NetworkConfig, Node, NodeName};
use serde::{Deserialize, Serialize};

use crate::files::publish;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    /// The boot that it was written in: after another one nothing of ours is in the kernel, and nothing hurries.
    boot_id: String,
    node: NodeName,
    network: ClusterNetworkSpec,
    nodes: Vec<NodeEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeEntry {
    name: NodeName,
    internal_ips: Vec<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

/// Writes the state. Secrets are not in it; the directory is root's all the same.
pub(crate) fn save(
    path: &Path,
    local: &NodeName,
    network: &NetworkConfig,
    nodes: &BTreeMap<NodeName, Node>,
) -> Result<()> {
    let entry = |node: &Node| NodeEntry {
        name: node.name.clone(),
        internal_ips: node.addresses.iter().map(ToString::to_string).collect(),
        pod_cidrs: node.pod_ranges.iter().map(ToString::to_string).collect(),
    };
    let file = File {
        boot_id: boot_id()?,
        node: local.clone(),
        network: ClusterNetworkSpec::from(network),
        nodes: nodes.values().map(entry).collect(),
    };
    let json = serde_json::to_vec(&file).context("cannot encode the state")?;
    publish(path, &json, 0o600).map(drop)
}

/// Reads the state that was written in this boot for this node; `None` if there is none.
pub(crate) fn load(
    path: &Path,
    local: &NodeName,
) -> Result<Option<(NetworkConfig, BTreeMap<NodeName, Node>)>> {
    let json = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        json => json.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let context = || format!("{} cannot be used", path.display());
    let file: File = serde_json::from_slice(&json).with_context(context)?;
    if file.boot_id != boot_id()? || file.node != *local {
        return Ok(None);
    }
    let network = NetworkConfig::try_from(&file.network).with_context(context)?;
    let mut nodes = BTreeMap::new();
    for entry in file.nodes {
        let NodeEntry { name, internal_ips, pod_cidrs } = entry;
        let node =
            Node::parse(name, internal_ips.iter().map(String::as_str), pod_cidrs.iter().map(String::as_str))
                .with_context(context)?;
        nodes.insert(node.name.clone(), node);
    }
    Ok(Some((network, nodes)))
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_in_the_same_boot_for_the_same_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let name = |text: &str| NodeName::new(text).unwrap();
        let spec: ClusterNetworkSpec = serde_json::from_str(
            r#"{"podRanges": ["10.244.0.0/16", "fd00::/48"], "serviceRanges": ["10.96.0.0/12"], "mtu": 1400,
                "encapsulation": {"vni": 7, "port": 8472}}"#,
        )
        .unwrap();
        let network = NetworkConfig::try_from(&spec).unwrap();
        let nodes: BTreeMap<NodeName, Node> = [
            Node::parse(name("a"), ["192.0.2.1", "2001:db8::1"], ["10.244.1.0/24", "fd00:0:0:1::/64"])
                .unwrap(),
            Node::parse(name("b"), ["192.0.2.2"], []).unwrap(),
        ]
        .map(|node| (node.name.clone(), node))
        .into();
        assert_eq!(load(&path, &name("a")).unwrap(), None);
        save(&path, &name("a"), &network, &nodes).unwrap();
        assert_eq!(load(&path, &name("a")).unwrap(), Some((network, nodes)));
        assert_eq!(load(&path, &name("b")).unwrap(), None);

        let other_boot = fs::read_to_string(&path).unwrap().replace(&boot_id().unwrap(), "another");
        fs::write(&path, other_boot).unwrap();
        assert_eq!(load(&path, &name("a")).unwrap(), None);
        fs::write(&path, "{").unwrap();
        assert!(load(&path, &name("a")).unwrap_err().to_string().contains("state.json cannot be used"));
    }
}
