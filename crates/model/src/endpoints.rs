//! Endpoints of services.

use std::net::IpAddr;
use std::sync::Arc;

use crate::{Family, NodeName, ObjectName, Protocol};

/// What the network needs to know of a Kubernetes EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
/// Names of nodes and zones are shared: a hundred thousand endpoints have few of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The first of `addresses`; the others mean the same (discovery.k8s.io/v1).
    pub address: IpAddr,
    /// `conditions.ready`; unknown is taken as yes.
    pub ready: bool,
    /// `conditions.serving`; unknown is the same as ready.
    pub serving: bool,
    /// `conditions.terminating`; unknown is taken as no.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<NodeName>>,
    /// `hints.forZones`: the zones whose clients should use it. Empty if there are no hints.
    pub zones: Arc<[Box<str>]>,
    /// `hints.forNodes`: the nodes whose clients should use it. Empty if there are no hints.
    pub nodes: Arc<[Box<str>]>,
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
