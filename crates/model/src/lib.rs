//! Cluster state as types: nodes, pod ranges, attachments, services, endpoints and the network's configuration; and the
//! flows that pass through it.
//!
//! Strings become types here, at the edge, and nowhere else. Nothing in this crate does I/O or reads a clock.

mod attachment;
mod cluster;
mod endpoints;
mod family;
pub mod flow;
mod mac;
mod name;
mod network;
mod node;
mod node_file;
mod pod;
mod range;
mod routing;
mod service;
mod shared_names;

pub use attachment::{Attachment, AttachmentId};
pub use cluster::Cluster;
pub use endpoints::{Endpoint, EndpointError, EndpointPort, EndpointSlice};
pub use family::{Family, PerFamily};
pub use mac::{MacAddr, ParseMacError, fnv1a};
pub use name::{LinkName, NameError, NodeName};
pub use network::{
    Encapsulation, MIN_MTU, Mtu, NetworkConfig, NetworkError, Sending, Vni, VxlanPort, VxlanSettings, When,
};
pub use node::{Node, NodeError, REFLECTOR_LABEL, SITE_LABEL};
pub use node_file::NodeFile;
pub use pod::Pod;
pub use range::{PodRange, RangeError};
pub use routing::{
    Asn, AsnError, BfdTimers, BgpPeer, BgpSettings, HoldTime, PasswordState, PeerPassword, Reflector,
    ReflectorError, RouteFilter, RouteRule, RouteSource, SecretKey, ServiceAddresses, TimerError,
};
pub use service::{ObjectName, Protocol, Service, ServiceError, ServicePort, TrafficPolicy};
pub use shared_names::SharedNames;
