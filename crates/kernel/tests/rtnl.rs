//! The rtnetlink socket against the kernel.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::Ipv4Addr;

use common::TestNs;
use kernel::rtnl::{Request, RouteSocket};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

fn bridge(name: &str) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

fn blackhole(number: u32) -> RouteNetlinkMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = netlink_packet_route::AddressFamily::Inet;
    route.header.destination_prefix_length = 32;
    route.header.table = libc::RT_TABLE_MAIN;
    route.header.kind = RouteType::BlackHole;
    route.attributes =
        vec![RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::from(0x0a00_0000 + number)))];
    RouteNetlinkMessage::NewRoute(route)
}

#[test]
fn a_refusal_says_what_was_tried_and_why_it_failed() {
    let test = TestNs::new("refused");
    let _guard = test.enter();
    let mut socket = RouteSocket::open().unwrap();
    socket.request(Request::create(bridge("br0"), "add bridge br0")).unwrap();
    let error = socket.request(Request::create(bridge("br0"), "add bridge br0")).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EEXIST));
    assert!(error.to_string().starts_with("cannot add bridge br0: File exists"), "{error}");

    let mut route = RouteMessage::default();
    route.header.address_family = netlink_packet_route::AddressFamily::Inet;
    route.header.table = libc::RT_TABLE_MAIN;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet([10, 9, 9, 9].into()))];
    let error =
        socket.request(Request::create(RouteNetlinkMessage::NewRoute(route), "add route")).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENETUNREACH));
    assert!(error.to_string().ends_with("the kernel says: Nexthop has invalid gateway"), "{error}");
}

#[test]
fn a_batch_does_all_that_can_be_done_and_tells_the_rest_apart() {
    let test = TestNs::new("batch");
    let _guard = test.enter();
    let mut socket = RouteSocket::open().unwrap();
    let requests: Vec<Request> = (0..20_000u32)
        .map(|number| Request::create(blackhole(number - number % 100), format!("add route {number}")))
        .collect();
    let results = socket.batch(&requests);
    assert_eq!(results.len(), 20_000);
    for (number, result) in results.iter().enumerate() {
        match result {
            Ok(()) => assert_eq!(number % 100, 0),
            Err(error) => {
                assert_eq!(error.errno(), Some(libc::EEXIST));
                assert!(error.to_string().starts_with(&format!("cannot add route {number}: ")), "{error}");
            }
        }
    }
    let mut filter = RouteMessage::default();
    filter.header.address_family = netlink_packet_route::AddressFamily::Inet;
    let routes = socket.dump(&RouteNetlinkMessage::GetRoute(filter), "list routes").unwrap();
    assert_eq!(routes.len(), 200);
    assert_eq!(test.run("ip -4 route show").lines().count(), 200);
}

#[test]
fn a_dump_is_one_consistent_state_while_others_write() {
    let test = TestNs::new("dump");
    let _guard = test.enter();
    let mut socket = RouteSocket::open().unwrap();
    let all: Vec<Request> =
        (0..5_000).map(|number| Request::create(blackhole(number), "add route")).collect();
    assert!(socket.batch(&all).iter().all(Result::is_ok));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = test.enter();
            let mut socket = RouteSocket::open().unwrap();
            for number in 0..50 {
                socket.request(Request::create(bridge(&format!("br{number}")), "add bridge")).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut filter = RouteMessage::default();
        filter.header.address_family = netlink_packet_route::AddressFamily::Inet;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let routes = socket.dump(&RouteNetlinkMessage::GetRoute(filter.clone()), "list routes").unwrap();
            assert_eq!(routes.len(), 5_000);
        }
    });
    let links = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), "list links").unwrap();
    assert_eq!(links.len(), 51);
}
