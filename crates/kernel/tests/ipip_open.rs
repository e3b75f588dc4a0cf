//! What the programs of IP in IP cannot do without, and how it is said.

#![allow(clippy::unwrap_used)]

mod common;

use std::{env, fs, process};

use aya::maps::MapData;
use common::TestNs;
use common::sites::{Bpffs, Reconcile, Sites, pod};
use kernel::Error;
use kernel::ipip::{self, Ipip};
use model::{Family, LinkName};

#[test]
fn what_is_missing_is_named() {
    let test = TestNs::underlay("open");
    test.run("ip tuntap add dev tun0 mode tun");
    let bpffs = Bpffs::mount();
    let elsewhere = env::temp_dir().join(format!("cambric-no-bpf-{}", process::id()));
    let _guard = test.enter();
    let error = Ipip::open(&elsewhere.join("x")).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    assert!(error.to_string().ends_with("a BPF file system (mount -t bpf) is not there"), "{error}");
    assert!(!elsewhere.exists());
    let directory = bpffs.path.join("x");
    let mut ipip = Ipip::open(&directory).unwrap();
    for (uplink, missing) in
        [("eth9", "the link eth9 is not there"), ("tun0", "its Ethernet header is not there")]
    {
        let error = ipip.set_uplink(&LinkName::new(uplink).unwrap(), true).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
        assert!(error.to_string().ends_with(missing), "{error}");
    }
    ipip.remove().unwrap();
    assert!(bpffs.pinned().is_empty(), "{:?}", bpffs.pinned());
    // There may be nothing to remove.
    ipip::remove(&elsewhere).unwrap();
}

#[test]
fn a_file_system_is_mounted_once() {
    let bpffs = Bpffs::mount();
    ipip::mount(&bpffs.path).unwrap();
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let here = format!(" {} ", bpffs.path.display());
    assert_eq!(mounts.lines().filter(|line| line.contains(&here) && line.contains(" - bpf ")).count(), 1);
}

#[test]
fn maps_of_another_version_go_when_the_programs_have_come() {
    let sites = Sites::new(2);
    drop(sites.connect(Family::V4));
    let directory = sites.directory(1);
    let other = directory.join("maps-0");
    fs::create_dir(&other).unwrap();
    for map in ["routes4", "nodes"] {
        MapData::from_pin(directory.join("maps-1").join(map)).unwrap().pin(other.join(map)).unwrap();
    }
    let before = sites.pinned();
    let mut ipip = sites.open(1);
    assert_eq!(sites.pinned(), before, "nothing changes before the table is known");
    let _guard = sites.site(1).node.enter();
    ipip.reconcile(&sites.table(1, Family::V4)).unwrap();
    assert!(!other.exists());
    assert_eq!(sites.pinned().len(), before.len() - 3);
    for family in Family::BOTH {
        sites.site(1).ping(pod(2, family), "-c 2 -i 0.01");
    }
}
