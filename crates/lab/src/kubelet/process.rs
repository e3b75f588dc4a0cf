//! The processes of containers: started in the pod's namespace, waited for, signalled, and found again.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kernel::netns::{self, NetNs};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;

use super::container::{MARK, Plan, Program};
use crate::process::{PidFd, ProcessId};
use crate::{Error, Result};

/// The exit code of a process whose end nobody saw.
const UNSEEN: i32 = 137;

/// A running process of a container.
pub(super) struct Process {
    pub(super) id: ProcessId,
    held: PidFd,
    ended: AsyncFd<OwnedFd>,
    /// `None` if it was started by an earlier life of this kubelet.
    child: Option<Child>,
    /// A byte comes when an echo server has its ports.
    notice: Option<tokio::net::UnixStream>,
}

/// The program that runs echo servers, and where a container's output goes.
pub(super) struct Place<'a> {
    pub(super) executable: &'a Path,
    pub(super) log: &'a Path,
    /// The pod's namespace; this process' own if there is none.
    pub(super) namespace: Option<&'a NetNs>,
}

impl Process {
    /// Starts what a container needs; `None` if it needs nothing.
    ///
    /// # Errors
    /// [`Error::Run`] if it cannot be run, [`Error::Io`] if its log cannot be written.
    pub(super) fn start(plan: &Plan, place: &Place<'_>) -> Result<Option<Self>> {
        let (program, notice) = match &plan.program {
            Program::Nothing => return Ok(None),
            Program::Command { executable, .. } => (executable.as_path(), None),
            Program::Echo { .. } => {
                let pair = UnixStream::pair().map_err(|e| Error::system("make a pair of sockets", e))?;
                (place.executable, Some(pair))
            }
        };
        let failed = |source| Error::Run { program: program.display().to_string(), source };
        if let Some(directory) = place.log.parent() {
            fs::create_dir_all(directory).map_err(|e| Error::io("make", directory, e))?;
        }
        let log = fs::OpenOptions::new().append(true).create(true).open(place.log);
        let log = log.map_err(|e| Error::io("open", place.log, e))?;
        let mut command = Command::new(program);
        match &plan.program {
            Program::Command { arguments, .. } => command.args(arguments),
            Program::Echo { arguments } => command.args(arguments),
            Program::Nothing => return Ok(None),
        };
        command.env_clear().envs(&plan.environment).process_group(0);
        command.current_dir(plan.directory.as_deref().unwrap_or(Path::new("/")));
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        let notice = match notice {
            Some((ours, theirs)) => {
                command.stdin(OwnedFd::from(theirs));
                ours.set_nonblocking(true).map_err(failed)?;
                Some(tokio::net::UnixStream::from_std(ours).map_err(failed)?)
            }
            None => {
                command.stdin(Stdio::null());
                None
            }
        };
        let child = match place.namespace {
            Some(namespace) => netns::run_in(namespace, move || command.spawn()).map_err(|source| {
                Error::Kernel { member: namespace.path().display().to_string(), source: Box::new(source) }
            })?,
            None => command.spawn(),
        };
        let child = child.map_err(failed)?;
        // The child is not waited for before this, so its number is its own even if it has ended.
        let id = ProcessId::of(i32::try_from(child.id()).unwrap_or_default()).map_err(failed)?;
        let mut process = Self::hold(id)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        process.child = Some(child);
        process.notice = notice;
        Ok(Some(process))
    }

    /// Takes over a process of an earlier life; `None` if it has ended.
    pub(super) fn hold(id: ProcessId) -> Result<Option<Self>> {
        let Some(held) = id.hold()? else { return Ok(None) };
        let failed = |e| Error::system(format!("wait for process {}", id.pid), e);
        let copy = held.as_fd().try_clone_to_owned().map_err(failed)?;
        // SAFETY: the value owns the descriptor, which is open and the same until it is dropped.
        let ended = unsafe { AsyncFd::register(copy) }.map_err(|error| failed(error.into()))?;
        Ok(Some(Self { id, held, ended, child: None, notice: None }))
    }

    /// Waits until an echo server has its ports, or ends; at once for all others.
    pub(super) fn serving(&mut self) -> impl Future<Output = ()> + use<> {
        let notice = self.notice.take();
        async move {
            if let Some(mut notice) = notice {
                // An end of the stream means that the process has ended, which is seen elsewhere.
                let _ = notice.read(&mut [0]).await;
            }
        }
    }

    /// Waits until the process ends; its exit code as a shell has it (128 and the signal's number).
    pub(super) async fn ended(&mut self) -> i32 {
        // The descriptor becomes readable when the process ends, and stays so (pidfd_open(2)).
        let _ = self.ended.readable().await;
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => {
                status.code().unwrap_or_else(|| status.signal().map_or(UNSEEN, |signal| 128 + signal))
            }
            _ => UNSEEN,
        }
    }

    pub(super) fn signal(&self, signal: i32) {
        if let Err(error) = self.held.signal(signal) {
            tracing::warn!(%error, "a container's process could not be signalled");
        }
    }
}

/// Which processes are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Search<'a> {
    /// Those that were started by the kubelet for the pod of the UID, and what they started.
    Marked(&'a str),
    /// All in the namespace.
    Inside(&'a NetNs),
}

/// Kills all processes that are found, except `spared`, and waits for their end.
///
/// # Errors
/// [`Error::System`] if one does not end.
pub(super) fn kill_all(search: Search<'_>, spared: &[ProcessId]) -> Result<()> {
    // Whoever is killed may just have started another one.
    loop {
        let found = find(search, spared)?;
        if found.is_empty() {
            return Ok(());
        }
        found.iter().try_for_each(|process| process.signal(libc::SIGKILL))?;
        if !crate::process::wait_ended(&found, crate::components::KILL_TIME)? {
            let late = io::Error::from(io::ErrorKind::TimedOut);
            return Err(Error::system("end the processes of a pod", late));
        }
    }
}

/// What tells the processes that are looked for.
enum Wanted {
    /// A variable of the environment, with its value.
    Variable(String),
    /// The inode of the network namespace: all of them are on one file system (nsfs).
    Namespace(u64),
}

fn find(search: Search<'_>, spared: &[ProcessId]) -> Result<Vec<PidFd>> {
    let wanted = match search {
        Search::Marked(uid) => Wanted::Variable(format!("{MARK}={uid}")),
        Search::Inside(namespace) => {
            let member = namespace.path().display().to_string();
            Wanted::Namespace(namespace.id().map_err(Error::kernel(member))?.inode)
        }
    };
    let is_meant = |pid: i32| match &wanted {
        Wanted::Variable(mark) => fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|all| all.split(|&b| b == 0).any(|variable| variable == mark.as_bytes())),
        Wanted::Namespace(inode) => {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|own| own.ino() == *inode)
        }
    };
    let mut found = Vec::new();
    let entries = fs::read_dir("/proc").map_err(|e| Error::io("read", "/proc", e))?;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if !is_meant(pid) {
            continue;
        }
        let Ok(id) = ProcessId::of(pid) else { continue };
        // Held first and looked at again: the number may have passed to another process meanwhile.
        if let Some(held) = id.hold()?.filter(|held| !held.ended() && is_meant(pid) && !spared.contains(&id))
        {
            found.push(held);
        }
    }
    Ok(found)
}
