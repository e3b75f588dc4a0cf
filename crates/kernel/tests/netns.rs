//! Namespaces are entered, left and named as iproute2 does it.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::TestNs;
use kernel::netns::{self, NetNs};

#[test]
fn a_guard_takes_the_thread_there_and_back() {
    let test = TestNs::new("guard");
    let before = NetNs::current().unwrap().id().unwrap();
    assert_ne!(before, test.ns.id().unwrap());
    {
        let _guard = test.enter();
        assert_eq!(NetNs::current().unwrap().id().unwrap(), test.ns.id().unwrap());
        let inner = TestNs::new("inner");
        let _second = inner.enter();
        assert_eq!(NetNs::current().unwrap().id().unwrap(), inner.ns.id().unwrap());
    }
    assert_eq!(NetNs::current().unwrap().id().unwrap(), before);
}

#[test]
fn a_panic_in_a_namespace_takes_the_thread_back() {
    let test = TestNs::new("panic");
    let before = NetNs::current().unwrap().id().unwrap();
    let result = std::panic::catch_unwind(|| {
        let _guard = test.ns.enter().unwrap();
        panic!("in the namespace");
    });
    assert!(result.is_err());
    assert_eq!(NetNs::current().unwrap().id().unwrap(), before);
}

#[test]
fn run_in_leaves_the_calling_thread_alone() {
    let test = TestNs::new("run");
    let before = NetNs::current().unwrap().id().unwrap();
    let there = netns::run_in(&test.ns, || NetNs::current().unwrap().id().unwrap()).unwrap();
    assert_eq!(there, test.ns.id().unwrap());
    assert_eq!(NetNs::current().unwrap().id().unwrap(), before);
}

#[test]
fn iproute2_sees_a_named_namespace_and_it_is_empty() {
    let test = TestNs::new("named");
    assert_eq!(test.run("ip -o link").lines().count(), 1, "only lo");
    assert_eq!(
        NetNs::open(format!("/run/netns/{}", test.name)).unwrap().id().unwrap(),
        test.ns.id().unwrap()
    );
    let path = PathBuf::from(format!("/run/netns/{}", test.name));
    let error = netns::create_named(&path).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EEXIST), "{error}");
    assert_eq!(
        NetNs::open(&path).unwrap().id().unwrap(),
        test.ns.id().unwrap(),
        "the namespace is still there"
    );
    netns::remove_named(&path).unwrap();
    assert!(!path.exists());
    netns::remove_named(&path).unwrap();
}

#[test]
fn many_threads_make_namespaces_at_once() {
    let all: Vec<TestNs> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| TestNs::new("many"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut ids: Vec<_> = all.iter().map(|each| each.ns.id().unwrap()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 8);
}

#[test]
fn what_is_no_network_namespace_is_refused() {
    let file = std::env::temp_dir().join(format!("krn-no-ns-{}", std::process::id()));
    fs::write(&file, "").unwrap();
    assert!(NetNs::open(&file).is_err());
    fs::remove_file(&file).unwrap();
    let error = NetNs::open("/proc/self/ns/mnt").unwrap_err();
    assert!(error.to_string().contains("/proc/self/ns/mnt as a network namespace"), "{error}");
    assert_eq!(NetNs::open("/run/netns/is-not-there").unwrap_err().errno(), Some(libc::ENOENT));
}
