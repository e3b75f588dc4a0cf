//! IP in IP by BPF programs on the uplink (`bpf/ipip.bpf.c`), without a tunnel device.
//!
//! Programs and maps are pinned, so they stay in force when the process ends. Kernel 6.6 or newer is needed (TCX).

mod attach;
mod bpffs;
mod keepalive;
mod layout;
mod object;
#[cfg(test)]
mod run_tests;
mod table;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use model::{LinkName, PerFamily};
use plan::ipip::{Route, Table};

pub use attach::remove;
pub use bpffs::mount;
pub use keepalive::{keepalive, send_keepalive};
use object::Object;

use crate::rtnl::RouteSocket;
use crate::{Error, Result, link};

/// The programs of one uplink.
#[derive(Debug)]
pub struct Ipip {
    uplink: LinkName,
    directory: PathBuf,
    object: Object,
}

/// What the kernel holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// What the programs go by. Entries that make no sense are left out.
    pub table: Table,
    /// Whether both programs of this [`Ipip`] are on the uplink.
    pub attached: bool,
}

/// What [`Ipip::reconcile`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries that were not there, or not as they should be.
    pub written: usize,
    /// Entries that should not be there.
    pub removed: usize,
    /// Programs that were put on the uplink, or took the place of those of another process.
    pub attached: usize,
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

impl Changes {
    /// Whether all was as it should be.
    pub fn is_quiet(&self) -> bool {
        *self == Changes::default()
    }
}

impl Ipip {
    /// Loads the programs, and opens the maps that are pinned in a directory or makes them.
    ///
    /// The uplink is that of the calling thread's network namespace. The directory is made if need be. It has to be
    /// this namespace's own, and on a BPF file system ([`mount`]). Nothing changes for packets before the first
    /// [`Ipip::reconcile`].
    ///
    /// # Errors
    /// If the directory is on no BPF file system, the uplink is no Ethernet link, or the kernel refuses the programs.
    pub fn open(uplink: &LinkName, directory: &Path) -> Result<Ipip> {
        index(uplink)?;
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
            uplink: uplink.clone(),
            directory: directory.to_owned(),
            object: Object::load(Some(&maps))?,
        })
    }

    /// Makes the kernel hold what the table says, and puts the programs on the uplink if they are not. What is right
    /// already is not touched; a program of an earlier process is replaced without a gap.
    ///
    /// # Errors
    /// If the kernel refuses something. What was done until then stays, and the next call does the rest.
    pub fn reconcile(&mut self, table: &Table) -> Result<Changes> {
        let mut changes = Changes::default();
        let stale = self.object.write(table, &mut changes)?;
        // The programs come when all is there that they need, and before anything goes: what an older program goes by
        // may be in maps of its own.
        self.attach(&mut changes)?;
        self.object.clear(&stale, &mut changes)?;
        Ok(changes)
    }

    /// Makes, changes or removes one route: what a change of a plan costs, where [`Ipip::reconcile`] reads everything.
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

    /// What the kernel holds.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn observe(&mut self) -> Result<Observed> {
        Ok(Observed { attached: self.missing()?.is_empty(), table: self.object.table()? })
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

    /// Takes the programs off the uplink, and all that is pinned away, with the directory.
    ///
    /// # Errors
    /// If something stays.
    pub fn remove(self) -> Result<()> {
        remove(&self.directory)
    }
}

/// The uplink's index in the namespace of the calling thread.
fn index(uplink: &LinkName) -> Result<u32> {
    let what = || format!("use {uplink} for IP in IP");
    let Some(state) = link::read(&mut RouteSocket::open()?, uplink)? else {
        return Err(Error::Missing { what: what(), missing: format!("the link {uplink}") });
    };
    if state.mac.is_none() {
        return Err(Error::Missing { what: what(), missing: "its Ethernet header".to_owned() });
    }
    Ok(state.index)
}
