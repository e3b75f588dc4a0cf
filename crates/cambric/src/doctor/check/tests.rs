use std::net::IpAddr;

use kernel::counters::{Arrivals, Tracking};
use kernel::probe::{Echoed, Letter};
use kernel::{LinkKind, LinkState};
use model::{
    Attachment, AttachmentId, Encapsulation, LinkName, NetworkConfig, Node, NodeName, PerFamily, Sending,
    When,
};
use plan::Underlay;

use super::judge;
use crate::agent::Status;
use crate::doctor::finding::{Check, Verdict};
use crate::doctor::observation::{AgentSeen, Arrived, Deviation, LetterSeen, Observation, PathSeen};

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn link_name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(number: u8) -> Node {
    let (v4, v6) = (format!("192.0.2.{number}"), format!("2001:db8::{number}"));
    let (pods, pods6) = (format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64"));
    let name = name(&format!("node-{number}"));
    Node::parse(name, [v4.as_str(), v6.as_str()], [pods.as_str(), pods6.as_str()]).unwrap()
}

fn link(name: &str, ours: bool) -> LinkState {
    LinkState {
        name: link_name(name),
        index: 1,
        ours,
        pods: false,
        up: true,
        mtu: 1500,
        mac: None,
        bridge: None,
        hairpin: false,
        makes_addresses: false,
        kind: LinkKind::Other(String::new()),
    }
}

fn pod() -> Attachment {
    let id = AttachmentId { container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
    Attachment { id, addresses: vec![ip("10.244.1.2"), ip("fd00:10:244:1::2")] }
}

/// A node on which all is well.
fn healthy() -> Observation {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let network = NetworkConfig::parse(
        &texts(&["10.244.0.0/16", "fd00:10:244::/48"]),
        &texts(&["10.96.0.0/16"]),
        Encapsulation::default(),
        "auto",
    );
    let underlay = |net: &str| Underlay { link: link_name("eth0"), net: net.parse().unwrap(), mtu: 1500 };
    let local = node(1);
    let pods_link = LinkState { pods: true, name: pod().id.host_link(), ..link("x", false) };
    let settings = super::settings_of_interest([link_name("eth0"), link_name("cbr0")].iter());
    Observation {
        network: network.unwrap(),
        nodes: [1, 2].map(|number| (name(&format!("node-{number}")), node(number))).into(),
        agent: AgentSeen { pid: Some("7".to_owned()), status: Some(Status::default()), bgp: None },
        settings: settings
            .into_iter()
            .map(|path| {
                let value = if path.ends_with("rp_filter") { "2" } else { "1" };
                (path, value.to_owned())
            })
            .collect(),
        underlay: PerFamily { v4: Some(underlay("192.0.2.1/24")), v6: Some(underlay("2001:db8::1/64")) },
        links: vec![link("lo", false), link("eth0", false), link("cbr0", true), pods_link],
        addresses: vec![
            (link_name("eth0"), "192.0.2.1/24".parse().unwrap()),
            (link_name("cbr0"), "10.244.1.1/24".parse().unwrap()),
        ],
        ways: vec![
            (name("node-2"), ip("192.0.2.2"), Some(link_name("eth0"))),
            (name("node-2"), ip("2001:db8::2"), Some(link_name("eth0"))),
        ],
        chains: vec![("ip nat".to_owned(), "KUBE-KUBELET-CANARY".to_owned())],
        legacy_tables: Vec::new(),
        tracking: Some(Tracking { flows: 10, most: 1000, ..Tracking::default() }),
        arrivals: vec![Arrivals { protocol: "UDP", taken: 1_000_000_000, garbled: 5_000 }],
        cni_files: texts(&["10-cambric.conflist", "87-podman.conflist", "05-notes.txt"]),
        cni_conf_dir: "/etc/cni/net.d".to_owned(),
        attachments: vec![pod()],
        store: "/var/lib/cni/networks/cambric".to_owned(),
        drift: Vec::new(),
        clock_ahead: Some(-3),
        certificate_error: None,
        paths: vec![path(Echoed::Answer, Echoed::Answer)],
        letters: vec![letter(Arrived { by_hand: true, by_device: true })],
        unchecked: Vec::new(),
        remarks: Vec::new(),
        local,
    }
}

fn path(small: Echoed, big: Echoed) -> PathSeen {
    PathSeen { node: name("node-2"), to: ip("192.0.2.2"), size: 1500, small, big, fits: Some(1400) }
}

fn letter(arrived: Arrived) -> LetterSeen {
    let letter = Letter { from: ip("10.244.1.1"), to: ip("10.244.2.1") };
    LetterSeen { node: name("node-2"), letter, link: link_name("vxlan.cambric"), arrived }
}

fn broken(breakage: impl FnOnce(&mut Observation)) -> Verdict {
    let mut seen = healthy();
    breakage(&mut seen);
    judge(&seen)
}

/// One finding, of this check, that says so.
#[track_caller]
fn finds(check: Check, words: &str, breakage: impl FnOnce(&mut Observation)) {
    let verdict = broken(breakage);
    let [finding] = &verdict.findings[..] else { panic!("{check}: {:#?}", verdict.findings) };
    let text = format!("{} {}", finding.place, finding.what);
    assert_eq!(finding.check, check);
    assert!(text.contains(words), "{words:?} in {text:?}");
    assert!(!finding.hurts.is_empty() && !finding.cure.is_empty());
}

fn set(seen: &mut Observation, path: &str, value: &str) {
    seen.settings.insert(path.to_owned(), value.to_owned());
}

#[test]
fn a_healthy_node_has_no_finding() {
    let verdict = judge(&healthy());
    assert_eq!(verdict, Verdict { node: "node-1".to_owned(), ..Verdict::default() });
}

#[test]
fn settings() {
    let nf = "net/bridge/bridge-nf-call-iptables";
    finds(Check::BridgeNetfilter, "bridge-nf-call-iptables is 0", |seen| set(seen, nf, "0"));
    finds(Check::BridgeNetfilter, "no br_netfilter", |seen| drop(seen.settings.remove(nf)));
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/cbr0/forwarding"] {
        finds(Check::Forwarding, path, |seen| set(seen, path, "0"));
    }
    // Not the link's, and not a family that pods do not have.
    let no_six = broken(|seen| {
        seen.local.pod_ranges.v6 = None;
        set(seen, "net/ipv6/conf/all/forwarding", "0");
        set(seen, "net/ipv4/conf/lo/forwarding", "0");
    });
    assert_eq!(no_six.findings, []);
}

#[test]
fn source_validation_counts_where_packets_come_without_vxlan() {
    let strict = |sending: Sending, of_link: &'static str, of_all: &'static str| {
        move |seen: &mut Observation| {
            seen.network.encapsulation.sending = sending;
            set(seen, "net/ipv4/conf/eth0/rp_filter", of_link);
            set(seen, "net/ipv4/conf/all/rp_filter", of_all);
        }
    };
    for sending in [Sending::Plain, Sending::Ipip(When::Always), Sending::Vxlan(When::CrossSubnet)] {
        finds(Check::SourceValidation, "strict (1) on eth0", strict(sending, "1", "0"));
        finds(Check::SourceValidation, "strict (1) on eth0", strict(sending, "0", "1"));
        assert_eq!(broken(strict(sending, "1", "2")).findings, []);
        assert_eq!(broken(strict(sending, "0", "0")).findings, []);
    }
    assert_eq!(broken(strict(Sending::Vxlan(When::Always), "1", "1")).findings, []);
}

#[test]
fn the_uplink() {
    finds(Check::Uplink, "InternalIP 2001:db8::1 is on none", |seen| {
        seen.underlay.v6 = None;
        // The agent says so too, which is not told twice.
        let problem = crate::agent::nowhere(&ip("2001:db8::1"));
        seen.agent.status = Some(Status { problems: vec![problem], ..Status::default() });
    });
    finds(Check::Uplink, "192.0.2.2 of Node node-2 is reached by eth1", |seen| {
        seen.ways[0].2 = Some(link_name("eth1"));
    });
    finds(Check::Uplink, "there is no way to 2001:db8::2", |seen| seen.ways[1].2 = None);
}

#[test]
fn the_way_to_other_nodes() {
    finds(Check::PathMtu, "1500 bytes does not arrive, and nobody says why; one of 1400", |seen| {
        seen.paths = vec![path(Echoed::Answer, Echoed::Nothing)];
    });
    let told = broken(|seen| seen.paths = vec![path(Echoed::Answer, Echoed::TooBig(Some(1400)))]);
    assert!(told.findings.is_empty() && told.unchecked.is_empty());
    assert!(told.remarks[0].text.contains("carries 1400 bytes, and not the 1500"), "{:?}", told.remarks);
    let silent = broken(|seen| seen.paths = vec![path(Echoed::Nothing, Echoed::Nothing)]);
    assert_eq!((silent.findings.len(), silent.unchecked.len(), silent.exit_code()), (0, 1, 2));

    finds(Check::Checksums, "but not if that was left to the device", |seen| {
        seen.letters = vec![letter(Arrived { by_hand: true, by_device: false })];
    });
    let silent = broken(|seen| seen.letters = vec![letter(Arrived::default())]);
    assert_eq!((silent.findings.len(), silent.unchecked.len()), (0, 1));
    finds(Check::Checksums, "100 packets have come with a wrong checksum", |seen| {
        seen.arrivals = vec![Arrivals { protocol: "TCP", taken: 1_000_000, garbled: 100 }];
    });
}

#[test]
fn connection_tracking() {
    let with =
        |change: fn(&mut Tracking)| move |seen: &mut Observation| seen.tracking.iter_mut().for_each(change);
    finds(Check::ConnectionTracking, "800 of 1000", with(|tracking| tracking.flows = 800));
    finds(
        Check::ConnectionTracking,
        "forgotten early",
        with(|tracking| {
            tracking.dropped = 40;
            tracking.forgotten = 60;
        }),
    );
    finds(
        Check::ConnectionTracking,
        "100 flows could not be taken in",
        with(|tracking| tracking.insert_failed = 100),
    );
    assert_eq!(broken(with(|tracking| tracking.flows = 799)).findings, []);
    let invalid = broken(with(|tracking| tracking.invalid = 1_000));
    assert_eq!((invalid.findings.len(), invalid.remarks.len()), (0, 1));
    assert_eq!(broken(|seen| seen.tracking = None).findings, []);
}

#[test]
fn ranges_that_share_addresses() {
    finds(Check::Ranges, "Node node-2 its InternalIP 10.96.0.7 is in the service range", |seen| {
        seen.nodes.get_mut(&name("node-2")).unwrap().addresses.v4 = Some(ip("10.96.0.7"));
    });
    finds(
        Check::Ranges,
        "link eth1 its network 10.0.0.0/8 overlaps with the pod range 10.244.0.0/16",
        |seen| {
            seen.addresses.push((link_name("eth1"), "10.1.2.3/8".parse().unwrap()));
        },
    );
    finds(
        Check::Ranges,
        "Node node-3 its pod range 10.244.2.128/25 overlaps with 10.244.2.0/24 of Node node-2",
        |seen| {
            let three = Node::parse(name("node-3"), [], ["10.244.2.128/25"]).unwrap();
            seen.nodes.insert(three.name.clone(), three);
        },
    );
    // A node's own address in a range is one finding, not one for the link as well.
    finds(Check::Ranges, "Node node-1 its InternalIP 10.244.9.9", |seen| {
        seen.local.addresses.v4 = Some(ip("10.244.9.9"));
        seen.nodes.insert(name("node-1"), seen.local.clone());
        seen.addresses.push((link_name("eth0"), "10.244.9.9/24".parse().unwrap()));
    });
}

#[test]
fn what_others_have_left() {
    for other in
        ["flannel.1", "cni0", "cilium_host", "cali12ab", "kube-bridge", "weave", "tunl0", "vxlan.calico"]
    {
        finds(Check::OtherNetworks, &format!("link {other}"), |seen| seen.links.push(link(other, false)));
    }
    let kernels = LinkState { up: false, ..link("tunl0", false) };
    assert_eq!(broken(|seen| seen.links.push(kernels)).findings, []);
    finds(Check::CniConfiguration, "/etc/cni/net.d/05-cilium.conflist sorts before", |seen| {
        seen.cni_files.push("05-cilium.conflist".to_owned());
    });
    finds(Check::CniConfiguration, "10-cambric.conflist is not there", |seen| {
        seen.cni_files.retain(|file| !file.contains("cambric"));
    });
    finds(Check::KubeProxy, "nftables table ip nat", |seen| {
        let chain = |name: &str| ("ip nat".to_owned(), name.to_owned());
        seen.chains.extend([chain("KUBE-SERVICES"), chain("KUBE-SVC-ABC")]);
    });
    finds(Check::KubeProxy, "nftables table ip6 kube-proxy", |seen| {
        seen.chains.push(("ip6 kube-proxy".to_owned(), "services".to_owned()));
    });
    finds(Check::KubeProxy, "link kube-ipvs0", |seen| seen.links.push(link("kube-ipvs0", false)));
    let legacy =
        broken(|seen| seen.legacy_tables = vec!["iptables nat".to_owned(), "iptables filter".to_owned()]);
    assert_eq!((legacy.findings.len(), legacy.remarks.len()), (0, 1));
}

#[test]
fn the_agent_and_its_api() {
    finds(Check::Agent, "does not run", |seen| seen.agent.pid = None);
    finds(Check::Agent, "is not ready: no range", |seen| {
        seen.agent.status = Some(Status { not_ready: Some("no range".to_owned()), ..Status::default() });
    });
    finds(Check::Agent, "has a problem: Node b", |seen| {
        seen.agent.status =
            Some(Status { problems: vec!["Node b has none".to_owned()], ..Status::default() });
    });
    finds(Check::Clock, "is 31 s behind the API server's", |seen| seen.clock_ahead = Some(31));
    finds(Check::Clock, "is 40 s ahead of the API server's", |seen| seen.clock_ahead = Some(-40));
    finds(Check::Clock, "certificate of the API is not valid", |seen| {
        seen.certificate_error = Some("is not valid now: expired".to_owned());
    });
    let session = serde_json::json!({
        "problems": [],
        "sessions": [{
            "name": "bgppeer/tor", "address": "192.0.2.9", "asn": 65001, "state": "Active", "since": 0,
            "established": 0, "prefixes": {}, "stale": false, "lastError": "refused",
        }],
    });
    let bgp = |seen: &mut Observation| seen.agent.bgp = serde_json::from_value(session.clone()).unwrap();
    finds(
        Check::Bgp,
        "session with bgppeer/tor is Active, not established, to 192.0.2.9 of AS 65001: refused",
        bgp,
    );
    finds(Check::Bgp, "to 192.0.2.9 of AS 65001; it connects from 198.51.100.1", |seen| {
        bgp(seen);
        seen.agent.bgp.as_mut().unwrap().sessions[0].translated = Some([198, 51, 100, 1].into());
    });
}

#[test]
fn kernel_plan_and_files_tell_the_same() {
    let deviation =
        |number: usize| Deviation { place: format!("route {number}"), what: "is missing".to_owned() };
    finds(Check::Drift, "route 0 is missing", |seen| seen.drift = vec![deviation(0)]);
    let many = broken(|seen| seen.drift = (0..15).map(deviation).collect());
    assert_eq!(many.findings.len(), 11);
    assert!(many.findings[10].what.contains("5 more"), "{:?}", many.findings[10]);
    finds(Check::Addresses, "has 10.244.1.2 and fd00:10:244:1::2 for c1/eth0, which has no link", |seen| {
        seen.links.retain(|link| !link.pods);
    });
    finds(Check::Addresses, "is a pod's, and no file", |seen| seen.attachments.clear());
}

#[test]
fn the_page_has_every_check() {
    let page = include_str!("../../../../../docs/doctor.md");
    for check in Check::ALL {
        assert!(page.contains(&format!("\n| `{check}` |")), "{check} is not in docs/doctor.md");
        assert_eq!(serde_json::to_value(check).unwrap(), check.name());
    }
}
