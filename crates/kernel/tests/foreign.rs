//! What is not ours is never touched, and what is ours goes without a trace.

#![allow(clippy::unwrap_used)]

mod common;

use common::cluster::{self, Stack};
use common::state::{assert_same, state};
use common::{TestNs, reconcile};
use kernel::{Error, Kernel};
use plan::{Entries, Facts, Key};

/// Things of others that are close to ours.
const FOREIGN: &[&str] = &[
    "ip link add br7 type bridge",
    "ip link add vxlan7 type vxlan id 7 dstport 4790 local 172.16.0.1 nolearning",
    "ip link set br7 up",
    "ip link set vxlan7 up",
    "ip addr add 10.7.0.1/24 dev br7",
    "ip addr add fd00:7::1/64 dev br7 nodad",
    "ip addr add 10.8.0.1/24 dev vxlan7",
    "ip route add 10.9.0.0/24 via 172.16.0.9",
    "ip route add 10.128.1.0/24 via 172.16.0.9 metric 50 proto bird",
    "ip route add 10.10.0.0/24 via 172.16.0.9 proto 203 table 77",
    "ip -6 route add fd00:9::/64 via 2001:db8::9 proto bird",
    "ip neigh add 172.16.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
    "ip -6 neigh add 2001:db8::77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
    "ip neigh add 10.8.0.7 lladdr 02:00:00:00:00:07 dev vxlan7 nud permanent",
    "bridge fdb add 02:00:00:00:00:07 dev vxlan7 dst 172.16.0.7 self permanent",
    "nft add table inet cambric",
    "nft add chain inet cambric input { type filter hook input priority 0; }",
    "nft add table ip other",
    "nft add set ip other nodes { type ipv4_addr; elements = { 192.0.2.1 }; }",
    "nft add chain ip other postrouting { type nat hook postrouting priority 100; }",
    "nft add rule ip other postrouting ip daddr @nodes masquerade",
    "ip link add cbvother type veth peer name cbvpeer",
];

fn small() -> Entries {
    cluster::plan(&cluster::cluster(4, Stack::Dual), vec![cluster::attachment(2, Stack::Dual)])
}

#[test]
fn others_things_stay_and_cleanup_leaves_nothing_else() {
    let test = TestNs::underlay("foreign");
    let _guard = test.enter();
    for command in FOREIGN {
        test.run(command);
    }
    // Settings stay, and forwarding makes anycast addresses.
    test.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    let before = state(&test);
    let plan = small();
    reconcile(&plan);
    let services =
        plan::plan(&cluster::cluster(4, Stack::Dual), &cluster::name(0), &Facts::default()).services;
    assert!(Kernel::open().unwrap().reconcile_services(&services).unwrap().services.is_none());
    let kept = state(&test);
    for line in before.lines() {
        assert!(kept.contains(line), "{line} was there before");
    }
    let damaged = "nft delete table ip cambric";
    test.run(damaged);
    reconcile(&plan);
    assert!(reconcile(&plan).is_quiet());
    test.run("ip link add cbv0123456789ab type veth peer name pod0");
    test.run_words(&["ip", "link", "set", "cbv0123456789ab", "alias", "cambric pod default/web-0"]);

    // By an agent that knows nothing of the plan.
    let report = Kernel::open().unwrap().cleanup().unwrap();
    assert!(report.failures.is_empty() && report.removed == 6 + 4 + 4 + 2, "{report}");
    assert_same(&state(&test), &before, "cleanup");
    assert!(Kernel::open().unwrap().cleanup().unwrap().is_quiet());
}

#[test]
fn cleanup_of_a_namespace_that_never_had_anything() {
    let test = TestNs::new("bare");
    let _guard = test.enter();
    assert!(Kernel::open().unwrap().cleanup().unwrap().is_quiet());
}

#[test]
fn another_link_of_our_name_is_an_error_and_stays() {
    for taken in ["ip link add cbr0 type bridge", "ip link add vxlan.cambric type bridge"] {
        let test = TestNs::underlay("taken");
        let _guard = test.enter();
        test.run(taken);
        let before = test.run("ip -j link");
        let plan = small();
        let mut kernel = Kernel::open().unwrap();
        for _ in 0..2 {
            let report = kernel.reconcile(&plan).unwrap();
            let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
            assert_eq!(failures.len(), 1, "{failures:#?}");
            assert!(matches!(report.failures[0].error, Error::Foreign { .. }), "{failures:?}");
            assert!(matches!(report.failures[0].key, Key::Link(_)), "{failures:?}");
            assert!(failures[0].contains("is in the way and is not ours"), "{failures:?}");
            assert!(report.blocked > 0, "{report}");
        }
        let after: serde_json::Value = serde_json::from_str(&test.run("ip -j link")).unwrap();
        let name = taken.split_whitespace().nth(3).unwrap();
        let of = |links: &serde_json::Value| {
            links.as_array().unwrap().iter().find(|link| link["ifname"] == name).unwrap().clone()
        };
        assert_eq!(of(&after), of(&serde_json::from_str(&before).unwrap()), "it is as it was");
        assert!(!test.run("ip addr show").contains(&format!("10.128.0.1/24 scope global {name}")));

        test.run(&format!("ip link del {name}"));
        reconcile(&plan);
        assert!(reconcile(&plan).is_quiet(), "once it is gone all is well");
    }
}

#[test]
fn another_route_to_our_destination_is_an_error_and_stays() {
    for (foreign, shown, count) in [
        (
            "ip route add 10.128.1.0/24 via 172.16.0.9 proto bird",
            "10.128.1.0/24 via 172.16.0.9 dev eth0 proto bird",
            1,
        ),
        (
            "ip -6 route add fd00:10::/48 via 2001:db8::9 proto static",
            "fd00:10::/48 via 2001:db8::9 dev eth0 proto static",
            // The kernel's rule: an IPv6 next hop that a route puts on another link is refused.
            3,
        ),
        (
            "ip -6 route add fd00:10:0:1::/64 via 2001:db8::9 proto static",
            "fd00:10:0:1::/64 via 2001:db8::9 dev eth0 proto static",
            1,
        ),
    ] {
        let test = TestNs::underlay("route");
        let _guard = test.enter();
        test.run(foreign);
        let plan = small();
        let mut kernel = Kernel::open().unwrap();
        for _ in 0..2 {
            let report = kernel.reconcile(&plan).unwrap();
            assert_eq!(report.failures.len(), count, "{report}");
            let text = report.failures[0].to_string();
            assert!(text.starts_with("Node node-1: cannot add route "), "{text}");
            assert!(text.contains("dev eth0 of protocol "), "{text}");
        }
        let routes = test.run("ip route") + &test.run("ip -6 route");
        assert!(routes.contains(shown), "{routes}");
        test.run(&foreign.replace("add", "del"));
        assert_eq!(reconcile(&plan).made, count);
        assert!(reconcile(&plan).is_quiet());
    }
}

#[test]
fn the_underlay_is_the_link_with_the_nodes_address() {
    let test = TestNs::underlay("mtu");
    let _guard = test.enter();
    test.run("ip link set eth0 mtu 1400");
    let mut kernel = Kernel::open().unwrap();
    let node = cluster::node(0, Stack::Dual);
    let found = kernel.surroundings(&node.addresses).unwrap().underlay;
    for underlay in [found.v4.unwrap(), found.v6.unwrap()] {
        assert_eq!((underlay.link.as_str(), underlay.mtu), ("eth0", 1400));
    }
    let other = cluster::node(7, Stack::Dual);
    assert!(kernel.surroundings(&other.addresses).unwrap().underlay.is_empty());
}

#[test]
fn the_nodes_addresses_are_those_that_others_can_reach() {
    let test = TestNs::underlay("own");
    let _guard = test.enter();
    for command in [
        "ip addr add 192.0.2.66/32 dev lo",
        "ip addr add 127.0.0.2/8 dev lo",
        "ip addr add 169.254.1.1/16 dev eth0",
        "ip addr add 2001:db8::66/128 dev wire nodad",
        "ip link add cbr0 type bridge",
        "ip link set cbr0 alias cambric",
        "ip addr add 10.244.0.1/24 dev cbr0",
        "ip link add cbvpod type veth peer name peer",
        "ip addr add 10.9.9.9/32 dev cbvpod",
    ] {
        test.run(command);
    }
    test.run_words(&["ip", "link", "set", "cbvpod", "alias", &format!("{}x", kernel::pod::ALIAS_PREFIX)]);
    let found = Kernel::open().unwrap().surroundings(&cluster::node(0, Stack::Dual).addresses).unwrap();
    let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["172.16.0.1", "192.0.2.66", "2001:db8::1", "2001:db8::66"]);
}
