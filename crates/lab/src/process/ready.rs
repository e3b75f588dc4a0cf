//! How a process tells the one that started it that it is ready: a byte in a pipe. Nobody has to ask again and again.

use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The environment variable with the number of the pipe's descriptor.
pub(super) const VARIABLE: &str = "CAMBRIC_READY_FD";

static PIPE: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Takes over the pipe that the environment names, if it names one. To be called once, before this process starts
/// others, for they would inherit it.
pub fn inherit_readiness() {
    let Some(number) = std::env::var(VARIABLE).ok().and_then(|text| text.parse::<RawFd>().ok()) else {
        return;
    };
    if number <= libc::STDERR_FILENO {
        return;
    }
    // SAFETY: the starter opened the descriptor for this and nothing else in this process knows of it; if it is not
    // open, the following call says so and the number is given up.
    let pipe = unsafe { OwnedFd::from_raw_fd(number) };
    if fcntl(&pipe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_err() {
        std::mem::forget(pipe);
        return;
    }
    *PIPE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(pipe);
}

/// Says that this process is ready. Later calls, and calls in a process that nobody waits for, do nothing.
pub fn ready() {
    let pipe = PIPE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(pipe) = pipe {
        // That nobody waits any more is not for this process to care about.
        let _ = std::fs::File::from(pipe).write_all(b"\n");
    }
}
