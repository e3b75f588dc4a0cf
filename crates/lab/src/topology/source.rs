//! The topology file as it is written, before anything is checked.

use std::collections::BTreeMap;

use kube_source::{BgpPeerSpec, BgpSpec, Protocol, RouteSource, When};
use serde::Deserialize;
use serde_saphyr::Spanned;

/// A text and where it stands.
pub(super) type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub(super) network: Spanned<Network>,
    pub(super) subnets: Spanned<Vec<Subnet>>,
    #[serde(default)]
    pub(super) routers: Vec<Router>,
    #[serde(default)]
    pub(super) nat_gateways: Vec<NatGateway>,
    pub(super) nodes: Spanned<Vec<Node>>,
    #[serde(default)]
    pub(super) outside: Vec<Outside>,
    pub(super) bgp_peers: Option<Vec<BgpPeer>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Network {
    pub(super) pod_ranges: Vec<Text>,
    #[serde(default)]
    pub(super) service_ranges: Vec<Text>,
    #[serde(default)]
    pub(super) load_balancer_ranges: Vec<Text>,
    pub(super) encapsulation: Option<Spanned<Encapsulation>>,
    pub(super) mtu: Option<Text>,
    #[serde(default)]
    pub(super) route_source: RouteSource,
    pub(super) bgp: Option<Spanned<BgpSpec>>,
    #[serde(default)]
    pub(super) fast_path: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BgpPeer {
    pub(super) name: Text,
    pub(super) spec: Spanned<BgpPeerSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Encapsulation {
    pub(super) protocol: Option<Protocol>,
    pub(super) when: Option<Spanned<When>>,
    pub(super) vni: Option<Spanned<u64>>,
    pub(super) port: Option<Spanned<u64>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Subnet {
    pub(super) name: Text,
    pub(super) prefixes: Spanned<Vec<Text>>,
    pub(super) mtu: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Router {
    pub(super) name: Text,
    pub(super) subnets: Spanned<Vec<Text>>,
    pub(super) bgp: Option<RouterBgp>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RouterBgp {
    pub(super) asn: Spanned<u64>,
    #[serde(default)]
    pub(super) announce: Vec<Text>,
    #[serde(default)]
    pub(super) bfd: bool,
    #[serde(default)]
    pub(super) speaker: Speaker,
}

/// What speaks in a router's place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Speaker {
    #[default]
    Cambric,
    None,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NatGateway {
    pub(super) name: Text,
    pub(super) inside: Text,
    pub(super) outside: Text,
    pub(super) generic_timeout: Option<Spanned<u64>>,
    #[serde(default = "yes", rename = "externalIPs")]
    pub(super) external_ips: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Text,
    pub(super) subnet: Text,
    #[serde(default)]
    pub(super) addresses: Vec<Text>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, Text>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Outside {
    pub(super) name: Text,
    pub(super) subnet: Text,
    #[serde(default)]
    pub(super) addresses: Vec<Text>,
}
