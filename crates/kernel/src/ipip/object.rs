//! The compiled programs and their maps, in the kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use aya::maps::lpm_trie::{self, LpmTrie};
use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, Pod};

use super::layout::{AddressBytes, Heard, Prefix, RouteBytes};
use crate::Result;
use crate::bpf::{BPF_NOEXIST, failed, load, map, program, unless};

static COMPILED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipip.bpf.o"));

/// The maps, by the names that they have in `bpf/ipip.bpf.c` and are pinned by.
pub(super) const MAPS: [&str; 5] = ["routes4", "routes6", "nodes", "locals", "counters"];

/// Where on the uplink a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Ingress,
    Egress,
}

impl Hook {
    /// The one that takes packets before the one that sends them.
    pub(super) const BOTH: [Hook; 2] = [Hook::Ingress, Hook::Egress];

    pub(super) fn name(self) -> &'static str {
        match self {
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Hook::Ingress => "cambric_ingress",
            Hook::Egress => "cambric_egress",
        }
    }
}

/// The programs, loaded, and their maps.
pub(super) struct Object {
    programs: Ebpf,
    pub(super) routes4: LpmTrie<MapData, [u8; 4], RouteBytes>,
    pub(super) routes6: LpmTrie<MapData, [u8; 16], RouteBytes>,
    /// When each node was last heard.
    pub(super) nodes: HashMap<MapData, AddressBytes, Heard>,
    pub(super) locals: HashMap<MapData, AddressBytes, u32>,
    /// By the numbers of `enum counter`.
    pub(super) counters: PerCpuArray<MapData, u64>,
}

impl Object {
    /// Loads the programs. The maps are those pinned in the directory, and are made and pinned there if they are not
    /// yet; without a directory they end with the object.
    pub(super) fn load(pins: Option<&Path>) -> Result<Object> {
        let mut loader = EbpfLoader::new();
        for map in MAPS {
            if let Some(directory) = pins {
                loader.map_pin_path(map, directory.join(map));
            }
        }
        let mut programs = loader.load(COMPILED).map_err(failed("load the IP in IP programs"))?;
        for hook in Hook::BOTH {
            load(&mut programs, hook.program(), format!("load the IP in IP program for {}", hook.name()))?;
        }
        Ok(Object {
            routes4: map(&mut programs, "routes4")?,
            routes6: map(&mut programs, "routes6")?,
            nodes: map(&mut programs, "nodes")?,
            locals: map(&mut programs, "locals")?,
            counters: map(&mut programs, "counters")?,
            programs,
        })
    }

    pub(super) fn program(&mut self, hook: Hook) -> Result<&mut SchedClassifier> {
        program(&mut self.programs, hook.program())
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("programs", &self.programs).finish_non_exhaustive()
    }
}

/// A map as what it maps.
pub(super) trait Entries {
    type Key: Copy + Ord;
    type Value: Copy + PartialEq;

    fn all(&self) -> Result<BTreeMap<Self::Key, Self::Value>>;
    fn put(&mut self, key: &Self::Key, value: &Self::Value) -> Result<()>;
    /// Makes an entry; one that is there stays as it is.
    fn add(&mut self, key: &Self::Key, value: &Self::Value) -> Result<()>;
    /// Removes an entry; one that is not there is no error.
    fn take(&mut self, key: &Self::Key) -> Result<()>;
}

impl<const N: usize> Entries for LpmTrie<MapData, [u8; N], RouteBytes>
where
    [u8; N]: Pod,
{
    type Key = Prefix<N>;
    type Value = RouteBytes;

    fn all(&self) -> Result<BTreeMap<Prefix<N>, RouteBytes>> {
        let entries =
            self.iter().map(|entry| entry.map(|(key, value)| ((key.data(), key.prefix_len()), value)));
        entries.collect::<Result<_, _>>().map_err(failed("read the IP in IP routes"))
    }

    fn put(&mut self, (data, length): &Prefix<N>, value: &RouteBytes) -> Result<()> {
        self.insert(&lpm_trie::Key::new(*length, *data), value, 0).map_err(failed("write an IP in IP route"))
    }

    fn add(&mut self, (data, length): &Prefix<N>, value: &RouteBytes) -> Result<()> {
        let added = self.insert(&lpm_trie::Key::new(*length, *data), value, BPF_NOEXIST);
        unless(libc::EEXIST, added).map_err(failed("write an IP in IP route"))
    }

    fn take(&mut self, (data, length): &Prefix<N>) -> Result<()> {
        unless(libc::ENOENT, self.remove(&lpm_trie::Key::new(*length, *data)))
            .map_err(failed("remove an IP in IP route"))
    }
}

impl<V: Pod + PartialEq> Entries for HashMap<MapData, AddressBytes, V> {
    type Key = AddressBytes;
    type Value = V;

    fn all(&self) -> Result<BTreeMap<AddressBytes, V>> {
        self.iter().collect::<Result<_, _>>().map_err(failed("read the IP in IP addresses"))
    }

    fn put(&mut self, key: &AddressBytes, value: &V) -> Result<()> {
        self.insert(key, value, 0).map_err(failed("write an IP in IP address"))
    }

    fn add(&mut self, key: &AddressBytes, value: &V) -> Result<()> {
        unless(libc::EEXIST, self.insert(key, value, BPF_NOEXIST))
            .map_err(failed("write an IP in IP address"))
    }

    fn take(&mut self, key: &AddressBytes) -> Result<()> {
        unless(libc::ENOENT, self.remove(key)).map_err(failed("remove an IP in IP address"))
    }
}

/// The value of the longest prefix that all of another one is in.
pub(super) fn longest<const N: usize>(
    routes: &LpmTrie<MapData, [u8; N], RouteBytes>,
    (data, length): Prefix<N>,
) -> Result<Option<RouteBytes>>
where
    [u8; N]: Pod,
{
    match routes.get(&lpm_trie::Key::new(length, data), 0) {
        Ok(route) => Ok(Some(route)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(failed("look up an IP in IP route")(error)),
    }
}
