//! Whatever a namespace holds, reconciling leads to the plan, and says nothing more once it is there.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::cluster::{self, Stack};
use common::state::{assert_same, state};
use common::{TestNs, reconcile};
use kernel::{Kernel, Monitor, Unplanned, diff};
use model::{Encapsulation, Vni, VxlanPort, VxlanSettings};
use plan::{Entries, Key};

/// The plan for node 0 of a small cluster, with one pod.
fn small(stack: Stack) -> Entries {
    cluster::plan(&cluster::cluster(4, stack), vec![cluster::attachment(2, stack)])
}

/// A pod's link as the CNI plugin makes it.
fn pod_link(test: &TestNs, bridge: &str) -> String {
    let name = cluster::attachment(2, Stack::Dual).id.host_link().to_string();
    for command in [
        format!("ip link add {name} type veth peer name pod0"),
        format!("ip link set {name} master {bridge} up"),
        format!("bridge link set dev {name} hairpin on"),
    ] {
        test.run(&command);
    }
    test.run_words(&["ip", "link", "set", &name, "alias", "cambric pod default/web-0"]);
    name
}

#[test]
fn from_empty_to_the_plan_and_then_silence() {
    for stack in [Stack::Dual, Stack::V4, Stack::V6] {
        let test = TestNs::underlay("empty");
        let _guard = test.enter();
        let plan = small(stack);
        let report = reconcile(&plan);
        // The tunnel's entries are left alone. A new namespace may have settings that are right already, and the pod has no
        // link yet.
        let tunnel = |key: &&Key| key.kind().starts_with("tunnel-");
        let wanted = plan.len() - plan.keys().filter(tunnel).count();
        let free = |key: &&Key| matches!(key, Key::Sysctl(_) | Key::Port(_));
        let free = plan.keys().filter(free).count();
        assert!(report.writes() + free >= wanted, "{report}");
        assert!(report.writes() <= wanted, "{report}");
        let first = state(&test);
        let mut monitor = Monitor::open().unwrap();
        let second = reconcile(&plan);
        assert!(second.is_quiet(), "{second}");
        assert_eq!(monitor.wait(Some(Duration::from_millis(300))).unwrap(), []);
        assert_same(&state(&test), &first, "a second time");
    }
}

#[test]
fn what_the_tools_show_is_what_the_plan_says() {
    let test = TestNs::underlay("shown");
    let _guard = test.enter();
    reconcile(&small(Stack::Dual));
    let shows = |command: &str, lines: &[&str]| {
        let output = test.run(command);
        for line in lines {
            assert!(
                output.lines().any(|shown| shown.trim().starts_with(line)),
                "{command}: no {line} in\n{output}"
            );
        }
    };
    shows(
        "ip -d link show vxlan.cambric",
        &[
            "link/ether 06:58:ac:10:00:01",
            "vxlan id 4096 local 172.16.0.1 srcport 0 0 dstport 4789 nolearning",
            "alias cambric",
        ],
    );
    shows(
        "ip -d link show vxlan6.cambric",
        &["vxlan id 4096 local 2001:db8::1 srcport 0 0 dstport 4789 nolearning"],
    );
    assert!(test.run("ip link show vxlan.cambric").contains("mtu 1450"));
    assert!(test.run("ip link show vxlan6.cambric").contains("mtu 1430"));
    assert!(test.run("ip -d link show vxlan.cambric").contains("addrgenmode none"));
    shows(
        "ip addr show cbr0",
        &["link/ether 0e:58:0a:80:00:01", "inet 10.128.0.1/24", "inet6 fd00:10::1/64"],
    );
    shows("ip route", &["10.128.1.0/24 via 10.128.1.1 dev vxlan.cambric proto 203 src 10.128.0.1 onlink"]);
    shows(
        "ip -6 route",
        &[
            "fd00:10:0:1::/64 via fd00:10:0:1::1 dev vxlan.cambric proto 203 src fd00:10::1 metric 1024 onlink",
        ],
    );
    shows("bridge fdb show dev vxlan.cambric", &["06:58:ac:10:00:02 dst 172.16.0.2 self permanent"]);
    shows("ip neigh", &["10.128.1.1 dev vxlan.cambric lladdr 06:58:ac:10:00:02 PERMANENT"]);
    shows("ip -6 neigh", &["fd00:10:0:1::1 dev vxlan.cambric lladdr 06:58:ac:10:00:02 PERMANENT"]);
    for family in ["ip", "ip6"] {
        shows(
            &format!("nft list table {family} cambric"),
            &[
                "set nodes {",
                "set local-pods {",
                "type filter hook input priority raw; policy accept;",
                "type nat hook postrouting priority srcnat; policy accept;",
                "oifname != \"cbr0\" masquerade fully-random comment \"pod to outside takes the node's address\"",
            ],
        );
    }
    shows(
        "nft list table ip cambric",
        &[
            "udp dport 4789 ip saddr != @nodes counter packets 0 bytes 0 drop comment",
            "elements = { 172.16.0.2 comment \"Node node-1\", 172.16.0.3 comment \"Node node-2\",",
            "ip daddr 224.0.0.0/4 return",
        ],
    );
    shows(
        "nft list table bridge cambric",
        &[
            "type ifname . ether_addr",
            "iifname \"cbv*\" jump from-pod comment",
            "iifname . ether saddr != @pod-macs counter packets 0 bytes 0 drop comment",
            "arp saddr ip 0.0.0.0 accept comment",
            "icmpv6 type nd-router-advert counter packets 0 bytes 0 drop comment \"a pod is no router\"",
        ],
    );
}

/// What somebody else may do to us, one thing at a time.
const DAMAGES: &[&str] = &[
    // Something is gone.
    "ip link del cbr0",
    "ip link del vxlan.cambric",
    "ip link del vxlan6.cambric",
    "ip addr del 10.128.0.1/24 dev cbr0",
    "ip addr del fd00:10::1/64 dev cbr0",
    "ip addr flush dev cbr0",
    "ip route del 10.128.1.0/24",
    "ip -6 route del fd00:10:0:1::/64",
    "ip neigh del 10.128.2.1 dev vxlan.cambric",
    "ip -6 neigh del fd00:10:0:2::1 dev vxlan.cambric",
    "bridge fdb del 06:58:ac:10:00:03 dev vxlan.cambric",
    "nft delete table ip cambric",
    "nft delete table ip6 cambric",
    "nft delete table bridge cambric",
    "nft flush ruleset",
    "nft flush table ip cambric",
    "nft flush chain bridge cambric from-pod",
    "nft flush set ip cambric nodes",
    "nft delete element ip cambric nodes { 172.16.0.2 }",
    "nft delete element ip6 cambric cluster-pods { fd00:10::/32 }",
    "sysctl -qw net.ipv4.ip_forward=0",
    "sysctl -qw net.ipv6.conf.all.forwarding=0",
    "sysctl -qw net.bridge.bridge-nf-call-iptables=0",
    // Something is not as it should be.
    "ip link set cbr0 down",
    "ip link set vxlan.cambric down",
    "ip link set cbr0 mtu 1280",
    "ip link set cbr0 address 02:00:00:00:00:01",
    "ip link set vxlan.cambric mtu 1000",
    "ip link set vxlan.cambric address 02:00:00:00:00:01",
    "ip link set vxlan.cambric type vxlan learning",
    "ip addr change 10.128.0.1/24 dev cbr0 valid_lft 1000 preferred_lft 1000",
    "ip addr change fd00:10::1/64 dev cbr0 valid_lft 1000 preferred_lft 1000",
    "ip route change 10.128.1.0/24 dev cbr0 proto 203",
    "ip route change 10.128.1.0/24 via 10.128.1.1 dev vxlan.cambric onlink proto 203",
    "ip -6 route change fd00:10:0:1::/64 via fd00:10:0:1::1 dev vxlan.cambric onlink proto 203",
    "ip route change 10.128.1.0/24 via 10.128.1.1 dev vxlan.cambric src 10.128.0.1 onlink mtu 1300 proto 203",
    "ip neigh replace 10.128.1.1 lladdr 02:00:00:00:00:02 dev vxlan.cambric nud permanent",
    "ip neigh replace 10.128.1.1 lladdr 06:58:ac:10:00:02 dev vxlan.cambric nud reachable",
    "ip -6 neigh replace fd00:10:0:1::1 lladdr 02:00:00:00:00:02 dev vxlan.cambric nud permanent",
    "bridge fdb replace 06:58:ac:10:00:02 dev vxlan.cambric dst 172.16.0.99 self permanent",
    "bridge fdb replace 06:58:ac:10:00:02 dev vxlan.cambric dst 172.16.0.2 vni 77 self permanent",
    "bridge fdb replace 06:58:ac:10:00:02 dev vxlan.cambric dst 172.16.0.2 self dynamic",
    "nft add rule ip cambric postrouting counter",
    "nft insert rule ip cambric input accept",
    "nft insert rule bridge cambric from-pod accept",
    "nft chain ip6 cambric input { policy drop; }",
    // Something is too much.
    "ip addr add 10.128.0.9/24 dev cbr0",
    "ip addr add fd00:10::9/64 dev cbr0 nodad",
    "ip route add 10.1.0.0/24 via 172.16.0.9 proto 203",
    "ip route add 10.128.1.0/24 via 172.16.0.9 proto 203 metric 77",
    "ip -6 route add fd00:99::/64 via 2001:db8::9 proto 203",
    "ip -6 route add fd00:10:0:1::/64 via 2001:db8::9 proto 203 metric 77",
    "ip route add blackhole 10.1.0.0/24 proto 203",
    "ip neigh add 10.128.9.1 lladdr 02:00:00:00:00:02 dev vxlan.cambric nud permanent",
    "bridge fdb add 02:00:00:00:00:09 dev vxlan.cambric dst 172.16.0.9 self permanent",
    "bridge fdb add 00:00:00:00:00:00 dev vxlan.cambric dst 172.16.0.9 self permanent",
    "nft add element ip cambric nodes { 172.16.0.99 }",
    "nft add element ip cambric local-pods { 10.0.0.1-10.0.0.2 }",
    "nft add chain ip cambric extra",
    "nft add set ip cambric extra { type ipv4_addr; }",
];

#[test]
fn from_every_single_damage_back_to_the_plan() {
    let test = TestNs::underlay("damage");
    let _guard = test.enter();
    let plan = small(Stack::Dual);
    reconcile(&plan);
    pod_link(&test, "cbr0");
    let mut kernel = Kernel::open().unwrap();
    let good = state(&test);
    for damage in DAMAGES {
        test.run(damage);
        let report = kernel.reconcile(&plan).unwrap();
        assert!(report.failures.is_empty(), "{damage}: {}", report.failures[0]);
        assert!(report.writes() > 0, "{damage} was not noticed");
        assert_same(&state(&test), &good, damage);
        assert!(kernel.reconcile(&plan).unwrap().is_quiet(), "{damage}");
    }
}

#[test]
fn rules_out_of_order_and_rules_that_were_replaced_are_put_right() {
    let test = TestNs::underlay("rules");
    let _guard = test.enter();
    let plan = small(Stack::Dual);
    reconcile(&plan);
    let good = state(&test);
    let mut kernel = Kernel::open().unwrap();
    let handle = |text: &str| -> String {
        let listing = test.run("nft -a list chain ip cambric postrouting");
        let line = listing.lines().find(|line| line.contains(text)).unwrap();
        line.rsplit("# handle ").next().unwrap().to_owned()
    };
    let damages: [(&str, &str); 3] = [
        (
            "pod to outside",
            "replace rule ip cambric postrouting handle HANDLE oifname != \"cbr1\" masquerade",
        ),
        ("pod to pod", "delete rule ip cambric postrouting handle HANDLE"),
        ("multicast", "add rule ip cambric postrouting position HANDLE return"),
    ];
    for (rule, damage) in damages {
        test.run(&format!("nft {}", damage.replace("HANDLE", &handle(rule))));
        let report = kernel.reconcile(&plan).unwrap();
        assert_eq!((report.made, report.changed, report.removed), (0, 1, 0), "{damage}");
        assert_same(&state(&test), &good, damage);
    }
    assert!(kernel.reconcile(&plan).unwrap().is_quiet());
}

#[test]
fn a_change_of_settings_recreates_the_tunnels_with_all_that_is_on_them() {
    let test = TestNs::underlay("vni");
    let _guard = test.enter();
    let mut cluster = cluster::cluster(4, Stack::Dual);
    reconcile(&cluster::plan(&cluster, Vec::new()));
    let before = state(&test);
    for (vni, port) in [(77, 4789), (77, 8472), (4096, 4789)] {
        let vxlan = VxlanSettings { vni: Vni::new(vni).unwrap(), port: VxlanPort::new(port).unwrap() };
        cluster.network.encapsulation = Encapsulation { vxlan, ..Encapsulation::default() };
        let plan = cluster::plan(&cluster, Vec::new());
        reconcile(&plan);
        let link = test.run("ip -d link show vxlan.cambric");
        assert!(
            link.contains(&format!("vxlan id {vni} ")) && link.contains(&format!("dstport {port} ")),
            "{link}"
        );
        assert_eq!(test.run("bridge fdb show dev vxlan.cambric").lines().count(), 3);
        assert_eq!(test.run("ip route show proto 203").lines().count(), 3);
        assert!(Kernel::open().unwrap().reconcile(&plan).unwrap().is_quiet());
    }
    assert_same(&state(&test), &before, "a change there and back");
}

#[test]
fn a_pods_port_comes_back_with_its_bridge() {
    let test = TestNs::underlay("port");
    let _guard = test.enter();
    let plan = small(Stack::Dual);
    reconcile(&plan);
    let name = pod_link(&test, "cbr0");
    assert!(reconcile(&plan).is_quiet());
    let good = test.run(&format!("bridge -d link show dev {name}"));
    assert!(good.contains("master cbr0") && good.contains("hairpin on"), "{good}");
    for damage in [
        "ip link del cbr0".to_owned(),
        format!("ip link set {name} nomaster"),
        format!("ip link set {name} down"),
        format!("bridge link set dev {name} hairpin off"),
    ] {
        test.run(&damage);
        let report = reconcile(&plan);
        assert!(report.changed > 0, "{damage}: {report}");
        let port = test.run(&format!("bridge -d link show dev {name}"));
        assert!(port.contains("master cbr0") && port.contains("hairpin on"), "{damage}: {port}");
        assert!(test.run(&format!("ip link show {name}")).contains(",UP"), "{damage}");
        assert!(reconcile(&plan).is_quiet(), "{damage}");
    }
}

/// Up it would take packets from anybody, and elsewhere it would be of no use.
#[test]
fn the_port_for_headroom_is_kept_down_and_on_the_bridge() {
    let test = TestNs::underlay("headroom");
    let _guard = test.enter();
    let plan = small(Stack::Dual);
    reconcile(&plan);
    for damage in [
        "ip link set room.cambric up",
        "ip link set room.cambric nomaster",
        "ip link del room.cambric",
        "ip link del cbr0",
    ] {
        test.run(damage);
        assert!(!reconcile(&plan).is_quiet(), "{damage}");
        let shown = test.run("ip link show room.cambric");
        assert!(shown.contains(" master cbr0 state DOWN ") && !shown.contains("UP"), "{damage}: {shown}");
        assert!(reconcile(&plan).is_quiet(), "{damage}");
    }
}

#[test]
fn a_smaller_plan_takes_away_what_is_too_much() {
    let test = TestNs::underlay("smaller");
    let _guard = test.enter();
    let small = cluster::plan(&cluster::cluster(2, Stack::V4), Vec::new());
    reconcile(&small);
    let good = state(&test);
    reconcile(&cluster::plan(&cluster::cluster(8, Stack::Dual), Vec::new()));
    let report = reconcile(&small);
    assert!(report.removed > 30, "{report}");
    assert_same(&state(&test), &good, "the way back");
}

#[test]
fn the_difference_says_what_would_be_done() {
    let test = TestNs::underlay("diff");
    let _guard = test.enter();
    let plan = small(Stack::Dual);
    let mut kernel = Kernel::open().unwrap();
    kernel.reconcile(&plan).unwrap();
    test.run("ip route del 10.128.1.0/24");
    let observed = kernel.observe(&plan).unwrap();
    let ops: Vec<String> =
        diff(&plan, &observed, Unplanned::Nothing).iter().map(|op| format!("{op:?}")).collect();
    assert_eq!(ops.len(), 1);
    assert!(ops[0].starts_with("Make(") && ops[0].contains("10.128.1.0/24"), "{ops:?}");
    let empty = diff(&Entries::default(), &observed, Unplanned::Nothing).len();
    let settings = plan.keys().filter(|key| matches!(key, Key::Sysctl(_) | Key::Port(_))).count();
    assert!(empty < plan.len() - settings, "what stands on a link or in a table goes with it");
}

#[test]
fn one_element_that_is_refused_does_not_stop_the_others() {
    let test = TestNs::underlay("overlap");
    let _guard = test.enter();
    let mut cluster = cluster::cluster(40, Stack::Dual);
    // Ranges outside the cluster's own are elements of their own, and nftables takes no prefix within another.
    for (number, range) in [(5, "10.9.0.0/24"), (6, "10.9.0.128/25")] {
        let node = cluster.nodes.get_mut(&cluster::name(number)).unwrap();
        node.pod_ranges.v4 = Some(range.parse().unwrap());
    }
    let plan = cluster::plan(&cluster, Vec::new());
    let mut kernel = Kernel::open().unwrap();
    let report = kernel.reconcile(&plan).unwrap();
    assert_eq!((report.failures.len(), report.blocked), (1, 0), "{report}");
    let failure = report.failures[0].to_string();
    assert!(failure.starts_with("Node node-") && failure.contains("10.9.0."), "{failure}");
    assert!(failure.contains("set cluster-pods of table ip cambric"), "{failure}");
    assert_eq!(test.run("nft list set ip cambric nodes").matches("Node node-").count(), 39);

    cluster.nodes.get_mut(&cluster::name(6)).unwrap().pod_ranges.v4 = Some("10.9.1.0/24".parse().unwrap());
    let plan = cluster::plan(&cluster, Vec::new());
    reconcile(&plan);
    assert!(reconcile(&plan).is_quiet());
}

#[test]
fn five_thousand_nodes() {
    let test = TestNs::underlay("scale");
    let _guard = test.enter();
    let plan = cluster::plan(&cluster::cluster(5000, Stack::Dual), Vec::new());
    let mut kernel = Kernel::open().unwrap();
    let start = Instant::now();
    let report = kernel.reconcile(&plan).unwrap();
    assert!(report.failures.is_empty() && report.made > 34_000, "{report}");
    println!("{} entries made in {:?}", report.made, start.elapsed());
    let start = Instant::now();
    assert!(kernel.reconcile(&plan).unwrap().is_quiet());
    println!("found right in {:?}", start.elapsed());
    assert_eq!(test.run("ip route show proto 203").lines().count(), 4999);
    assert_eq!(test.run("ip -6 route show proto 203").lines().count(), 4999);
    assert!(kernel.cleanup().unwrap().failures.is_empty());
}
