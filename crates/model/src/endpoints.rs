//! Endpoints of services.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Family, NameError, NodeName, ObjectName, Protocol};

/// What the network needs to know of a Kubernetes EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The name of its service, from the label `kubernetes.io/service-name`; the namespace is the same.
    pub service: Box<str>,
    /// `addressType`.
    pub family: Family,
    /// The ports that all its endpoints have.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An entry of `ports`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Its name, which is that of the service's port; empty if it has none.
    pub name: Box<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port, host byte order.
    pub port: u16,
}

/// An entry of `endpoints`.
///
/// Names of nodes and zones are shared (see [`SharedNames`](crate::SharedNames)): a hundred thousand endpoints have few
/// of them. Written down, what most endpoints have in common is left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The first of `addresses`; the others mean the same (discovery.k8s.io/v1).
    pub address: IpAddr,
    /// `conditions.ready`; unknown is taken as yes.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub ready: bool,
    /// `conditions.serving`; unknown is the same as ready.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub serving: bool,
    /// `conditions.terminating`; unknown is taken as no.
    #[serde(default, skip_serializing_if = "is_no")]
    pub terminating: bool,
    /// `nodeName`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared_node")]
    pub node: Option<Arc<NodeName>>,
    /// `hints.forZones`: the zones whose clients should use it. Empty if there are no hints.
    #[serde(default, skip_serializing_if = "is_empty", with = "shared_list")]
    pub zones: Arc<[Box<str>]>,
    /// `hints.forNodes`: the nodes whose clients should use it. Empty if there are no hints.
    #[serde(default, skip_serializing_if = "is_empty", with = "shared_list")]
    pub nodes: Arc<[Box<str>]>,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn is_no(value: &bool) -> bool {
    !*value
}

fn is_empty(list: &Arc<[Box<str>]>) -> bool {
    list.is_empty()
}

mod shared_node {
    use super::*;

    pub(super) fn serialize<S: Serializer>(node: &Option<Arc<NodeName>>, to: S) -> Result<S::Ok, S::Error> {
        node.as_deref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<NodeName>>, D::Error> {
        Ok(Option::<NodeName>::deserialize(from)?.map(Arc::new))
    }
}

mod shared_list {
    use super::*;

    pub(super) fn serialize<S: Serializer>(list: &Arc<[Box<str>]>, to: S) -> Result<S::Ok, S::Error> {
        list.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[Box<str>]>, D::Error> {
        Ok(Vec::<Box<str>>::deserialize(from)?.into())
    }
}

/// An EndpointSlice object that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Something that is not an address of the slice's family.
    #[error("EndpointSlice {slice}: endpoints[{index}].addresses: \"{value}\" is not an {family} address")]
    Address {
        /// The slice.
        slice: ObjectName,
        /// The position in the list.
        index: usize,
        /// What stands there.
        value: String,
        /// The family that the slice says.
        family: Family,
    },
    /// An endpoint without an address.
    #[error("EndpointSlice {slice}: endpoints[{index}].addresses is empty; an endpoint has at least one")]
    NoAddress {
        /// The slice.
        slice: ObjectName,
        /// The position in the list.
        index: usize,
    },
    /// Something that names no node.
    #[error("EndpointSlice {slice}: endpoints[{index}].nodeName: {source}")]
    Node {
        /// The slice.
        slice: ObjectName,
        /// The position in the list.
        index: usize,
        /// What is wrong with the name.
        source: NameError,
    },
    /// A protocol that services cannot have.
    #[error("EndpointSlice {slice}: ports: protocol \"{value}\" is not one of TCP, UDP, SCTP")]
    Protocol {
        /// The slice.
        slice: ObjectName,
        /// What stands there.
        value: String,
    },
    /// A port out of range.
    #[error("EndpointSlice {slice}: ports: {value} is not a port; use 1 to 65535")]
    Port {
        /// The slice.
        slice: ObjectName,
        /// What stands there.
        value: i64,
    },
}
