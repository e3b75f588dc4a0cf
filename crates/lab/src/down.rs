//! Taking a lab down: nothing of it stays.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kernel::netns::{self, NetNsId};

use crate::components::KILL_TIME;
use crate::error::collected;
use crate::fabric::{self, namespace_path};
use crate::paths::{LABS_DIR, LabName, LabPaths};
use crate::process::{PidFd, ProcessId, wait_ended};
use crate::state::{self, State};
use crate::{Error, Result, topology};

/// How often the namespaces are searched for processes. Each time the ones that were found are ended, so there is
/// more than one search only if one has just started another.
const SEARCHES: usize = 50;

/// Takes a lab down. If another process is just bringing it up, that one is stopped first.
///
/// # Errors
/// [`Error::NoLab`] if there is no such lab; otherwise everything that could not be removed, after all that could be
/// was.
pub fn down(name: &LabName) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let paths = name.paths();
    let root = paths.root();
    let lock = match state::try_lock(root)?.ok_or_else(|| state::no_lab(name))? {
        Some(lock) => Some(lock),
        None => {
            if let Some(busy) = State::read(name)?.busy.and_then(|busy| busy.hold().transpose()) {
                busy?.signal(libc::SIGTERM)?;
            }
            state::lock(root)?
        }
    };
    match lock {
        Some(_lock) => remove(name, &known(name, &paths)),
        // Whoever was bringing it up has removed it.
        None => Ok(()),
    }
}

/// The record, or what it must have been.
fn known(name: &LabName, paths: &LabPaths) -> State {
    State::read(name).unwrap_or_else(|_| {
        // The record is the first file of a lab, and is only ever replaced as a whole; this is for a broken disk.
        let topology = topology::load(&paths.topology()).ok();
        let namespaces = topology.map(|topology| fabric::namespaces(name, &topology)).unwrap_or_default();
        State {
            lab: name.clone(),
            busy: None,
            complete: false,
            executable: Default::default(),
            namespaces,
            processes: Vec::new(),
        }
    })
}

/// Removes all that a lab has made. The caller has the lab's lock.
pub(crate) fn remove(name: &LabName, state: &State) -> Result<()> {
    let mut errors = Vec::new();
    errors.extend(end_recorded(state).err());
    errors.extend(end_in_namespaces(state).err());
    // With no process left, no namespace is added any more.
    for namespace in namespaces(state) {
        let removed = netns::remove_named(namespace_path(&namespace));
        errors.extend(removed.map_err(Error::kernel(namespace)).err());
    }
    if errors.is_empty() {
        errors.extend(remove_files(&name.paths()).err());
    }
    collected(errors)
}

fn end_recorded(state: &State) -> Result<()> {
    let mut held = Vec::new();
    for process in &state.processes {
        held.extend(process.id.hold()?);
    }
    kill(&held)
}

/// Ends what runs in the lab's namespaces: pods, plugins that the kubelets had just called, shells.
fn end_in_namespaces(state: &State) -> Result<()> {
    for _ in 0..SEARCHES {
        let ids: BTreeSet<NetNsId> =
            namespaces(state).iter().filter_map(|name| id(&namespace_path(name))).collect();
        let found = processes_in(&ids)?;
        if found.is_empty() {
            return Ok(());
        }
        kill(&found)?;
    }
    let busy = io::Error::from(io::ErrorKind::ResourceBusy);
    Err(Error::system("end all processes in the lab's namespaces: new ones keep being started", busy))
}

fn kill(processes: &[PidFd]) -> Result<()> {
    processes.iter().try_for_each(|process| process.signal(libc::SIGKILL))?;
    if wait_ended(processes, KILL_TIME)? {
        return Ok(());
    }
    let left: Vec<String> = processes
        .iter()
        .filter(|process| !process.ended())
        .map(|process| process.pid().to_string())
        .collect();
    let late = io::Error::from(io::ErrorKind::TimedOut);
    Err(Error::system(format!("end the processes {}", left.join(", ")), late))
}

/// The processes whose first thread is in one of the namespaces, except this one.
fn processes_in(namespaces: &BTreeSet<NetNsId>) -> Result<Vec<PidFd>> {
    let is_inside = |pid: i32| {
        let namespace = id(Path::new(&format!("/proc/{pid}/ns/net")));
        namespace.is_some_and(|namespace| namespaces.contains(&namespace))
    };
    let entries = fs::read_dir("/proc").map_err(|error| Error::io("read", "/proc", error))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found = Vec::new();
    for pid in pids.filter(|pid| *pid != std::process::id() as i32 && is_inside(*pid)) {
        // Held first and looked at again: the number may have gone to another process meanwhile.
        let held = ProcessId::of(pid).ok().map(|process| process.hold()).transpose()?.flatten();
        found.extend(held.filter(|_| is_inside(pid)));
    }
    Ok(found)
}

fn id(path: &Path) -> Option<NetNsId> {
    let meta = fs::metadata(path).ok()?;
    Some(NetNsId { device: meta.dev(), inode: meta.ino() })
}

/// The namespaces of the lab that are there, those of pods included.
fn namespaces(state: &State) -> Vec<String> {
    let entries = fs::read_dir(netns::NAMED).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let of_pod = |name: &str| {
        name.split_once("--")
            .is_some_and(|(node, _)| state.namespaces.iter().any(|namespace| namespace == node))
    };
    names.filter(|name| state.namespaces.contains(name) || of_pod(name)).collect()
}

/// Removes the lab's directory, the record last.
fn remove_files(paths: &LabPaths) -> Result<()> {
    let root = paths.root();
    unmount_below(root)?;
    let failed = |error| Error::io("remove", root, error);
    for entry in fs::read_dir(root).map_err(failed)?.flatten() {
        let path = entry.path();
        if path == paths.state() {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        }
        .map_err(|error| Error::io("remove", &path, error))?;
    }
    match fs::remove_file(paths.state()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::remove_dir(root).map_err(failed)?;
    // It stays if there are other labs.
    let _ = fs::remove_dir(LABS_DIR);
    Ok(())
}

/// Takes away what was mounted in the lab's directory, as an agent does with a BPF file system.
fn unmount_below(root: &Path) -> Result<()> {
    let file = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(file).map_err(|error| Error::io("read", file, error))?;
    // The fifth field is the mount point (proc_pid_mountinfo(5)); no name of a lab's file needs escapes.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut below: Vec<&Path> = points.filter(|point| point.starts_with(root)).collect();
    below.reverse();
    for point in below {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
            .map_err(|error| Error::io("unmount", point, error.into()))?;
    }
    Ok(())
}
