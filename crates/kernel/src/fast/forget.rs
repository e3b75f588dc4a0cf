//! What the CNI plugin tells the fast path: it knows of a pod before the agent does.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError};

use super::layout::{self, Endpoint};
use crate::Result;
use crate::bpf::layout::{AddressBytes, address as key};
use crate::bpf::{failed, unless};
use crate::clock::monotonic;
use crate::netns::NetNs;

/// What is pinned for a network namespace, that of the calling thread, below a mount of a BPF file system.
pub(crate) fn directory(mount: &Path) -> Result<PathBuf> {
    Ok(mount.join(format!("fast-{}", NetNs::current()?.id()?.inode)))
}

/// Takes addresses out of the fast path of the calling thread's network namespace, before a pod gets them: flows of whoever
/// had them are flows no more, whether or not the agent has seen that one go. Where there is no fast path nothing is done.
///
/// # Errors
/// If the kernel refuses it.
pub fn forget(mount: &Path, addresses: &[IpAddr]) -> Result<()> {
    let directory = directory(mount)?;
    let [endpoints, generations] = super::object::PINNED.map(|map| directory.join(map));
    if !endpoints.exists() || !generations.exists() {
        return Ok(());
    }
    let mut endpoints: HashMap<MapData, AddressBytes, [u32; 2]> = open(&endpoints)?;
    let mut generations: Array<MapData, u64> = open(&generations)?;
    for address in addresses {
        let what = || format!("take {address} out of the fast path");
        let key = key(*address);
        let found = match endpoints.get(&key, 0) {
            Err(MapError::KeyNotFound) => continue,
            found => found.map_err(failed(what()))?,
        };
        unless(libc::ENOENT, endpoints.remove(&key)).map_err(failed(what()))?;
        for slot in [layout::SEQUENCE, Endpoint::read(found).slot] {
            generations.set(slot, monotonic()?, 0).map_err(failed(what()))?;
        }
    }
    Ok(())
}

fn open<T: TryFrom<Map, Error = MapError>>(pin: &Path) -> Result<T> {
    let what = || format!("open {}", pin.display());
    let map = MapData::from_pin(pin).and_then(Map::from_map_data).and_then(T::try_from);
    map.map_err(failed(what()))
}
