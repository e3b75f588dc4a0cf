//! `cambric doctor` in labs: nothing is wrong with a healthy one, and what is broken is found, and nothing else.

#![allow(clippy::unwrap_used)]

mod lab_common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns;
use lab_common::{CAMBRIC, Lab, PODS, succeed, until};
use serde_json::Value;

/// What the doctor says on a node: its exit code, and all of it.
fn doctor(lab: &Lab, node: &str, more: &[&str]) -> (i32, Value) {
    let words = [&[node, "--", CAMBRIC, "doctor", "--json"], more].concat();
    let output = lab.command("exec", &words).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    (output.status.code().unwrap(), said)
}

fn checks(said: &Value) -> Vec<&str> {
    said["findings"].as_array().unwrap().iter().map(|finding| finding["check"].as_str().unwrap()).collect()
}

#[track_caller]
fn is_well(lab: &Lab, node: &str) {
    let (code, said) = doctor(lab, node, &[]);
    assert_eq!((code, checks(&said)), (0, vec![]), "{node}: {said:#}");
    assert_eq!(said["unchecked"], serde_json::json!([]), "{node}");
}

/// One finding, of this check, that says so.
#[track_caller]
fn finds(lab: &Lab, node: &str, check: &str, words: &str) -> Value {
    finds_with(lab, node, &[], check, words)
}

#[track_caller]
fn finds_with(lab: &Lab, node: &str, more: &[&str], check: &str, words: &str) -> Value {
    let (code, said) = doctor(lab, node, more);
    assert_eq!((code, checks(&said)), (1, vec![check]), "{said:#}");
    let finding = &said["findings"][0];
    let text = format!("{} {}", finding["place"].as_str().unwrap(), finding["what"].as_str().unwrap());
    assert!(text.contains(words), "{words:?} in {text:?}");
    said
}

fn file(lab: &Lab, node: &str, path: &str) -> PathBuf {
    format!("/run/cambric-lab/{}/nodes/{node}/{path}", lab.name).into()
}

/// The agent of a node neither sees nor repairs anything until this is dropped. It runs all the same, as far as others
/// can tell.
struct Held(String);

impl Held {
    fn agent(lab: &Lab, node: &str) -> Held {
        let pid = fs::read_to_string(file(lab, node, "run/agent.lock")).unwrap().trim().to_owned();
        succeed(Command::new("kill").args(["-STOP", &pid]));
        Held(pid)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        succeed(Command::new("kill").args(["-CONT", &self.0]));
    }
}

/// Runs a program with its arguments in a node, each a word of its own.
fn inside(lab: &Lab, node: &str, words: &[&str]) {
    lab_common::kernel_state::inside(lab, node, words);
}

/// Waits until all BGP sessions of a node are up, or one is not. Agents do not wait for them to be ready.
fn all_sessions(lab: &Lab, node: &str, up: bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let output = lab.command("exec", &[node, "--", CAMBRIC, "status", "bgp"]).output().unwrap();
        if output.status.success() == up {
            return;
        }
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(Instant::now() < deadline, "{node}: not all sessions are {up}: {said}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn healthy_labs_have_no_finding() {
    let labs = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/labs")).unwrap();
    for file in labs {
        let file = file.unwrap().file_name().into_string().unwrap();
        eprintln!("{file}");
        let lab = Lab::up(&file);
        let nodes = lab.run("kubectl", &["--", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]);
        for node in nodes.split_whitespace() {
            lab.agent_ready(node);
            all_sessions(&lab, node, true);
        }
        for node in nodes.split_whitespace() {
            is_well(&lab, node);
        }
    }
}

/// A lab with pods, in which nothing is wrong.
fn well() -> Lab {
    let lab = Lab::up("vxlan.yaml");
    lab.apply(PODS);
    for node in ["node-1", "node-2", "node-3"] {
        lab.agent_ready(node);
    }
    is_well(&lab, "node-1");
    lab
}

#[test]
fn settings_that_are_broken_are_found_and_nothing_else() {
    settings(&well());
}

#[test]
fn ways_between_nodes_that_are_broken_are_found_and_nothing_else() {
    let lab = well();
    uplink(&lab);
    path_mtu(&lab);
    checksums(&lab);
    garbled(&lab);
    is_well(&lab, "node-1");
}

#[test]
fn what_others_did_to_a_node_is_found_and_nothing_else() {
    let lab = well();
    others(&lab);
    drift(&lab);
    addresses(&lab);
    clock(&lab);
    is_well(&lab, "node-1");
}

#[test]
fn what_a_node_has_no_more_is_found_and_nothing_else() {
    let lab = well();
    tracking(&lab);
    agent(&lab);
}

fn settings(lab: &Lab) {
    let held = Held::agent(lab, "node-1");
    for (path, check) in [
        ("net/bridge/bridge-nf-call-iptables", "bridge-netfilter"),
        ("net/bridge/bridge-nf-call-ip6tables", "bridge-netfilter"),
        ("net/ipv4/conf/cbr0/forwarding", "forwarding"),
        ("net/ipv4/conf/eth0/forwarding", "forwarding"),
        ("net/ipv6/conf/all/forwarding", "forwarding"),
    ] {
        lab.inside("node-1", &format!("sysctl -qw {path}=0"));
        finds(lab, "node-1", check, path);
        lab.inside("node-1", &format!("sysctl -qw {path}=1"));
    }
    lab.inside("node-1", "sysctl -qw net/ipv4/ip_forward=0");
    finds(lab, "node-1", "forwarding", "net/ipv4/ip_forward");
    lab.inside("node-1", "sysctl -qw net/ipv4/ip_forward=1");
    drop(held);
    is_well(lab, "node-1");
}

fn uplink(lab: &Lab) {
    lab.inside("node-1", "ip link add eth9 type veth peer name wire9");
    lab.inside("node-1", "ip link set eth9 up");
    lab.inside("node-1", "ip link set wire9 up");
    lab.inside("node-1", "ip route add 192.0.2.12/32 dev eth9");
    let said = finds(lab, "node-1", "uplink", "192.0.2.12 of Node node-2 is reached by eth9");
    // Nothing that was sent there has come back, which is no second finding.
    assert_ne!(said["unchecked"], serde_json::json!([]));
    lab.inside("node-1", "ip link delete eth9");
    is_well(lab, "node-1");
    ranges(lab);
}

fn ranges(lab: &Lab) {
    lab.inside("node-1", "ip link add eth9 type veth peer name wire9");
    lab.inside("node-1", "ip address add 10.96.7.1/24 dev eth9");
    finds(
        lab,
        "node-1",
        "ranges",
        "link eth9 its network 10.96.7.0/24 overlaps with the service range 10.96.0.0/16",
    );
    lab.inside("node-1", "ip link delete eth9");
    is_well(lab, "node-1");
}

/// Node 2 takes no frames of more than 1420 bytes of IP, and tells nobody.
fn path_mtu(lab: &Lab) {
    lab.inside("node-2", "nft add table netdev bad");
    let chain = "{ type filter hook ingress device eth0 priority -500; }";
    inside(lab, "node-2", &["nft", "add", "chain", "netdev", "bad", "in", chain]);
    inside(lab, "node-2", &["nft", "add", "rule", "netdev", "bad", "in", "ip length > 1420 drop"]);
    let said = finds(lab, "node-1", "path-mtu", "way to 192.0.2.12 of Node node-2");
    assert!(said["findings"][0]["what"].as_str().unwrap().contains("one of 1400 bytes does"), "{said}");
    let (code, said) = doctor(lab, "node-1", &["--no-probe"]);
    assert_eq!((code, checks(&said)), (0, vec![]));
    lab.inside("node-2", "nft delete table netdev bad");
    is_well(lab, "node-1");
}

/// The devices here compute checksums well, so what arrives is made to look as if they did not: what was left to them is
/// dropped at the other end of the tunnel, as a kernel drops what has a wrong checksum. On veths such a datagram still has
/// no more than the sum of the addresses in its checksum, and so it is known.
fn checksums(lab: &Lab) {
    let gateway = |node| (u32::from(pod_range(lab, node)) + 1).to_be_bytes();
    let sum = pseudo_header_sum(gateway("node-1"), gateway("node-2"), 8 + LETTER_LENGTH);
    lab.inside("node-2", "nft add table netdev bad");
    let chain = "{ type filter hook ingress device vxlan.cambric priority -500; }";
    inside(lab, "node-2", &["nft", "add", "chain", "netdev", "bad", "in", chain]);
    let rule = format!("udp dport 33434 udp checksum {sum} drop");
    inside(lab, "node-2", &["nft", "add", "rule", "netdev", "bad", "in", &rule]);
    finds(lab, "node-1", "checksums", "of Node node-2 arrives if its checksum was computed here");
    lab.inside("node-2", "nft delete table netdev bad");
    is_well(lab, "node-1");
}

/// The first address of a node's IPv4 pod range, which has 24 bits.
fn pod_range(lab: &Lab, node: &str) -> Ipv4Addr {
    let range = lab.run("kubectl", &["--", "get", "node", node, "-o", "jsonpath={.spec.podCIDR}"]);
    range.strip_suffix("/24").unwrap().parse().unwrap()
}

/// Bytes of the doctor's datagram.
const LETTER_LENGTH: usize = "cambric doctor: does this arrive unharmed?".len();

/// What stands in the checksum of a UDP datagram that the device is to complete (`CHECKSUM_PARTIAL`,
/// linux/skbuff.h).
fn pseudo_header_sum(from: [u8; 4], to: [u8; 4], length: usize) -> u16 {
    let bytes = [from, to].concat();
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = words.sum::<u32>() + 17 + length as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A host sends what it says has a checksum, and has not.
fn garbled(lab: &Lab) {
    let node = lab.enter("node-3");
    let listener = netns::run_in(&node, || UdpSocket::bind("192.0.2.13:9999")).unwrap().unwrap();
    let sender = lab.enter("node-2");
    netns::run_in(&sender, || {
        let raw = libc_raw_udp();
        let to: SocketAddr = "192.0.2.13:0".parse().unwrap();
        for _ in 0..150 {
            let datagram = [[0x23, 0x28], [0x27, 0x0f], [0, 8], [0xba, 0xd1]].concat();
            raw.send_to(&datagram, to).unwrap();
        }
    })
    .unwrap();
    finds(lab, "node-3", "checksums", "150 packets have come with a wrong checksum");
    drop(listener);
}

/// A raw socket for UDP, in the clothes of one that the standard library knows.
fn libc_raw_udp() -> UdpSocket {
    use std::os::fd::FromRawFd;
    // SAFETY: socket takes no pointers, and the descriptor that it returns is owned by nobody else.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_UDP);
        assert!(fd >= 0);
        UdpSocket::from_raw_fd(fd)
    }
}

fn others(lab: &Lab) {
    lab.inside("node-1", "ip link add cni0 type bridge");
    finds(lab, "node-1", "other-networks", "link cni0");
    lab.inside("node-1", "ip link delete cni0");

    let config = file(lab, "node-1", "cni-conf/05-other.conflist");
    fs::write(&config, "{}").unwrap();
    finds(lab, "node-1", "cni-configuration", "05-other.conflist sorts before");
    fs::remove_file(&config).unwrap();

    lab.inside("node-1", "nft add table ip nat");
    lab.inside("node-1", "nft add chain ip nat KUBE-SERVICES");
    finds(lab, "node-1", "kube-proxy", "nftables table ip nat");
    lab.inside("node-1", "nft delete table ip nat");
    lab.inside("node-1", "nft add table ip6 kube-proxy");
    lab.inside("node-1", "nft add chain ip6 kube-proxy services");
    finds(lab, "node-1", "kube-proxy", "nftables table ip6 kube-proxy");
    lab.inside("node-1", "nft delete table ip6 kube-proxy");
    is_well(lab, "node-1");
}

fn drift(lab: &Lab) {
    let held = Held::agent(lab, "node-1");
    let range = pod_range(lab, "node-2");
    lab.inside("node-1", &format!("ip route delete {range}/24"));
    let missing = format!("route {range}/24 is missing (Node node-2 asks for it)");
    finds(lab, "node-1", "drift", &missing);
    drop(held);
    // The agent hears of it at once, and so does whoever waits until what was on its way is there.
    is_well(lab, "node-1");
}

fn addresses(lab: &Lab) {
    let address = Ipv4Addr::from(u32::from(pod_range(lab, "node-1")) + 200);
    let leaked = file(lab, "node-1", &format!("cni-data/cambric/{address}"));
    fs::write(&leaked, "gone\r\neth0").unwrap();
    again(lab);
    finds(lab, "node-1", "addresses", &format!("has {address} for gone/eth0, which has no link"));
    fs::remove_file(&leaked).unwrap();
    again(lab);
    is_well(lab, "node-1");

    let pod = lab.pod("beside");
    let files =
        pod.addresses.iter().map(|address| file(lab, "node-1", &format!("cni-data/cambric/{address}")));
    let kept: Vec<(PathBuf, Vec<u8>)> = files.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    kept.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
    again(lab);
    finds(lab, "node-1", "addresses", "is a pod's, and no file");
    kept.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
    again(lab);
    is_well(lab, "node-1");
}

/// Has the agent look at everything now.
fn again(lab: &Lab) {
    lab.run("restart", &["agent/node-1"]);
    lab.agent_ready("node-1");
}

/// An API whose clock has stood still for a quarter of a century.
fn clock(lab: &Lab) {
    let node = lab.enter("node-1");
    let listener = netns::run_in(&node, || TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let answering = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while !lines.next().unwrap().unwrap().is_empty() {}
        let answer = "HTTP/1.1 200 OK\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let config = file(lab, "node-1", "old-kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: a, clusters: [{{name: a, cluster: {{server: '{server}'}}}}],
          users: [{{name: a, user: {{}}}}], contexts: [{{name: a, context: {{cluster: a, user: a}}}}]}}"
    );
    fs::write(&config, text).unwrap();
    finds_with(
        lab,
        "node-1",
        &["--kubeconfig", config.to_str().unwrap()],
        "clock",
        "s ahead of the API server's",
    );
    answering.join().unwrap();
}

/// Fills four fifths of the table of flows, with datagrams over loopback.
fn tracking(lab: &Lab) {
    let most: u32 = lab.inside("node-3", "sysctl -n net.netfilter.nf_conntrack_max").trim().parse().unwrap();
    assert!(most <= 1 << 18, "{most} flows are too many for a test");
    let node = lab.enter("node-2");
    netns::run_in(&node, || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let flows = most / 100 * 85;
        for flow in 0..flows {
            let to =
                SocketAddr::from(([127, 1, 0, 1 + (flow / 60_000) as u8], 1024 + (flow % 60_000) as u16));
            // Refusals of earlier ones are told to later ones.
            let _ = socket.send_to(b"-", to);
        }
    })
    .unwrap();
    finds(lab, "node-2", "connection-tracking", &format!("of {most}: the table of flows is nearly full"));
}

fn agent(lab: &Lab) {
    lab.run("kill", &["agent/node-1"]);
    finds(lab, "node-1", "agent", "does not run");
}

#[test]
fn a_session_that_is_down_is_found() {
    let lab = Lab::up("direct.yaml");
    all_sessions(&lab, "node-1", true);
    lab.run("kill", &["agent/node-2"]);
    all_sessions(&lab, "node-1", false);
    finds(&lab, "node-1", "bgp", "session with node/node-2 is");
}

#[test]
fn strict_source_validation_is_found_where_packets_come_without_vxlan() {
    let lab = Lab::up("cross-subnet.yaml");
    lab.agent_ready("a-1");
    is_well(&lab, "a-1");
    lab.inside("a-1", "sysctl -qw net/ipv4/conf/all/rp_filter=1 net/ipv4/conf/eth0/rp_filter=1");
    finds(&lab, "a-1", "source-validation", "is strict (1) on eth0");
}

#[test]
fn an_address_that_is_nowhere_is_found() {
    let lab = Lab::up("vxlan-v4.yaml");
    lab.agent_ready("node-1");
    lab.inside("node-1", "ip address delete 192.0.2.11/24 dev eth0");
    let (code, said) = doctor(&lab, "node-1", &[]);
    assert_eq!((code, checks(&said)), (1, vec!["uplink"]), "{said:#}");
}

#[test]
fn people_get_80_columns_without_colour_and_scripts_an_exit_code() {
    let lab = Lab::up("vxlan-v6.yaml");
    lab.agent_ready("node-1");
    lab.inside("node-1", "ip link add flannel.1 type bridge");
    let output = lab.command("exec", &["node-1", "--", CAMBRIC, "doctor"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("other-networks\n  what  link flannel.1 belongs to another"), "{text}");
    assert!(text.ends_with("node-1: 1 finding\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80) && !text.contains('\x1b'), "{text}");
    // Where no agent has run there is nothing to go by.
    let output = lab
        .command("exec", &["node-1", "--", CAMBRIC, "doctor", "--run-dir", "/nonexistent"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no agent has run here"));
    at_a_glance(&lab);
}

fn at_a_glance(lab: &Lab) {
    let status = || lab.status("node-1");
    until("the others", status, |text| text.contains("cluster 3 of 3 nodes ready reached 2 by VXLAN"));
    let output = lab.command("exec", &["node-1", "--", CAMBRIC, "status"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("ready       yes"), "{text}");
    assert!(text.lines().count() <= 24 && text.lines().all(|line| line.chars().count() <= 80), "{text}");

    let text = succeed(Command::new(CAMBRIC).args(["status", "--lab", &lab.name]));
    assert!(
        text.contains("3 of 3 nodes ready") && text.contains("\nnode-2  yes    yes      2001:db8:1::"),
        "{text}"
    );
    lab.run("kill", &["agent/node-1"]);
    assert!(lab.status("node-1").starts_with("agent does not run"), "{}", lab.status("node-1"));
}
