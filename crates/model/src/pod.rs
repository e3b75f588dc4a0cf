//! A pod, as far as packets are concerned.

use std::net::IpAddr;

use crate::{Attachment, AttachmentId, NodeName, ObjectName, PerFamily};

/// What the network needs to know of a Kubernetes Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.namespace` and `metadata.name`.
    pub name: ObjectName,
    /// `metadata.uid`: another pod of the same name has another.
    pub uid: Box<str>,
    /// `spec.nodeName`.
    pub node: NodeName,
    /// `spec.hostNetwork`: it has the network and the addresses of its node.
    pub host_network: bool,
    /// `status.podIPs`, one of each family.
    pub addresses: PerFamily<IpAddr>,
}

impl Pod {
    /// Its interface, for a plan on paper: any identifier will do there, as long as no two pods have the same.
    pub fn attachment(&self) -> Attachment {
        Attachment {
            id: AttachmentId { container_id: self.name.to_string(), ifname: "eth0".to_owned() },
            addresses: self.addresses.iter().copied().collect(),
        }
    }
}
