//! What the programs of IP in IP cannot do without, and how it is said.

#![allow(clippy::unwrap_used)]

mod common;

use std::{env, fs, process};

use common::TestNs;
use common::sites::Bpffs;
use kernel::Error;
use kernel::ipip::{self, Ipip};
use model::LinkName;

#[test]
fn what_is_missing_is_named() {
    let test = TestNs::underlay("open");
    test.run("ip tuntap add dev tun0 mode tun");
    let bpffs = Bpffs::mount();
    let elsewhere = env::temp_dir().join(format!("cambric-no-bpf-{}", process::id()));
    let _guard = test.enter();
    for (uplink, directory, missing) in [
        ("eth9", bpffs.path.join("x"), "the link eth9 is not there"),
        ("tun0", bpffs.path.join("x"), "its Ethernet header is not there"),
        ("eth0", elsewhere.join("x"), "a BPF file system (mount -t bpf) is not there"),
    ] {
        let error = Ipip::open(&LinkName::new(uplink).unwrap(), &directory).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
        assert!(error.to_string().ends_with(missing), "{error}");
    }
    assert!(bpffs.pinned().is_empty() && !elsewhere.exists());
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
