//! The `ClusterNetwork` custom resource. Its schema is generated from these types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::bgp_peer::BgpPeer;
use crate::probe::Probe;

/// The name of the one `ClusterNetwork` that is in force.
pub const SINGLETON: &str = "default";

/// What the network of the whole cluster should be.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cambric.io",
    version = "v1alpha1",
    kind = "ClusterNetwork",
    status = "ClusterNetworkStatus",
    doc = "The pod network of the cluster. Only the object named \"default\" is in force.",
    printcolumn = r#"{"name": "Pods", "type": "string", "jsonPath": ".spec.podRanges"}"#,
    printcolumn = r#"{"name": "Encapsulation", "type": "string", "jsonPath": ".spec.encapsulation.protocol"}"#,
    printcolumn = r#"{"name": "Routes", "type": "string", "jsonPath": ".spec.routeSource"}"#,
    printcolumn = r#"{"name": "MTU", "type": "string", "jsonPath": ".spec.mtu"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkSpec {
    /// The ranges that the nodes' pod ranges (spec.podCIDRs of a Node) are cut from, of either family. Traffic to
    /// them is never masqueraded.
    #[schemars(length(min = 1, max = 16), inner(regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")))]
    pub pod_ranges: Vec<String>,
    /// The ranges of the services' cluster addresses.
    #[serde(default)]
    #[schemars(length(max = 16), inner(regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")))]
    pub service_ranges: Vec<String>,
    /// The prefixes in which a node's addresses accept connections to node ports; if there are none, the nodes'
    /// InternalIPs do.
    #[serde(default)]
    #[schemars(length(max = 16), inner(regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")))]
    pub node_port_addresses: Vec<String>,
    /// How packets between pods of different nodes cross the network between the nodes.
    #[serde(default)]
    pub encapsulation: EncapsulationSpec,
    /// The MTU of the pods' interfaces: "auto" (what the node's own network leaves after the encapsulation) or a
    /// number of bytes.
    #[serde(default, deserialize_with = "null_is_auto")]
    pub mtu: MtuSpec,
    /// Where routes to the pods of other nodes come from: "kubernetes" (the Node objects), or "bgp" (sessions between
    /// the nodes, each with each or with the route reflectors).
    #[serde(default)]
    pub route_source: RouteSource,
    /// What nodes say in BGP, to each other with routeSource "bgp", and to every BgpPeer.
    #[serde(default)]
    pub bgp: BgpSpec,
    /// Whether packets of established TCP and UDP flows between pods go by a path of their own, past the kernel's. That is
    /// faster, and changes nothing else. It needs Linux 6.6 or newer.
    #[serde(default)]
    pub fast_path: bool,
}

/// Where routes to the pods of other nodes come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RouteSource {
    // The Node objects.
    #[default]
    #[allow(missing_docs)]
    Kubernetes,
    // Sessions of BGP.
    #[allow(missing_docs)]
    Bgp,
}

/// What nodes say in BGP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpSpec {
    /// The AS of the nodes; 64512 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub asn: Option<u64>,
    /// The addresses of services that BgpPeers are told, beside the nodes' pod ranges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub announce: Vec<AddressKind>,
    /// After how many seconds of silence nodes take each other to be gone: 0 (never), or at least 3; 90 if it is left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65_535))]
    pub hold_time_seconds: Option<u64>,
    /// With it, nodes of one subnet notice by BFD (RFC 5880) that another is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdSpec>,
}

/// A kind of address of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AddressKind {
    // spec.clusterIPs.
    #[serde(rename = "ClusterIP")]
    #[allow(missing_docs)]
    Cluster,
    // spec.externalIPs.
    #[serde(rename = "ExternalIP")]
    #[allow(missing_docs)]
    External,
    // status.loadBalancer.ingress.
    #[serde(rename = "LoadBalancerIP")]
    #[allow(missing_docs)]
    Balancer,
}

/// How fast BFD notices that a neighbour is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BfdSpec {
    /// The time between two packets; 300 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60_000))]
    pub interval_milliseconds: Option<u64>,
    /// After so many missing packets the neighbour is gone; 3 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub multiplier: Option<u64>,
}

/// How packets between nodes are carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncapsulationSpec {
    /// The protocol of the tunnels; "none" for packets that go as they are, by routes between nodes of one subnet.
    #[serde(default)]
    pub protocol: Protocol,
    /// Between which nodes packets are encapsulated: "always" between all, "crossSubnet" between those of different
    /// subnets only.
    #[serde(default)]
    pub when: When,
    /// The VXLAN network identifier; 4096 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_215))]
    pub vni: Option<u32>,
    /// The UDP port of VXLAN; 4789 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u32>,
}

/// The protocol of the tunnels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Protocol {
    // A comment and no doc comment: schemars would make a oneOf of documented variants. VXLAN (RFC 7348).
    #[default]
    #[allow(missing_docs)]
    Vxlan,
    // IP in IP (RFC 2003, RFC 2473).
    #[allow(missing_docs)]
    Ipip,
    #[allow(missing_docs)]
    None,
}

/// Between which nodes packets are encapsulated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum When {
    // Between all nodes.
    #[default]
    #[allow(missing_docs)]
    Always,
    // Between nodes of different subnets.
    #[allow(missing_docs)]
    CrossSubnet,
}

/// The text `auto` or a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MtuSpec {
    /// In bytes of IP packet.
    Bytes(u32),
    /// `auto`; anything else is refused by the schema.
    Text(String),
}

impl Default for MtuSpec {
    fn default() -> Self {
        MtuSpec::Text("auto".to_owned())
    }
}

/// The schema lets null pass, as `kube` has it for all fields of two types.
fn null_is_auto<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<MtuSpec, D::Error> {
    Option::<MtuSpec>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl JsonSchema for MtuSpec {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mtu".into()
    }

    /// Either type in one structural schema needs `x-kubernetes-int-or-string`; the bounds apply to numbers only and
    /// the pattern to texts only. 576 is what IPv4 needs (RFC 791); a network with IPv6 pods needs 1280, which is
    /// checked when the object is read.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 576,
            "maximum": 65_535,
            "pattern": "^auto$",
        })
    }
}

/// What the agents say about a `ClusterNetwork`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is in force, or what is wrong, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The condition Ready: whether the spec is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// A condition as Kubernetes has them everywhere (meta/v1 `Condition`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about; here always `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When the status was written, RFC 3339.
    pub last_transition_time: String,
    /// The generation that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Conditions are a map by type, so that a server-side apply of one does not replace another.
fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Vec::<Condition>::json_schema(generator);
    schema.insert("x-kubernetes-list-type".to_owned(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".to_owned(), serde_json::json!(["type"]));
    schema
}

/// The definitions of the resources, as they are applied to a cluster.
pub fn crds() -> [CustomResourceDefinition; 3] {
    [ClusterNetwork::crd(), BgpPeer::crd(), Probe::crd()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema of a field of the spec, as JSON.
    fn spec_field(pointer: &str) -> serde_json::Value {
        field_of(0, pointer)
    }

    fn field_of(kind: usize, pointer: &str) -> serde_json::Value {
        let crd = serde_json::to_value(&crds()[kind]).unwrap();
        let version =
            crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties").unwrap();
        version.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {version:#}")).clone()
    }

    #[test]
    fn it_is_cluster_scoped_with_a_status() {
        let [crd, peers, probes] = crds();
        assert_eq!(peers.metadata.name.as_deref(), Some("bgppeers.cambric.io"));
        assert_eq!(peers.spec.scope, "Cluster");
        assert_eq!(probes.metadata.name.as_deref(), Some("probes.cambric.io"));
        assert_eq!(probes.spec.scope, "Cluster");
        assert!(probes.spec.versions[0].subresources.as_ref().unwrap().status.is_some());
        assert_eq!(crd.metadata.name.as_deref(), Some("clusternetworks.cambric.io"));
        assert_eq!(crd.spec.scope, "Cluster");
        assert!(crd.spec.versions[0].subresources.as_ref().unwrap().status.is_some());
    }

    #[test]
    fn the_schema_refuses_what_cannot_be() {
        let values = |field: &str| spec_field(&format!("/encapsulation/properties/{field}/enum"));
        assert_eq!(values("protocol"), serde_json::json!(["vxlan", "ipip", "none"]));
        assert_eq!(values("when"), serde_json::json!(["always", "crossSubnet"]));
        assert_eq!(spec_field("/encapsulation/properties/vni/maximum").as_f64(), Some(16_777_215.0));
        assert_eq!(spec_field("/encapsulation/properties/port/minimum").as_f64(), Some(1.0));
        assert_eq!(spec_field("/podRanges/minItems"), serde_json::json!(1));
        assert!(spec_field("/podRanges/items/pattern").is_string());
        assert_eq!(spec_field("/mtu/x-kubernetes-int-or-string"), serde_json::json!(true));
        assert_eq!(spec_field("/mtu/minimum").as_f64(), Some(576.0));
        assert_eq!(spec_field("/routeSource/enum"), serde_json::json!(["kubernetes", "bgp"]));
        let bgp = |field: &str| spec_field(&format!("/bgp/properties/{field}"));
        assert_eq!(bgp("asn/maximum").as_f64(), Some(4_294_967_294.0));
        assert_eq!(
            bgp("announce/items/enum"),
            serde_json::json!(["ClusterIP", "ExternalIP", "LoadBalancerIP"])
        );
        assert_eq!(bgp("bfd/properties/intervalMilliseconds/minimum").as_f64(), Some(10.0));
    }

    #[test]
    fn the_schema_of_peers_refuses_what_cannot_be() {
        let peer = |field: &str| field_of(1, &format!("/{field}"));
        assert_eq!(peer("port/maximum").as_f64(), Some(65_535.0));
        assert_eq!(peer("asn/minimum").as_f64(), Some(1.0));
        let rule = "importFilter/items/properties";
        assert_eq!(peer(&format!("{rule}/action/enum")), serde_json::json!(["accept", "reject"]));
        assert_eq!(peer(&format!("{rule}/maxLength/maximum")).as_f64(), Some(128.0));
        assert!(peer(&format!("{rule}/prefix/pattern")).is_string());
        assert_eq!(peer("passwordSecret/required"), serde_json::json!(["key", "name", "namespace"]));
    }

    #[test]
    fn what_agents_say_of_a_probe_is_a_map_by_node() {
        assert_eq!(field_of(2, "/watchers/maxItems"), serde_json::json!(64));
        let crd = serde_json::to_value(&crds()[2]).unwrap();
        let status = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/nodes";
        let list = crd.pointer(status).unwrap();
        assert_eq!(list["x-kubernetes-list-type"], "map");
        assert_eq!(list["x-kubernetes-list-map-keys"], serde_json::json!(["node"]));
    }

    /// "Structural" (Kubernetes, CustomResourceDefinition): no type inside anyOf and the like, except for
    /// x-kubernetes-int-or-string.
    #[test]
    fn the_schema_is_structural() {
        fn walk(schema: &serde_json::Value, path: &str) {
            let Some(object) = schema.as_object() else { return };
            if object.get("x-kubernetes-int-or-string").is_none() {
                for word in ["oneOf", "anyOf", "allOf", "not", "$ref"] {
                    assert!(!object.contains_key(word), "{path}: {word}");
                }
                assert!(object.contains_key("type"), "{path}: no type");
            }
            for (name, property) in object.get("properties").and_then(|p| p.as_object()).into_iter().flatten()
            {
                walk(property, &format!("{path}.{name}"));
            }
            if let Some(items) = object.get("items") {
                walk(items, &format!("{path}[]"));
            }
        }
        for crd in crds() {
            let crd = serde_json::to_value(crd).unwrap();
            walk(crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap(), "");
        }
    }
}
