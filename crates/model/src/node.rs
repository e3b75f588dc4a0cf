//! One node of the cluster.

use std::net::IpAddr;

use crate::{Family, NodeName, PerFamily, PodRange, RangeError, Reflector, ReflectorError};

/// The label that says in which site a node is.
pub const SITE_LABEL: &str = "cambric.io/site";
/// The label that makes a node a route reflector.
pub const REFLECTOR_LABEL: &str = "cambric.io/route-reflector";

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
    #[error("Node {node}: status.addresses: {kind} \"{value}\" is not an IP address")]
    Address {
        /// The node.
        node: NodeName,
        /// Its type.
        kind: &'static str,
        /// What stands there.
        value: String,
    },
    /// A label that cannot be understood.
    #[error("Node {node}: label {REFLECTOR_LABEL}: {source}")]
    Reflector {
        /// The node.
        node: NodeName,
        /// What is wrong with its value.
        source: ReflectorError,
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
        let addresses = first_of_each(&name, "InternalIP", internal_ips)?;
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

    /// The node with these `ExternalIP` entries of `status.addresses`, of which the first of each family counts.
    ///
    /// # Errors
    /// [`NodeError::Address`] for the first that is no address.
    pub fn with_external<'a>(
        self,
        external_ips: impl IntoIterator<Item = &'a str>,
    ) -> Result<Node, NodeError> {
        let external = first_of_each(&self.name, "ExternalIP", external_ips)?;
        Ok(Node { external, ..self })
    }

    /// The node with these values of the labels [`SITE_LABEL`] and [`REFLECTOR_LABEL`]. An empty site is none.
    ///
    /// # Errors
    /// [`NodeError::Reflector`] for one that cannot be understood.
    pub fn with_labels(self, site: Option<&str>, reflector: Option<&str>) -> Result<Node, NodeError> {
        let reflector = reflector
            .map(str::parse)
            .transpose()
            .map_err(|source| NodeError::Reflector { node: self.name.clone(), source })?;
        Ok(Node { site: site.filter(|site| !site.is_empty()).map(Box::from), reflector, ..self })
    }
}

fn first_of_each<'a>(
    node: &NodeName,
    kind: &'static str,
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<PerFamily<IpAddr>, NodeError> {
    let mut addresses = PerFamily::default();
    for text in texts {
        let address: IpAddr = text.parse().map_err(|_| NodeError::Address {
            node: node.clone(),
            kind,
            value: text.to_owned(),
        })?;
        if addresses.of(Family::of(&address)).is_none() {
            addresses.insert(Family::of(&address), address);
        }
    }
    Ok(addresses)
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
    fn labels_and_outer_addresses_are_taken_over() {
        let node = parse(&["10.0.0.1"], &[]).unwrap();
        let node = node.with_external(["198.51.100.1", "198.51.100.2", "2001:db8::1"]).unwrap();
        assert_eq!(node.external.v4, Some("198.51.100.1".parse().unwrap()));
        assert_eq!(node.external.v6, Some("2001:db8::1".parse().unwrap()));
        let node = node.with_labels(Some("east"), Some("1.0.0.1")).unwrap();
        assert_eq!(node.site.as_deref(), Some("east"));
        assert_eq!(node.reflector, Some(Reflector { cluster_id: Some([1, 0, 0, 1].into()) }));
        let node = node.with_labels(Some(""), None).unwrap();
        assert_eq!((node.site, node.reflector), (None, None));
    }

    #[test]
    fn errors_name_node_field_and_value() {
        let error = parse(&["192.0.2.256"], &[]).unwrap_err().to_string();
        assert_eq!(error, "Node a: status.addresses: InternalIP \"192.0.2.256\" is not an IP address");
        let error = parse(&[], &["10.0.0.0/24", "10.0.1.0/24"]).unwrap_err().to_string();
        assert!(error.contains("two IPv4 ranges, 10.0.0.0/24 and 10.0.1.0/24"), "{error}");
        let error = parse(&[], &["10.0.0.0/33"]).unwrap_err().to_string();
        assert!(error.starts_with("Node a: spec.podCIDRs: pod range \"10.0.0.0/33\""), "{error}");
        let node = parse(&["192.0.2.1"], &[]).unwrap();
        let error = node.clone().with_external(["gateway"]).unwrap_err().to_string();
        assert_eq!(error, "Node a: status.addresses: ExternalIP \"gateway\" is not an IP address");
        let error = node.with_labels(None, Some("yes")).unwrap_err().to_string();
        assert!(error.starts_with("Node a: label cambric.io/route-reflector: \"yes\" is no"), "{error}");
    }
}
