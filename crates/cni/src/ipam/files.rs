//! The files of a network's directory.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::AttachmentId;

use super::Error;

pub(super) const LOCK: &str = "lock";
const LAST_RESERVED: &str = "last_reserved_ip.";
/// Written under the lock only, so one name does for all; what a crash leaves of it is replaced.
const UNFINISHED: &str = ".unfinished";
/// An owner's file is far shorter: a container's identifier, two bytes and an interface's name.
const LONGEST: usize = 1024;

/// Whom an address file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    Attachment(AttachmentId),
    /// A container, without the interface: written by the reference plugin before its version 0.8.
    Container(String),
    /// Nobody: a reference plugin was killed before it had written the content.
    Nobody,
}

/// An address in use.
#[derive(Debug)]
pub(super) struct AddressFile {
    pub(super) address: IpAddr,
    pub(super) owner: Owner,
    pub(super) name: String,
}

impl Owner {
    fn parse(content: &str) -> Owner {
        let text = content.trim();
        match text.split_once("\r\n") {
            _ if text.is_empty() => Owner::Nobody,
            Some((id, ifname)) => Owner::Attachment(AttachmentId {
                container_id: id.trim().to_owned(),
                ifname: ifname.trim().to_owned(),
            }),
            None => Owner::Container(text.to_owned()),
        }
    }

    /// Whether this is the owner's attachment; one without an interface owns by its container alone.
    pub(super) fn is(&self, id: &AttachmentId) -> bool {
        match self {
            Owner::Attachment(own) => own == id,
            Owner::Container(container) => *container == id.container_id,
            Owner::Nobody => false,
        }
    }

    pub(super) fn is_among(&self, valid: &BTreeSet<AttachmentId>) -> bool {
        match self {
            Owner::Attachment(own) => valid.contains(own),
            Owner::Container(_) => valid.iter().any(|id| self.is(id)),
            Owner::Nobody => false,
        }
    }
}

impl AddressFile {
    /// Whether the file has the name and the content that we would give it.
    pub(super) fn is_canonical(&self) -> bool {
        matches!(self.owner, Owner::Attachment(_)) && self.name == self.address.to_string()
    }
}

/// All address files of a directory. Files with other names are not looked at.
pub(super) fn read(directory: &Path) -> Result<Vec<AddressFile>, Error> {
    let mut found = Vec::new();
    each(directory, OpenOptions::new().read(true), |file, _| {
        found.push(file);
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Has a function look at address files, each with the open file, until it has seen enough.
pub(super) fn each(
    directory: &Path,
    options: &OpenOptions,
    mut look: impl FnMut(AddressFile, File) -> ControlFlow<()>,
) -> Result<(), Error> {
    let failed = |source| Error::File { what: "read", path: directory.to_owned(), source };
    let mut path = directory.join("-");
    for entry in fs::read_dir(directory).map_err(failed)? {
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
        let Ok(address) = name.parse::<IpAddr>() else { continue };
        path.set_file_name(&name);
        match options.open(&path).and_then(|mut file| Ok((read_owner(&mut file)?, file))) {
            Ok((owner, file)) => {
                if look(AddressFile { address, owner, name }, file).is_break() {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::File { what: "read", path, source }),
        }
    }
    Ok(())
}

fn read_owner(file: &mut File) -> io::Result<Owner> {
    let mut content = [0; LONGEST];
    let length = file.read(&mut content)?;
    // What is no text is nobody's that can be named, but somebody may have meant it.
    let content = String::from_utf8_lossy(content.get(..length).unwrap_or_default()).into_owned();
    Ok(Owner::parse(&content))
}

/// Makes an address file, whole at once. `false` if there is one already.
pub(super) fn place(directory: &Path, address: &IpAddr, id: &AttachmentId) -> Result<bool, Error> {
    let unfinished = write(directory, format!("{}\r\n{}", id.container_id, id.ifname).as_bytes())?;
    let path = directory.join(address.to_string());
    match rename_to_new(&unfinished, &path) {
        Ok(()) => {
            step();
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(Error::File { what: "create", path, source }),
    }
}

pub(super) fn remove(directory: &Path, file: &AddressFile) -> Result<(), Error> {
    let path = directory.join(&file.name);
    step();
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove", path, source })
        }
        _ => Ok(()),
    }
}

/// Removes what a crash left of a file in the making.
pub(super) fn tidy(directory: &Path) -> Result<(), Error> {
    let path = directory.join(UNFINISHED);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove", path, source })
        }
        _ => Ok(()),
    }
}

/// The address that was given last from a range. Nothing depends on it but how soon an address is given again.
pub(super) fn last_reserved(directory: &Path, index: usize) -> Option<IpAddr> {
    fs::read_to_string(directory.join(format!("{LAST_RESERVED}{index}"))).ok()?.trim().parse().ok()
}

pub(super) fn set_last_reserved(directory: &Path, index: usize, address: &IpAddr) -> Result<(), Error> {
    let path = directory.join(format!("{LAST_RESERVED}{index}"));
    let unfinished = write(directory, address.to_string().as_bytes())?;
    // When a rename replaces a file, ext4 writes the new one's data to the disk first (auto_da_alloc, ext4(5)), which
    // takes longer than all the rest. When two files change places it does not.
    let replaced = match rename(&unfinished, &path, libc::RENAME_EXCHANGE) {
        Ok(()) => {
            step();
            fs::remove_file(&unfinished)
        }
        Err(_) => fs::rename(&unfinished, &path),
    };
    step();
    replaced.map_err(|source| Error::File { what: "replace", path, source })
}

/// Writes a file that has no name of its own yet.
fn write(directory: &Path, content: &[u8]) -> Result<PathBuf, Error> {
    let path = directory.join(UNFINISHED);
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
    let file = create().or_else(|error| {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        // It may be linked to an address already, so its content must not be touched.
        fs::remove_file(&path)?;
        create()
    });
    step();
    let written = file.and_then(|mut file| file.write_all(content));
    step();
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::File { what: "write", path, source }),
    }
}

/// rename(2), but fails if the target is there. Not even a plugin that ignores the lock loses an address to us.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match rename(from, to, libc::RENAME_NOREPLACE) {
        // Not every file system knows the flag (renameat2(2)); all that have links can do it in two steps.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            fs::hard_link(from, to)?;
            step();
            fs::remove_file(from)
        }
        result => result,
    }
}

fn rename(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
    let (from, to) = (text(from)?, text(to)?);
    // SAFETY: both strings are NUL-terminated and live through the call.
    let result =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where a process can be killed, with consequences of its own. Tests count these places and stop at each.
#[cfg(not(test))]
fn step() {}

#[cfg(test)]
pub(super) use super::tests::step;
