//! Signals that ask a command to stop.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::{Error, Result};

/// SIGINT, SIGTERM and SIGHUP, held back from this thread and those it starts, to be asked for. While it lives, they
/// do not end the process; afterwards they do what they did before.
#[derive(Debug)]
pub struct Interrupts {
    before: SigSet,
    fd: SignalFd,
}

impl Interrupts {
    /// Holds the signals back. To be called before other threads are started.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel gives no descriptor for them.
    pub fn hold() -> Result<Interrupts> {
        let failed = |error| Error::system("hold signals back", error);
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before)).map_err(failed)?;
        let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let fd = fd.map_err(failed)?;
        Ok(Interrupts { before, fd })
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if a signal has come.
    pub fn check(&self) -> Result<()> {
        match self.fd.read_signal() {
            Ok(Some(signal)) => Err(Error::Interrupted(signal.ssi_signo as i32)),
            Ok(None) => Ok(()),
            Err(error) => Err(Error::system("read signals", error)),
        }
    }
}

/// Lets the signals through that whoever started this process held back, for a process inherits that. To be called
/// before other threads are started.
///
/// # Errors
/// [`Error::System`] if the kernel does not let it.
pub fn let_through() -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&signals), None)
        .map_err(|error| Error::system("let signals through", error))
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // Nothing is left to be told about a mask that was valid before.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}
