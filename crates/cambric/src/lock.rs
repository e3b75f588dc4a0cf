//! One agent per node.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct AgentLock {
    _file: File,
}

/// Who has the lock.
#[derive(Debug)]
pub(crate) enum Locked {
    /// We do.
    Ours(AgentLock),
    /// A running agent; its process id, as it stands in the file.
    Theirs(String),
}

impl AgentLock {
    /// Takes the lock if no other process has it.
    pub(crate) fn take(path: &Path) -> Result<Locked> {
        let context = || format!("cannot lock {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(context)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).with_context(context)?;
                file.rewind().with_context(context)?;
                writeln!(file, "{}", std::process::id()).with_context(context)?;
                Ok(Locked::Ours(AgentLock { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).with_context(context)?;
                Ok(Locked::Theirs(pid.trim().to_owned()))
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(context),
        }
    }

    /// The process id of the agent that runs on this node; `None` if none does.
    pub(crate) fn holder(path: &Path) -> Option<String> {
        let mut file = File::open(path).ok()?;
        // Shared, so that two who only look do not take each other for an agent.
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).ok()?;
                Some(pid.trim().to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        assert_eq!(AgentLock::holder(&path), None);
        let first = AgentLock::take(&path).unwrap();
        let own = std::process::id().to_string();
        assert!(matches!(&first, Locked::Ours(_)));
        assert!(matches!(AgentLock::take(&path).unwrap(), Locked::Theirs(pid) if pid == own));
        assert_eq!(AgentLock::holder(&path), Some(own));
        drop(first);
        assert_eq!(AgentLock::holder(&path), None);
        assert!(matches!(AgentLock::take(&path).unwrap(), Locked::Ours(_)));
    }
}
