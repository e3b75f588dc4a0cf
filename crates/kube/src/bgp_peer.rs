//! The `BgpPeer` custom resource. Its schema is generated from these types.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster_network::BfdSpec;

/// A router outside of the cluster, or anything else that nodes speak BGP with.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cambric.io",
    version = "v1alpha1",
    kind = "BgpPeer",
    doc = "A router outside of the cluster, or anything else that nodes speak BGP with.",
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".spec.address"}"#,
    printcolumn = r#"{"name": "AS", "type": "integer", "jsonPath": ".spec.asn"}"#,
    printcolumn = r#"{"name": "Nodes", "type": "string", "jsonPath": ".spec.nodeSelector.matchLabels", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    /// The nodes that speak with it; all do if it is left out.
    #[serde(default)]
    pub node_selector: NodeSelector,
    /// Its address, IPv4 or IPv6. Both families are exchanged over either.
    #[schemars(regex(pattern = r"^[0-9a-fA-F.:]+$"))]
    pub address: String,
    /// Its TCP port; 179 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u64>,
    /// Its AS. If it is that of the nodes, the session is one of IBGP.
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub asn: u64,
    /// Where the password of TCP MD5 signatures (RFC 2385) is. Without it, segments are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<PasswordSecret>,
    /// Whether packets from it count only if no router has passed them on (RFC 5082). It must do the same for ours, or
    /// at least send with a TTL of 255.
    #[serde(default)]
    pub ttl_security: bool,
    /// After how many seconds of silence it is taken to be gone: 0 (never), or at least 3; 90 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65_535))]
    pub hold_time_seconds: Option<u64>,
    /// With it, BFD (RFC 5880) notices that it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdSpec>,
    /// How many prefixes of a family it may announce. With more the session is ended for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub max_prefixes: Option<u64>,
    /// Which of its prefixes are taken. The first rule that matches decides. What none matches is taken, except for the
    /// default route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub import_filter: Vec<FilterRule>,
    /// Which prefixes it is told, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub export_filter: Vec<FilterRule>,
}

/// Which nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSelector {
    /// The labels that a node must have, with these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSecret {
    /// The namespace of the Secret.
    #[schemars(length(min = 1))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// The key under which the password is.
    #[schemars(length(min = 1))]
    pub key: String,
}

/// A rule about prefixes that lie in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FilterRule {
    /// What the prefixes lie in.
    #[schemars(regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))]
    pub prefix: String,
    /// Their shortest length; that of prefix if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub min_length: Option<u64>,
    /// Their longest length; any if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub max_length: Option<u64>,
    /// What becomes of them.
    pub action: Action,
}

/// What becomes of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Action {
    // A comment and no doc comment: schemars would make a oneOf of documented variants.
    #[allow(missing_docs)]
    Accept,
    #[allow(missing_docs)]
    Reject,
}
