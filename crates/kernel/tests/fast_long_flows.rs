//! Flows that live longer than connection tracking keeps what it sees no packets of: busy ones, and idle ones.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use common::fast::{At, Nodes, exchange};
use common::services::{PORT, TARGET_PORT, cluster_address, service};
use model::{Family, Protocol, Sending, When};

/// Less than a day, five minutes, two minutes and 30 seconds, and longer than the fast path does without the kernel's.
const ESTABLISHED: Duration = Duration::from_secs(10);
const UNACKNOWLEDGED: Duration = Duration::from_secs(4);
const UDP: Duration = Duration::from_secs(4);
/// So long talk those that are busy.
const BUSY: Duration = Duration::from_secs(22);
/// Longer than a connection that is not acknowledged is kept. Of others connection tracking may have seen the last packet
/// [`kernel::fast::LIFETIME`] before it went by.
const IDLE: Duration = Duration::from_millis(5_500);
const PATIENCE: Duration = Duration::from_secs(30);
/// How often each flow is used in a second.
const PACE: Duration = Duration::from_millis(10);
const CLIENT: At = (0, 0);

/// Two ends that talk.
enum Talk {
    Udp { client: UdpSocket, server: UdpSocket, to: SocketAddr },
    Tcp { client: TcpStream, server: TcpStream },
}

impl Talk {
    /// From the client's pod to a server, at its own address or that of a service.
    fn new(nodes: &Nodes, protocol: Protocol, at: At, address: IpAddr, service: Option<SocketAddr>) -> Talk {
        let port = if service.is_some() { TARGET_PORT } else { 0 };
        let pod = nodes.pod(at);
        if protocol == Protocol::Udp {
            let server = common::pods::socket(&pod.test, address, port);
            let to = service.unwrap_or_else(|| server.local_addr().unwrap());
            return Talk::Udp { client: nodes.socket(CLIENT, Family::of(&address)), server, to };
        }
        let listener = {
            let _guard = pod.test.enter();
            TcpListener::bind((address, port)).unwrap()
        };
        let _guard = nodes.pod(CLIENT).test.enter();
        let to = service.unwrap_or_else(|| listener.local_addr().unwrap());
        let client = TcpStream::connect(to).unwrap();
        let server = listener.accept().unwrap().0;
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Talk::Tcp { client, server }
    }

    /// One question and its answer; none of the two may be lost.
    fn say(&mut self) {
        match self {
            Talk::Udp { client, server, to } => {
                let [from, answers] = exchange(client, *to, server, b"the same flow");
                assert_eq!((from, answers), (client.local_addr().unwrap(), *to));
            }
            Talk::Tcp { client, server } => {
                let mut buffer = [0; 4];
                client.write_all(b"talk").unwrap();
                server.read_exact(&mut buffer).unwrap();
                server.write_all(&buffer).unwrap();
                client.read_exact(&mut buffer).unwrap();
            }
        }
    }

    fn say_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.say();
            thread::sleep(PACE);
        }
    }

    /// The entry of connection tracking on the client's node, by its number; `None` if there is none.
    fn entry(&self, nodes: &Nodes) -> Option<String> {
        let (local, protocol) = match self {
            Talk::Udp { client, .. } => (client.local_addr().unwrap(), "udp"),
            Talk::Tcp { client, .. } => (client.local_addr().unwrap(), "tcp"),
        };
        let family = if local.is_ipv4() { "ipv4" } else { "ipv6" };
        let listed = format!("conntrack -L -o id -f {family} -p {protocol} --orig-port-src {}", local.port());
        let listed = nodes.nodes[0].test.run(&listed);
        listed.split_whitespace().find(|word| word.starts_with("id=")).map(str::to_owned)
    }

    /// Whether its packets go by the fast path now.
    fn is_fast(&mut self, nodes: &mut Nodes) -> bool {
        let before = nodes.hits();
        (0..20).for_each(|_| self.say());
        nodes.hits() - before >= 30
    }
}

/// Two nodes on which connection tracking forgets fast, and a service of the other node.
fn nodes() -> Nodes {
    let mut nodes = Nodes::new(Sending::Vxlan(When::Always), true);
    for node in &nodes.nodes {
        for (name, time) in [
            ("tcp_timeout_established", ESTABLISHED),
            ("tcp_timeout_unacknowledged", UNACKNOWLEDGED),
            ("tcp_timeout_max_retrans", UNACKNOWLEDGED),
            ("udp_timeout", UDP),
            ("udp_timeout_stream", UDP),
        ] {
            node.test.run(&format!("sysctl -qw net.netfilter.nf_conntrack_{name}={}", time.as_secs()));
        }
    }
    let service = service(10, &[Protocol::Udp, Protocol::Tcp]);
    let news = nodes.leading(&service, (1, 0));
    nodes.nodes[0].update(news);
    // The programs hear of the times.
    nodes.states();
    nodes
}

/// Of both families and protocols: to the other node, beside, and by the service.
fn talks(nodes: &Nodes) -> Vec<(String, Talk)> {
    let mut talks = Vec::new();
    for family in Family::BOTH {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let service = SocketAddr::new(cluster_address(10, family), PORT);
            for (at, service) in [((1, 0), None), ((0, 1), None), ((1, 0), Some(service))] {
                let talk = Talk::new(nodes, protocol, at, nodes.pod(at).address(family), service);
                talks.push((format!("{family:?} {protocol} to {at:?} by {service:?}"), talk));
            }
        }
    }
    talks
}

#[test]
fn busy_flows_are_tracked_for_as_long_as_they_are_busy() {
    let mut nodes = nodes();
    let mut talks = talks(&nodes);
    talks.iter_mut().for_each(|(_, talk)| talk.say());
    let entries: Vec<Option<String>> = talks.iter().map(|(_, talk)| talk.entry(&nodes)).collect();
    assert!(entries.iter().all(Option::is_some), "{entries:?}");
    thread::scope(|scope| {
        for (_, talk) in &mut talks {
            scope.spawn(|| talk.say_for(BUSY));
        }
        // They need somebody who attends to the fast path meanwhile.
        let end = Instant::now() + BUSY;
        while Instant::now() < end {
            nodes.states();
            thread::sleep(Duration::from_secs(1));
        }
    });
    for ((what, talk), entry) in talks.iter_mut().zip(entries) {
        assert_eq!(talk.entry(&nodes), entry, "{what}");
        assert!(talk.is_fast(&mut nodes), "{what}");
    }
}

#[test]
fn idle_flows_are_tracked_as_on_the_kernels_path() {
    let mut nodes = nodes();
    let mut talks = talks(&nodes);
    thread::scope(|scope| {
        for (_, talk) in &mut talks {
            // So long that each is settled, and has been validated again.
            scope.spawn(|| talk.say_for(kernel::fast::LIFETIME * 2));
        }
    });
    for (what, talk) in &mut talks {
        assert!(talk.is_fast(&mut nodes), "{what}");
    }
    let entries: Vec<Option<String>> = talks.iter().map(|(_, talk)| talk.entry(&nodes)).collect();
    assert!(entries.iter().all(Option::is_some), "{entries:?}");
    thread::sleep(IDLE);
    for ((what, talk), entry) in talks.iter_mut().zip(entries) {
        match talk {
            // Both ends, and the service's translation, are as they were.
            Talk::Tcp { .. } => assert_eq!(talk.entry(&nodes), entry, "{what}"),
            // As without the fast path: it is forgotten, and the next packet begins another.
            Talk::Udp { .. } => {
                assert_eq!(talk.entry(&nodes), None, "{what}");
                let before = nodes.hits();
                talk.say();
                assert_eq!(nodes.hits(), before, "{what}");
                assert_ne!(talk.entry(&nodes), entry, "{what}");
            }
        }
        talk.say();
    }
    thread::scope(|scope| {
        for (_, talk) in &mut talks {
            scope.spawn(|| talk.say_for(kernel::fast::LIFETIME));
        }
    });
    for (what, talk) in &mut talks {
        assert!(talk.is_fast(&mut nodes), "{what}");
    }
}
