//! A pod's interface on a node.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::mac::fnv1a;
use crate::{LinkName, MacAddr};

/// What identifies an attachment (CNI spec 1.1.0, section 2: `CNI_CONTAINERID` and `CNI_IFNAME`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The container runtime's identifier of the sandbox.
    pub container_id: String,
    /// The name of the interface in the sandbox, for instance `eth0`.
    pub ifname: String,
}

impl AttachmentId {
    /// The name of the node's end of the veth pair: the same for the same attachment, so that it can be found
    /// again when nothing but the identifier is left.
    pub fn host_link(&self) -> LinkName {
        // A NUL can be in neither part, so no two attachments have the same text.
        let text = [self.container_id.as_bytes(), b"\0", self.ifname.as_bytes()].concat();
        LinkName::pod(fnv1a(&text))
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// A pod's interface with the addresses that it was given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// Whose it is.
    pub id: AttachmentId,
    /// The addresses, IPv4 first; at least one.
    pub addresses: Vec<IpAddr>,
}

impl Attachment {
    /// The Ethernet address of the pod's interface, made from its first address; `None` if it has no address.
    pub fn mac(&self) -> Option<MacAddr> {
        self.addresses.iter().min().map(MacAddr::for_pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_links_differ_by_container_and_interface() {
        let id = |container_id: &str, ifname: &str| AttachmentId {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        };
        assert_eq!(id("a", "eth0").host_link(), id("a", "eth0").host_link());
        assert_ne!(id("a", "eth0").host_link(), id("a", "eth1").host_link());
        assert_ne!(id("ae", "th0").host_link(), id("a", "eth0").host_link());
    }
}
