//! Packets where they enter the node.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use model::Family;

use super::super::object::Hook;
use super::super::{ATTENTION, LIFETIME};
use super::scene::{BRIDGE, FLOW, Fate, Flow, NEXT, POD, Packet, Scene, Transport, UPLINK, address};

/// A way through the node: where packets enter and leave, and what becomes of their headers.
struct Way {
    hook: Hook,
    from: &'static str,
    to: &'static str,
    enter: &'static str,
    leave: &'static str,
    hops: u8,
    before: [[u8; 6]; 2],
    after: [[u8; 6]; 2],
}

fn ways() -> [Way; 4] {
    let bridged = Way {
        hook: Hook::FromPod,
        from: "pod",
        to: "neighbour",
        enter: "pod",
        leave: "neighbour",
        hops: 0,
        before: [NEXT, POD],
        after: [NEXT, POD],
    };
    let routed = Way { hops: 1, before: [BRIDGE, POD], after: [NEXT, BRIDGE], ..bridged };
    let out =
        Way { to: "far", leave: "wire", hops: 1, before: [BRIDGE, POD], after: [NEXT, UPLINK], ..bridged };
    let into = Way {
        hook: Hook::FromWire,
        from: "far",
        to: "pod",
        enter: "wire",
        leave: "pod",
        hops: 1,
        before: [UPLINK, NEXT],
        after: [POD, BRIDGE],
    };
    [bridged, routed, out, into]
}

impl Way {
    fn flow(&self, transport: Transport, family: Family) -> Flow {
        let mut entered = Packet::new(transport, family, self.from, self.to);
        entered.ethernet = self.before;
        let mut leaves = entered.clone();
        leaves.ethernet = self.after;
        leaves.hops -= self.hops;
        let biggest = entered.size();
        Flow { entered, leaves, at: self.leave, age: Duration::ZERO, biggest }
    }
}

/// The first way from a pod, which needs a route.
fn out(transport: Transport, family: Family) -> Flow {
    let [_, _, out, _] = ways();
    out.flow(transport, family)
}

/// Writes a flow, and sees that it is one.
fn known(scene: &mut Scene, flow: &Flow) -> Vec<u8> {
    scene.write(&flow.entered, "pod", flow);
    let frame = flow.entered.frame();
    assert_eq!(scene.run(Hook::FromPod, "pod", &frame), Fate::Sent(flow.leaves.frame()));
    assert_eq!(scene.counted(), [("hit", 1)]);
    frame
}

#[test]
fn what_is_known_is_done_again_to_the_last_byte() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        for transport in Transport::BOTH {
            for way in ways() {
                // As it is; to a service, which becomes an endpoint; and an answer, which becomes the service's.
                for translated in 0..3 {
                    let mut flow = way.flow(transport, family);
                    let service = SocketAddr::new(address("service", family), 8080);
                    match translated {
                        1 => flow.entered.to = service,
                        2 => flow.leaves.from = service,
                        _ => {}
                    }
                    scene.write(&flow.entered, way.enter, &flow);
                    let fate = scene.run(way.hook, way.enter, &flow.entered.frame());
                    let to = way.to;
                    assert_eq!(
                        fate,
                        Fate::Sent(flow.leaves.frame()),
                        "{family:?} {transport:?} {to} {translated}"
                    );
                    assert_eq!(scene.counted(), [("hit", 1)]);
                }
            }
        }
    }
}

#[test]
fn packets_with_next_to_nothing_in_them_are_packets() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        for transport in Transport::BOTH {
            for payload in 0..12 {
                let mut flow = out(transport, family);
                (flow.entered.payload, flow.leaves.payload) = (payload, payload);
                known(&mut scene, &flow);
                // A part of TCP's header is none.
                let frame = Packet { payload: 0, ..flow.entered.clone() }.frame();
                let at = flow.entered.transport_at() + 8 + payload;
                if transport == Transport::Tcp && at < frame.len() {
                    scene.passes(Hook::FromPod, "pod", &shortened(&frame, at), "unusual");
                }
            }
        }
    }
}

/// As much of a frame, with lengths that say so.
fn shortened(frame: &[u8], bytes: usize) -> Vec<u8> {
    let mut frame = frame[..bytes].to_vec();
    let (at, length) = if frame[12] == 8 { (16, bytes - 14) } else { (18, bytes - 54) };
    frame[at..at + 2].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    frame
}

#[test]
fn no_checksum_stays_none_and_a_wrong_one_stays_wrong() {
    let mut scene = Scene::new();
    let mut flow = out(Transport::Udp, Family::V4);
    flow.entered.to = SocketAddr::new(address("service", Family::V4), 8080);
    scene.write(&flow.entered, "pod", &flow);
    let [mut entered, mut leaves] = [&flow.entered, &flow.leaves].map(Packet::frame);
    for frame in [&mut entered, &mut leaves] {
        frame[40..42].fill(0);
    }
    assert_eq!(scene.run(Hook::FromPod, "pod", &entered), Fate::Sent(leaves));
    let [mut entered, leaves] = [&flow.entered, &flow.leaves].map(Packet::frame);
    entered[24] ^= 0x10;
    let Fate::Sent(sent) = scene.run(Hook::FromPod, "pod", &entered) else { panic!("left") };
    assert_ne!(sent[24..26], leaves[24..26]);
    assert_eq!((&sent[..24], &sent[26..]), (&leaves[..24], &leaves[26..]));
}

#[test]
fn the_first_and_last_packets_of_tcp_take_the_kernels_path_and_end_the_flow() {
    const FLAGS: usize = 13;
    let mut scene = Scene::new();
    for family in Family::BOTH {
        for flag in [1, 2, 4] {
            let flow = out(Transport::Tcp, family);
            let mut frame = known(&mut scene, &flow);
            let answers = Packet { from: flow.leaves.to, to: flow.leaves.from, ..flow.leaves.clone() };
            let [_, _, _, into] = ways();
            let back = Flow {
                leaves: answers.clone(),
                entered: answers.clone(),
                ..into.flow(Transport::Tcp, family)
            };
            scene.write(&answers, "wire", &back);
            frame[flow.entered.transport_at() + FLAGS] |= flag;
            assert_eq!(scene.run(Hook::FromPod, "pod", &frame), Fate::Passed);
            assert_eq!(scene.counted(), [("control", 1), ("ended", 2)]);
            assert!(!scene.knows(&flow.entered, "pod") && !scene.knows(&answers, "wire"));
            scene.passes(Hook::FromPod, "pod", &frame, "control");
        }
    }
}

#[test]
fn what_is_unusual_takes_the_kernels_path() {
    let mut scene = Scene::new();
    let mut unusual: Vec<Vec<u8>> = Vec::new();
    let four = known(&mut scene, &out(Transport::Udp, Family::V4));
    let six = known(&mut scene, &out(Transport::Udp, Family::V6));
    let changed = |frame: &[u8], changes: &[(usize, u8)]| {
        let mut frame = frame.to_vec();
        changes.iter().for_each(|(at, value)| frame[*at] = *value);
        frame
    };
    // Fragments: the first, and another one.
    unusual.push(changed(&four, &[(20, 0x20)]));
    unusual.push(changed(&four, &[(21, 1)]));
    // Options.
    unusual.push(changed(&four, &[(14, 0x46)]));
    unusual.push(changed(&four, &[(14, 0x65)]));
    // ICMP, SCTP, and what there is besides.
    for protocol in [1, 132, 47, 4, 41, 0] {
        unusual.push(changed(&four, &[(23, protocol)]));
    }
    // Hop-by-hop options, routing, fragment, destination options, ICMP.
    for next in [0, 43, 44, 60, 58, 132, 59] {
        unusual.push(changed(&six, &[(20, next)]));
    }
    unusual.push(changed(&six, &[(14, 0x45)]));
    // Lengths that are not that of the frame; a part of a header; other protocols.
    for frame in [&four, &six] {
        unusual.push([frame.as_slice(), &[0; 6]].concat());
        unusual.push(frame[..frame.len() - 1].to_vec());
        unusual.push(frame[..frame.len() - 38].to_vec());
        unusual.push(changed(frame, &[(12, 8), (13, 6)]));
        unusual.push(changed(frame, &[(12, 0x88), (13, 0x47)]));
    }
    unusual.push([&four[..12], &[0x81, 0, 0, 5], &four[12..]].concat());
    for frame in unusual {
        scene.passes(Hook::FromPod, "pod", &frame, "unusual");
        // On the wire there is much that is none of our business.
        assert_eq!(scene.run(Hook::FromWire, "wire", &frame), Fate::Passed);
        assert_eq!(scene.counted(), []);
    }
}

#[test]
fn no_packet_is_bigger_than_what_the_kernel_has_let_through() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        for transport in Transport::BOTH {
            let mut flow = out(transport, family);
            known(&mut scene, &flow);
            flow.entered.payload += 1;
            scene.passes(Hook::FromPod, "pod", &flow.entered.frame(), "oversize");
        }
        // Of a packet that is yet to be cut, segments count.
        let mut flow = out(Transport::Tcp, family);
        known(&mut scene, &flow);
        let headers = flow.biggest - flow.entered.payload as u32;
        flow.entered.payload *= 3;
        for (segment, fits) in [(33, true), (34, false)] {
            assert_eq!(headers + segment <= flow.biggest, fits);
            let fate = scene.run_with(Hook::FromPod, "pod", &flow.entered.frame(), |context| {
                context[164..168].copy_from_slice(&3u32.to_ne_bytes());
                context[176..180].copy_from_slice(&segment.to_ne_bytes());
            });
            assert_eq!(fate != Fate::Passed, fits);
            assert_eq!(scene.counted(), [(if fits { "hit" } else { "oversize" }, 1)]);
        }
    }
}

#[test]
fn the_last_hop_is_the_kernels() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        let [bridged, _, routed, _] = ways();
        for (way, last) in [(bridged, 0), (routed, 1)] {
            let mut flow = way.flow(Transport::Udp, family);
            scene.write(&flow.entered, "pod", &flow);
            flow.entered.hops = last;
            scene.passes(Hook::FromPod, "pod", &flow.entered.frame(), "last-hop");
            (flow.entered.hops, flow.leaves.hops) = (last + 1, 1);
            let frame = flow.leaves.frame();
            assert_eq!(scene.run(Hook::FromPod, "pod", &flow.entered.frame()), Fate::Sent(frame));
            scene.counted();
        }
    }
}

#[test]
fn a_flow_is_where_it_was_learned() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        let flow = out(Transport::Tcp, family);
        let frame = known(&mut scene, &flow);
        // Another pod that poses as the first, for the source guard to see.
        scene.passes(Hook::FromPod, "neighbour", &frame, "unknown");
        // It is for no pod here, so it is nobody's.
        assert_eq!(scene.run(Hook::FromWire, "wire", &frame), Fate::Passed);
        assert_eq!(scene.counted(), []);
        for ethernet in [[NEXT, POD], [BRIDGE, NEXT], [[0xff; 6], POD]] {
            let other = Packet { ethernet, ..flow.entered.clone() };
            scene.passes(Hook::FromPod, "pod", &other.frame(), "moved");
        }
        for port in [flow.entered.from.port() + 1, 0] {
            let mut other = flow.entered.clone();
            other.from.set_port(port);
            scene.passes(Hook::FromPod, "pod", &other.frame(), "unknown");
        }
        let other = Packet { transport: Transport::Udp, ..flow.entered.clone() };
        scene.passes(Hook::FromPod, "pod", &other.frame(), "unknown");
    }
}

#[test]
fn flows_are_used_for_a_time_and_only_if_attended_to() {
    let mut scene = Scene::new();
    scene.fast.attend_for(ATTENTION, LIFETIME, 0).unwrap();
    let mut flow = out(Transport::Tcp, Family::V4);
    flow.age = LIFETIME + Duration::from_millis(100);
    scene.write(&flow.entered, "pod", &flow);
    let frame = flow.entered.frame();
    scene.passes(Hook::FromPod, "pod", &frame, "expired");
    scene.fast.attend_for(ATTENTION, LIFETIME * 1000, 0).unwrap();
    assert!(matches!(scene.run(Hook::FromPod, "pod", &frame), Fate::Sent(_)));
    scene.counted();
    scene.fast.attend_for(Duration::ZERO, LIFETIME * 1000, 0).unwrap();
    // The clock of the programs ticks every few milliseconds.
    let passes = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        scene.run(Hook::FromPod, "pod", &frame) == Fate::Passed
    });
    assert!(passes);
    scene.counted();
    scene.passes(Hook::FromPod, "pod", &frame, "unattended");
}

#[test]
fn every_generation_ends_the_flows_that_it_is_for() {
    let mut scene = Scene::new();
    let everything = |scene: &mut Scene| scene.fast.invalidate().unwrap();
    let place = |scene: &mut Scene, net: &str| {
        let net: IpNet = net.parse().unwrap();
        scene.fast.invalidate_at(net).unwrap();
    };
    let moved = |scene: &mut Scene, who: &str, to: Option<&str>| {
        let link = to.map(super::scene::link);
        scene.fast.set_pod(address(who, Family::V4), link.as_ref()).unwrap();
    };
    type Change<'a> = Box<dyn Fn(&mut Scene) + 'a>;
    let changes: [(Change<'_>, bool); 9] = [
        (Box::new(everything), true),
        (Box::new(|scene| place(scene, "10.128.0.2/32")), true),
        (Box::new(|scene| place(scene, "10.128.1.0/24")), true),
        // An endpoint of another node: its range goes.
        (Box::new(|scene| place(scene, "10.128.1.2/32")), true),
        (Box::new(|scene| place(scene, "10.128.0.0/16")), true),
        (Box::new(|scene| place(scene, "10.128.0.3/32")), false),
        (Box::new(|scene| place(scene, "fd00:10::2/128")), false),
        (Box::new(|scene| place(scene, "10.128.2.0/24")), false),
        (Box::new(|scene| moved(scene, "neighbour", None)), false),
    ];
    for (change, ends) in changes {
        let flow = out(Transport::Udp, Family::V4);
        let frame = known(&mut scene, &flow);
        change(&mut scene);
        if ends {
            scene.passes(Hook::FromPod, "pod", &frame, "stale");
        } else {
            assert!(matches!(scene.run(Hook::FromPod, "pod", &frame), Fate::Sent(_)));
            scene.counted();
        }
    }
    moved(&mut scene, "neighbour", Some("neighbour"));
    // A pod ends and another one gets its address: neither what it sends nor what it is sent is a flow of the first.
    let [bridged, _, _, into] = ways();
    for way in [bridged, into] {
        let flow = way.flow(Transport::Udp, Family::V4);
        scene.write(&flow.entered, way.enter, &flow);
        moved(&mut scene, "pod", None);
        moved(&mut scene, "pod", Some("pod-peer"));
        scene.passes(way.hook, way.enter, &flow.entered.frame(), "stale");
        moved(&mut scene, "pod", None);
        moved(&mut scene, "pod", Some("pod"));
    }
    let flow = out(Transport::Udp, Family::V4);
    let frame = known(&mut scene, &flow);
    scene.fast.set_range("10.128.1.0/24".parse().unwrap(), false).unwrap();
    scene.passes(Hook::FromPod, "pod", &frame, "stale");
}

#[test]
fn a_change_of_a_service_ends_its_flows_and_answers() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        for transport in Transport::BOTH {
            let mut asking = out(transport, family);
            asking.entered.to = SocketAddr::new(address("service", family), 8080);
            let mut answering = out(transport, family);
            answering.leaves.from = asking.entered.to;
            for flow in [out(transport, family), asking, answering] {
                let frame = known(&mut scene, &flow);
                let own = flow.frontend();
                let mut others = vec![own; 3];
                others[0].port += 1;
                others[1].address = address("outside", family);
                others[2].protocol = model::Protocol::Sctp;
                scene.fast.invalidate_frontends(&others).unwrap();
                assert!(matches!(scene.run(Hook::FromPod, "pod", &frame), Fate::Sent(_)));
                scene.counted();
                scene.fast.invalidate_frontends([&own]).unwrap();
                scene.passes(Hook::FromPod, "pod", &frame, "stale");
            }
        }
    }
}

#[test]
fn what_is_being_changed_is_not_used() {
    let mut scene = Scene::new();
    let flow = out(Transport::Tcp, Family::V6);
    let frame = known(&mut scene, &flow);
    let hash = scene.hash(&flow.entered, "pod");
    let whole = scene.entry(hash).unwrap();
    for at in 0..FLOW.end {
        let mut torn = whole;
        torn[at] ^= 0x40;
        scene.put(hash, torn);
        scene.passes(Hook::FromPod, "pod", &frame, "unknown");
    }
}
