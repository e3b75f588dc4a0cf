//! IP in IP by BPF programs on the uplink (`bpf/ipip.bpf.c`), without a tunnel device.
//!
//! Programs and maps are pinned, so they stay in force when the process ends. Kernel 6.6 or newer is needed (TCX).

mod attach;
mod keepalive;
mod layout;
mod object;
#[cfg(test)]
mod run_tests;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use model::{LinkName, PerFamily};
use plan::ipip::{Route, Table};
use table::Stale;

pub use crate::bpf::bpffs::{mount, unmount};
pub use attach::remove;
pub use keepalive::{keepalive, send_keepalive};
use object::Object;

use crate::bpf::bpffs;
use crate::{Error, Result};

/// The programs of a network namespace, and what they go by.
#[derive(Debug)]
pub struct Ipip {
    directory: PathBuf,
    object: Object,
    /// What was found in the maps and makes no sense.
    stale: Stale,
}

/// How many packets met which fate since the maps were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent to a node.
    pub encapsulated: u64,
    /// Received from a node.
    pub decapsulated: u64,
    /// Keepalives received from a node.
    pub keepalives: u64,
    /// Dropped, because the destination has not been heard ([`plan::ipip::Route::hold`]).
    pub held: u64,
    /// Dropped, because they came from an address that is no node's.
    pub refused: u64,
    /// Dropped, because they are not what their outer header says.
    pub malformed: u64,
    /// Dropped, because they met congestion and can carry no mark that says so (RFC 6040, section 4.2).
    pub congested: u64,
    /// Dropped, because the kernel would not add or take away the outer header.
    pub failed: u64,
}

impl Counters {
    /// Each with a word for it.
    pub fn by_fate(&self) -> [(&'static str, u64); 8] {
        let Counters { encapsulated, decapsulated, keepalives, held, refused, malformed, congested, failed } =
            *self;
        [
            ("encapsulated", encapsulated),
            ("decapsulated", decapsulated),
            ("keepalives", keepalives),
            ("held", held),
            ("refused", refused),
            ("malformed", malformed),
            ("congested", congested),
            ("failed", failed),
        ]
    }
}

impl Ipip {
    /// Loads the programs, and opens the maps that are pinned in a directory or makes them.
    ///
    /// The directory is made if need be. It has to be this namespace's own, and on a BPF file system ([`mount`]).
    /// Nothing changes for packets before an uplink gets the programs ([`Ipip::set_uplink`]). Programs of an earlier
    /// process that it has stay, and go by the same maps.
    ///
    /// # Errors
    /// If the directory is on no BPF file system, or the kernel refuses the programs.
    pub fn open(directory: &Path) -> Result<Ipip> {
        let maps = attach::maps(directory);
        let above = directory.ancestors().find(|above| above.exists()).unwrap_or(directory);
        if !bpffs::is_bpffs(above)? {
            return Err(Error::Missing {
                what: format!("pin the IP in IP programs in {}", directory.display()),
                missing: "a BPF file system (mount -t bpf)".to_owned(),
            });
        }
        bpffs::create(&maps)?;
        Ok(Ipip {
            directory: directory.to_owned(),
            object: Object::load(Some(&maps))?,
            stale: Stale::default(),
        })
    }

    /// Makes, changes or removes one route.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set_route(&mut self, destination: IpNet, route: Option<&Route>) -> Result<()> {
        self.object.set_route(destination, route)
    }

    /// Takes the packets of one node, or takes them no more.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set_node(&mut self, node: IpAddr, accepted: bool) -> Result<()> {
        self.object.set_node(node, accepted)
    }

    /// Takes packets at one address of this node, or takes them there no more.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set_local(&mut self, local: IpAddr, accepted: bool) -> Result<()> {
        self.object.set_local(local, accepted)
    }

    /// The route that packets to all of a destination take.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn route(&self, destination: IpNet) -> Result<Option<Route>> {
        self.object.route(destination)
    }

    /// Puts the programs on a link of the calling thread's network namespace, or takes them off it. A program of an
    /// earlier process is replaced without a gap. So all that programs go by comes first, as the maps of another version
    /// of them may be others.
    ///
    /// # Errors
    /// If the link is not there or no Ethernet link, or the kernel refuses it.
    pub fn set_uplink(&mut self, link: &LinkName, carries: bool) -> Result<()> {
        if carries { self.attach(link) } else { self.detach(link) }
    }

    /// What the kernel holds; uplinks are those that have both programs of this [`Ipip`]. What makes no sense is left
    /// out, and goes with [`Ipip::tidy`].
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn observe(&mut self) -> Result<Table> {
        let (mut table, stale) = self.object.table()?;
        self.stale = stale;
        table.uplinks = self.uplinks()?;
        Ok(table)
    }

    /// Takes away what is left of others, once all that is wanted is there: programs of links other than these, maps of
    /// another version, and what the last [`Ipip::observe`] could make no sense of.
    ///
    /// # Errors
    /// If something stays.
    pub fn tidy(&mut self, uplinks: &BTreeSet<LinkName>) -> Result<()> {
        let stale = std::mem::take(&mut self.stale);
        self.object.clear(&stale)?;
        self.detach_others(uplinks)
    }

    /// How many packets met which fate.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        self.object.counters()
    }

    /// For how long nothing was heard of each node, by the family of what it sent; none if nothing ever was.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn last_heard(&self) -> Result<BTreeMap<IpAddr, PerFamily<Duration>>> {
        self.object.last_heard()
    }

    /// Takes the programs off all uplinks, and all that is pinned away, with the directory.
    ///
    /// # Errors
    /// If something stays.
    pub fn remove(self) -> Result<()> {
        remove(&self.directory)
    }
}
