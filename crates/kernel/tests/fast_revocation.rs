//! Under load, with all flows on the fast path: once a change is committed, no packet that is sent 5 ms later goes where it
//! would have gone before.
//!
//! Changes come in a random order and at random moments. `REVOCATION_SEED` repeats a run, and `REVOCATION_ROUNDS` makes it so
//! many times as long.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use common::cluster::{self, Stack};
use common::fast::{At, Nodes, at, attachment};
use common::load::{Flow, Load, Numbered, Place};
use common::pods::{attach_to, socket};
use common::services::{PORT, cluster_address, service};
use common::wire::Wire;
use model::{Family, Protocol, Sending, When};
use plan::Input;

/// How much later than the commit a stale entry may still send, in nanoseconds.
const GRACE: u64 = 5_000_000;
const ENCAPSULATED: [Sending; 2] = [Sending::Vxlan(When::Always), Sending::Ipip(When::Always)];
const MODES: [Sending; 3] = [ENCAPSULATED[0], ENCAPSULATED[1], Sending::Plain];

fn rounds() -> usize {
    std::env::var("REVOCATION_ROUNDS").map_or(1, |text| text.parse().unwrap())
}

/// Numbers by chance (Marsaglia's xorshift).
struct Chance(u64);

impl Chance {
    fn new() -> Chance {
        let time = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = std::env::var("REVOCATION_SEED").map_or_else(|_| time(), |text| text.parse().unwrap());
        println!("REVOCATION_SEED={seed}");
        Chance(seed | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Changes come at any moment of a turn of the load.
    fn pause(&mut self) {
        std::thread::sleep(Duration::from_micros(self.below(2_000) as u64));
    }
}

/// How late the last stale packet was sent, of changes of a kind.
#[derive(Default)]
struct Lateness {
    changes: usize,
    worst: BTreeMap<&'static str, u64>,
}

impl Lateness {
    /// Looks at when the last packet was sent that went where it must not since `done`.
    #[track_caller]
    fn note(&mut self, kind: &'static str, last: u64, done: u64) {
        let late = last.saturating_sub(done);
        let worst = self.worst.entry(kind).or_default();
        *worst = late.max(*worst);
        assert!(late <= GRACE, "{kind}: {late} ns after it was done");
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        println!("{} changes; the last stale packet was sent after: {:?} ns", self.changes, self.worst);
    }
}

/// Waits until some flows are on the fast path both ways: hits come, and no packet of a flow that is not known. From the
/// change before to this one all have been, so the next one is a change of what is in use.
#[track_caller]
fn until_hot(nodes: &mut Nodes, load: &Load, flows: usize) {
    let count = |nodes: &mut Nodes| {
        let [hits, unknown, stale] = nodes.counted(["hit", "unknown", "stale"]);
        [hits, unknown + stale]
    };
    let end = Instant::now() + Duration::from_secs(30);
    let mut before = count(nodes);
    loop {
        let now = count(nodes);
        if now[1] != before[1] {
            before = now;
        }
        if now[0] >= before[0] + 4 * flows as u64 {
            return;
        }
        assert!(Instant::now() < end, "the fast path does not come: {:?}", nodes.states());
        load.turn();
    }
}

/// Waits until a datagram has arrived that was sent later.
#[track_caller]
fn until_arrived(load: &Load, place: Place, flow: Flow, later_than: u64) {
    load.until("a datagram at the new place", || load.last(place, flow) > later_than);
}

#[test]
fn an_endpoint_that_is_removed_gets_nothing_more() {
    const SERVICES: u8 = 100;
    const ENDS: [At; 3] = [(0, 1), (1, 0), (1, 1)];
    let mut nodes = Nodes::new(MODES[0], true);
    let (mut chance, mut late, load) = (Chance::new(), Lateness::default(), Load::start());
    for (place, end) in (0..).zip(ENDS) {
        for family in Family::BOTH {
            load.add_server(place, nodes.server(end, family));
        }
    }
    let leads_to = |nodes: &Nodes, number: u8, place: usize| {
        nodes.leading(&service(number, &[Protocol::Udp]), ENDS[place])
    };
    let mut places = [0; SERVICES as usize];
    for number in 0..SERVICES {
        let news = leads_to(&nodes, number, 0);
        nodes.nodes[0].update(news);
    }
    for round in 0..2 * rounds() {
        // With ports that none had for long: answers that were late are flows of their own to connection tracking, and what
        // has the port of one gets another.
        load.no_clients();
        for number in 0..SERVICES {
            for family in Family::BOTH {
                let (pod, flow) = (nodes.pod((0, 0)), flow(number, family));
                let port = 1024 + (round % 100) as u16 * 256 + flow as u16;
                let to = SocketAddr::new(cluster_address(number, family), PORT);
                load.add_client(flow, socket(&pod.test, pod.address(family), port), to);
            }
        }
        until_hot(&mut nodes, &load, 2 * usize::from(SERVICES));
        let mut order: Vec<u8> = (0..SERVICES).collect();
        (1..order.len()).for_each(|at| order.swap(at, chance.below(at + 1)));
        for number in order {
            let was = places[usize::from(number)];
            let is = (was + 1 + chance.below(2)) % 3;
            let news = leads_to(&nodes, number, is);
            chance.pause();
            load.forget();
            nodes.nodes[0].update(news);
            let done = load.now();
            places[usize::from(number)] = is;
            late.changes += 1;
            for family in Family::BOTH {
                until_arrived(&load, is as Place, flow(number, family), done + GRACE);
            }
            load.flush();
            for family in Family::BOTH {
                let elsewhere = (0..3).filter(|place| *place != is as Place);
                let last = elsewhere.map(|place| load.last(place, flow(number, family))).max();
                late.note("an endpoint", last.unwrap(), done);
            }
        }
    }
}

fn flow(number: u8, family: Family) -> Flow {
    Flow::from(number) * 2 + Flow::from(family == Family::V6)
}

#[test]
fn a_pod_with_the_address_of_another_gets_all_and_at_once() {
    let mut nodes = Nodes::new(MODES[0], true);
    let (mut chance, mut late, load) = (Chance::new(), Lateness::default(), Load::start());
    let target = (0, 1);
    let mut flows: Vec<Flow> = Vec::new();
    for (number, from) in [(0, (0, 0)), (1, (1, 0))] {
        for family in Family::BOTH {
            load.add_client(
                flow(number, family),
                nodes.socket(from, family),
                at(nodes.pod(target).address(family)),
            );
            flows.push(flow(number, family));
        }
    }
    let serve = |load: &Load, nodes: &Nodes, place: Place| {
        for family in Family::BOTH {
            load.add_server(place, nodes.server(target, family));
        }
    };
    serve(&load, &nodes, 0);
    let (mut old, other) = (attachment(0, 3), attachment(0, 2));
    for place in 1..=50 * rounds() as Place {
        until_hot(&mut nodes, &load, flows.len());
        let mut new = old.clone();
        new.id.container_id = format!("another-{place}");
        chance.pause();
        load.forget();
        load.leave(place - 1);
        let gone = nodes.nodes[0].pods.remove(1);
        let attached = {
            let _guard = nodes.nodes[0].test.enter();
            let mut socket = kernel::rtnl::RouteSocket::open().unwrap();
            assert!(kernel::pod::detach(&mut socket, &old.id).unwrap());
            // The CNI plugin says so before it gives the address away.
            kernel::fast::forget(&nodes.bpffs.path, &new.addresses).unwrap();
            attach_to(0, &new)
        };
        drop(gone);
        nodes.nodes[0].pods.push(attached);
        serve(&load, &nodes, place);
        nodes.nodes[0].update([Input::Attachments(vec![other.clone(), new.clone()])]);
        let done = load.now();
        late.changes += 1;
        for flow in &flows {
            until_arrived(&load, place, *flow, done + GRACE);
            let arrived = load.arrived(place, *flow);
            let later: Vec<&Numbered> = arrived.iter().filter(|each| each.sent > done + GRACE).collect();
            // Not one went to the old link, where nobody is.
            assert!(later[0].before <= done + GRACE, "flow {flow}, {:?} after {done}", later[0]);
            assert!(later.windows(2).all(|pair| pair[0].number + 1 == pair[1].number), "{later:?}");
        }
        old = new;
    }
}

/// When the last datagram of each flow was sent that was on the wire, by what it was in.
type OnWire = Arc<Mutex<BTreeMap<(&'static str, Flow), u64>>>;

/// Listens on the wire until it is told to end. The load goes on until then.
struct Tap {
    seen: OnWire,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Tap {
    fn new(nodes: &Nodes) -> Tap {
        let wire = {
            let _guard = nodes.nodes[0].test.enter();
            Wire::open("eth0")
        };
        let (seen, ends) = (OnWire::default(), Arc::new(AtomicBool::new(false)));
        let (all, until) = (seen.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let frame = wire.receive();
                if let Some(Numbered { flow, sent, .. }) = Numbered::at_end_of(&frame) {
                    let mut all = all.lock().unwrap();
                    let last = all.entry((carrier(&frame), flow)).or_default();
                    *last = sent.max(*last);
                }
            }
        });
        Tap { seen, ends, thread: Some(thread) }
    }

    fn last(&self, carrier: &'static str, flow: Flow) -> u64 {
        self.seen.lock().unwrap().get(&(carrier, flow)).copied().unwrap_or_default()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let done = self.thread.take().unwrap().join();
        assert!(done.is_ok() || std::thread::panicking());
    }
}

/// What a frame's packet is in.
fn carrier(frame: &[u8]) -> &'static str {
    let (protocol, length) = if frame[12..14] == [8, 0] { (frame[23], 20) } else { (frame[20], 40) };
    match protocol {
        4 | 41 => "IP in IP",
        17 if frame[14 + length + 2..][..2] == 4789u16.to_be_bytes() => "VXLAN",
        _ => "nothing",
    }
}

fn carrier_of(mode: Sending) -> &'static str {
    match mode {
        Sending::Vxlan(_) => "VXLAN",
        Sending::Ipip(_) => "IP in IP",
        Sending::Plain => "nothing",
    }
}

/// Flows between pods of both nodes, each way.
fn between(nodes: &Nodes, load: &Load) -> Vec<Flow> {
    let mut flows = Vec::new();
    for (number, (from, to)) in [((0, 0), (1, 0)), ((1, 1), (0, 1))].into_iter().enumerate() {
        for family in Family::BOTH {
            let flow = flow(number as u8, family);
            load.add_server(number as Place, nodes.server(to, family));
            load.add_client(flow, nodes.socket(from, family), at(nodes.pod(to).address(family)));
            flows.push(flow);
        }
    }
    flows
}

#[test]
fn a_mode_that_is_another_counts_for_all_packets() {
    let mut nodes = Nodes::new(MODES[0], true);
    let (mut chance, mut late, load) = (Chance::new(), Lateness::default(), Load::start());
    let flows = between(&nodes, &load);
    let tap = Tap::new(&nodes);
    let mut is_on = true;
    for _ in 0..50 * rounds() {
        if is_on {
            until_hot(&mut nodes, &load, flows.len());
            late.changes += 1;
        }
        let mode = chance.one_of(&MODES);
        is_on = chance.below(5) > 0;
        chance.pause();
        nodes.change(mode, is_on);
        let done = load.now();
        for flow in &flows {
            load.until("a packet in the new mode", || tap.last(carrier_of(mode), *flow) > done + GRACE);
        }
        for other in ["VXLAN", "IP in IP", "nothing"] {
            for flow in flows.iter().filter(|_| other != carrier_of(mode)) {
                late.note("a mode", tap.last(other, *flow), done);
            }
        }
    }
}

#[test]
fn a_node_that_is_gone_gets_and_says_nothing_more() {
    /// A flow between the nodes' own addresses, to see that time goes by on the wire.
    const OWN: Flow = 100;
    let mut nodes = Nodes::new(ENCAPSULATED[0], true);
    let (mut chance, mut late, load) = (Chance::new(), Lateness::default(), Load::start());
    let flows = between(&nodes, &load);
    let (here, there) = ("172.16.0.1".parse().unwrap(), "172.16.0.2".parse().unwrap());
    let server = socket(&nodes.nodes[1].test, there, 5000);
    load.add_client(OWN, socket(&nodes.nodes[0].test, here, 0), server.local_addr().unwrap());
    load.add_server(99, server);
    let tap = Tap::new(&nodes);
    for _ in 0..2 * rounds() {
        for mode in ENCAPSULATED {
            nodes.change(mode, true);
            for _ in 0..20 {
                until_hot(&mut nodes, &load, flows.len());
                chance.pause();
                load.forget();
                nodes.nodes[0].update([Input::NodeGone(cluster::name(1))]);
                let done = load.now();
                late.changes += 1;
                load.until("a packet from node to node", || tap.last("nothing", OWN) > done + 2 * GRACE);
                load.flush();
                for flow in &flows[..2] {
                    for carrier in ["VXLAN", "IP in IP", "nothing"] {
                        late.note("a node, towards it", tap.last(carrier, *flow), done);
                    }
                }
                for flow in &flows[2..] {
                    late.note("a node, from it", load.last(1, *flow), done);
                }
                nodes.nodes[0].update([Input::Node(cluster::node(1, Stack::Dual))]);
            }
        }
    }
}
