//! Waiting for links that pass packets and addresses that packets are taken in for.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::IpAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use common::TestNs;
use kernel::Error;
use kernel::rtnl::RouteSocket;
use kernel::settled::{self, News};

const ADDRESSES: [&str; 2] = ["10.7.0.1", "fd00:7::1"];

fn wait(test: &TestNs, links: &[&str], addresses: &[&str], limit: Duration) -> kernel::Result<()> {
    let _guard = test.enter();
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let (mut socket, news) = (RouteSocket::open().unwrap(), News::open().unwrap());
    settled::wait(&mut socket, &news, links, &addresses, limit)
}

/// A veth pair, addressed, of which one end is up.
fn pair() -> TestNs {
    let test = TestNs::new("settled");
    test.run("ip link add near type veth peer name far");
    for address in ADDRESSES {
        test.run(&format!("ip address add {address} dev near nodad"));
    }
    test.run("ip link set near up");
    test
}

/// Waits, and has something done meanwhile; the wait may not be over before.
#[track_caller]
fn wait_until(test: &TestNs, links: &[&str], addresses: &[&str], command: &str) {
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        scope.spawn(move || tell.send(wait(test, links, addresses, settled::LIMIT)).unwrap());
        let early = told.recv_timeout(Duration::from_millis(200));
        assert!(matches!(early, Err(RecvTimeoutError::Timeout)), "{early:?}");
        test.run(command);
        told.recv().unwrap().unwrap();
    });
}

#[test]
fn links_are_waited_for_until_both_ends_are_up() {
    let test = pair();
    wait_until(&test, &["near", "far"], &ADDRESSES, "ip link set far up");
    let links = test.run("ip -br link");
    assert_eq!(links.lines().filter(|line| line.contains(" UP ")).count(), 2, "{links}");
    // What is so already is not waited for.
    wait(&test, &["near", "far"], &ADDRESSES, Duration::ZERO).unwrap();
}

#[test]
fn addresses_are_waited_for_until_packets_to_them_are_taken_in() {
    let test = pair();
    wait_until(&test, &[], &["fd00:8::1"], "ip address add fd00:8::1 dev near nodad");
    assert!(test.run("ip -6 route show table local").contains("local fd00:8::1 "));
}

#[test]
fn what_is_not_there_is_named() {
    let error = wait(&pair(), &["none"], &ADDRESSES, settled::LIMIT).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().starts_with("cannot see link none pass packets: "), "{error}");
}

#[test]
fn what_never_comes_is_told() {
    let test = pair();
    for (links, address, words) in [
        (&["near"], "fd00:7::1", "cannot see link near pass packets: timed out"),
        (&["lo"], "fd00:8::1", "cannot see packets to fd00:8::1 taken in: timed out"),
    ] {
        let error = wait(&test, links, &[address], Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), words);
    }
}
