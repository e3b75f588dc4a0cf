//! Slim forms of the objects that are watched: deserialised straight from the API's answer, the rest is skipped.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::{ByteString, ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// Where a node stands.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The service of an endpoint slice.
pub(crate) const SERVICE: &str = "kubernetes.io/service-name";

/// A Node, without what does not concern the network.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct NodeLite {
    #[serde(deserialize_with = "labelled_meta")]
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

/// A `BgpPeer`, likewise.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct BgpPeerLite {
    #[serde(deserialize_with = "slim_meta")]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: serde_json::Value,
}

/// A Secret. It shows itself in no log.
#[derive(Clone, Deserialize)]
pub(crate) struct SecretLite {
    #[serde(deserialize_with = "slim_meta")]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) data: BTreeMap<String, ByteString>,
}

impl fmt::Debug for SecretLite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretLite").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

/// A Service, without what does not concern connections to it. Values are as wide as JSON has them: one that is wrong
/// must not end the watch.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ServiceLite {
    #[serde(deserialize_with = "slim_meta")]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: ServiceSpecLite,
    #[serde(default)]
    pub(crate) status: ServiceStatusLite,
}

/// `spec` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpecLite {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", deserialize_with = "null_is_empty")]
    pub(crate) cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "null_is_empty")]
    pub(crate) external_ips: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) load_balancer_source_ranges: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) ports: Vec<ServicePortLite>,
    pub(crate) internal_traffic_policy: Option<String>,
    pub(crate) external_traffic_policy: Option<String>,
    pub(crate) session_affinity: Option<String>,
    pub(crate) session_affinity_config: Option<AffinityConfigLite>,
    pub(crate) health_check_node_port: Option<i64>,
}

/// An entry of `spec.ports` of a Service.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServicePortLite {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) port: i64,
    pub(crate) node_port: Option<i64>,
}

/// `spec.sessionAffinityConfig` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct AffinityConfigLite {
    #[serde(rename = "clientIP")]
    pub(crate) client_ip: Option<ClientIpLite>,
}

/// `spec.sessionAffinityConfig.clientIP` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClientIpLite {
    pub(crate) timeout_seconds: Option<i64>,
}

/// `status` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceStatusLite {
    #[serde(default)]
    pub(crate) load_balancer: LoadBalancerLite,
}

/// `status.loadBalancer` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct LoadBalancerLite {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) ingress: Vec<IngressLite>,
}

/// An entry of `status.loadBalancer.ingress` of a Service.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IngressLite {
    pub(crate) ip: Option<String>,
    pub(crate) ip_mode: Option<String>,
}

/// An EndpointSlice, without what does not concern connections to its endpoints.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointSliceLite {
    #[serde(deserialize_with = "slim_meta")]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) address_type: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) ports: Vec<EndpointPortLite>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) endpoints: Vec<EndpointLite>,
}

/// An entry of `ports` of an EndpointSlice.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct EndpointPortLite {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) port: Option<i64>,
}

/// An entry of `endpoints` of an EndpointSlice.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointLite {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) addresses: Vec<String>,
    #[serde(default)]
    pub(crate) conditions: ConditionsLite,
    pub(crate) node_name: Option<String>,
    pub(crate) hints: Option<HintsLite>,
}

/// `conditions` of an endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ConditionsLite {
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
}

/// `hints` of an endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HintsLite {
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) for_zones: Vec<HintLite>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) for_nodes: Vec<HintLite>,
}

/// An entry of `hints.forZones` or `hints.forNodes`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct HintLite {
    pub(crate) name: Box<str>,
}

/// Go writes a list that was never made as null.
pub(crate) fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Keeps what the watch and we need of an object's metadata; other labels, annotations and managed fields are never
/// built.
pub(crate) fn slim_meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slim {
        name: String,
        namespace: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        labels: Option<Labels>,
    }
    #[derive(Deserialize)]
    struct Labels {
        #[serde(rename = "kubernetes.io/service-name")]
        service: Option<String>,
    }
    let Slim { name, namespace, resource_version, generation, labels } = Slim::deserialize(deserializer)?;
    let service = labels.and_then(|Labels { service }| service);
    let labels = service.map(|service| BTreeMap::from([(SERVICE.to_owned(), service)]));
    let name = Some(name);
    Ok(ObjectMeta { name, namespace, resource_version, generation, labels, ..ObjectMeta::default() })
}

/// The same with all labels: some of them say what concerns the network, and a `BgpPeer` may choose by any.
fn labelled_meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slim {
        name: String,
        resource_version: Option<String>,
        labels: Option<BTreeMap<String, String>>,
    }
    let Slim { name, resource_version, labels } = Slim::deserialize(deserializer)?;
    Ok(ObjectMeta { name: Some(name), resource_version, labels, ..ObjectMeta::default() })
}

macro_rules! resource {
    ($type:ident, $scope:ty, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

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

pub(crate) use resource;

resource!(NodeLite, ClusterResourceScope, "", "v1", "Node", "nodes");
resource!(
    ClusterNetworkLite,
    ClusterResourceScope,
    "cambric.io",
    "v1alpha1",
    "ClusterNetwork",
    "clusternetworks"
);
resource!(BgpPeerLite, ClusterResourceScope, "cambric.io", "v1alpha1", "BgpPeer", "bgppeers");
resource!(SecretLite, NamespaceResourceScope, "", "v1", "Secret", "secrets");
resource!(ServiceLite, NamespaceResourceScope, "", "v1", "Service", "services");
resource!(
    EndpointSliceLite,
    NamespaceResourceScope,
    "discovery.k8s.io",
    "v1",
    "EndpointSlice",
    "endpointslices"
);

impl NodeLite {
    /// The addresses that other nodes reach it by, in the order of the object.
    pub(crate) fn internal_ips(&self) -> impl Iterator<Item = &str> {
        self.addresses("InternalIP")
    }

    /// The addresses that others reach it by, in the order of the object.
    pub(crate) fn external_ips(&self) -> impl Iterator<Item = &str> {
        self.addresses("ExternalIP")
    }

    fn addresses(&self, kind: &'static str) -> impl Iterator<Item = &str> {
        let of_kind = self.status.addresses.iter().filter(move |address| address.kind == kind);
        of_kind.map(|address| address.address.as_str())
    }

    /// Where it stands, if that is known.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.label(ZONE)
    }

    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether its kubelet says that it is ready, or nothing yet.
    pub(crate) fn is_ready(&self) -> bool {
        self.status.conditions.iter().all(|condition| condition.kind != "Ready" || condition.status == "True")
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
                "name": "a", "resourceVersion": "7", "labels": {"x": "y", "topology.kubernetes.io/zone": "east"},
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
        assert_eq!((node.label("x"), node.label("y")), (Some("y"), None));
        assert_eq!(node.external_ips().collect::<Vec<_>>(), ["198.51.100.1"]);
        assert!(node.metadata.managed_fields.is_none());
        assert_eq!(node.zone(), Some("east"));
        assert_eq!(node.internal_ips().collect::<Vec<_>>(), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(node.spec.pod_cidrs, ["10.244.0.0/24", "fd00::/64"]);
        assert!(node.says_network_available());
    }

    #[test]
    fn a_node_that_has_just_registered_is_read() {
        let node: NodeLite = serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!(node.internal_ips().count(), 0);
        assert!(node.zone().is_none() && node.metadata.labels.is_none());
        assert!(!node.says_network_available());
    }
}
