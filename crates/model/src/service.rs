//! Services, as far as connections to them are concerned.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The name of an object that lives in a namespace.
///
/// What the API has named is taken as it is: the names are only compared and shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
}

impl ObjectName {
    /// The name of an object in a namespace.
    pub fn new(namespace: impl Into<Box<str>>, name: impl Into<Box<str>>) -> ObjectName {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that services can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, the default.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol of a number, if services can have it.
    pub fn from_number(number: u8) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)
    }
}

/// As Kubernetes writes it.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// Which endpoints connections may be sent to (`internalTrafficPolicy`, `externalTrafficPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All.
    #[default]
    Cluster,
    /// Those on the node that the connection comes to.
    Local,
}

/// What the network needs to know of a Kubernetes Service.
///
/// Headless services, those of type `ExternalName` and those that name another proxy are none of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `spec.clusterIPs`; none for a headless service.
    pub cluster_addresses: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_addresses: Vec<IpAddr>,
    /// The addresses in `status.loadBalancer.ingress` whose `ipMode` is `VIP`, which is the default: a balancer that
    /// is a proxy talks to node ports.
    pub balancer_addresses: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: who may use the balancer's addresses. Everybody if empty.
    pub balancer_sources: Vec<IpNet>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy`, for connections to cluster addresses.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`, for connections to all other addresses.
    pub external_policy: TrafficPolicy,
    /// How long a client stays with an endpoint, if `spec.sessionAffinity` is `ClientIP`.
    pub affinity: Option<Duration>,
    /// `spec.healthCheckNodePort`, host byte order.
    pub health_check_port: Option<u16>,
}

impl Service {
    /// Its addresses of all kinds: those that are its own, whichever node a connection comes to.
    pub fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.cluster_addresses.iter().chain(&self.external_addresses).chain(&self.balancer_addresses)
    }
}

/// An entry of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty if it has none.
    pub name: Box<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the service's addresses, host byte order.
    pub port: u16,
    /// The port of the nodes' addresses, host byte order, if there is one.
    pub node_port: Option<u16>,
}

/// A Service object that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// Something that is not an address.
    #[error("Service {service}: {field}: \"{value}\" is not an IP address")]
    Address {
        /// The service.
        service: ObjectName,
        /// The field.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// An address that connections to a service cannot have.
    #[error("Service {service}: {field}: {value} is not unicast; a service needs an address of its own")]
    NotUnicast {
        /// The service.
        service: ObjectName,
        /// The field.
        field: &'static str,
        /// What stands there.
        value: IpAddr,
    },
    /// Something that is not a prefix.
    #[error(
        "Service {service}: spec.loadBalancerSourceRanges: \"{value}\" is not an address prefix; it would look \
         like 192.0.2.0/24"
    )]
    Range {
        /// The service.
        service: ObjectName,
        /// What stands there.
        value: String,
    },
    /// A protocol that services cannot have.
    #[error("Service {service}: spec.ports: protocol \"{value}\" is not one of TCP, UDP, SCTP")]
    Protocol {
        /// The service.
        service: ObjectName,
        /// What stands there.
        value: String,
    },
    /// A port out of range.
    #[error("Service {service}: {field}: {value} is not a port; use 1 to 65535")]
    Port {
        /// The service.
        service: ObjectName,
        /// The field.
        field: &'static str,
        /// What stands there.
        value: i64,
    },
    /// A traffic policy that does not exist.
    #[error("Service {service}: {field}: \"{value}\" is not one of Cluster, Local")]
    Policy {
        /// The service.
        service: ObjectName,
        /// The field.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// An affinity that does not exist.
    #[error("Service {service}: spec.sessionAffinity: \"{value}\" is not one of None, ClientIP")]
    Affinity {
        /// The service.
        service: ObjectName,
        /// What stands there.
        value: String,
    },
    /// An affinity that ends at once, or never.
    #[error(
        "Service {service}: spec.sessionAffinityConfig.clientIP.timeoutSeconds: {value} is out of range; use 1 to \
         86400"
    )]
    AffinityTime {
        /// The service.
        service: ObjectName,
        /// What stands there, in seconds.
        value: i64,
    },
}
