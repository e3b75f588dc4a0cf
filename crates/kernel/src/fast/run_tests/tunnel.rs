//! VXLAN without its device: outer headers that are learned, put before packets, and taken away.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use model::Family;

use super::super::object::Hook;
use super::scene::{
    BRIDGE, FLOW, Fate, Flow, NEXT, POD, PORT, Packet, Scene, Transport, UPLINK, VNI, address, tunnel,
};

/// The Ethernet addresses of this node's tunnel device and of the other's.
const HERE: [u8; 6] = [6, 0, 0, 0, 0, 1];
const THERE: [u8; 6] = [6, 0, 0, 0, 0, 2];
const SOURCE_PORT: u16 = 50_000;

/// An outer header.
#[derive(Debug, Clone)]
struct Outer {
    from: IpAddr,
    to: IpAddr,
    /// Destination and source.
    ethernet: [[u8; 6]; 2],
    class: u8,
    hops: u8,
    port: u16,
    flags: u8,
    vni: u32,
    checksum: u16,
    may_fragment: bool,
}

impl Outer {
    fn to_other(family: Family) -> Outer {
        Outer {
            from: address("node", family),
            to: address("other node", family),
            ethernet: [NEXT, UPLINK],
            class: 0,
            hops: 61,
            port: PORT,
            flags: 8,
            vni: VNI,
            checksum: 0,
            may_fragment: false,
        }
    }

    fn from_other(family: Family) -> Outer {
        let Outer { from, to, .. } = Outer::to_other(family);
        Outer { from: to, to: from, ethernet: [UPLINK, NEXT], ..Outer::to_other(family) }
    }

    fn before(&self, frame: &[u8]) -> Vec<u8> {
        let [to, from] = self.ethernet;
        let length = 16 + frame.len() as u16;
        let mut bytes = [to, from].concat();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header =
                    etherparse::Ipv4Header::new(length, self.hops, 17.into(), from.octets(), to.octets())
                        .unwrap();
                (header.dont_fragment, header.dscp) =
                    (!self.may_fragment, (self.class >> 2).try_into().unwrap());
                header.ecn = (self.class & 3).try_into().unwrap();
                header.header_checksum = header.calc_header_checksum();
                bytes.extend([8, 0]);
                bytes.extend(header.to_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend([0x86, 0xdd, 0x60 | self.class >> 4, self.class << 4 | 5, 6, 7]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([17, self.hops]);
                bytes.extend([from.octets(), to.octets()].concat());
            }
            mixed => panic!("{mixed:?}"),
        }
        for number in [SOURCE_PORT, self.port, length, self.checksum] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend([self.flags, 0, 0, 0]);
        bytes.extend((self.vni << 8).to_be_bytes());
        bytes.extend(frame);
        bytes
    }
}

/// Where the outer IP header begins.
const IP: usize = 14;

/// How a packet goes from a pod here to one elsewhere.
fn out(transport: Transport, inner: Family, outer: Family) -> Flow {
    let entered = Packet { ethernet: [BRIDGE, POD], ..Packet::new(transport, inner, "pod", "far") };
    let mut leaves = Packet { ethernet: [THERE, HERE], ..entered.clone() };
    leaves.hops -= 1;
    let biggest = entered.size();
    Flow { entered, leaves, at: tunnel(outer), age: Duration::ZERO, biggest }
}

/// And back.
fn into(transport: Transport, inner: Family) -> Flow {
    let entered = Packet { ethernet: [HERE, THERE], ..Packet::new(transport, inner, "far", "pod") };
    let mut leaves = Packet { ethernet: [POD, BRIDGE], ..entered.clone() };
    leaves.hops -= 1;
    let biggest = entered.size();
    Flow { entered, leaves, at: "pod", age: Duration::ZERO, biggest }
}

/// Each combination of what there is.
fn combinations() -> impl Iterator<Item = (Transport, Family, Family)> {
    Transport::BOTH.into_iter().flat_map(|transport| {
        Family::BOTH
            .into_iter()
            .flat_map(move |inner| Family::BOTH.map(move |outer| (transport, inner, outer)))
    })
}

/// The flow is learned where its packet goes into the device, and the outer header where that leaves.
fn learn(scene: &mut Scene, flow: &Flow, outer: &Outer) {
    let connection = super::leaving::Journey::of(flow, (Hook::FromPod, "pod"), (Hook::ToWire, flow.at));
    super::leaving::forget_connections();
    connection.settle();
    scene.fast.invalidate().unwrap();
    let known = scene.knows(&flow.entered, "pod");
    scene.passes(Hook::FromPod, "pod", &flow.entered.frame(), if known { "stale" } else { "unknown" });
    let learned = if known { "refreshed" } else { "learned" };
    scene.passes(Hook::ToWire, flow.at, &flow.leaves.frame(), learned);
    assert_eq!(scene.run(Hook::ToWire, "wire", &outer.before(&flow.leaves.frame())), Fate::Passed);
    assert_eq!(scene.counted(), []);
}

#[test]
fn what_the_device_has_put_before_a_packet_is_put_before_the_next() {
    let mut scene = Scene::new();
    for (transport, inner, outer) in combinations() {
        for to_service in [false, true] {
            let mut flow = out(transport, inner, outer);
            if to_service {
                flow.entered.to = SocketAddr::new(address("service", inner), 8080);
            }
            // What the device says of the sum is the packet's own; a network identifier is not the only thing learned.
            let outer = Outer { checksum: 0x1234, class: 0xb8, ..Outer::to_other(outer) };
            learn(&mut scene, &flow, &outer);
            let fate = scene.run(Hook::FromPod, "pod", &flow.entered.frame());
            let expected = Outer { checksum: 0, ..outer }.before(&flow.leaves.frame());
            assert_eq!(fate, Fate::Sent(expected), "{transport:?} {inner:?} {to_service}");
            assert_eq!(scene.counted(), [("hit", 1)]);
        }
    }
}

#[test]
fn an_outer_header_that_is_being_changed_is_not_used() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        let flow = out(Transport::Tcp, Family::V4, family);
        learn(&mut scene, &flow, &Outer::to_other(family));
        let frame = flow.entered.frame();
        let hash = scene.hash(&flow.entered, "pod");
        let whole = scene.entry(hash).unwrap();
        for at in FLOW.end..whole.len() {
            let mut torn = whole;
            torn[at] ^= 0x40;
            scene.put(hash, torn);
            scene.passes(Hook::FromPod, "pod", &frame, "unusual");
        }
        scene.put(hash, whole);
        assert!(matches!(scene.run(Hook::FromPod, "pod", &frame), Fate::Sent(_)));
        scene.counted();
    }
}

#[test]
fn each_packet_has_its_own_length_congestion_marks_and_number() {
    let mut scene = Scene::new();
    for (transport, inner, family) in combinations() {
        let mut flow = out(transport, inner, family);
        flow.entered.payload = 1000;
        flow.leaves.payload = 1000;
        flow.biggest = flow.entered.size();
        let outer = Outer { class: 0xb9, ..Outer::to_other(family) };
        learn(&mut scene, &flow, &outer);
        (flow.entered.payload, flow.leaves.payload) = (17, 17);
        // RFC 6040, section 4.1: what has met congestion inside is a packet that can meet it outside.
        for (inside, outside) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
            let mark = |frame: Vec<u8>| with_class(frame, inside);
            let fate = scene.run(Hook::FromPod, "pod", &mark(flow.entered.frame()));
            let expected = Outer { class: 0xb8 | outside, ..outer.clone() };
            assert_eq!(fate, Fate::Sent(expected.before(&mark(flow.leaves.frame()))));
        }
        scene.counted();
    }
    // One that may be fragmented has a number, and it is not always the same.
    let flow = out(Transport::Udp, Family::V4, Family::V4);
    let outer = Outer { may_fragment: true, ..Outer::to_other(Family::V4) };
    learn(&mut scene, &flow, &outer);
    let mut numbers = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let Fate::Sent(frame) = scene.run(Hook::FromPod, "pod", &flow.entered.frame()) else { panic!() };
        let (header, _) = etherparse::Ipv4Header::from_slice(&frame[IP..]).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        numbers.insert(header.identification);
    }
    assert!(numbers.len() > 90, "{numbers:?}");
}

/// The traffic class of a frame's IP header, whose checksum stays right.
fn with_class(mut frame: Vec<u8>, class: u8) -> Vec<u8> {
    if frame[IP] >> 4 == 4 {
        let (mut header, _) = etherparse::Ipv4Header::from_slice(&frame[IP..]).unwrap();
        (header.dscp, header.ecn) = ((class >> 2).try_into().unwrap(), (class & 3).try_into().unwrap());
        header.header_checksum = header.calc_header_checksum();
        frame[IP..IP + 20].copy_from_slice(&header.to_bytes());
    } else {
        frame[IP] = 0x60 | class >> 4;
        frame[IP + 1] = class << 4 | frame[IP + 1] & 0xf;
    }
    frame
}

#[test]
fn an_outer_header_is_learned_from_the_packet_itself_only() {
    let mut scene = Scene::new();
    for (inner, family) in [(Family::V4, Family::V4), (Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let flow = out(Transport::Udp, inner, family);
        let outer = Outer::to_other(family);
        let mut others = vec![flow.leaves.clone(); 5];
        others[0].from.set_port(1);
        others[1].to.set_port(1);
        others[2].from.set_ip(address("neighbour", inner));
        others[3].to.set_ip(address("outside", inner));
        others[4].transport = Transport::Tcp;
        let mut frames: Vec<Vec<u8>> = others.iter().map(|other| outer.before(&other.frame())).collect();
        let inside = flow.leaves.frame();
        frames.push(Outer { vni: VNI + 1, ..outer.clone() }.before(&inside));
        frames.push(Outer { port: PORT + 1, ..outer.clone() }.before(&inside));
        frames.push(inside.clone());
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        frames.push(Outer::to_other(other).before(&inside));
        for frame in frames {
            // The packet itself never comes: it was dropped on its way.
            learn(&mut scene, &flow, &Outer { vni: 99, ..outer.clone() });
            assert_eq!(scene.run(Hook::ToWire, "wire", &frame), Fate::Passed);
            assert_eq!(scene.run(Hook::FromPod, "pod", &flow.entered.frame()), Fate::Sent(inside.clone()));
            scene.counted();
        }
        // What comes later is taken for it no more.
        learn(&mut scene, &flow, &Outer { vni: 99, ..outer.clone() });
        assert_eq!(scene.run(Hook::ToWire, "wire", &outer.before(&inside)), Fate::Passed);
        assert_eq!(scene.run(Hook::FromPod, "pod", &flow.entered.frame()), Fate::Sent(inside));
        scene.counted();
    }
}

#[test]
fn what_is_known_loses_its_outer_header_where_it_comes_in() {
    let mut scene = Scene::new();
    for (transport, inner, outer) in combinations() {
        for from_service in [false, true] {
            let mut flow = into(transport, inner);
            if from_service {
                flow.leaves.from = SocketAddr::new(address("service", inner), 8080);
            }
            scene.write(&flow.entered, tunnel(outer), &flow);
            // RFC 7348, section 5: the checksum may be zero, and need not be looked at.
            for checksum in [0, 0x1234] {
                let frame =
                    Outer { checksum, class: 0xba, ..Outer::from_other(outer) }.before(&flow.entered.frame());
                let fate = scene.run(Hook::FromWire, "wire", &frame);
                assert_eq!(fate, Fate::Sent(flow.leaves.frame()), "{transport:?} {inner:?} over {outer:?}");
                assert_eq!(scene.counted(), [("hit", 1)]);
            }
        }
    }
}

#[test]
fn all_else_is_left_to_the_device() {
    let mut scene = Scene::new();
    for (transport, inner, family) in combinations() {
        let flow = into(transport, inner);
        scene.write(&flow.entered, tunnel(family), &flow);
        let inside = flow.entered.frame();
        let outer = Outer::from_other(family);
        let good = outer.before(&inside);
        assert!(matches!(scene.run(Hook::FromWire, "wire", &good), Fate::Sent(_)));
        scene.counted();
        let mut frames: Vec<Vec<u8>> = [
            Outer { from: address("outside", family), ..outer.clone() },
            Outer { to: address("other node", family), ..outer.clone() },
            Outer { port: PORT + 1, ..outer.clone() },
            Outer { vni: VNI + 1, ..outer.clone() },
            Outer { flags: 0, ..outer.clone() },
            Outer { flags: 0x88, ..outer.clone() },
            // It has met congestion.
            Outer { class: 3, ..outer.clone() },
        ]
        .iter()
        .map(|outer| outer.before(&inside))
        .collect();
        // Lengths that are not the frame's.
        frames.push([&good[..], &[0; 6]].concat());
        frames.push(good[..good.len() - 1].to_vec());
        let mut changed = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] ^= value;
            frames.push(frame);
        };
        match family {
            Family::V4 => {
                // Options, a fragment, another protocol, a wrong checksum, the length of UDP.
                changed(IP, 3);
                changed(IP + 6, 0x20);
                changed(IP + 7, 1);
                changed(IP + 9, 1);
                changed(IP + 10, 1);
                changed(IP + 25, 1);
            }
            Family::V6 => {
                changed(IP, 0x20);
                changed(IP + 6, 1);
                changed(IP + 45, 1);
            }
        }
        // Inside: unusual, bigger, of a flow that is not known, at its last hop.
        let headers = good.len() - inside.len();
        changed(headers + 12, 1);
        changed(headers + IP, 0x10);
        let mut others = vec![flow.entered.clone(); 4];
        others[0].payload += 1;
        others[1].from.set_port(1);
        others[2].hops = 1;
        others[3].ethernet[0] = BRIDGE;
        frames.extend(others.iter().map(|other| outer.before(&other.frame())));
        if transport == Transport::Tcp {
            let mut last = inside.clone();
            last[flow.entered.transport_at() + 13] |= 1;
            frames.push(outer.before(&last));
        }
        for frame in frames {
            assert_eq!(scene.run(Hook::FromWire, "wire", &frame), Fate::Passed, "{frame:02x?}");
            assert_eq!(scene.counted(), []);
        }
        // For another station on the link.
        let fate = scene.run(
            Hook::FromWire,
            "wire",
            &Outer { ethernet: [POD, NEXT], ..outer.clone() }.before(&inside),
        );
        assert_eq!((fate, scene.counted()), (Fate::Passed, vec![]));
    }
}

#[test]
fn a_device_or_a_node_that_is_gone_has_no_packets() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        let flow = into(Transport::Udp, Family::V4);
        scene.write(&flow.entered, tunnel(family), &flow);
        let frame = Outer::from_other(family).before(&flow.entered.frame());
        let node = address("other node", family);
        scene.fast.set_host(node, false).unwrap();
        assert_eq!(scene.run(Hook::FromWire, "wire", &frame), Fate::Passed);
        scene.fast.set_host(node, true).unwrap();
        assert!(matches!(scene.run(Hook::FromWire, "wire", &frame), Fate::Sent(_)));
        scene.counted();
        let out = out(Transport::Udp, Family::V4, family);
        learn(&mut scene, &out, &Outer::to_other(family));
        assert!(matches!(scene.run(Hook::FromPod, "pod", &out.entered.frame()), Fate::Sent(_)));
        scene.counted();
        scene.write(&flow.entered, tunnel(family), &flow);
        scene.fast.set_link(&super::scene::link(tunnel(family)), None).unwrap();
        assert_eq!(scene.run(Hook::FromWire, "wire", &frame), Fate::Passed);
        scene.passes(Hook::FromPod, "pod", &out.entered.frame(), "stale");
    }
}
