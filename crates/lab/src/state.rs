//! The record of what a lab has made, so that it can always be removed.
//!
//! A thing is written down before it is made. So whatever was interrupted, by whatever signal, the record names
//! everything that is there, and perhaps something that is not.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::paths::{LABS_DIR, LabName, LabPaths};
use crate::process::ProcessId;
use crate::{Error, Result};

/// What a lab has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// The lab.
    pub lab: LabName,
    /// The process that makes or changes the lab at the moment, and holds its lock.
    pub busy: Option<ProcessId>,
    /// Whether everything has been ready once.
    pub complete: bool,
    /// The executable that the lab's processes are run from.
    pub executable: std::path::PathBuf,
    /// The names of the namespaces of the fabric and the machines. Those of the pods are found by their names, see
    /// [`LabName::pod_namespace_prefix`].
    pub namespaces: Vec<String>,
    /// The processes.
    pub processes: Vec<Process>,
}

/// A process of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// What it does.
    pub role: ProcessRole,
    /// Which one it is.
    #[serde(flatten)]
    pub id: ProcessId,
}

/// What a process of a lab does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessRole {
    /// The API server and the controllers.
    Api,
    /// The agent of a node.
    Agent(String),
    /// The kubelet of a node.
    Kubelet(String),
    /// The BGP speaker of a router.
    Speaker(String),
}

impl std::fmt::Display for ProcessRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ProcessRole::Api => f.write_str("API server"),
            ProcessRole::Agent(node) => write!(f, "agent of {node}"),
            ProcessRole::Kubelet(node) => write!(f, "kubelet of {node}"),
            ProcessRole::Speaker(router) => write!(f, "BGP speaker of {router}"),
        }
    }
}

impl State {
    /// Reads the record of a lab, without keeping others from changing it.
    ///
    /// # Errors
    /// [`Error::NoLab`] if there is no such lab, [`Error::State`] if its record cannot be read.
    pub fn read(lab: &LabName) -> Result<State> {
        read(lab, &lab.paths())
    }

    /// The process of a role, if it was started.
    pub fn process(&self, role: &ProcessRole) -> Option<&Process> {
        self.processes.iter().find(|process| process.role == *role)
    }
}

/// The names of all labs that are there, in order.
///
/// # Errors
/// [`Error::Io`] if the directory of the labs is there and cannot be read.
pub fn labs() -> Result<Vec<LabName>> {
    let entries = match fs::read_dir(LABS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", LABS_DIR, error)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut labs: Vec<LabName> = names.filter_map(|name| LabName::new(name).ok()).collect();
    labs.sort();
    Ok(labs)
}

/// A lab that this process may change: it holds the lock on the lab's directory.
#[derive(Debug)]
pub struct Lab {
    /// The lab.
    pub name: LabName,
    /// Its files.
    pub paths: LabPaths,
    state: State,
    _lock: File,
}

impl Lab {
    /// Makes the directory of a new lab, locks it, and writes down what is going to be made.
    ///
    /// # Errors
    /// [`Error::Exists`] if the lab is there.
    pub fn create(name: &LabName, executable: &Path) -> Result<Lab> {
        let paths = name.paths();
        let lock = loop {
            private_directory(Path::new(LABS_DIR), true)?;
            match DirBuilder::new().mode(0o700).create(paths.root()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(Error::Exists(name.clone()));
                }
                // The last lab that was taken down has just removed the directory of the labs.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("make", paths.root(), error)),
            }
            if let Some(lock) = lock(paths.root())? {
                break lock;
            }
        };
        let state = State {
            lab: name.clone(),
            busy: ProcessId::own().ok(),
            complete: false,
            executable: executable.to_owned(),
            namespaces: Vec::new(),
            processes: Vec::new(),
        };
        let lab = Lab { name: name.clone(), paths, state, _lock: lock };
        lab.write()?;
        Ok(lab)
    }

    /// Locks a lab that is there; waits if another process has it.
    ///
    /// # Errors
    /// [`Error::NoLab`] if there is no such lab, [`Error::State`] if its record cannot be read.
    pub fn open(name: &LabName) -> Result<Lab> {
        let paths = name.paths();
        let lock = lock(paths.root())?.ok_or_else(|| no_lab(name))?;
        let state = read(name, &paths)?;
        let mut lab = Lab { name: name.clone(), paths, state, _lock: lock };
        lab.record(|state| state.busy = ProcessId::own().ok())?;
        Ok(lab)
    }

    /// What the lab has made.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Changes the record and writes it.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn record(&mut self, change: impl FnOnce(&mut State)) -> Result<()> {
        change(&mut self.state);
        self.write()
    }

    /// Gives the lab free for others.
    ///
    /// # Errors
    /// [`Error::Io`] if the record cannot be written.
    pub fn release(mut self) -> Result<()> {
        self.record(|state| state.busy = None)
    }

    fn write(&self) -> Result<()> {
        let path = self.paths.state();
        let text = serde_json::to_vec_pretty(&self.state)
            .map_err(|error| Error::io("write", &path, error.into()))?;
        replace(&path, &text, 0o600)
    }
}

/// Locks the directory of a lab, for removal even if its record cannot be read.
pub(crate) fn lock(root: &Path) -> Result<Option<File>> {
    let file = match File::open(root) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", root, error)),
    };
    file.lock().map_err(|error| Error::io("lock", root, error))?;
    still_there(root, file)
}

/// Like [`lock`], but does not wait: the inner `None` says that another process has the lock.
pub(crate) fn try_lock(root: &Path) -> Result<Option<Option<File>>> {
    let file = match File::open(root) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", root, error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(still_there(root, file)?.map(Some)),
        Err(fs::TryLockError::WouldBlock) => Ok(Some(None)),
        Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", root, error)),
    }
}

/// A lock on a directory that was removed while it was waited for is worth nothing.
fn still_there(root: &Path, file: File) -> Result<Option<File>> {
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let locked = file.metadata().map(identity).map_err(|error| Error::io("look at", root, error))?;
    match fs::metadata(root).map(identity) {
        Ok(there) if there == locked => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at", root, error)),
    }
}

fn read(lab: &LabName, paths: &LabPaths) -> Result<State> {
    let path = paths.state();
    match fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).map_err(|error| Error::State { path, why: error.to_string() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !paths.root().exists() => Err(no_lab(lab)),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

pub(crate) fn no_lab(name: &LabName) -> Error {
    Error::NoLab { name: name.clone(), labs: labs().unwrap_or_default() }
}

/// Makes a directory that only root can look into.
pub(crate) fn private_directory(path: &Path, parents: bool) -> Result<()> {
    let made = DirBuilder::new().recursive(parents).mode(0o700).create(path);
    made.map_err(|error| Error::io("make", path, error))
}

/// Writes a file by rename, so that it is there whole or not at all.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(content)?;
        fs::rename(&new, path)
    };
    write().map_err(|error| Error::io("write", path, error))
}
