//! The fast path between pods: what it takes, that it changes nothing, and that changes end it at once.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::TestNs;
use common::fast::{At, Nodes, at, attachment, exchange};
use common::pods::{attach_to, set_class, set_option};
use common::services::{PORT, cluster_address, ready, service, slices};
use common::transfer::transfer;
use common::wire::Wire;
use model::{Family, Protocol, Sending, When};
use plan::Input;

const MODES: [Sending; 3] = [Sending::Vxlan(When::Always), Sending::Ipip(When::Always), Sending::Plain];
/// From the first node to itself and to the other.
const PAIRS: [(At, At); 2] = [((0, 0), (0, 1)), ((0, 0), (1, 0))];
const PATIENCE: Duration = Duration::from_secs(60);

/// A flow between two pods, over UDP.
struct Flow {
    client: UdpSocket,
    server: UdpSocket,
    to: SocketAddr,
}

impl Flow {
    fn direct(nodes: &Nodes, (from, to): (At, At), family: Family) -> Flow {
        let server = nodes.server(to, family);
        Flow { client: nodes.socket(from, family), to: server.local_addr().unwrap(), server }
    }

    /// To a port that no service leads to.
    fn beside(nodes: &Nodes, (from, to): (At, At), family: Family) -> Flow {
        let server = nodes.socket(to, family);
        Flow { client: nodes.socket(from, family), to: server.local_addr().unwrap(), server }
    }

    #[track_caller]
    fn exchange(&self) {
        let [from, answers] = exchange(&self.client, self.to, &self.server, b"always the same");
        assert_eq!((from, answers), (self.client.local_addr().unwrap(), self.to));
    }

    /// Until the fast path has it: connection tracking takes a UDP flow for settled after two seconds.
    #[track_caller]
    fn settle(&self, nodes: &mut Nodes) {
        until_known(nodes, || (0..20).for_each(|_| self.exchange()));
    }
}

/// Talks until the fast path knows all flows that are talked by. From a new one's packets it does not always learn.
#[track_caller]
fn until_known(nodes: &mut Nodes, mut talk: impl FnMut()) {
    let end = Instant::now() + PATIENCE;
    let counted = |nodes: &mut Nodes| nodes.counted(["unknown", "hit"]);
    let [mut unknown, mut hits] = counted(nodes);
    loop {
        talk();
        let now = counted(nodes);
        if now[0] == unknown && now[1] > hits {
            return;
        }
        assert!(Instant::now() < end, "{:?}", nodes.states());
        [unknown, hits] = now;
    }
}

fn tap(test: &TestNs) -> Wire {
    let _guard = test.enter();
    Wire::open("eth0")
}

/// The next frames on a link with the payload, without what differs on the kernel's path as well: senders number packets
/// of IPv4, and the checksum of UDP is filled in somewhere on the way, or not if the packet gets to a socket before. And
/// these numbers, in their order.
fn seen(wire: &Wire, count: usize) -> (BTreeSet<String>, Vec<[u8; 2]>) {
    let (mut frames, mut numbers) = (Vec::new(), Vec::new());
    while frames.len() < count {
        let mut frame = wire.receive();
        if !frame.ends_with(b"always the same") {
            continue;
        }
        if frame[14] >> 4 == 4 {
            let header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            numbers.push([frame[18], frame[19]]);
            frame[18..20].fill(0);
            frame[24..26].fill(0);
        }
        let checksum = if frame[14] >> 4 == 4 { 40 } else { 60 };
        frame[checksum..checksum + 2].fill(0);
        frames.push(frame.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    (frames.into_iter().collect(), numbers)
}

/// Has what a socket sends look unlike what others do: a traffic class, and in IPv4 a number for each packet.
fn stand_out(socket: &UdpSocket) {
    set_class(socket, 0x28);
    if socket.local_addr().unwrap().is_ipv4() {
        set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
    }
}

#[test]
fn packets_of_every_mode_arrive_as_by_the_kernels_path() {
    let mut nodes = Nodes::new(MODES[0], true);
    let services = [10, 11].map(|number| service(number, &[Protocol::Udp]));
    for (service, (_, to)) in services.iter().zip(PAIRS) {
        let news = nodes.leading(service, to);
        nodes.nodes[0].update(news);
    }
    for mode in MODES {
        nodes.change(mode, true);
        // Each flow is watched on the kernel's path first. All of them have settled when the first one has.
        let mut flows = Vec::new();
        for (family, (number, pair)) in Family::BOTH
            .into_iter()
            .flat_map(|family| [10, 11].into_iter().zip(PAIRS).map(move |pair| (family, pair)))
        {
            let to = SocketAddr::new(cluster_address(number, family), PORT);
            let client = nodes.socket(pair.0, family);
            let by_service = Flow { client, server: nodes.server(pair.1, family), to };
            for flow in [Flow::beside(&nodes, pair, family), by_service] {
                stand_out(&flow.client);
                stand_out(&flow.server);
                let taps = [tap(&nodes.pod(pair.0).test), tap(&nodes.pod(pair.1).test)];
                flow.exchange();
                // Both ways, at both ends.
                let slow = taps.each_ref().map(|tap| seen(tap, 2).0);
                flows.push((pair, flow, slow));
            }
        }
        for (pair, flow, slow) in flows {
            let what = format!("{mode:?} {pair:?} {}", flow.to);
            flow.settle(&mut nodes);
            let taps = [tap(&nodes.pod(pair.0).test), tap(&nodes.pod(pair.1).test)];
            let before = nodes.hits();
            (0..10).for_each(|_| flow.exchange());
            let hits = nodes.hits() - before;
            let hops = if pair.1.0 == 0 { 1 } else { 2 };
            assert!((15 * hops..=20 * hops).contains(&hits), "{what}: {hits}");
            let [(here, sent), (there, received)] = taps.each_ref().map(|tap| seen(tap, 20));
            assert_eq!([here, there], slow, "{what}");
            assert_eq!(sent, received, "{what}");
            // Numbers that are all the same would prove nothing.
            assert!(flow.to.is_ipv6() || sent.iter().collect::<BTreeSet<_>>().len() > 10, "{what}: {sent:?}");
        }
    }
}

/// A connection between two pods, open at both ends.
fn connection(nodes: &Nodes, from: At, to: At, family: Family) -> (TcpStream, TcpStream) {
    let listener = {
        let pod = nodes.pod(to);
        let _guard = pod.test.enter();
        TcpListener::bind((pod.address(family), 0)).unwrap()
    };
    let _guard = nodes.pod(from).test.enter();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn say(from: &mut TcpStream, to: &mut TcpStream, times: usize) {
    let mut buffer = [0; 5];
    for _ in 0..times {
        from.write_all(b"hello").unwrap();
        to.read_exact(&mut buffer).unwrap();
        to.write_all(&buffer).unwrap();
        from.read_exact(&mut buffer).unwrap();
    }
}

#[test]
fn connections_and_big_transfers_take_it_and_end_as_usual() {
    let mut nodes = Nodes::new(MODES[0], true);
    for mode in MODES {
        nodes.change(mode, true);
        for family in Family::BOTH {
            for (from, to) in PAIRS {
                let (mut client, mut server) = connection(&nodes, from, to, family);
                until_known(&mut nodes, || say(&mut client, &mut server, 50));
                // The end is seen by connection tracking, and the flow is none any more.
                let ended = |nodes: &mut Nodes| nodes.states()[0].counters.of("ended");
                let before = ended(&mut nodes);
                drop(client);
                assert_eq!(server.read(&mut [0; 5]).unwrap(), 0);
                drop(server);
                assert!(ended(&mut nodes) >= before + 2);
                let address = nodes.pod(to).address(family);
                let before = nodes.hits();
                let speed = transfer(&nodes.pod(from).test, &nodes.pod(to).test, address, 20_000_000);
                println!("{mode:?} {family:?} to {to:?}: {speed:.1} Gbit/s");
                assert!(nodes.hits() - before > 100);
            }
        }
    }
    for node in &nodes.nodes {
        let states = node.test.run("conntrack -L -p tcp");
        assert!(!states.contains("ESTABLISHED"), "{states}");
    }
}

#[test]
fn services_lead_where_they_should_at_once() {
    let mut nodes = Nodes::new(MODES[0], true);
    let service = service(10, &[Protocol::Udp, Protocol::Tcp]);
    for family in Family::BOTH {
        let to = SocketAddr::new(cluster_address(10, family), PORT);
        for ends in [[(0, 1), (1, 0)], [(1, 1), (0, 1)]] {
            let news = nodes.leading(&service, ends[0]);
            nodes.nodes[0].update(news);
            let servers = ends.map(|end| nodes.server(end, family));
            let client = nodes.socket((0, 0), family);
            let [first, second] = servers;
            let flow = Flow { client, server: first, to };
            flow.settle(&mut nodes);
            // Its flow is cut, and the next packet is for the other endpoint.
            let news = nodes.leading(&service, ends[1]);
            nodes.nodes[0].update(news);
            flow.client.send_to(b"next", to).unwrap();
            assert_eq!(ready(&[flow.server.as_fd(), second.as_fd()], PATIENCE), Some(1));
            second.recv(&mut [0; 10]).unwrap();
            let flow = Flow { server: second, ..flow };
            flow.settle(&mut nodes);
        }
        let (listener, mut client) = {
            let pod = nodes.pod((0, 1));
            let _guard = pod.test.enter();
            let listener = TcpListener::bind(at(pod.address(family))).unwrap();
            let _guard = nodes.pod((0, 0)).test.enter();
            (listener, TcpStream::connect(to).unwrap())
        };
        let (mut server, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), nodes.pod((0, 0)).address(family));
        until_known(&mut nodes, || say(&mut client, &mut server, 50));
        // Another service is none of its business.
        let before = nodes.states()[0].counters.clone();
        let other = common::services::service(11, &[Protocol::Tcp]);
        let gone = Input::ServiceGone(other.name.clone());
        for news in [[slices(&other, vec![]), vec![Input::Service(other)]].concat(), vec![gone]] {
            nodes.nodes[0].update(news);
            say(&mut client, &mut server, 50);
        }
        let counted = nodes.states()[0].counters.since(&before);
        assert!(counted.hits() >= 160 && counted.of("stale") == 0, "{:?}", counted.counted());
        // Longer than a flow does without the kernel's path.
        let end = Instant::now() + kernel::fast::LIFETIME + Duration::from_millis(500);
        while Instant::now() < end {
            say(&mut client, &mut server, 50);
        }
        assert!(nodes.states()[0].counters.of("expired") > 0);
    }
}

#[test]
fn a_reused_address_has_no_flows() {
    let mut nodes = Nodes::new(MODES[2], true);
    for pair in PAIRS {
        let flow = Flow::direct(&nodes, pair, Family::V4);
        flow.settle(&mut nodes);
        let (node, pod) = pair.1;
        let number = node as u32;
        // The CNI plugin says so before it gives an address away, and the agent need not have heard of it.
        {
            let _guard = nodes.nodes[node].test.enter();
            kernel::fast::forget(&nodes.bpffs.path, &[nodes.pod(pair.1).v4.into()]).unwrap();
        }
        let before = nodes.states()[node].counters.hits();
        flow.exchange();
        assert_eq!(nodes.states()[node].counters.hits(), before);
        let gone = nodes.nodes[node].pods.remove(pod);
        // As the CNI plugin does it, and then another sandbox gets the addresses.
        let old = attachment(number, 2 + pod as u8);
        let mut new = old.clone();
        new.id.container_id = "another".to_owned();
        {
            let test = &nodes.nodes[node].test;
            let _guard = test.enter();
            let mut socket = kernel::rtnl::RouteSocket::open().unwrap();
            assert!(kernel::pod::detach(&mut socket, &old.id).unwrap());
        }
        drop(gone);
        let other = attachment(number, 5 - (2 + pod as u8));
        nodes.nodes[node].planner.update(Input::Attachments(vec![other, new.clone()]));
        nodes.nodes[node].reconcile();
        let attached = {
            let _guard = nodes.nodes[node].test.enter();
            attach_to(number, &new)
        };
        nodes.nodes[node].pods.insert(pod, attached);
        nodes.nodes[node].reconcile();
        let server = nodes.server(pair.1, Family::V4);
        let flow = Flow { server, ..flow };
        flow.exchange();
        flow.settle(&mut nodes);
    }
}

#[test]
fn what_others_change_counts_when_it_is_told() {
    let mut nodes = Nodes::new(MODES[0], true);
    for pair in PAIRS {
        let flow = Flow::direct(&nodes, pair, Family::V6);
        flow.settle(&mut nodes);
        let node = &mut nodes.nodes[0];
        node.test.run("nft add table ip6 others");
        node.test.run_words(&["nft", "add chain ip6 others c { type filter hook forward priority 0; }"]);
        node.test.run("nft add rule ip6 others c meta l4proto udp drop");
        node.kernel.doubt_flows().unwrap();
        flow.client.send_to(b"lost", flow.to).unwrap();
        assert_eq!(ready(&[flow.server.as_fd()], Duration::from_millis(300)), None);
        node.test.run("nft delete table ip6 others");
        flow.exchange();
        flow.settle(&mut nodes);
    }
}

#[test]
fn a_link_with_something_of_others_is_left_to_the_kernel() {
    let mut nodes = Nodes::new(MODES[2], true);
    let flow = Flow::direct(&nodes, PAIRS[0], Family::V4);
    flow.settle(&mut nodes);
    let link = attachment(0, 3).id.host_link();
    nodes.nodes[0].test.run(&format!("tc qdisc add dev {link} root pfifo"));
    nodes.nodes[0].reconcile();
    nodes.nodes[0].until_programs(|programs| programs[link.as_str()] == [0, 0]);
    let before = nodes.hits();
    (0..20).for_each(|_| flow.exchange());
    assert_eq!(nodes.hits(), before);
    nodes.nodes[0].test.run(&format!("tc qdisc del dev {link} root"));
    nodes.nodes[0].reconcile();
    flow.settle(&mut nodes);
}

#[test]
fn without_it_all_goes_on() {
    let mut nodes = Nodes::new(MODES[1], false);
    let without: Vec<_> = nodes.nodes.iter().map(|node| node.programs()).collect();
    assert!(nodes.nodes.iter().all(|node| node.kernel.fast_path().is_none()));
    let (mut client, mut server) = connection(&nodes, (0, 0), (1, 0), Family::V4);
    let flow = Flow::direct(&nodes, PAIRS[1], Family::V6);
    for _ in 0..2 {
        nodes.change(MODES[1], true);
        let state = nodes.states().remove(0);
        // eth0, both VXLAN devices, two pods; both addresses of each.
        assert_eq!((state.links.len(), state.pods), (5, 4));
        flow.settle(&mut nodes);
        until_known(&mut nodes, || say(&mut client, &mut server, 50));
        nodes.change(MODES[1], false);
        for (node, without) in nodes.nodes.iter().zip(&without) {
            node.until_programs(|programs| programs == without);
        }
        flow.exchange();
        say(&mut client, &mut server, 50);
    }
    // The agent is killed: nothing stays on links, and what it had pinned goes with a cleanup.
    nodes.change(MODES[1], true);
    flow.settle(&mut nodes);
    for node in &mut nodes.nodes {
        let _guard = node.test.enter();
        node.kernel = kernel::Kernel::open().unwrap();
    }
    for node in &nodes.nodes {
        node.until_programs(|programs| programs.values().all(|[enter, leave]| enter + leave <= 2));
    }
    flow.exchange();
    say(&mut client, &mut server, 50);
}
