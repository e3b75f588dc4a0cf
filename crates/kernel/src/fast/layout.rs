//! Keys and values of the maps as bytes; `bpf/fast_maps.h` has the same as C structures.
//!
//! Addresses are in network byte order, numbers in the machine's.

/// `struct key`.
pub(super) type KeyBytes = [u8; 48];

/// `struct flow`.
pub(super) type FlowBytes = [u8; 128];

/// `struct settings`: until (ns), lifetime (ns), established (ms).
pub(super) type Settings = [u64; 3];

/// The slot with the generation of everything.
pub(super) const ALL: u32 = 0;
/// The slot that counts changes of any of them.
pub(super) const SEQUENCE: u32 = 1;
/// The first slot for pods and nodes.
pub(super) const FIRST: u32 = 2;
/// How many slots there are.
pub(super) const SLOTS: u32 = 65536;

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
