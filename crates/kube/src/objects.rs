//! Slim forms of the objects that are watched: deserialised straight from the API's answer, the rest is skipped.

use std::borrow::Cow;

use k8s_openapi::ClusterResourceScope;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// A Node, without what does not concern the network.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct NodeLite {
    #[serde(deserialize_with = "slim_meta")]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: NodeSpecLite,
    #[serde(default)]
    pub(crate) status: NodeStatusLite,
}

/// `spec` of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeSpecLite {
    #[serde(default, rename = "podCIDRs")]
    pub(crate) pod_cidrs: Vec<String>,
}

/// `status` of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct NodeStatusLite {
    #[serde(default)]
    pub(crate) addresses: Vec<AddressLite>,
    #[serde(default)]
    pub(crate) conditions: Vec<ConditionLite>,
}

/// An entry of `status.addresses`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AddressLite {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) address: String,
}

/// An entry of `status.conditions`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ConditionLite {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) reason: String,
}

/// A `ClusterNetwork` whose spec has not been read yet: one that is wrong must not end the watch.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ClusterNetworkLite {
    #[serde(deserialize_with = "slim_meta")]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: serde_json::Value,
    #[serde(default)]
    pub(crate) status: serde_json::Value,
}

/// Keeps what the watch and we need of an object's metadata; labels, annotations and managed fields are never built.
fn slim_meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slim {
        name: String,
        resource_version: Option<String>,
        generation: Option<i64>,
    }
    let Slim { name, resource_version, generation } = Slim::deserialize(deserializer)?;
    Ok(ObjectMeta { name: Some(name), resource_version, generation, ..ObjectMeta::default() })
}

macro_rules! cluster_scoped {
    ($type:ident, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = ClusterResourceScope;

            fn kind(_: &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group(_: &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version(_: &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

cluster_scoped!(NodeLite, "", "v1", "Node", "nodes");
cluster_scoped!(ClusterNetworkLite, "cambric.io", "v1alpha1", "ClusterNetwork", "clusternetworks");

impl NodeLite {
    /// The addresses that other nodes reach it by, in the order of the object.
    pub(crate) fn internal_ips(&self) -> impl Iterator<Item = &str> {
        let internal = self.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        internal.map(|address| address.address.as_str())
    }

    /// Whether the condition `NetworkUnavailable` already says what we would say.
    pub(crate) fn says_network_available(&self) -> bool {
        self.status.conditions.iter().any(|condition| {
            condition.kind == "NetworkUnavailable"
                && condition.status == "False"
                && condition.reason == crate::write::NETWORK_READY_REASON
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_a_real_cluster_is_read() {
        let node: NodeLite = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": "a", "resourceVersion": "7", "labels": {"x": "y"},
                "managedFields": [{"manager": "kubelet"}],
            },
            "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00::/64"]},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "a"},
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "ExternalIP", "address": "198.51.100.1"},
                    {"type": "InternalIP", "address": "2001:db8::1"},
                ],
                "conditions": [
                    {"type": "NetworkUnavailable", "status": "False", "reason": "CambricReady"},
                    {"type": "Ready", "status": "True"},
                ],
            },
        }))
        .unwrap();
        assert_eq!(node.metadata.name.as_deref(), Some("a"));
        assert_eq!(node.metadata.resource_version.as_deref(), Some("7"));
        assert!(node.metadata.labels.is_none() && node.metadata.managed_fields.is_none());
        assert_eq!(node.internal_ips().collect::<Vec<_>>(), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(node.spec.pod_cidrs, ["10.244.0.0/24", "fd00::/64"]);
        assert!(node.says_network_available());
    }

    #[test]
    fn a_node_that_has_just_registered_is_read() {
        let node: NodeLite = serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!(node.internal_ips().count(), 0);
        assert!(!node.says_network_available());
    }
}
