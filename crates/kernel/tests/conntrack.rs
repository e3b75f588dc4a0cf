//! Flows of real sockets, seen as `conntrack` sees them.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::TestNs;
use common::pods::socket;
use common::services::{PATIENCE, connect, listen};
use kernel::conntrack::{Change, Conntrack, Follower};
use model::flow::{Flow, Phase, TrackedFlow, Tuple};
use model::{Family, Protocol};

/// A client and a server with a router between them, which sends what is for the router's port 53 to the server.
struct Scene {
    client: TestNs,
    router: TestNs,
    server: TestNs,
}

const CLIENT: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
const ROUTER: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const SERVER: [&str; 2] = ["10.2.0.2", "fd00:2::2"];

impl Scene {
    fn new() -> Scene {
        let [client, router, server] = ["client", "router", "server"].map(TestNs::new);
        // Without it no neighbour is asked for until duplicate address detection is over.
        for each in [&client, &router, &server] {
            each.run("sysctl -qw net.ipv6.conf.default.accept_dad=0");
        }
        for (number, end) in [(1, &client), (2, &server)] {
            router.run(&format!("ip link add p{number} type veth peer name eth0 netns {}", end.name));
            router.run(&format!("ip link set p{number} up"));
            router.run(&format!("ip addr add 10.{number}.0.1/24 dev p{number}"));
            router.run(&format!("ip addr add fd00:{number}::1/64 dev p{number} nodad"));
            end.run("ip link set eth0 up");
            end.run(&format!("ip addr add 10.{number}.0.2/24 dev eth0"));
            end.run(&format!("ip addr add fd00:{number}::2/64 dev eth0 nodad"));
            end.run(&format!("ip route add default via 10.{number}.0.1"));
            end.run(&format!("ip -6 route add default via fd00:{number}::1"));
        }
        router.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        router.run_words(&[
            "nft",
            "table inet nat { chain prerouting { type nat hook prerouting priority dstnat;
             udp dport 53 dnat ip to 10.2.0.2:5353; udp dport 53 dnat ip6 to [fd00:2::2]:5353; }; }",
        ]);
        Scene { client, router, server }
    }

    fn conntrack(&self) -> Conntrack {
        let _guard = self.router.enter();
        Conntrack::open().unwrap()
    }

    /// Sends a datagram from a port of the client to the server, by way of the translation; `socket` answers.
    fn exchange(&self, family: usize, port: u16, server: &UdpSocket) {
        let client = socket(&self.client, address(CLIENT[family]), port);
        client.send_to(b"question", SocketAddr::new(address(ROUTER[family]), 53)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
        server.send_to(b"answer", from).unwrap();
        client.recv(&mut [0; 64]).unwrap();
    }

    fn server(&self, family: usize) -> UdpSocket {
        socket(&self.server, address(SERVER[family]), 5353)
    }

    /// What `conntrack` lists of a family, each flow as [`line`] writes it.
    fn listed(&self, family: Family) -> BTreeSet<String> {
        let name = if family == Family::V4 { "ipv4" } else { "ipv6" };
        let output = self.router.run(&format!("conntrack -L -f {name} -p udp -o id"));
        output.lines().map(listed_line).collect()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn flows(conntrack: &mut Conntrack, family: Family) -> Vec<Flow> {
    let mut found = Vec::new();
    conntrack.flows(family, Protocol::Udp, &mut |flow| found.push(flow)).unwrap();
    found
}

/// A flow in the words of `conntrack`, without what changes by itself.
fn line(flow: &Flow) -> String {
    let mut words = Vec::new();
    for tuple in [&flow.original, &flow.reply] {
        words.push(format!("src={} dst={}", tuple.source.ip(), tuple.destination.ip()));
        words.push(format!("sport={} dport={}", tuple.source.port(), tuple.destination.port()));
        if tuple.zone != 0 {
            words.push(format!("zone-orig={}", tuple.zone));
        }
    }
    if !flow.status.answered() {
        words.push("[UNREPLIED]".to_owned());
    }
    if flow.zone != 0 {
        words.push(format!("zone={}", flow.zone));
    }
    words.push(format!("id={}", flow.id));
    sorted(words.join(" ").split(' '))
}

fn listed_line(line: &str) -> String {
    let counts = |word: &str| {
        word.contains('=') && !word.starts_with("mark=") && !word.starts_with("use=") || word == "[UNREPLIED]"
    };
    sorted(line.split_whitespace().filter(|word| counts(word)))
}

/// The tuples keep their order, which is what tells them apart.
fn sorted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let (tuples, mut rest): (Vec<&str>, Vec<&str>) = words
        .partition(|word| ["src=", "dst=", "sport=", "dport="].iter().any(|name| word.starts_with(name)));
    rest.sort_unstable();
    [tuples, rest].concat().join(" ")
}

#[test]
fn flows_are_listed_as_conntrack_lists_them() {
    let scene = Scene::new();
    let mut conntrack = scene.conntrack();
    for (index, family) in Family::BOTH.into_iter().enumerate() {
        assert_eq!(flows(&mut conntrack, family), []);
        let server = scene.server(index);
        (4000..4010).for_each(|port| scene.exchange(index, port, &server));
        // One without translation and without answer, and one of another protocol.
        let client = socket(&scene.client, address(CLIENT[index]), 4100);
        client.send_to(b"question", server.local_addr().unwrap()).unwrap();
        server.recv(&mut [0; 64]).unwrap();
        let listener = listen(&scene.server, address(SERVER[index]));
        connect(&scene.client, listener.local_addr().unwrap()).unwrap();

        let found = flows(&mut conntrack, family);
        assert_eq!(found.len(), 11);
        assert_eq!(found.iter().map(line).collect::<BTreeSet<_>>(), scene.listed(family));
        for flow in found {
            let translated = flow.original.source.port() != 4100;
            assert_eq!(flow.status.destination_rewritten(), translated);
            assert_eq!(flow.status.answered(), translated);
            assert_eq!(flow.reply.source, server.local_addr().unwrap());
            assert_eq!((flow.family(), flow.protocol), (family, Protocol::Udp.number()));
        }
    }
    let mut tcp = 0;
    conntrack.flows(Family::V4, Protocol::Tcp, &mut |_| tcp += 1).unwrap();
    assert_eq!(tcp, 1, "the other protocol is there if it is asked for");
}

#[test]
fn a_flow_is_removed_and_nothing_else() {
    let scene = Scene::new();
    let mut conntrack = scene.conntrack();
    for (index, family) in Family::BOTH.into_iter().enumerate() {
        let server = scene.server(index);
        (4000..4003).for_each(|port| scene.exchange(index, port, &server));
        let all = flows(&mut conntrack, family);
        let (one, others): (Vec<Flow>, Vec<Flow>) =
            all.into_iter().partition(|flow| flow.original.source.port() == 4001);
        assert_eq!(conntrack.remove(&one).unwrap(), 1);
        assert_eq!(conntrack.remove(&one).unwrap(), 0, "it is gone");
        let left: BTreeSet<String> = others.iter().map(line).collect();
        assert_eq!(scene.listed(family), left);

        // Another flow with the same addresses and ports is not the one that is meant.
        let newer = Flow { id: one[0].id ^ 1, ..one[0].clone() };
        scene.exchange(index, 4001, &server);
        assert_eq!(conntrack.remove(&[newer]).unwrap(), 0);
        assert_eq!(scene.listed(family).len(), 3);

        // Those that are there among many that are not.
        let gone = |id| Flow { id, ..others[0].clone() };
        let many: Vec<Flow> = (0..2000).map(gone).chain(others.clone()).collect();
        assert_eq!(conntrack.remove(&many).unwrap(), 2);
        assert_eq!(scene.listed(family).len(), 1);
    }
}

/// The same addresses and ports in several zones are several flows.
#[test]
fn zones_are_told_apart() {
    let scene = Scene::new();
    let mut conntrack = scene.conntrack();
    scene.router.run_words(&[
        "nft",
        "table inet zones { chain prerouting { type filter hook prerouting priority raw;
         udp sport 4001 ct zone set 7; udp sport 4002 ct original zone set 9; }; }",
    ]);
    for (index, family) in Family::BOTH.into_iter().enumerate() {
        let server = scene.server(index);
        for port in [4001, 4002] {
            // No answer: it would be looked for in another zone.
            let client = socket(&scene.client, address(CLIENT[index]), port);
            client.send_to(b"question", server.local_addr().unwrap()).unwrap();
            server.recv(&mut [0; 64]).unwrap();
        }
        let mut found = flows(&mut conntrack, family);
        found.sort_by_key(|flow| flow.original.source.port());
        assert_eq!([found[0].zone, found[0].original.zone], [7, 0]);
        assert_eq!([found[1].zone, found[1].original.zone], [0, 9]);
        assert_eq!(found.iter().map(line).collect::<BTreeSet<_>>(), scene.listed(family));
        let elsewhere: Vec<Flow> = vec![
            Flow { zone: 8, ..found[0].clone() },
            Flow { original: Tuple { zone: 0, ..found[1].original }, ..found[1].clone() },
        ];
        assert_eq!(conntrack.remove(&elsewhere).unwrap(), 0);
        assert_eq!(conntrack.remove(&found).unwrap(), 2);
        assert_eq!(flows(&mut conntrack, family), []);
    }
}

/// Every flow is told of, though flows come and go all the while: those that stay are in every listing.
#[test]
fn a_big_table_is_listed_whole() {
    const PORTS: std::ops::Range<u16> = 20000..24000;
    let scene = Scene::new();
    let mut conntrack = scene.conntrack();
    let sender = socket(&scene.router, address(ROUTER[0]), 0);
    for port in PORTS {
        sender.send_to(b"question", SocketAddr::new(address(SERVER[0]), port)).unwrap();
    }
    let server = scene.server(0);
    for round in 0..20 {
        scene.exchange(0, 4000 + round, &server);
        let mut found = BTreeSet::new();
        conntrack
            .flows(Family::V4, Protocol::Udp, &mut |flow| {
                found.insert(flow.original.destination.port());
            })
            .unwrap();
        assert_eq!(PORTS.filter(|port| !found.contains(port)).count(), 0);
    }
}

/// Follows until something is told; everything that was told until then, it too.
#[track_caller]
fn told_until(follower: &mut Follower, is_it: impl Fn(&Change) -> bool) -> Vec<Change> {
    let mut told = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !told.iter().any(&is_it) {
        assert!(Instant::now() < deadline, "only {told:#?}");
        follower.wait(Some(Duration::from_secs(1)), &mut |change| told.push(change)).unwrap();
    }
    told
}

fn follower(scene: &Scene, every: Duration, room: usize) -> Follower {
    let _guard = scene.router.enter();
    Follower::with_buffer(every, room).unwrap()
}

const ROOM: usize = 1 << 20;
const NEVER: Duration = Duration::from_secs(3600);

#[test]
fn flows_are_followed_from_their_beginning_to_their_end() {
    let scene = Scene::new();
    scene.router.run("sysctl -qw net.netfilter.nf_conntrack_acct=1");
    for (index, family) in Family::BOTH.into_iter().enumerate() {
        scene.conntrack().flush().unwrap();
        let server = scene.server(index);
        scene.exchange(index, 4000, &server);
        let mut follower = follower(&scene, NEVER, ROOM);
        let of = |port: u16| move |flow: &TrackedFlow| flow.flow.original.source.port() == port;
        told_until(&mut follower, |change| matches!(change, Change::Listed(flow) if of(4000)(flow)));

        scene.exchange(index, 4001, &server);
        let answered = |flow: &TrackedFlow| of(4001)(flow) && flow.flow.status.answered();
        let told =
            told_until(&mut follower, |change| matches!(change, Change::Changed(flow) if answered(flow)));
        assert!(matches!(&told[0], Change::Begun(flow) if of(4001)(flow)), "{told:#?}");
        assert!(told.iter().all(|change| !matches!(change, Change::Lost(_))));

        let listener = listen(&scene.server, address(SERVER[index]));
        let to = listener.local_addr().unwrap();
        let open = connect(&scene.client, to).unwrap();
        let port = open.local_addr().unwrap().port();
        let in_phase = |flow: &TrackedFlow, phase| {
            of(port)(flow) && flow.connection.is_some_and(|connection| connection.phase == phase)
        };
        let established = |flow: &TrackedFlow| in_phase(flow, Phase::Established);
        let told =
            told_until(&mut follower, |change| matches!(change, Change::Changed(flow) if established(flow)));
        assert!(matches!(&told[0], Change::Begun(flow) if in_phase(flow, Phase::Opening)), "{told:#?}");
        drop((open, listener));
        let closing = |flow: &TrackedFlow| in_phase(flow, Phase::Closing);
        told_until(&mut follower, |change| matches!(change, Change::Changed(flow) if closing(flow)));

        // Nobody listens any more: the kernel forgets at once what was refused.
        connect(&scene.client, to).unwrap_err();
        let refused = |flow: &TrackedFlow| {
            !flow.flow.status.answered()
                && flow.counters.is_some_and(|counters| counters.received.packets == 1)
        };
        told_until(&mut follower, |change| matches!(change, Change::Ended(flow) if refused(flow)));

        scene.conntrack().flush().unwrap();
        let Some(Change::Ended(last)) =
            told_until(&mut follower, |change| matches!(change, Change::Ended(flow) if of(4001)(flow)))
                .into_iter()
                .find(|change| matches!(change, Change::Ended(flow) if of(4001)(flow)))
        else {
            panic!("it has not ended");
        };
        let counters = last.counters.unwrap();
        let headers = if family == Family::V4 { 20 + 8 } else { 40 + 8 };
        assert_eq!((counters.sent.packets, counters.sent.bytes), (1, headers + 8));
        assert_eq!((counters.received.packets, counters.received.bytes), (1, headers + 6));
    }
}

/// The kernel does not tell of flows that have begun when nobody listened, and counters only at the end.
#[test]
fn what_the_kernel_does_not_tell_is_found_by_listing() {
    let scene = Scene::new();
    scene.router.run("sysctl -qw net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_events=0");
    let server = scene.server(0);
    let mut follower = follower(&scene, Duration::from_millis(50), ROOM);
    scene.exchange(0, 4000, &server);
    let packets = |flow: &TrackedFlow| flow.counters.unwrap().sent.packets;
    told_until(&mut follower, |change| matches!(change, Change::Listed(_) | Change::Begun(_)));
    scene.exchange(0, 4000, &server);
    told_until(&mut follower, |change| matches!(change, Change::Changed(flow) if packets(flow) == 2));
    scene.conntrack().flush().unwrap();
    told_until(&mut follower, |change| matches!(change, Change::Ended(flow) if packets(flow) == 2));
}

#[test]
fn what_there_was_no_room_for_is_counted_and_listed() {
    const PORTS: std::ops::Range<u16> = 20000..22000;
    let scene = Scene::new();
    let mut follower = follower(&scene, NEVER, 8 << 10);
    follower.wait(Some(Duration::ZERO), &mut |_| {}).unwrap();
    let sender = socket(&scene.router, address(ROUTER[0]), 0);
    for port in PORTS {
        sender.send_to(b"question", SocketAddr::new(address(SERVER[0]), port)).unwrap();
    }
    let (mut lost, mut found) = (0, BTreeSet::new());
    let deadline = Instant::now() + PATIENCE;
    while found.len() < PORTS.len() {
        assert!(Instant::now() < deadline, "{} found", found.len());
        follower
            .wait(Some(Duration::from_secs(1)), &mut |change| match change {
                Change::Lost(count) => lost += count as usize,
                Change::Begun(flow) => drop(found.insert(flow.flow.original.destination.port())),
                other => panic!("{other:#?}"),
            })
            .unwrap();
    }
    // There was room for some messages.
    assert!(lost > PORTS.len() / 2 && lost < PORTS.len(), "{lost} lost");
}

#[test]
fn another_thread_ends_the_wait() {
    let scene = Scene::new();
    let mut follower = follower(&scene, NEVER, ROOM);
    let waker = follower.waker();
    let waits = std::thread::spawn(move || follower.wait(None, &mut |_| {}));
    waker.wake();
    waits.join().unwrap().unwrap();
}
