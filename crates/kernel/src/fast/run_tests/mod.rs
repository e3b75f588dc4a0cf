//! The programs run on packets without a network (`BPF_PROG_TEST_RUN`), and what comes out compared byte by byte.

#![allow(clippy::unwrap_used)]

mod entering;
mod full;
mod leaving;
mod scene;
mod tunnel;

use super::object::{Hook, Object};

#[test]
fn the_kernel_accepts_the_programs() {
    let mut object = Object::load(None).unwrap();
    for hook in Hook::ALL {
        crate::bpf::assert_easy(object.program(hook).unwrap());
    }
}
