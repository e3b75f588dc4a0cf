//! The clock that BPF programs go by.

use crate::{Error, Result};

/// The clock of `bpf_ktime_get_coarse_ns`, in nanoseconds.
pub(crate) fn monotonic() -> Result<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value that lives through the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } < 0 {
        return Err(Error::system("read the monotonic clock"));
    }
    Ok(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}
