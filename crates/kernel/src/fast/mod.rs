//! The fast path (`bpf/fast.bpf.c`): the kernel's own path decides about flows, BPF programs repeat what it did.
//!
//! Unlike IP in IP nothing of it outlives the process, or a process that hangs: the programs go with it, and what they
//! have learned is used only as long as [`Fast::attend`] is called.

mod counters;
mod forget;
mod layout;
mod links;
mod object;
#[cfg(test)]
mod run_tests;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::lpm_trie;
use ipnet::IpNet;
use model::LinkName;
use plan::services::Frontend;

pub use counters::Counters;
pub(crate) use forget::directory;
pub use forget::forget;
use layout::{Endpoint, TunnelBytes, Weights};
use links::Attached;
pub use links::Side;
use object::Object;
use slots::Slots;

use crate::bpf::{bpffs, failed, layout as keys, unless};
use crate::clock::monotonic;
use crate::{Error, Result};

/// How long a flow does without the kernel's path. Neighbours are taken for reachable for 30 seconds, and connection
/// tracking forgets UDP flows after as many.
pub const LIFETIME: Duration = Duration::from_secs(3);

/// How long the programs go on without an [`Fast::attend`].
pub const ATTENTION: Duration = Duration::from_secs(15);

/// How many packets of TCP flows that are not known are not learned from, for each that is: a connection with a request and
/// an answer is over before it would be worth it. Of UDP it is a quarter of that.
const PASSED_BY: u64 = 15;

/// How long connection tracking keeps an idle TCP connection in this namespace, in seconds.
const ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";

/// 1 on kernels with PREEMPT_RT.
const REALTIME: &str = "/sys/kernel/realtime";

/// The programs keep what they know of a packet by processor, and take for granted that no other one comes in between.
fn refuse_preemption(flag: &Path) -> Result<()> {
    if std::fs::read_to_string(flag).is_ok_and(|text| text.trim() == "1") {
        return Err(Error::Foreign {
            what: "use the fast path".to_owned(),
            obstacle: "PREEMPT_RT, with which a packet may interrupt another one on its way".to_owned(),
            remedy: "boot a kernel without it; until then packets take the kernel's path".to_owned(),
        });
    }
    Ok(())
}

/// What nobody can guess.
fn random_weights() -> std::io::Result<Weights> {
    let mut source = std::fs::File::open("/dev/urandom")?;
    let mut weights = Weights::default();
    for weight in &mut weights {
        let mut bytes = [0; size_of::<u64>()];
        source.read_exact(&mut bytes)?;
        *weight = u64::from_ne_bytes(bytes);
    }
    Ok(weights)
}

/// The fast path of a network namespace.
#[derive(Debug)]
pub struct Fast {
    object: Object,
    slots: Slots,
    pods: BTreeMap<IpAddr, Endpoint>,
    ranges: BTreeMap<IpNet, u32>,
    hosts: BTreeSet<IpAddr>,
    links: BTreeMap<LinkName, Attached>,
    /// VXLAN devices, and where and how they stand in the map.
    tunnels: BTreeMap<LinkName, (u32, TunnelBytes)>,
    /// Links with queueing disciplines, as of the last look.
    shaped: BTreeSet<u32>,
    /// For how long connection tracking keeps an idle TCP connection, as of then (ms); 0: not known.
    established: u64,
    pins: Option<PathBuf>,
}

impl Fast {
    /// Loads the programs. Nothing is sent by the fast path before links have them ([`Fast::set_link`]), somebody attends
    /// ([`Fast::attend`]), and it is known who is where ([`Fast::set_pod`], [`Fast::set_range`]).
    ///
    /// With a directory on a BPF file system the CNI plugin can say that a pod is gone ([`forget`]).
    ///
    /// # Errors
    /// If the kernel refuses the programs, has no functions to look up connections, or is one with PREEMPT_RT.
    pub fn open(pins: Option<&Path>) -> Result<Fast> {
        refuse_preemption(Path::new(REALTIME))?;
        if let Some(directory) = pins {
            unpin(directory)?;
            bpffs::create(directory)?;
        }
        let mut fast = Fast {
            object: Object::load(pins)?,
            slots: Slots::default(),
            pods: BTreeMap::new(),
            ranges: BTreeMap::new(),
            hosts: BTreeSet::new(),
            links: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            shaped: BTreeSet::new(),
            established: 0,
            pins: pins.map(Path::to_owned),
        };
        let weights = random_weights().map_err(failed("get random numbers for the fast path"))?;
        fast.object.weights.set(0, weights, 0).map_err(failed("set up the fast path"))?;
        fast.look_around()?;
        fast.invalidate()?;
        Ok(fast)
    }

    /// Looks up which links others have queueing disciplines on, which [`Fast::set_link`] goes by, and for how long
    /// connection tracking keeps connections.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn look_around(&mut self) -> Result<()> {
        self.shaped = links::shaped()?;
        let seconds = crate::sysctl::read(ESTABLISHED)?.and_then(|text| text.parse::<u64>().ok());
        // The programs give it on as a number of 32 bits.
        self.established = seconds.unwrap_or(0).saturating_mul(1000).min(u32::MAX.into());
        Ok(())
    }

    /// Puts the programs on a link of the calling thread's network namespace, or takes them off. A link that is not there
    /// has none, and is no error: whether it had been there is the result.
    ///
    /// # Errors
    /// If the kernel refuses it. [`crate::Error::Foreign`] if others have something on a pod's link that packets would pass by; it
    /// has no programs then.
    pub fn set_link(&mut self, name: &LinkName, side: Option<Side>) -> Result<bool> {
        let found = links::find(name)?;
        let (Some(side), Some(found)) = (side, &found) else {
            self.links.remove(name);
            self.set_tunnel(name, None)?;
            return Ok(found.is_some());
        };
        let index = found.index;
        if side == Side::Pod && self.shaped.contains(&index) {
            self.links.remove(name);
            return Err(links::refuse_shaped(name));
        }
        if self.links.get(name).is_none_or(|there| (there.index, there.side) != (index, side)) {
            self.links.remove(name);
            let attached = Attached::new(&mut self.object, name, index, side)?;
            self.links.insert(name.clone(), attached);
        }
        // Packets would pass by what others have on it.
        let is_plain =
            self.links.get(name).is_some_and(|there| there.is_plain) && !self.shaped.contains(&index);
        self.set_tunnel(name, layout::tunnel(found).filter(|_| is_plain))?;
        Ok(true)
    }

    /// Has packets into a VXLAN device get their outer header at once, as what leaves the device has it, and lose it where
    /// they come in; `None`: no more.
    fn set_tunnel(&mut self, name: &LinkName, tunnel: Option<(u32, TunnelBytes)>) -> Result<()> {
        if self.tunnels.get(name) == tunnel.as_ref() {
            return Ok(());
        }
        let what = || format!("say to the fast path how packets leave {name}");
        if let Some((place, _)) = self.tunnels.remove(name) {
            self.object.tunnels.set(place, [0; size_of::<TunnelBytes>()], 0).map_err(failed(what()))?;
        }
        self.invalidate()?;
        if let Some((place, bytes)) = tunnel {
            self.object.tunnels.set(place, bytes, 0).map_err(failed(what()))?;
            self.tunnels.insert(name.clone(), (place, bytes));
        }
        Ok(())
    }

    /// Says that an underlay address is another node's, or is no more: packets in VXLAN from there are taken.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set_host(&mut self, address: IpAddr, is_there: bool) -> Result<()> {
        if self.hosts.contains(&address) == is_there {
            return Ok(());
        }
        let key = keys::address(address);
        let done = if is_there {
            unless(libc::E2BIG, self.object.hosts.insert(key, 0, 0))
        } else {
            unless(libc::ENOENT, self.object.hosts.remove(&key))
        };
        done.map_err(failed(format!("say to the fast path whether {address} is a node")))?;
        if is_there {
            self.hosts.insert(address);
        } else {
            self.hosts.remove(&address);
        }
        Ok(())
    }

    /// The links that have the programs.
    pub fn links(&self) -> impl Iterator<Item = &LinkName> {
        self.links.keys()
    }

    /// Says by which link a pod of this node has an address; `None`: none has it any more. Flows of whoever had it before
    /// are flows no more.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set_pod(&mut self, address: IpAddr, link: Option<&LinkName>) -> Result<()> {
        let index = link.map(links::find).transpose()?.flatten().map(|link| link.index);
        if self.pods.get(&address).map(|pod| pod.link) == index {
            return Ok(());
        }
        let what = || format!("say to the fast path where {address} is");
        let key = keys::address(address);
        if let Some(pod) = self.pods.get(&address).copied() {
            unless(libc::ENOENT, self.object.endpoints.remove(&key)).map_err(failed(what()))?;
            self.renew([pod.slot])?;
            self.pods.remove(&address);
            self.slots.give_back(pod.slot);
        }
        if let Some(link) = index {
            let Some(slot) = self.slots.take() else { return Ok(()) };
            self.renew([slot])?;
            let endpoint = Endpoint { link, slot };
            self.pods.insert(address, endpoint);
            // A pod for which there is no room does without.
            let added = self.object.endpoints.insert(key, endpoint.bytes(), 0);
            unless(libc::E2BIG, added).map_err(failed(what()))?;
        }
        Ok(())
    }

    /// Says that pods of another node are in a range, or are no more.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set_range(&mut self, range: IpNet, is_there: bool) -> Result<()> {
        if self.ranges.contains_key(&range) == is_there {
            return Ok(());
        }
        let what = || format!("say to the fast path where {range} is");
        if let Some(slot) = self.ranges.get(&range).copied() {
            let removed = match range {
                IpNet::V4(net) => {
                    let (data, length) = keys::prefix4(net);
                    self.object.ranges4.remove(&lpm_trie::Key::new(length, data))
                }
                IpNet::V6(net) => {
                    let (data, length) = keys::prefix6(net);
                    self.object.ranges6.remove(&lpm_trie::Key::new(length, data))
                }
            };
            unless(libc::ENOENT, removed).map_err(failed(what()))?;
            self.renew([slot])?;
            self.ranges.remove(&range);
            self.slots.give_back(slot);
            return Ok(());
        }
        let Some(slot) = self.slots.take() else { return Ok(()) };
        self.renew([slot])?;
        self.ranges.insert(range, slot);
        let added = match range {
            IpNet::V4(net) => {
                let (data, length) = keys::prefix4(net);
                self.object.ranges4.insert(&lpm_trie::Key::new(length, data), slot, 0)
            }
            IpNet::V6(net) => {
                let (data, length) = keys::prefix6(net);
                self.object.ranges6.insert(&lpm_trie::Key::new(length, data), slot, 0)
            }
        };
        unless(libc::ENOSPC, added).map_err(failed(what()))
    }

    /// Forgets all flows: their next packets take the kernel's path, and so do those that are on their way.
    ///
    /// # Errors
    /// If the kernel cannot be told; then it must be taken off all links.
    pub fn invalidate(&mut self) -> Result<()> {
        self.renew([layout::ALL])
    }

    /// Forgets the flows from and to a pod of this node, or the pods of another node. What is not known has no flows.
    ///
    /// # Errors
    /// If the kernel cannot be told.
    pub fn invalidate_at(&mut self, place: IpNet) -> Result<()> {
        let pods = self.pods.iter().filter(|(address, _)| place.contains(*address)).map(|(_, pod)| pod.slot);
        let overlaps = |range: &IpNet| range.contains(&place) || place.contains(range);
        let ranges = self.ranges.iter().filter(|(range, _)| overlaps(range)).map(|(_, slot)| *slot);
        let slots: Vec<u32> = pods.chain(ranges).collect();
        if slots.is_empty() { Ok(()) } else { self.renew(slots) }
    }

    /// Forgets the flows to services' frontends, and their answers. Some of other frontends may go with them.
    ///
    /// # Errors
    /// If the kernel cannot be told.
    pub fn invalidate_frontends<'a>(
        &mut self,
        frontends: impl IntoIterator<Item = &'a Frontend>,
    ) -> Result<()> {
        let slots: BTreeSet<u32> = frontends.into_iter().map(layout::frontend).collect();
        if slots.is_empty() { Ok(()) } else { self.renew(slots) }
    }

    /// Has the programs go on for [`ATTENTION`] from now.
    ///
    /// # Errors
    /// If the kernel cannot be told.
    pub fn attend(&mut self) -> Result<()> {
        self.attend_for(ATTENTION, LIFETIME, PASSED_BY)
    }

    fn attend_for(&mut self, time: Duration, lifetime: Duration, passed_by: u64) -> Result<()> {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let until = monotonic()?.saturating_add(nanoseconds(time));
        let settings = [until, nanoseconds(lifetime), self.established, passed_by];
        self.object.settings.set(0, settings, 0).map_err(failed("attend to the fast path"))
    }

    /// What packets and flows have met.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        self.object.counters()
    }

    /// Says that there is a change, and then gives slots a number that they have not had. The other way round a packet that
    /// is on its way could be learned from with what is new in the slot.
    fn renew(&mut self, slots: impl IntoIterator<Item = u32>) -> Result<()> {
        let what = "forget flows of the fast path";
        for slot in [layout::SEQUENCE].into_iter().chain(slots) {
            let number = self.slots.number()?;
            self.object.generations.set(slot, number, 0).map_err(failed(what))?;
        }
        Ok(())
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        if let Some(directory) = &self.pins {
            // The next one takes away what stays.
            let _ = unpin(directory);
        }
    }
}

/// Takes away what is pinned in a directory, with the directory. One that is not there is no error.
///
/// # Errors
/// If something stays.
pub fn unpin(directory: &Path) -> Result<()> {
    object::PINNED.iter().try_for_each(|map| bpffs::unpin(&directory.join(map)))?;
    bpffs::remove_empty(directory)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_in_which_packets_interrupt_each_other_is_refused() {
        let flag = std::env::temp_dir().join(format!("realtime-{}", std::process::id()));
        assert!(refuse_preemption(&flag).is_ok());
        for (text, is_refused) in [("0\n", false), ("1\n", true)] {
            std::fs::write(&flag, text).unwrap();
            assert_eq!(refuse_preemption(&flag).is_err(), is_refused);
        }
        std::fs::remove_file(&flag).unwrap();
    }
}
