//! A time without signals.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

/// While there is one, the calling thread takes no signals: another thread of the process does, or this one afterwards.
pub(super) struct NoSignals {
    before: libc::sigset_t,
    /// It is about the thread that began it, and must end there.
    _stays: PhantomData<*const ()>,
}

impl NoSignals {
    pub(super) fn begin() -> NoSignals {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both sets are written before they are read: `all` by sigfillset, `before` by pthread_sigmask, which fails only
        // if told to do what there is not.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            NoSignals { before: before.assume_init(), _stays: PhantomData }
        }
    }
}

impl Drop for NoSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that pthread_sigmask wrote, and nothing is written to the null pointer.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }
}
