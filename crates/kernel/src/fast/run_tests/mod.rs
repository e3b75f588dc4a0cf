//! The programs run on packets without a network (`BPF_PROG_TEST_RUN`), and what comes out compared byte by byte.

#![allow(clippy::unwrap_used)]

mod entering;
mod full;
mod leaving;
mod scene;
mod tunnel;

use std::sync::atomic::{AtomicBool, Ordering};

use super::object::{Hook, Object};

#[test]
fn the_kernel_accepts_the_programs() {
    let mut object = Object::load(None).unwrap();
    for hook in Hook::ALL {
        crate::bpf::assert_easy(object.program(hook).unwrap());
    }
}

/// The verifier gives up where a signal waits for the thread.
#[test]
fn signals_do_not_keep_the_programs_from_being_loaded() {
    extern "C" fn taken(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = taken;
    // SAFETY: the handler does nothing, which it may at any moment, and the thread that gets the signals lives until the other
    // has ended.
    unsafe { libc::signal(libc::SIGUSR2, handler as libc::sighandler_t) };
    // SAFETY: it takes nothing.
    let this = unsafe { libc::pthread_self() };
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                // SAFETY: as above.
                unsafe { libc::pthread_kill(this, libc::SIGUSR2) };
                std::thread::yield_now();
            }
        });
        let loaded: Vec<_> = (0..3).map(|_| Object::load(None).map(drop)).collect();
        is_done.store(true, Ordering::Relaxed);
        assert!(loaded.iter().all(Result::is_ok), "{loaded:?}");
    });
}
