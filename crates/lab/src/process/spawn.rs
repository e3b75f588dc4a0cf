//! Starting processes that outlive the one that starts them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kernel::netns::NetNs;

use super::{PidFd, ProcessId, ready};
use crate::{Error, Result};

/// A process to be started.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What it is called in errors.
    pub what: String,
    /// The executable.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The namespace it runs in; the caller's if there is none.
    pub namespace: Option<&'a NetNs>,
    /// The file that its output is appended to.
    pub log: PathBuf,
}

/// A process that was started.
#[derive(Debug)]
pub struct Launched {
    /// What it is called in errors.
    pub what: String,
    /// The file with its output.
    pub log: PathBuf,
    process: PidFd,
    ready: PipeReader,
}

impl Launched {
    /// The process.
    pub fn process(&self) -> &PidFd {
        &self.process
    }

    /// The pipe that becomes readable when the process is ready, or has closed it.
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// Whether it has said that it is ready. To be asked when [`Launched::readiness`] is readable.
    pub fn said_ready(&mut self) -> bool {
        matches!(self.ready.read(&mut [0]), Ok(1))
    }
}

impl Launch<'_> {
    /// Starts the process in a session of its own, after `record` has written it down.
    ///
    /// The new process waits between fork and exec until then. If this process is killed before, it ends there.
    ///
    /// # Errors
    /// [`Error::Run`] if it cannot be started, and whatever `record` says.
    pub fn start(self, record: impl FnOnce(ProcessId) -> Result<()>) -> Result<Launched> {
        let failed = |source| Error::Run { program: self.what.clone(), source };
        let output = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log)
            .map_err(|source| Error::io("open", &self.log, source))?;
        let (number_reader, number_writer) = io::pipe().map_err(failed)?;
        let (go_reader, go_writer) = io::pipe().map_err(failed)?;
        let (ready_reader, ready_writer) = io::pipe().map_err(failed)?;

        let mut command = Command::new(self.program);
        command
            .args(&self.arguments)
            .current_dir("/")
            .env(ready::VARIABLE, ready_writer.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output);
        let namespace = self.namespace.map(|namespace| namespace.as_fd().try_clone_to_owned());
        let mut child = Child {
            number: number_writer,
            go: go_reader,
            others_go: go_writer.as_raw_fd(),
            ready: ready_writer.into(),
            namespace: namespace.transpose().map_err(failed)?,
        };
        // SAFETY: what runs between fork and exec allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || child.prepare());
        }

        // spawn() returns only after exec, and exec waits for the record: so they are on two threads.
        std::thread::scope(|scope| {
            let spawning = scope.spawn(move || {
                let spawned = command.spawn();
                // Closes the new process' ends of the pipes in this process.
                drop(command);
                spawned
            });
            let recorded = recorded(number_reader, go_writer, record);
            let spawned = spawning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (spawned, recorded) {
                (Err(error), _) if !matches!(error.raw_os_error(), Some(libc::ECANCELED)) => {
                    Err(failed(error))
                }
                (_, Err(error)) => Err(error),
                (Err(error), Ok(_)) => Err(failed(error)),
                (Ok(_), Ok(process)) => {
                    let (what, log) = (self.what.clone(), self.log.clone());
                    Ok(Launched { what, log, process, ready: ready_reader })
                }
            }
        })
    }
}

/// Reads the new process' number, has it written down, and lets it go on.
fn recorded(
    mut number: PipeReader,
    mut go: PipeWriter,
    record: impl FnOnce(ProcessId) -> Result<()>,
) -> Result<PidFd> {
    let unknown = |source| Error::system("learn the number of a new process", source);
    let mut pid = [0; 4];
    number.read_exact(&mut pid).map_err(unknown)?;
    let id = ProcessId::of(i32::from_ne_bytes(pid)).map_err(unknown)?;
    record(id)?;
    let held = id.hold()?.ok_or_else(|| unknown(io::ErrorKind::NotFound.into()))?;
    go.write_all(b"\n").map_err(unknown)?;
    Ok(held)
}

/// What the new process needs between fork and exec.
struct Child {
    number: PipeWriter,
    go: PipeReader,
    /// The new process' copy of the end that the starter writes to. While it is open, the end of the starter would
    /// go unnoticed.
    others_go: RawFd,
    ready: OwnedFd,
    namespace: Option<OwnedFd>,
}

impl Child {
    fn prepare(&mut self) -> io::Result<()> {
        // SAFETY: plain system calls on descriptors that are open; all are async-signal-safe (signal-safety(7)), and
        // the descriptor that is closed belongs to nothing in this process, which will not return from here.
        unsafe {
            libc::close(self.others_go);
            self.number.write_all(&libc::getpid().to_ne_bytes())?;
            if self.go.read(&mut [0])? != 1 {
                return Err(io::Error::from_raw_os_error(libc::ECANCELED));
            }
            if libc::setsid() < 0 || libc::fcntl(self.ready.as_raw_fd(), libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            if let Some(namespace) = &self.namespace
                && libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) < 0
            {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}
