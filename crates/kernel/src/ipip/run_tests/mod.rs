//! The programs run on packets without a network (`BPF_PROG_TEST_RUN`), and what comes out compared byte by byte.

#![allow(clippy::unwrap_used)]

mod egress;
mod ingress;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions};
use etherparse::{IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder};
use model::{Family, PerFamily};
use plan::ipip::{NextHop, Outer, Route, Table};

use super::object::{Entries, Hook, Object};
use super::{Counters, keepalive, layout};

/// The own outer addresses, those of another node, and of one who is no node.
const HERE: [&str; 2] = ["172.16.0.1", "2001:db8::1"];
const THERE: [&str; 2] = ["172.16.0.2", "2001:db8::2"];
const STRANGER: [&str; 2] = ["172.16.0.99", "2001:db8::99"];
/// A pod here, and pods behind the other node: by outer family.
const POD: [&str; 2] = ["10.128.0.5", "fd00:10::5"];
const FAR: [[&str; 2]; 2] = [["10.129.1.7", "fd00:11:4::7"], ["10.130.1.7", "fd00:11:6::7"]];

const FAMILIES: [Family; 2] = Family::BOTH;

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Left to the kernel, in this shape.
    Passed(Vec<u8>),
    /// Sent in this shape to where the kernel's routes say.
    Routed(Vec<u8>),
    Dropped,
}

/// Programs of their own, with the table of a node that has one other.
struct Bench {
    object: Object,
    before: Counters,
}

fn write(object: &mut Object, table: &Table) {
    table.locals.iter().for_each(|local| object.set_local(*local, true).unwrap());
    table.nodes.iter().for_each(|node| object.set_node(*node, true).unwrap());
    table.routes.iter().for_each(|(net, route)| object.set_route(*net, Some(route)).unwrap());
}

impl Bench {
    fn new() -> Bench {
        Bench::with(&table())
    }

    fn with(table: &Table) -> Bench {
        let mut object = Object::load(None).unwrap();
        write(&mut object, table);
        Bench { object, before: Counters::default() }
    }

    fn run(&mut self, hook: Hook, frame: &[u8]) -> Fate {
        self.run_with(hook, frame, None)
    }

    fn run_with(&mut self, hook: Hook, frame: &[u8], context: Option<&[u8]>) -> Fate {
        let mut out = vec![0; 4096];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context,
            ..TestRunOptions::default()
        };
        let result = self.object.program(hook).unwrap().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        match result.return_value as i32 {
            -1 => Fate::Passed(out),
            7 => Fate::Routed(out),
            2 => Fate::Dropped,
            other => panic!("the program returned {other}"),
        }
    }

    /// What was counted since the last call.
    fn counted(&mut self) -> Counters {
        let now = self.object.counters().unwrap();
        let before = std::mem::replace(&mut self.before, now);
        Counters {
            encapsulated: now.encapsulated - before.encapsulated,
            decapsulated: now.decapsulated - before.decapsulated,
            keepalives: now.keepalives - before.keepalives,
            held: now.held - before.held,
            refused: now.refused - before.refused,
            malformed: now.malformed - before.malformed,
            congested: now.congested - before.congested,
            failed: now.failed - before.failed,
        }
    }

    /// The frame is left as it is, and nothing is counted.
    #[track_caller]
    fn passes(&mut self, hook: Hook, frame: &[u8]) {
        assert_eq!(self.run(hook, frame), Fate::Passed(frame.to_vec()));
        assert_eq!(self.counted(), Counters::default());
    }

    #[track_caller]
    fn drops(&mut self, hook: Hook, frame: &[u8], counted: Counters) {
        assert_eq!(self.run(hook, frame), Fate::Dropped);
        assert_eq!(self.counted(), counted);
    }
}

fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route(family: Family, hold: Option<Duration>) -> Route {
    let of = index(family);
    Route { outer: Outer::new(address(HERE[of]), address(THERE[of])).unwrap(), next_hop: NextHop::Kept, hold }
}

fn table() -> Table {
    let nets = [["10.129.0.0/16", "fd00:11:4::/64"], ["10.130.0.0/16", "fd00:11:6::/64"]];
    let routes = FAMILIES
        .iter()
        .flat_map(|family| nets[index(*family)].map(|net| (net.parse().unwrap(), route(*family, None))));
    Table {
        routes: routes.collect(),
        nodes: THERE.map(address).into(),
        locals: HERE.map(address).into(),
        ..Table::default()
    }
}

/// The ToS or traffic class with an ECN field and some DSCP.
fn class(ecn: u8) -> u8 {
    46 << 2 | ecn
}

fn protocol(inner: Family) -> IpNumber {
    match inner {
        Family::V4 => IpNumber::IPV4,
        Family::V6 => IpNumber::IPV6,
    }
}

fn header4(from: Ipv4Addr, to: Ipv4Addr, protocol: IpNumber, class: u8, length: usize) -> Ipv4Header {
    let mut header = Ipv4Header::new(length as u16, 64, protocol, from.octets(), to.octets()).unwrap();
    header.dscp = (class >> 2).try_into().unwrap();
    header.ecn = IpEcn::try_new(class & 3).unwrap();
    header
}

/// An IP packet: a header and what follows.
fn packet(from: IpAddr, to: IpAddr, protocol: IpNumber, class: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header4(from, to, protocol, class, payload.len()).write(&mut bytes).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: class,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: payload.len() as u16,
                next_header: protocol,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
            };
            header.write(&mut bytes).unwrap();
        }
        _ => panic!("{from} and {to}"),
    }
    [bytes, payload.to_vec()].concat()
}

/// What a pod here sends to a pod there.
fn inner(family: Family, outer: Family, class: u8) -> Vec<u8> {
    let (from, to) = (address(POD[index(family)]), address(FAR[index(outer)][index(family)]));
    packet(from, to, IpNumber::UDP, class, &datagram())
}

fn datagram() -> Vec<u8> {
    [&[0x10, 0, 0x20, 0, 0, 23, 0, 0][..], b"what pods say"].concat()
}

/// What a pod there sends to a pod here, as it comes from the node there.
fn wrapped(family: Family, outer: Family, outer_class: u8, inner_class: u8) -> Vec<u8> {
    let (from, to) = (address(FAR[index(outer)][index(family)]), address(POD[index(family)]));
    let inner = packet(from, to, IpNumber::UDP, inner_class, &datagram());
    let (from, to) = (address(THERE[index(outer)]), address(HERE[index(outer)]));
    packet(from, to, protocol(family), outer_class, &inner)
}

fn unwrapped(family: Family, outer: Family, class: u8) -> Vec<u8> {
    let (from, to) = (address(FAR[index(outer)][index(family)]), address(POD[index(family)]));
    packet(from, to, IpNumber::UDP, class, &datagram())
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = match packet[0] >> 4 {
        4 => [8, 0],
        _ => [0x86, 0xdd],
    };
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..], &kind, packet].concat()
}

/// Puts the flow label of a frame's outermost header, which depends on a secret of the kernel, to zero. The label.
fn without_label(frame: &mut [u8]) -> u32 {
    let word: [u8; 4] = frame[14..18].try_into().unwrap();
    if frame[14] >> 4 == 6 {
        frame[15] &= 0xf0;
        frame[16..18].fill(0);
    }
    u32::from_be_bytes(word) & 0xfffff
}

#[test]
fn the_kernel_accepts_the_programs() {
    let mut object = Object::load(None).unwrap();
    for hook in Hook::BOTH {
        crate::bpf::assert_easy(object.program(hook).unwrap());
    }
}

#[test]
fn what_makes_no_sense_goes() {
    let mut object = Object::load(None).unwrap();
    let wanted = table();
    write(&mut object, &wanted);
    object.nodes.put(&[0; 20], &[0; 2]).unwrap();
    object.locals.put(&[9; 20], &1).unwrap();
    object.routes4.put(&([10, 9, 0, 0], 16), &[0; 56]).unwrap();
    object.routes6.put(&([0xfd; 16], 128), &[0; 56]).unwrap();
    let (found, stale) = object.table().unwrap();
    assert_eq!(found, wanted);
    object.clear(&stale).unwrap();
    assert_eq!(object.nodes.all().unwrap().len(), wanted.nodes.len());
    assert_eq!(object.locals.all().unwrap().len(), wanted.locals.len());
    let routes = object.routes4.all().unwrap().len() + object.routes6.all().unwrap().len();
    assert_eq!(routes, wanted.routes.len());
    assert_eq!(object.table().unwrap().0, wanted);
}

#[test]
fn the_route_of_a_destination_is_that_of_the_longest_prefix() {
    let mut object = Object::load(None).unwrap();
    let wanted = table();
    write(&mut object, &wanted);
    for (destination, route) in &wanted.routes {
        assert_eq!(object.route(*destination).unwrap().as_ref(), Some(route));
        let address = destination.addr().into();
        assert_eq!(object.route(address).unwrap().as_ref(), Some(route));
    }
    for net in ["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"] {
        assert_eq!(object.route(net.parse().unwrap()).unwrap(), None);
    }
}

#[test]
fn one_entry_is_changed_and_the_rest_stays() {
    let mut object = Object::load(None).unwrap();
    let mut wanted = table();
    write(&mut object, &wanted);
    let there = layout::address(address(THERE[1]));
    object.nodes.put(&there, &[0, 78]).unwrap();
    for net in ["10.128.7.0/26", "fd00:7::/64", "10.129.0.0/16"] {
        let route = route(Family::V6, Some(Duration::from_secs(7)));
        object.set_route(net.parse().unwrap(), Some(&route)).unwrap();
        wanted.routes.insert(net.parse().unwrap(), route);
    }
    for net in ["10.130.0.0/16", "fd00:11:4::/64", "fd00:99::/64"] {
        object.set_route(net.parse().unwrap(), None).unwrap();
        wanted.routes.remove(&net.parse().unwrap());
    }
    for stranger in STRANGER.map(address) {
        object.set_node(stranger, true).unwrap();
        object.set_local(stranger, true).unwrap();
        wanted.nodes.insert(stranger);
        wanted.locals.insert(stranger);
    }
    // What is so already: heard remains heard, and what is not there is not missed.
    object.set_node(address(THERE[1]), true).unwrap();
    object.set_local(address(HERE[1]), true).unwrap();
    for _ in 0..2 {
        object.set_node(address(THERE[0]), false).unwrap();
        object.set_local(address(HERE[0]), false).unwrap();
    }
    wanted.nodes.remove(&address(THERE[0]));
    wanted.locals.remove(&address(HERE[0]));
    assert_eq!(object.table().unwrap().0, wanted);
    assert_eq!(object.nodes.all().unwrap()[&there], [0, 78]);
}
