//! Network namespaces (network_namespaces(7)).

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;

use crate::{Error, Result};

/// Where iproute2 keeps the namespaces that have names.
pub const NAMED: &str = "/run/netns";

/// The namespace of the calling thread. /proc/self would be that of the process' first thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, kept alive by an open descriptor.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
}

/// What tells one namespace from another: the device and inode of its file (`stat(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetNsId {
    /// The device of the namespace file system.
    pub device: u64,
    /// The number that `ls -l /proc/PID/ns/net` shows.
    pub inode: u64,
}

impl NetNs {
    /// Opens the namespace that a path names: `/run/netns/NAME`, `/proc/PID/ns/net` or what a container runtime
    /// gives as `CNI_NETNS`.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such file, [`Error::System`] if it is no network namespace.
    pub fn open(path: impl AsRef<Path>) -> Result<NetNs> {
        let path = path.as_ref();
        let file =
            File::open(path).map_err(|source| Error::File { what: "open", path: path.to_owned(), source })?;
        // SAFETY: NS_GET_NSTYPE takes no argument (ioctl_ns(2)).
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            let source = io::Error::from_raw_os_error(libc::EINVAL);
            let what = format!("use {} as a network namespace: it is something else", path.display());
            return Err(Error::System { what, source });
        }
        Ok(NetNs { file, path: path.to_owned() })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::File`] if /proc is not mounted.
    pub fn current() -> Result<NetNs> {
        NetNs::open(OWN)
    }

    /// The path by which the namespace was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells it from other namespaces.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be looked at.
    pub fn id(&self) -> Result<NetNsId> {
        let meta = self.file.metadata().map_err(|source| Error::File {
            what: "look at",
            path: self.path.clone(),
            source,
        })?;
        Ok(NetNsId { device: meta.dev(), inode: meta.ino() })
    }

    /// Moves the calling thread into the namespace until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::System`] if the thread may not enter it.
    pub fn enter(&self) -> Result<Guard> {
        let before = NetNs::current()?;
        self.set()?;
        Ok(Guard { before, thread: PhantomData })
    }

    fn set(&self) -> Result<()> {
        // SAFETY: setns takes no pointers; the descriptor is open.
        if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
            return Err(Error::system(format!("enter network namespace {}", self.path.display())));
        }
        Ok(())
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A stay in another namespace. Dropping it takes the thread back where it was; it cannot leave the thread.
#[derive(Debug)]
#[must_use = "dropping the guard leaves the namespace at once"]
pub struct Guard {
    before: NetNs,
    thread: PhantomData<*const ()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.before.set() {
            // What comes next would be done to the wrong namespace, perhaps to a pod's instead of the node's.
            eprintln!("{error}; this thread is in the wrong network namespace, so the process ends here");
            std::process::abort();
        }
    }
}

/// Runs a function in a namespace, on a thread of its own, so that the calling thread never leaves its own.
///
/// # Errors
/// [`Error::System`] if the namespace cannot be entered or the thread not be started. A panic of the function goes
/// on in the caller.
pub fn run_in<T: Send>(namespace: &NetNs, function: impl FnOnce() -> T + Send) -> Result<T> {
    on_thread(|| {
        namespace.set()?;
        Ok(function())
    })
}

/// Makes a new namespace and gives it a name in the file system, as `ip netns add` does.
///
/// The directory is made if need be, and made a shared mount, so that the name is seen in other mount namespaces.
///
/// # Errors
/// [`Error::File`] with `EEXIST` if the name is taken; [`Error::System`] if this process may not do it.
pub fn create_named(path: impl AsRef<Path>) -> Result<NetNs> {
    let path = path.as_ref();
    let directory = path.parent().unwrap_or_else(|| Path::new(NAMED));
    share(directory)?;
    // The file is only what the namespace is mounted on.
    OpenOptions::new().write(true).create_new(true).mode(0o000).open(path).map_err(|source| Error::File {
        what: "create",
        path: path.to_owned(),
        source,
    })?;
    let mounted = on_thread(|| {
        // SAFETY: unshare takes no pointers, and only this thread, which ends next, changes its namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            return Err(Error::system("make a network namespace"));
        }
        mount(Some(Path::new(OWN)), path, libc::MS_BIND)
    });
    match mounted.and_then(|()| NetNs::open(path)) {
        Ok(namespace) => Ok(namespace),
        Err(error) => {
            // The first error is the one to tell; the name must not stay behind in any case.
            let _ = remove_named(path);
            Err(error)
        }
    }
}

/// Takes the name of a namespace away, as `ip netns delete` does. The namespace itself ends when nothing uses it any
/// more. A name that is not there is no error.
///
/// # Errors
/// [`Error::File`] if the file stays.
pub fn remove_named(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    if let Ok(target) = text(path) {
        // SAFETY: target is a NUL-terminated string that lives through the call.
        unsafe {
            // A file on which nothing is mounted (EINVAL) is left from a creation that did not finish.
            libc::umount2(target.as_ptr(), libc::MNT_DETACH);
        }
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Makes a directory a shared mount, under the lock that `ip netns add` takes for it.
fn share(directory: &Path) -> Result<()> {
    let file = |what| move |source| Error::File { what, path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(file("create"))?;
    let lock = File::open(directory).map_err(file("open"))?;
    lock.lock().map_err(file("lock"))?;
    match mount(None, directory, libc::MS_SHARED | libc::MS_REC) {
        // It is no mount of its own yet.
        Err(error) if error.errno() == Some(libc::EINVAL) => {
            mount(Some(directory), directory, libc::MS_BIND | libc::MS_REC)?;
            mount(None, directory, libc::MS_SHARED | libc::MS_REC)
        }
        result => result,
    }
}

fn mount(source: Option<&Path>, target: &Path, flags: libc::c_ulong) -> Result<()> {
    let from = text(source.unwrap_or_else(|| Path::new("")))?;
    let to = text(target)?;
    // SAFETY: both strings are NUL-terminated and live through the call; the other pointers may be null.
    if unsafe { libc::mount(from.as_ptr(), to.as_ptr(), c"none".as_ptr(), flags, ptr::null()) } < 0 {
        return Err(Error::system(format!("mount on {}", target.display())));
    }
    Ok(())
}

fn text(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::File {
        what: "use",
        path: path.to_owned(),
        source: io::ErrorKind::InvalidInput.into(),
    })
}

fn on_thread<T: Send>(function: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, function)
            .map_err(|source| Error::System { what: "start a thread".to_owned(), source })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
