//! Address allocation on disk, in the layout of the reference plugin `host-local`, so that a node can move from one
//! to the other with its pods running.
//!
//! Below the data directory each network has a directory, and in it
//! - a file per address in use, named for it, with the container's identifier and the interface's name, separated by
//!   a carriage return and a line feed,
//! - `last_reserved_ip.N`, the address that was given last from the node's range number N,
//! - `lock`, on which whoever reads or changes the directory holds an exclusive flock(2).
//!
//! An address file appears with its whole content or not at all, so a crash between any two steps leaves nothing
//! that a later ADD, DEL or GC does not understand.

mod departure;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::{Attachment, AttachmentId, PodRange};

pub use departure::{Announcement, Departures};
use files::{AddressFile, Owner};

/// Where the reference plugin keeps its networks.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// Why addresses could not be given, listed or taken back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the store could not be used.
    #[error("cannot {what} {}: {source}", .path.display())]
    File {
        /// What was tried: "create", "lock" or the like.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// All addresses of a range are in use.
    #[error(
        "pod range {range} has no free address: {used} of {total} are in use ({}); delete pods or give the node a \
         bigger range", .path.display()
    )]
    Exhausted {
        /// The range.
        range: PodRange,
        /// How many of its addresses are in use.
        used: u128,
        /// How many addresses pods can have.
        total: u128,
        /// Where the addresses in use are listed.
        path: PathBuf,
    },
    /// There is nothing to allocate from.
    #[error("this node has no pod range")]
    NoRange,
}

/// The addresses of one network on this node.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// A [`Store`] that nobody else reads or changes until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it unlocks the store"]
pub struct Locked<'a> {
    store: &'a Store,
    /// flock(2) ends with the descriptor, so also if the process is killed.
    lock: File,
}

impl AsFd for Locked<'_> {
    /// The descriptor that the lock ends with. A process that has a copy of it keeps the store locked.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

impl Store {
    /// The store of a network. `network` must be a file name; nothing is touched yet.
    pub fn new(data_dir: impl AsRef<Path>, network: &str) -> Store {
        Store { directory: data_dir.as_ref().join(network) }
    }

    /// The directory that holds the files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until nobody else works on the store. The directory is made if need be.
    ///
    /// # Errors
    /// [`Error::File`] if the directory or the lock file cannot be made.
    pub fn lock(&self) -> Result<Locked<'_>, Error> {
        let path = self.directory.join(files::LOCK);
        let open = || OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = open().or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.directory)?;
                open()
            }
            _ => Err(error),
        });
        let file = file.map_err(|source| Error::File { what: "open", path: path.clone(), source })?;
        file.lock().map_err(|source| Error::File { what: "lock", path, source })?;
        Ok(Locked { store: self, lock: file })
    }

    /// The stores of the other networks in the same data directory.
    ///
    /// # Errors
    /// [`Error::File`] if the data directory cannot be read.
    pub fn siblings(&self) -> Result<Vec<Store>, Error> {
        let Some(data_dir) = self.directory.parent() else { return Ok(Vec::new()) };
        let failed = |source| Error::File { what: "read", path: data_dir.to_owned(), source };
        let mut siblings = Vec::new();
        for entry in fs::read_dir(data_dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let directory = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && directory != self.directory {
                siblings.push(Store { directory });
            }
        }
        Ok(siblings)
    }
}

impl Locked<'_> {
    /// Gives an attachment one address of each range, the one that was free for longest as far as is known: the
    /// next after the last one given, and from the beginning again after the end.
    ///
    /// What is left of an earlier attempt to attach the same is used again if it still fits, and else given back.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if a range has no free address; then the attachment has none at all.
    pub fn allocate(&self, id: &AttachmentId, ranges: &[PodRange]) -> Result<Attachment, Error> {
        if ranges.is_empty() {
            return Err(Error::NoRange);
        }
        let mut kept = BTreeMap::new();
        let mut used = BTreeSet::new();
        for file in files::read(self.directory())? {
            let range = ranges.iter().position(|range| range.holds_pod(&file.address));
            let own = file.owner.is(id);
            match range {
                Some(index) if own && !kept.contains_key(&index) && file.is_canonical() => {
                    kept.insert(index, file.address);
                }
                // Nobody writes while we hold the lock, so a file without an owner is left from a crash.
                _ if own || file.owner == Owner::Nobody => self.remove(&file)?,
                _ => {
                    used.insert(file.address);
                }
            }
        }
        let given = ranges.iter().enumerate().map(|(index, range)| match kept.get(&index) {
            Some(address) => Ok(*address),
            None => self.reserve(id, index, range, &used),
        });
        match given.collect::<Result<Vec<_>, _>>() {
            Ok(mut addresses) => {
                addresses.sort_unstable();
                Ok(Attachment { id: id.clone(), addresses })
            }
            Err(error) => {
                // The first error is the one to tell; DEL and GC find what stays.
                let _ = self.release(id);
                Err(error)
            }
        }
    }

    /// The addresses of an attachment, IPv4 first; none if it has none.
    ///
    /// # Errors
    /// [`Error::File`] if the directory cannot be read.
    pub fn addresses(&self, id: &AttachmentId) -> Result<Vec<IpAddr>, Error> {
        let files = files::read(self.directory())?;
        let mut addresses: Vec<_> =
            files.iter().filter(|file| file.owner.is(id)).map(|file| file.address).collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// Takes back all addresses of an attachment; those that it had. None is no error.
    ///
    /// # Errors
    /// [`Error::File`] if the directory cannot be read or a file cannot be removed; the others are removed still.
    pub fn release(&self, id: &AttachmentId) -> Result<Vec<IpAddr>, Error> {
        self.remove_where(|owner| owner.is(id))
    }

    /// Takes back all addresses but those of the attachments that `valid` holds to be there; those taken back.
    ///
    /// # Errors
    /// [`Error::File`] if the directory cannot be read or a file cannot be removed; the others are removed still.
    pub fn retain(&self, valid: &BTreeSet<AttachmentId>) -> Result<Vec<IpAddr>, Error> {
        self.remove_where(|owner| !owner.is_among(valid))
    }

    /// Removes what a crash left of a file in the making.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be removed.
    pub fn tidy(&self) -> Result<(), Error> {
        files::tidy(self.directory())
    }

    /// All attachments of the network, each with its addresses.
    ///
    /// Files that name no interface, from old versions of the reference plugin, are in use but are no attachments.
    ///
    /// # Errors
    /// [`Error::File`] if the directory cannot be read.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        let mut found: BTreeMap<AttachmentId, Vec<IpAddr>> = BTreeMap::new();
        for file in files::read(self.directory())? {
            if let Owner::Attachment(id) = file.owner {
                found.entry(id).or_default().push(file.address);
            }
        }
        let attachment = |(id, mut addresses): (AttachmentId, Vec<IpAddr>)| {
            addresses.sort_unstable();
            Attachment { id, addresses }
        };
        Ok(found.into_iter().map(attachment).collect())
    }

    /// How many addresses of a range are in use, and how many there are.
    ///
    /// # Errors
    /// [`Error::File`] if the directory cannot be read.
    pub fn usage(&self, range: &PodRange) -> Result<(u128, u128), Error> {
        let files = files::read(self.directory())?;
        let used = files.iter().filter(|file| file.owner != Owner::Nobody && range.holds_pod(&file.address));
        Ok((used.count() as u128, capacity(range)))
    }

    fn directory(&self) -> &Path {
        &self.store.directory
    }

    fn reserve(
        &self,
        id: &AttachmentId,
        index: usize,
        range: &PodRange,
        used: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, Error> {
        let last = files::last_reserved(self.directory(), index).filter(|last| range.holds_pod(last));
        let mut candidate = last.map_or_else(|| range.first_pod(), |last| following(range, &last));
        // Of one more candidates than there are used addresses, one is free, if there are that many.
        let within = used.range(range.first_pod()..=range.last_pod()).count() as u128;
        let total = capacity(range);
        for _ in 0..(within + 1).min(total) {
            if !used.contains(&candidate) && files::place(self.directory(), &candidate, id)? {
                files::set_last_reserved(self.directory(), index, &candidate)?;
                return Ok(candidate);
            }
            candidate = following(range, &candidate);
        }
        Err(Error::Exhausted { range: *range, used: within, total, path: self.directory().to_owned() })
    }

    fn remove_where(&self, gone: impl Fn(&Owner) -> bool) -> Result<Vec<IpAddr>, Error> {
        let mut removed = Vec::new();
        let mut failed = files::tidy(self.directory()).err();
        for file in files::read(self.directory())?.into_iter().filter(|file| gone(&file.owner)) {
            match self.remove(&file) {
                Ok(()) => removed.push(file.address),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    fn remove(&self, file: &AddressFile) -> Result<(), Error> {
        files::remove(self.directory(), file)
    }
}

/// The address after `address`, which is in the range; after the last comes the first.
fn following(range: &PodRange, address: &IpAddr) -> IpAddr {
    match address {
        _ if *address == range.last_pod() => range.first_pod(),
        IpAddr::V4(v4) => IpAddr::V4((u32::from(*v4).wrapping_add(1)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(*v6).wrapping_add(1)).into()),
    }
}

/// How many addresses of the range pods can have.
fn capacity(range: &PodRange) -> u128 {
    let number = |address| match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    number(range.last_pod()) - number(range.first_pod()) + 1
}

#[cfg(test)]
mod tests;
