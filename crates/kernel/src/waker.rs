//! Waiting for the kernel's news, until somebody else wants something.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crate::{Error, Result};

/// Ends from another thread the wait of a [`Monitor`](crate::Monitor) or a [`Follower`](crate::conntrack::Follower).
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(crate) fn new() -> Result<Waker> {
        // SAFETY: eventfd takes no pointers; the descriptor it returns is owned by nobody else.
        let event = unsafe {
            let event = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if event < 0 {
                return Err(Error::system("make an eventfd"));
            }
            OwnedFd::from_raw_fd(event)
        };
        Ok(Waker(Arc::new(event)))
    }

    /// Makes the current or next wait return: that of a monitor with [`Event::Woken`](crate::Event::Woken).
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the pointer and the length are those of the array. It can only fail if the counter is full, and
        // then whoever waits wakes anyway.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Forgets that it was woken.
    pub(crate) fn calm(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the pointer and the length are those of the array. With nothing to read nothing is to be calmed.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for any of the descriptors; which of them are ready.
pub(crate) fn ready<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    deadline: Option<Instant>,
) -> Result<[bool; N]> {
    let mut polled = descriptors.map(|fd: BorrowedFd<'_>| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    let left = deadline.map_or(-1, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that the last wait does not spin.
        libc::c_int::try_from(left.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX)
    });
    // SAFETY: the pointer and the count are those of the array.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, left) };
    if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
        return Err(Error::system("wait for the kernel's news"));
    }
    Ok(polled.map(|each| ready > 0 && each.revents != 0))
}
