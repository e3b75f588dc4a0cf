//! Packets where they leave the node, and what is learned from them.

use std::net::SocketAddr;
use std::process::Command;

use model::Family;

use super::super::object::Hook;
use super::super::{ATTENTION, LIFETIME, PASSED_BY};
use super::scene::{BRIDGE, Fate, Flow, NEXT, POD, Packet, Scene, Transport, UPLINK, address, run};

/// A packet that enters the node and leaves it.
#[derive(Clone)]
pub(super) struct Journey {
    enter: (Hook, &'static str),
    leave: (Hook, &'static str),
    pub(super) entered: Packet,
    leaves: Packet,
    /// The packet that opened the connection, and the answer to it: what connection tracking has.
    opened: (SocketAddr, SocketAddr),
    answered: (SocketAddr, SocketAddr),
}

fn bridged(transport: Transport, family: Family) -> Journey {
    let entered = Packet::new(transport, family, "pod", "neighbour");
    journey((Hook::FromPod, "pod"), (Hook::ToPod, "neighbour"), entered, 0)
}

pub(super) fn out(transport: Transport, family: Family) -> Journey {
    let entered = Packet::new(transport, family, "pod", "far");
    journey((Hook::FromPod, "pod"), (Hook::ToWire, "wire"), entered, 1)
}

fn into(transport: Transport, family: Family) -> Journey {
    let entered = Packet::new(transport, family, "far", "pod");
    journey((Hook::FromWire, "wire"), (Hook::ToPod, "pod"), entered, 1)
}

fn journey(enter: (Hook, &'static str), leave: (Hook, &'static str), entered: Packet, hops: u8) -> Journey {
    let mut leaves = Packet { ethernet: [NEXT, UPLINK], ..entered.clone() };
    leaves.hops -= hops;
    let (from, to) = (entered.from, entered.to);
    Journey { enter, leave, entered, leaves, opened: (from, to), answered: (to, from) }
}

impl Journey {
    /// That of a flow's packets.
    pub(super) fn of(flow: &Flow, enter: (Hook, &'static str), leave: (Hook, &'static str)) -> Journey {
        let (entered, leaves) = (flow.entered.clone(), flow.leaves.clone());
        let (opened, answered) = ((entered.from, entered.to), (leaves.to, leaves.from));
        Journey { enter, leave, entered, leaves, opened, answered }
    }

    /// A connection to a service: the packet is one to it.
    fn asking(mut self) -> Journey {
        self.entered.to = SocketAddr::new(address("service", Family::of(&self.entered.to.ip())), 8080);
        self.opened.1 = self.entered.to;
        self
    }

    /// A connection to a service: the packet is an answer from it.
    fn answering(mut self) -> Journey {
        self.leaves.from = SocketAddr::new(address("service", Family::of(&self.entered.to.ip())), 8080);
        self.opened = (self.leaves.to, self.leaves.from);
        self.answered = (self.entered.from, self.entered.to);
        self
    }

    /// Has connection tracking know the connection.
    fn track(&self, more: &[&str]) {
        let Journey { opened: (from, to), answered: (back, there), .. } = self;
        let text = [from, to, back, there].map(|end| [end.ip().to_string(), end.port().to_string()]);
        let [from, to, back, there] = &text;
        let mut words = vec!["conntrack", "-I", "-p", self.protocol(), "-t", "100"];
        words.extend(["-s", &from[0], "-d", &to[0], "--sport", &from[1], "--dport", &to[1]]);
        words.extend(["-r", &back[0], "-q", &there[0]]);
        words.extend(["--reply-port-src", &back[1], "--reply-port-dst", &there[1]]);
        words.extend(more);
        run(&words);
    }

    pub(super) fn settle(&self) {
        match self.entered.transport {
            Transport::Tcp => self.track(&["--state", "ESTABLISHED", "-u", "ASSURED,SEEN_REPLY"]),
            Transport::Udp => self.track(&["-u", "ASSURED,SEEN_REPLY"]),
        }
    }

    fn protocol(&self) -> &'static str {
        match self.entered.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }

    /// The packet enters and takes the kernel's path.
    #[track_caller]
    pub(super) fn enters(&self, scene: &mut Scene, reason: &'static str) {
        scene.passes(self.enter.0, self.enter.1, &self.entered.frame(), reason);
    }

    #[track_caller]
    pub(super) fn leaves(&self, scene: &mut Scene, reason: &'static str) {
        scene.passes(self.leave.0, self.leave.1, &self.leaves.frame(), reason);
    }

    #[track_caller]
    pub(super) fn leaves_counted(&self, scene: &mut Scene, counted: &[(&str, u64)]) {
        assert_eq!(scene.run(self.leave.0, self.leave.1, &self.leaves.frame()), Fate::Passed);
        assert_eq!(scene.counted(), counted);
    }

    /// Nothing is made of the packet.
    #[track_caller]
    fn leaves_unseen(&self, scene: &mut Scene) {
        self.leaves_counted(scene, &[]);
    }

    #[track_caller]
    pub(super) fn is_sent(&self, scene: &mut Scene) {
        let fate = scene.run(self.enter.0, self.enter.1, &self.entered.frame());
        assert_eq!(fate, Fate::Sent(self.leaves.frame()));
        assert_eq!(scene.counted(), [("hit", 1)]);
    }
}

pub(super) fn forget_connections() {
    for family in ["ipv4", "ipv6"] {
        run(&["conntrack", "-F", "-f", family]);
    }
}

#[test]
fn what_the_kernel_did_is_learned() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        for transport in Transport::BOTH {
            for way in [bridged, out, into] {
                let plain = way(transport, family);
                for journey in [plain.clone(), plain.clone().asking(), plain.clone().answering()] {
                    if journey.entered.to != plain.entered.to && journey.enter.1 == "wire" {
                        // Whoever sends to a service has made an endpoint of it, or is no pod.
                        continue;
                    }
                    forget_connections();
                    scene.fast.invalidate().unwrap();
                    scene.counted();
                    journey.settle();
                    let known = scene.knows(&journey.entered, journey.enter.1);
                    journey.enters(&mut scene, if known { "stale" } else { "unknown" });
                    journey.leaves(&mut scene, if known { "refreshed" } else { "learned" });
                    journey.is_sent(&mut scene);
                    scene.is_of_service(&journey.entered, &journey.leaves, journey.enter);
                    // From a packet it is learned once.
                    journey.leaves_unseen(&mut scene);
                }
            }
        }
    }
}

#[test]
fn only_what_connection_tracking_has_settled_is_learned() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        let tcp = out(Transport::Tcp, family);
        tcp.enters(&mut scene, "unknown");
        tcp.leaves(&mut scene, "unsettled");
        let both = ["-u", "ASSURED,SEEN_REPLY"];
        for state in ["SYN_SENT", "SYN_RECV", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"] {
            forget_connections();
            tcp.track(&[&["--state", state][..], &both].concat());
            tcp.enters(&mut scene, "unknown");
            tcp.leaves(&mut scene, "unsettled");
        }
        forget_connections();
        tcp.track(&["--state", "ESTABLISHED", "-u", "SEEN_REPLY"]);
        tcp.enters(&mut scene, "unknown");
        tcp.leaves(&mut scene, "unsettled");
        let udp = out(Transport::Udp, family);
        udp.track(&["-u", "SEEN_REPLY"]);
        udp.enters(&mut scene, "unknown");
        udp.leaves(&mut scene, "unsettled");
    }
}

#[test]
fn what_is_masqueraded_is_left_to_the_kernel() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        let mut journey = out(Transport::Tcp, family);
        let node = SocketAddr::new(address("outside", family), 40000);
        journey.answered.1 = node;
        let (from, to) = (journey.opened.0.ip().to_string(), journey.opened.1.ip().to_string());
        run(&[
            "conntrack",
            "-I",
            "-p",
            "tcp",
            "-t",
            "100",
            "-s",
            &from,
            "-d",
            &to,
            "--sport",
            "40000",
            "--dport",
            "80",
            "--state",
            "ESTABLISHED",
            "-u",
            "ASSURED,SEEN_REPLY",
            "--src-nat",
            &node.ip().to_string(),
        ]);
        journey.leaves.from = node;
        journey.enters(&mut scene, "unknown");
        journey.leaves(&mut scene, "special");
    }
}

#[test]
fn what_else_the_kernel_changes_is_left_to_the_kernel() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        let journey = out(Transport::Udp, family);
        journey.settle();
        let mut class = journey.leaves.frame();
        // A bit of the DSCP.
        class[15] ^= 0x80;
        journey.enters(&mut scene, "unknown");
        scene.passes(Hook::ToWire, "wire", &class, "different");
        for hops in [62, 65] {
            let mut other = journey.clone();
            other.leaves.hops = hops;
            other.enters(&mut scene, "unknown");
            other.leaves(&mut scene, "different");
        }
        let mut elsewhere = journey.clone();
        elsewhere.leaves.to.set_port(81);
        elsewhere.enters(&mut scene, "unknown");
        elsewhere.leaves(&mut scene, "different");
    }
}

#[test]
fn flows_are_between_pods_of_the_cluster() {
    let mut scene = Scene::new();
    for family in Family::BOTH {
        for (from, to) in [("pod", "outside"), ("outside", "pod"), ("neighbour", "far")] {
            let entered = Packet::new(Transport::Udp, family, from, to);
            let out = (Hook::ToWire, "wire");
            // The last one comes by the link of another pod.
            let journey = match from {
                "outside" => journey((Hook::FromWire, "wire"), (Hook::ToPod, "pod"), entered, 1),
                _ => journey((Hook::FromPod, "pod"), out, entered, 1),
            };
            journey.settle();
            journey.enters(&mut scene, "unknown");
            journey.leaves(&mut scene, "outside");
        }
        // A bridge that does not know where somebody is sends to all.
        let flooded = Journey { leave: (Hook::ToPod, "pod-peer"), ..bridged(Transport::Udp, family) };
        flooded.settle();
        flooded.enters(&mut scene, "unknown");
        flooded.leaves(&mut scene, "outside");
        bridged(Transport::Udp, family).leaves(&mut scene, "learned");
        // From node to node.
        let entered = Packet::new(Transport::Udp, family, "far", "outside");
        let through = journey((Hook::FromWire, "wire"), (Hook::ToWire, "wire"), entered, 1);
        assert_eq!(scene.run(Hook::FromWire, "wire", &through.entered.frame()), Fate::Passed);
        through.leaves_unseen(&mut scene);
    }
}

#[test]
fn nothing_is_learned_from_a_packet_that_a_change_has_overtaken() {
    let mut scene = Scene::new();
    let journey = out(Transport::Tcp, Family::V4);
    journey.settle();
    journey.enters(&mut scene, "unknown");
    // Whatever it is that changes.
    scene.fast.invalidate_at("fd00:10::3/128".parse().unwrap()).unwrap();
    journey.leaves(&mut scene, "overtaken");
    journey.enters(&mut scene, "unknown");
    journey.leaves(&mut scene, "learned");
}

#[test]
fn a_packet_is_taken_for_no_other() {
    let mut scene = Scene::new();
    let journey = out(Transport::Tcp, Family::V4);
    journey.settle();
    // Nobody has seen it come: it is the node's own.
    journey.leaves_unseen(&mut scene);
    for other in [out(Transport::Udp, Family::V4), out(Transport::Tcp, Family::V6)] {
        other.enters(&mut scene, "unknown");
        journey.leaves_unseen(&mut scene);
    }
    let mut other = journey.clone();
    other.entered.from = SocketAddr::new(address("neighbour", Family::V4), 1);
    other.entered.to = SocketAddr::new(address("outside", Family::V4), 1);
    other.enters(&mut scene, "unknown");
    journey.leaves_unseen(&mut scene);
    // The last packets of a connection say nothing of it.
    journey.enters(&mut scene, "unknown");
    let mut last = journey.leaves.frame();
    last[journey.leaves.transport_at() + 13] |= 1;
    assert_eq!(scene.run(Hook::ToWire, "wire", &last), Fate::Passed);
    assert_eq!(scene.counted(), []);
    journey.leaves(&mut scene, "learned");
}

#[test]
fn what_the_fast_path_sends_teaches_nothing() {
    const MARK: [u32; 4] = [0x5fc1_a937, 0x1be4_6d05, 0x6a02_f3d9, 0x3497_5ec8];
    let mut scene = Scene::new();
    let journey = out(Transport::Tcp, Family::V4);
    journey.settle();
    journey.enters(&mut scene, "unknown");
    let marked = |words: [u32; 4]| {
        move |context: &mut [u8]| {
            for (at, word) in words.iter().enumerate() {
                context[48 + at * 4..52 + at * 4].copy_from_slice(&word.to_ne_bytes());
            }
        }
    };
    let frame = journey.leaves.frame();
    assert_eq!(scene.run_with(Hook::ToWire, "wire", &frame, marked(MARK)), Fate::Passed);
    assert_eq!(scene.counted(), []);
    let almost = [MARK[0], MARK[1], MARK[2], MARK[3] ^ 1];
    assert_eq!(scene.run_with(Hook::ToWire, "wire", &frame, marked(almost)), Fate::Passed);
    assert_eq!(scene.counted(), [("learned", 1)]);
}

#[test]
fn the_biggest_packet_counts_as_long_as_the_flow() {
    let mut scene = Scene::new();
    let small = out(Transport::Udp, Family::V4);
    small.settle();
    let mut big = small.clone();
    (big.entered.payload, big.leaves.payload) = (1200, 1200);
    small.enters(&mut scene, "unknown");
    small.leaves(&mut scene, "learned");
    big.enters(&mut scene, "oversize");
    big.leaves(&mut scene, "refreshed");
    big.is_sent(&mut scene);
    small.is_sent(&mut scene);
    scene.fast.invalidate().unwrap();
    // The way may be another, and what fits it too.
    small.enters(&mut scene, "stale");
    small.leaves(&mut scene, "refreshed");
    small.is_sent(&mut scene);
    big.enters(&mut scene, "oversize");
}

#[test]
fn of_new_flows_a_part_of_the_packets_is_learned_from() {
    let mut scene = Scene::new();
    // One of 16, and one of 4: give or take ten standard deviations.
    for (transport, range) in [(Transport::Tcp, 10..200), (Transport::Udp, 225..575)] {
        let journey = out(transport, Family::V4);
        journey.settle();
        scene.fast.attend_for(ATTENTION, LIFETIME, PASSED_BY).unwrap();
        let hash = scene.hash(&journey.entered, "pod");
        let learned = (0..1600)
            .filter(|_| {
                assert_eq!(scene.run(Hook::FromPod, "pod", &journey.entered.frame()), Fate::Passed);
                assert_eq!(scene.run(Hook::ToWire, "wire", &journey.leaves.frame()), Fate::Passed);
                scene.forget(hash)
            })
            .count();
        assert!(range.contains(&learned), "{transport:?}: {learned}");
    }
    let journey = out(Transport::Tcp, Family::V4);
    // One that is known is learned anew at once.
    scene.fast.attend_for(ATTENTION, LIFETIME, 0).unwrap();
    scene.counted();
    journey.enters(&mut scene, "unknown");
    journey.leaves(&mut scene, "learned");
    scene.fast.attend_for(ATTENTION, LIFETIME, PASSED_BY).unwrap();
    for _ in 0..100 {
        scene.fast.invalidate().unwrap();
        journey.enters(&mut scene, "stale");
        journey.leaves(&mut scene, "refreshed");
    }
}

/// The seconds after which connection tracking forgets the only connection that it has.
fn forgotten_after(protocol: &str) -> u32 {
    let output = Command::new("conntrack").args(["-L", "-p", protocol]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().nth(2).unwrap_or_else(|| panic!("{text:?}")).parse().unwrap()
}

#[test]
fn an_idle_connection_is_tracked_as_long_as_on_the_kernels_path() {
    let mut scene = Scene::new();
    for (transport, least) in [(Transport::Tcp, 430_000), (Transport::Udp, 0)] {
        let journey = out(transport, Family::V4);
        journey.settle();
        let protocol = journey.protocol();
        assert!(forgotten_after(protocol) <= 100);
        journey.enters(&mut scene, "unknown");
        journey.leaves(&mut scene, "learned");
        let after = forgotten_after(protocol);
        assert!(after >= least && (least > 0 || after <= 100), "{protocol}: {after} s");
    }
}

#[test]
fn ends_of_pods_are_seen_in_both_directions() {
    let mut scene = Scene::new();
    let mut there = bridged(Transport::Tcp, Family::V6);
    there.leaves.ethernet = [POD, BRIDGE];
    there.settle();
    let mut back = there.clone();
    back.enter.1 = "neighbour";
    back.leave.1 = "pod";
    (back.entered.from, back.entered.to) = (there.leaves.to, there.leaves.from);
    (back.leaves.from, back.leaves.to) = (back.entered.from, back.entered.to);
    for journey in [&there, &back] {
        journey.enters(&mut scene, "unknown");
        journey.leaves(&mut scene, "learned");
        journey.is_sent(&mut scene);
    }
}
