//! The programs run on packets without a network (`BPF_PROG_TEST_RUN`), and what comes out compared byte by byte.

#![allow(clippy::unwrap_used)]

mod entering;
mod leaving;
mod scene;

use super::object::{Hook, Object};

#[test]
fn the_kernel_accepts_the_programs() {
    let mut object = Object::load(None).unwrap();
    for hook in Hook::ALL {
        let info = object.program(hook).unwrap().info().unwrap();
        let (name, visited) = (info.name_as_str().unwrap(), info.verified_instruction_count().unwrap());
        println!(
            "{name}: {} bytes, {visited} instructions visited by the verifier",
            info.size_translated().unwrap()
        );
        assert!(visited < 20_000, "{name}: the verifier gives up at a million");
    }
}
