//! Keys and values of the maps as bytes; `bpf/fast_maps.h` has the same as C structures.
//!
//! Addresses are in network byte order, numbers in the machine's.

use std::net::IpAddr;

use plan::services::Frontend;

use crate::bpf::layout::address;
use crate::link::{LinkKind, LinkState};

/// `struct settings`: until (ns), lifetime (ns), established (ms), passed by.
pub(super) type Settings = [u64; 4];

/// `struct weights`.
pub(super) type Weights = [u64; 6];

/// The slot with the generation of everything.
pub(super) const ALL: u32 = 0;
/// The slot that counts changes of any of them; it is the first to change.
pub(super) const SEQUENCE: u32 = 1;
/// The first slot for pods and nodes.
pub(super) const FIRST: u32 = 2;
/// The first slot for frontends of services.
pub(super) const FIRST_SERVICE: u32 = 65536;
/// How many slots frontends share.
const SERVICES: u32 = 16384;

/// The slot of a frontend, as `frontend_slot` in `bpf/fast_leave.h` has it.
pub(super) fn frontend(frontend: &Frontend) -> u32 {
    let bytes = address(frontend.address);
    let words = bytes[4..].chunks_exact(4).map(|word| word.try_into().map_or(0, u32::from_ne_bytes));
    let port = u32::from(frontend.port.to_be()) << 8 | u32::from(frontend.protocol.number());
    let mixed = words.zip([1, 3, 5, 7]).fold(port, |mixed, (word, factor)| mixed ^ word.wrapping_mul(factor));
    FIRST_SERVICE + (mixed.wrapping_mul(0x9e37_79b1) >> 16) % SERVICES
}

/// `struct endpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The node's end of the pod's veth pair.
    pub(super) link: u32,
    pub(super) slot: u32,
}

impl Endpoint {
    pub(super) fn bytes(self) -> [u32; 2] {
        [self.link, self.slot]
    }

    pub(super) fn read([link, slot]: [u32; 2]) -> Endpoint {
        Endpoint { link, slot }
    }
}

/// `struct tunnel`.
pub(super) type TunnelBytes = [u8; 28];

/// What the programs know of a VXLAN device, and its place in their map; `None` if it is none.
pub(super) fn tunnel(link: &LinkState) -> Option<(u32, TunnelBytes)> {
    let LinkKind::Vxlan { vni, port, local: Some(local) } = link.kind else { return None };
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&link.index.to_ne_bytes());
    bytes[4..8].copy_from_slice(&(vni << 8).to_be_bytes());
    bytes[8..10].copy_from_slice(&port.to_be_bytes());
    bytes[12..].copy_from_slice(&address(local)[4..]);
    Some((place(local), bytes))
}

/// The place of a tunnel by the family of its underlay.
fn place(local: IpAddr) -> u32 {
    u32::from(local.is_ipv6())
}
