//! Packets flow while nobody looks after the programs. Alone in its process, whose descriptors it looks at.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::sites::{Reconcile, Sites, pod};
use model::Family;

/// What descriptors of this process refer to programs, maps or links of BPF.
fn held() -> Vec<String> {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    targets
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| target.contains("bpf"))
        .collect()
}

#[test]
fn packets_flow_when_the_process_that_loaded_the_programs_is_gone() {
    let sites = Sites::new(2);
    let programs = sites.connect(Family::V4);
    assert_ne!(held(), [""; 0]);
    // What the kernel does with the descriptors of a process that ends, however it ends.
    drop(programs);
    assert_eq!(held(), [""; 0]);
    for family in Family::BOTH {
        sites.site(1).ping(pod(2, family), "-c 20 -i 0.01");
    }
    // The next process finds everything right, and what was counted meanwhile.
    let mut next = sites.open(1);
    let _guard = sites.site(1).node.enter();
    let mut left = sites.table(1, Family::V4);
    left.uplinks.clear();
    assert_eq!(next.observe().unwrap(), left, "the programs are another's");
    assert!(next.counters().unwrap().encapsulated >= 40);
    let changes = next.reconcile(&sites.table(1, Family::V4)).unwrap();
    assert_eq!((changes.written, changes.removed, changes.attached), (0, 0, 1));
}
