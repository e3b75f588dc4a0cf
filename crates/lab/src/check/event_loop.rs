//! The event loop for what the check and the demo ask of the API.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;

use crate::signals::Interrupts;
use crate::{Error, Result};

/// Makes an event loop on the calling thread.
pub(crate) fn event_loop() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::system("start the event loop", error))
}

/// Waits for something, unless a signal comes first.
pub(crate) async fn unless_interrupted<T>(
    interrupts: &Interrupts,
    wanted: impl Future<Output = Result<T>>,
) -> Result<T> {
    let failed = |error: io::Error| Error::system("wait for signals", error);
    let fd = interrupts.as_fd().try_clone_to_owned().map_err(failed)?;
    // SAFETY: the descriptor is owned by what is registered, so it is the same one until it is deregistered.
    let signals = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    let signals = signals.map_err(|error| failed(error.into()))?;
    let interrupted = async {
        loop {
            let mut ready = signals.readable().await.map_err(failed)?;
            interrupts.check()?;
            ready.clear_ready();
        }
    };
    tokio::select! {
        result = wanted => result,
        result = interrupted => result,
    }
}
