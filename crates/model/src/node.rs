//! One node of the cluster.

use std::net::IpAddr;

use crate::{Family, NodeName, PerFamily, PodRange, RangeError, Reflector};

/// What the network needs to know of a Kubernetes Node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// The first `InternalIP` of each family in `status.addresses`: the node's underlay addresses.
    pub addresses: PerFamily<IpAddr>,
    /// `spec.podCIDRs`: the addresses of the pods on this node.
    pub pod_ranges: PerFamily<PodRange>,
    /// The label `topology.kubernetes.io/zone`: where the node stands, for endpoints that prefer clients nearby.
    pub zone: Option<Box<str>>,
    /// The label `cambric.io/site`: nodes of one site reach each other by their `InternalIP`s. Those of other sites reach
    /// them through a NAT gateway, which lets in what the inside has asked for.
    pub site: Option<Box<str>>,
    /// The first `ExternalIP` of each family in `status.addresses`: for a node with a site, the outer address of the
    /// gateway.
    pub external: PerFamily<IpAddr>,
    /// The label `cambric.io/route-reflector`: whether the node passes on what it learns from other nodes.
    pub reflector: Option<Reflector>,
}

/// A Node object that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// A bad entry in `spec.podCIDRs`.
    #[error("Node {node}: spec.podCIDRs: {source}")]
    PodRange {
        /// The node.
        node: NodeName,
        /// What is wrong with the range.
        source: RangeError,
    },
    /// More than one range of a family.
    #[error(
        "Node {node}: spec.podCIDRs has two {family} ranges, {first} and {second}; Kubernetes allows one per family"
    )]
    TwoRanges {
        /// The node.
        node: NodeName,
        /// The family that has two.
        family: Family,
        /// The range that came first.
        first: PodRange,
        /// The one too many.
        second: PodRange,
    },
    /// A bad entry in `status.addresses`.
    #[error("Node {node}: status.addresses: InternalIP \"{value}\" is not an IP address")]
    Address {
        /// The node.
        node: NodeName,
        /// What stands there.
        value: String,
    },
}

impl Node {
    /// Makes a node from the texts of its Kubernetes object.
    ///
    /// `internal_ips` are the `InternalIP` entries of `status.addresses` in their order; the first of each family
    /// is the one used, as the kubelet and kube-proxy do.
    ///
    /// # Errors
    /// [`NodeError`] for the first entry that cannot be used.
    pub fn parse<'a>(
        name: NodeName,
        internal_ips: impl IntoIterator<Item = &'a str>,
        pod_cidrs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Node, NodeError> {
        let mut addresses = PerFamily::default();
        for text in internal_ips {
            let address: IpAddr = text
                .parse()
                .map_err(|_| NodeError::Address { node: name.clone(), value: text.to_owned() })?;
            if addresses.of(Family::of(&address)).is_none() {
                addresses.insert(Family::of(&address), address);
            }
        }
        let mut pod_ranges = PerFamily::default();
        for text in pod_cidrs {
            let range: PodRange =
                text.parse().map_err(|source| NodeError::PodRange { node: name.clone(), source })?;
            let family = range.family();
            if let Some(first) = pod_ranges.insert(family, range) {
                return Err(NodeError::TwoRanges { node: name, family, first, second: range });
            }
        }
        Ok(Node {
            name,
            addresses,
            pod_ranges,
            zone: None,
            site: None,
            external: PerFamily::default(),
            reflector: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(ips: &[&str], cidrs: &[&str]) -> Result<Node, NodeError> {
        Node::parse(NodeName::new("a").unwrap(), ips.iter().copied(), cidrs.iter().copied())
    }

    #[test]
    fn first_address_of_each_family_counts() {
        let node = parse(&["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"], &[]).unwrap();
        assert_eq!(node.addresses.v4, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(node.addresses.v6, Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn errors_name_node_field_and_value() {
        let error = parse(&["192.0.2.256"], &[]).unwrap_err().to_string();
        assert_eq!(error, "Node a: status.addresses: InternalIP \"192.0.2.256\" is not an IP address");
        let error = parse(&[], &["10.0.0.0/24", "10.0.1.0/24"]).unwrap_err().to_string();
        assert!(error.contains("two IPv4 ranges, 10.0.0.0/24 and 10.0.1.0/24"), "{error}");
        let error = parse(&[], &["10.0.0.0/33"]).unwrap_err().to_string();
        assert!(error.starts_with("Node a: spec.podCIDRs: pod range \"10.0.0.0/33\""), "{error}");
    }
}
