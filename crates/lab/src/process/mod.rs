//! Processes of a lab: told apart for sure, started so that none is ever forgotten, and ended by descriptor.

mod ready;
mod spawn;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};
pub use ready::{inherit_readiness, ready};
pub use spawn::{Launch, Launched};

/// A process, told from all others that have or had its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it was started, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc_pid_stat(5)).
    pub started: u64,
}

impl ProcessId {
    /// The process that has a number now.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn of(pid: i32) -> io::Result<ProcessId> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name in parentheses, and may hold anything, even parentheses.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
        let started = fields.and_then(|fields| fields.split_ascii_whitespace().nth(19)?.parse().ok());
        match started {
            Some(started) => Ok(ProcessId { pid, started }),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "no start time in /proc/PID/stat")),
        }
    }

    /// This process.
    ///
    /// # Errors
    /// Those of reading /proc.
    pub fn own() -> io::Result<ProcessId> {
        ProcessId::of(std::process::id() as i32)
    }

    /// Takes hold of the process. `None` if it has ended.
    ///
    /// # Errors
    /// [`Error::System`] if the process is there but cannot be held.
    pub fn hold(&self) -> Result<Option<PidFd>> {
        // SAFETY: pidfd_open takes no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ESRCH) => Ok(None),
                _ => Err(Error::system(format!("take hold of process {}", self.pid), error)),
            };
        }
        // SAFETY: the kernel has just given us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // The descriptor stands for whatever has the number now; that it is the one meant is seen only now.
        let is_it = ProcessId::of(self.pid).is_ok_and(|now| now == *self);
        Ok(is_it.then_some(PidFd { pid: self.pid, fd }))
    }

    /// Whether the process has not ended.
    pub fn is_running(&self) -> bool {
        matches!(self.hold(), Ok(Some(fd)) if !fd.ended())
    }
}

/// A process that is held: its number is not given to another one (pidfd_open(2)).
#[derive(Debug)]
pub struct PidFd {
    pid: i32,
    fd: OwnedFd,
}

impl PidFd {
    /// The process' number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends it a signal. That it has ended is no error.
    ///
    /// # Errors
    /// [`Error::System`] if this process may not.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: the descriptor is open; the information may be null (pidfd_send_signal(2)).
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        let error = io::Error::last_os_error();
        if result < 0 && error.raw_os_error() != Some(libc::ESRCH) {
            return Err(Error::system(format!("send signal {signal} to process {}", self.pid), error));
        }
        Ok(())
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        wait_ended(std::slice::from_ref(self), Duration::ZERO).is_ok_and(|all| all)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until all of the processes have ended; whether they have, within the time.
///
/// # Errors
/// [`Error::System`] if they cannot be waited for.
pub fn wait_ended(processes: &[PidFd], time: Duration) -> Result<bool> {
    let deadline = Instant::now() + time;
    for process in processes {
        loop {
            let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, until(deadline)) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(Error::system(format!("wait for process {}", process.pid), error)),
            }
        }
    }
    Ok(true)
}

/// The time that is left, as poll(2) takes it, rounded up.
pub(crate) fn until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = left.as_millis() + u128::from(!left.is_zero());
    PollTimeout::try_from(millis.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests;
