//! The file system that programs and maps are pinned in (`bpf(2)`, "BPF_OBJ_PIN").

use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::ptr;

use crate::{Error, Result};

/// `enum bpf_cmd` in linux/bpf.h.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Mounts a BPF file system on a directory, which is made if need be; one that has it already is left as it is.
///
/// Give it a directory of your own below `/run`: what is pinned lives as long as the mount, so the mount must be one
/// that outlives the agent (a mount namespace that ends with a container takes it along).
///
/// # Errors
/// If this process may not mount, or the directory cannot be made.
pub fn mount(directory: &Path) -> Result<()> {
    create(directory)?;
    if is_bpffs(directory)? {
        return Ok(());
    }
    let target = text(directory)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all strings are NUL-terminated and live through the call.
    let done = unsafe {
        let options = c"mode=0700".as_ptr().cast();
        libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), flags, options)
    };
    if done < 0 {
        return Err(Error::system(format!("mount a BPF file system on {}", directory.display())));
    }
    Ok(())
}

/// Takes a BPF file system in which nothing is pinned off a directory, and the directory away if nothing is in it. What is
/// used stays as it is, and so does a file system that is mounted further up.
///
/// # Errors
/// If this process may not unmount, or the directory stays.
pub fn unmount(directory: &Path) -> Result<()> {
    let file = |what| move |source| Error::File { what, path: directory.to_owned(), source };
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
    if !directory.exists() {
        return Ok(());
    }
    if !is_bpffs(directory)? {
        // The mount has ended with the mount namespace that it was in.
        return remove_empty(directory);
    }
    let above = directory.parent().unwrap_or(directory);
    let is_mount = device(directory).map_err(file("look at"))? != device(above).map_err(file("look at"))?;
    // Those files are the kernel's own.
    let used = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| !entry.file_name().as_bytes().ends_with(b".debug"))
    };
    if !is_mount || fs::read_dir(directory).map_err(file("read"))?.any(used) {
        return Ok(());
    }
    let target = text(directory)?;
    // SAFETY: the string is NUL-terminated and lives through the call.
    if unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } < 0 {
        return Err(Error::system(format!("unmount {}", directory.display())));
    }
    remove_empty(directory)
}

/// Removes a directory. One that is not there, or not empty, is no error.
pub(crate) fn remove_empty(directory: &Path) -> Result<()> {
    match fs::remove_dir(directory) {
        Err(source)
            if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
        {
            Err(Error::File { what: "remove", path: directory.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Makes a directory that only its owner can look into.
pub(crate) fn create(directory: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| Error::File {
        what: "create",
        path: directory.to_owned(),
        source,
    })
}

/// Whether something can be pinned below a directory that is there.
pub(crate) fn is_bpffs(directory: &Path) -> Result<bool> {
    let path = text(directory)?;
    // SAFETY: statfs is plain data for which all zeroes is valid; the pointers live through the call.
    let (done, found) = unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &raw mut found), found)
    };
    if done < 0 {
        let source = io::Error::last_os_error();
        return Err(Error::File { what: "look at", path: directory.to_owned(), source });
    }
    // The types of both sides differ from one C library to the other.
    Ok(found.f_type as u64 & 0xffff_ffff == libc::BPF_FS_MAGIC as u64 & 0xffff_ffff)
}

/// Takes a pinned link off what it is attached to, and its pin away. One that is gone is no error.
///
/// Without the first of both the kernel would detach it some time after the pin has gone.
pub(crate) fn detach(pin: &Path) -> Result<()> {
    let path = text(pin)?;
    let object = ObjGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    match bpf(BPF_OBJ_GET, &object) {
        Ok(fd) => {
            // SAFETY: the call has just returned the descriptor, and nobody else has it.
            let link = unsafe { OwnedFd::from_raw_fd(fd) };
            match bpf(BPF_LINK_DETACH, &LinkDetach { fd: link.as_raw_fd() }) {
                // ENOLINK, EINVAL: what it was attached to is gone.
                Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::EINVAL)) => {
                    return Err(Error::System { what: format!("detach {}", pin.display()), source: error });
                }
                _ => {}
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::File { what: "open", path: pin.to_owned(), source }),
    }
    unpin(pin)
}

/// Takes a pin away. One that is not there is no error.
pub(crate) fn unpin(pin: &Path) -> Result<()> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove", path: pin.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// `union bpf_attr`, the part for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr`, the part for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    fd: i32,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: the kernel reads `size` bytes of the attributes, which live through the call, as does what they point to.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}

fn text(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::File {
        what: "use",
        path: path.to_owned(),
        source: io::ErrorKind::InvalidInput.into(),
    })
}
