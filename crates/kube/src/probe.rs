//! The `Probe` custom resource: one packet that `cambric trace --live` has an agent send, and agents look for. Its schema
//! is generated from these types.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// How long a probe counts after it was made, in seconds. Older ones are deleted by the agent of the sender's node.
pub const PROBE_LIFETIME: u64 = 60;

/// On how many nodes a probe can be looked for, and at how many pods of each.
pub const MOST_WATCHERS: usize = 64;

/// A packet that is sent and looked for.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cambric.io",
    version = "v1alpha1",
    kind = "Probe",
    status = "ProbeStatus",
    doc = "One packet that the agent of a node sends, and agents look for on its way: what \"cambric trace --live\" makes, and deletes. It is good for a minute.",
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.sender.node"}"#,
    printcolumn = r#"{"name": "Pod", "type": "string", "jsonPath": ".spec.sender.pod.name"}"#,
    printcolumn = r#"{"name": "Destination", "type": "string", "jsonPath": ".spec.packet.destination"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSpec {
    /// Who sends it.
    pub sender: ProbeSender,
    /// What is sent.
    pub packet: ProbePacket,
    /// Where it is looked for. The sender's node is among them.
    #[schemars(schema_with = "watchers_schema")]
    pub watchers: Vec<ProbeWatcher>,
}

/// Who sends a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSender {
    /// The node.
    pub node: String,
    /// The pod on it; without one the node itself sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ProbePod>,
}

/// A pod, and no other of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbePod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The packet of a probe. Its mark and the sender's port follow from the probe's own UID, so nobody can choose them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbePacket {
    /// The protocol: the beginning of a TCP connection, a UDP datagram, or an ICMP echo request.
    pub protocol: ProbeProtocol,
    /// The destination address.
    #[schemars(regex(pattern = r"^[0-9a-fA-F.:]+$"))]
    pub destination: String,
    /// The destination port; ICMP has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
}

/// The protocol of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[allow(missing_docs)] // schemars would make a oneOf of documented variants
pub enum ProbeProtocol {
    Tcp,
    Udp,
    Icmp,
}

/// A node that looks for a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeWatcher {
    /// The node.
    pub node: String,
    /// The pods on it at whose interfaces it looks, beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub pods: Vec<ProbePod>,
}

/// What agents say of a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeStatus {
    /// What each node says. Its agent writes only its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "reports_schema")]
    pub nodes: Vec<ProbeReport>,
}

/// What one node says of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// The node.
    pub node: String,
    /// Ready: it looks; Done: it has looked; Refused: it does not.
    pub phase: ProbePhase,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The node's links to the other nodes, one of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub underlay: Vec<ProbeUnderlay>,
    /// What came back to the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ProbeReply>,
    /// Where the probe and its answer were seen on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sightings: Vec<ProbeSighting>,
    /// Whether a capture missed packets.
    #[serde(default)]
    pub incomplete: bool,
}

impl ProbeReport {
    /// One that says only how far a node is.
    pub fn new(node: impl Into<String>, phase: ProbePhase) -> ProbeReport {
        ProbeReport {
            node: node.into(),
            phase,
            message: None,
            underlay: Vec::new(),
            reply: None,
            sightings: Vec::new(),
            incomplete: false,
        }
    }
}

/// How far a node is with a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs)] // as above
pub enum ProbePhase {
    Ready,
    Done,
    Refused,
}

/// A node's link to the other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeUnderlay {
    /// The link.
    pub link: String,
    /// The node's address there, with the length of the subnet's prefix.
    pub address: String,
    /// In bytes.
    pub mtu: u32,
}

/// What came back to the sender of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReply {
    /// Answer, Refusal, Nothing, or Other.
    pub kind: ProbeReplyKind,
    /// More about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What kind of thing came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs)] // as above
pub enum ProbeReplyKind {
    Answer,
    Refusal,
    Nothing,
    Other,
}

/// A probe's packet on a link: headers only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSighting {
    /// When, in microseconds since 1970, by the node's clock.
    pub time: i64,
    /// Whether it is the answer.
    #[serde(default)]
    pub answer: bool,
    /// The pod whose link it is, as namespace/name; the node's own otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The link.
    pub link: String,
    /// Whether it went out by it, and did not come in.
    #[serde(default)]
    pub out: bool,
    /// Its source address.
    pub source: String,
    /// Its destination address.
    pub destination: String,
    /// Its destination port; of answers it is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What is around it, in a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<ProbeOuter>,
}

/// What is around a packet in a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeOuter {
    /// The outer source address.
    pub source: String,
    /// The outer destination address.
    pub destination: String,
    /// The VXLAN network identifier; IP in IP has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// The UDP port of VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

fn watchers_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = by_node(Vec::<ProbeWatcher>::json_schema(generator));
    schema.insert("minItems".to_owned(), 1.into());
    schema.insert("maxItems".to_owned(), MOST_WATCHERS.into());
    schema
}

/// The reports are a map by node, so that a server-side apply of one does not replace another.
fn reports_schema(generator: &mut SchemaGenerator) -> Schema {
    by_node(Vec::<ProbeReport>::json_schema(generator))
}

fn by_node(mut schema: Schema) -> Schema {
    schema.insert("x-kubernetes-list-type".to_owned(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".to_owned(), serde_json::json!(["node"]));
    schema
}
