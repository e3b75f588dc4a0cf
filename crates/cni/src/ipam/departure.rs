//! Attachments on their way out.
//!
//! Many pods end at once, and what a DEL does takes as long for many attachments as for one. So a DEL says that it
//! wants to begin before it waits for the lock, and who has the lock does the work of all who said so.
//!
//! It says so by a lock on one of its own address files, so that what it said goes when it does, however it ends. That
//! takes permission to write to the file (`F_WRLCK`, fcntl(2)); to read it is not enough to have a pod removed.

use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use model::{Attachment, AttachmentId};

use super::files::{self, AddressFile, Owner};
use super::{Error, Locked, Store};

/// What [`Store::announce`] said, until this is dropped.
#[derive(Debug, Default)]
pub struct Announcement {
    file: Option<File>,
}

/// The address files at the moment when the store was locked.
#[derive(Debug)]
pub struct Departures<'a> {
    store: &'a Locked<'a>,
    files: Vec<AddressFile>,
    announced: BTreeSet<AttachmentId>,
}

impl Store {
    /// Lets whoever holds the lock know that an attachment is to be removed, to the last trace.
    ///
    /// # Errors
    /// [`Error::File`] if the files cannot be read. Then nothing is said, which keeps nobody from anything.
    pub fn announce(&self, id: &AttachmentId) -> Result<Announcement, Error> {
        let mut announcement = Announcement::default();
        // The file of a name may be another by now, so what is locked is the one that was read. Files without an
        // interface can mean several attachments.
        files::each(&self.directory, OpenOptions::new().read(true).write(true), |found, file| {
            if found.owner != Owner::Attachment(id.clone()) {
                return ControlFlow::Continue(());
            }
            announcement.file = say(&file).then_some(file);
            ControlFlow::Break(())
        })?;
        Ok(announcement)
    }
}

impl Announcement {
    /// Whether somebody else has done it all. This is to be asked with the store locked.
    pub fn is_done(&self) -> bool {
        let marked = |meta: Metadata| meta.nlink() == 0 && meta.mode() & 0o7777 == DONE;
        self.file.as_ref().is_some_and(|file| file.metadata().is_ok_and(marked))
    }

    /// The open file.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }
}

impl Locked<'_> {
    /// Who wants to go.
    ///
    /// # Errors
    /// [`Error::File`] if the directory cannot be read.
    pub fn departures(&self) -> Result<Departures<'_>, Error> {
        let mut found = Vec::new();
        let mut announced = BTreeSet::new();
        files::each(self.directory(), OpenOptions::new().read(true), |address, file| {
            if let Owner::Attachment(id) = &address.owner
                && is_said(&file)
            {
                announced.insert(id.clone());
            }
            found.push(address);
            ControlFlow::Continue(())
        })?;
        Ok(Departures { store: self, files: found, announced })
    }
}

impl Departures<'_> {
    /// The addresses of an attachment, IPv4 first; none if it has none.
    pub fn addresses(&self, id: &AttachmentId) -> Vec<IpAddr> {
        let mut addresses: Vec<_> =
            self.files.iter().filter(|file| file.owner.is(id)).map(|file| file.address).collect();
        addresses.sort_unstable();
        addresses
    }

    /// The attachments that were announced.
    pub fn announced(&self) -> Vec<Attachment> {
        let attachment = |id: &AttachmentId| Attachment { id: id.clone(), addresses: self.addresses(id) };
        self.announced.iter().map(attachment).collect()
    }

    /// Takes back the addresses of an attachment of which nothing else is left, and lets who announced it know.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be removed; the others are removed still.
    pub fn finish(&self, id: &AttachmentId) -> Result<(), Error> {
        let mut failed = None;
        let mut gone = Vec::new();
        for found in self.files.iter().filter(|file| file.owner.is(id)) {
            gone.extend(File::open(self.store.directory().join(&found.name)));
            failed = self.store.remove(found).err().or(failed);
        }
        if let Some(error) = failed {
            return Err(error);
        }
        for file in gone {
            // That the name is gone does not tell enough: an operator can have removed it. Who does not get the mark
            // does the work once more.
            let _ = file.set_permissions(Permissions::from_mode(DONE));
        }
        Ok(())
    }
}

/// The permissions of a file whose attachment is gone.
const DONE: u32 = 0;

/// Locks a file until its description is closed; whether that was possible.
fn say(file: &File) -> bool {
    fcntl(file, libc::F_OFD_SETLK, libc::F_WRLCK).is_ok()
}

/// Whether somebody has locked the file.
fn is_said(file: &File) -> bool {
    // Only a lock that keeps others from reading counts: for one that does not it takes no more than to read.
    fcntl(file, libc::F_OFD_GETLK, libc::F_RDLCK).is_ok_and(|kind| kind == libc::F_WRLCK)
}

/// Locks a file as a whole, or asks whether it is; the kind of lock.
fn fcntl(file: &File, command: libc::c_int, kind: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: flock is plain data for which all zeroes is valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the argument of these commands is a flock, which lives through the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(lock.l_type.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> AttachmentId {
        AttachmentId { container_id: format!("c{number}"), ifname: "eth0".to_owned() }
    }

    /// A store with so many attachments.
    fn store(attachments: usize) -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path(), "net");
        let ranges = ["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        for number in 0..attachments {
            store.lock().unwrap().allocate(&id(number), &ranges).unwrap();
        }
        (directory, store)
    }

    fn announced(store: &Store) -> Vec<AttachmentId> {
        let locked = store.lock().unwrap();
        let departures = locked.departures().unwrap();
        departures.announced().into_iter().map(|attachment| attachment.id).collect()
    }

    #[test]
    fn what_is_announced_is_seen_until_it_is_taken_back() {
        let (_directory, store) = store(3);
        let first = store.announce(&id(0)).unwrap();
        let second = store.announce(&id(2)).unwrap();
        assert_eq!(announced(&store), [id(0), id(2)]);
        assert_eq!(store.lock().unwrap().departures().unwrap().announced()[0].addresses.len(), 2);
        drop(first);
        assert_eq!(announced(&store), [id(2)]);
        drop(second);
        assert_eq!(announced(&store), []);
        assert!(store.announce(&id(9)).unwrap().file.is_none());
    }

    #[test]
    fn whoever_may_only_read_a_file_announces_nothing() {
        let (_directory, store) = store(1);
        let files = fs_files(&store);
        for path in &files {
            let file = File::open(path).unwrap();
            // A lock on what is open for reading only is a lock that lets others read; flock(2) is another thing.
            assert!(!say(&file));
            fcntl(&file, libc::F_OFD_SETLK, libc::F_RDLCK).unwrap();
            file.lock().unwrap();
            assert_eq!(announced(&store), []);
        }
    }

    #[test]
    fn done_is_what_was_finished_and_not_what_somebody_removed() {
        let (_directory, store) = store(3);
        let said: Vec<_> = (0..3).map(|number| store.announce(&id(number)).unwrap()).collect();
        assert!(said.iter().all(|announcement| !announcement.is_done()));
        let locked = store.lock().unwrap();
        locked.departures().unwrap().finish(&id(0)).unwrap();
        locked.release(&id(1)).unwrap();
        assert_eq!(said.iter().map(Announcement::is_done).collect::<Vec<_>>(), [true, false, false]);
        let owners: Vec<_> =
            locked.attachments().unwrap().into_iter().map(|attachment| attachment.id).collect();
        assert_eq!(owners, [id(2)]);
    }

    #[test]
    fn files_of_old_plugins_are_finished_but_not_announced() {
        let (_directory, store) = store(1);
        std::fs::write(store.directory().join("10.0.0.77"), "c0").unwrap();
        std::fs::write(store.directory().join("10.0.0.78"), "c1").unwrap();
        assert!(store.announce(&id(1)).unwrap().file.is_none());
        let announcement = store.announce(&id(0)).unwrap();
        let locked = store.lock().unwrap();
        let departures = locked.departures().unwrap();
        assert_eq!(departures.announced().len(), 1);
        assert_eq!(departures.addresses(&id(0)).len(), 3);
        departures.finish(&id(0)).unwrap();
        assert!(announcement.is_done());
        assert_eq!(fs_files(&store), [store.directory().join("10.0.0.78")]);
    }

    fn fs_files(store: &Store) -> Vec<std::path::PathBuf> {
        let found = files::read(store.directory()).unwrap();
        found.into_iter().map(|file| store.directory().join(file.name)).collect()
    }
}
