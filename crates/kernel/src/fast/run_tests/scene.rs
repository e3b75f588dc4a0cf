//! A namespace with links of two pods and a wire, and packets.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aya::maps::{Array, MapData};
use aya::programs::{TestRun, TestRunOptions};
use etherparse::{IpNumber, PacketBuilder};
use model::{Family, LinkName, Protocol};
use plan::services::Frontend;

use super::super::object::Hook;
use super::super::{ATTENTION, Counters, Fast, LIFETIME, Side, layout};
use crate::netns::{self, Guard, NetNs};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// What the tunnels of both families have in common.
pub(super) const VNI: u32 = 7;
pub(super) const PORT: u16 = 4790;

/// Ethernet addresses: of pods, of the node towards pods and wire, of another node.
pub(super) const POD: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const BRIDGE: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(super) const UPLINK: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub(super) const NEXT: [u8; 6] = [2, 0, 0, 0, 0, 4];

/// Of both pods here, a pod elsewhere, a service, and somebody outside of the cluster.
pub(super) fn address(who: &str, family: Family) -> IpAddr {
    let [v4, v6] = match who {
        "pod" => ["10.128.0.2", "fd00:10::2"],
        "neighbour" => ["10.128.0.3", "fd00:10::3"],
        "far" => ["10.128.1.2", "fd00:10:0:1::2"],
        "service" => ["10.96.0.10", "fd00:96::10"],
        "outside" => ["192.0.2.1", "2001:db8:f::1"],
        "node" => ["172.16.0.1", "2001:db8::1"],
        "other node" => ["172.16.0.2", "2001:db8::2"],
        _ => panic!("{who} is nobody"),
    };
    match family {
        Family::V4 => v4.parse().unwrap(),
        Family::V6 => v6.parse().unwrap(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(super) const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

    pub(super) fn number(self) -> IpNumber {
        match self {
            Transport::Tcp => IpNumber::TCP,
            Transport::Udp => IpNumber::UDP,
        }
    }
}

/// A packet of a flow, with all that can be changed on its way.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) transport: Transport,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) hops: u8,
    /// Destination and source.
    pub(super) ethernet: [[u8; 6]; 2],
    pub(super) payload: usize,
}

impl Packet {
    pub(super) fn new(transport: Transport, family: Family, from: &str, to: &str) -> Packet {
        Packet {
            transport,
            from: SocketAddr::new(address(from, family), 40000),
            to: SocketAddr::new(address(to, family), 80),
            hops: 64,
            ethernet: [BRIDGE, POD],
            payload: 33,
        }
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        let payload: Vec<u8> = (0..self.payload).map(|at| at as u8).collect();
        let [destination, source] = self.ethernet;
        let builder = PacketBuilder::ethernet2(source, destination);
        let builder = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), self.hops),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), self.hops),
            mixed => panic!("{mixed:?}"),
        };
        let mut frame = Vec::new();
        let (from, to) = (self.from.port(), self.to.port());
        match self.transport {
            Transport::Tcp => {
                builder.tcp(from, to, 1000, 500).ack(77).psh().write(&mut frame, &payload).unwrap();
            }
            Transport::Udp => builder.udp(from, to).write(&mut frame, &payload).unwrap(),
        }
        frame
    }

    /// Where the transport's header begins in the frame.
    pub(super) fn transport_at(&self) -> usize {
        14 + if self.from.is_ipv4() { 20 } else { 40 }
    }

    pub(super) fn size(&self) -> u32 {
        self.frame().len() as u32 - 14
    }
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Left to the kernel.
    Passed,
    /// Sent by the fast path, in this shape.
    Sent(Vec<u8>),
    Dropped,
}

pub(super) struct Scene {
    pub(super) fast: Fast,
    flows: Array<MapData, [u8; size_of::<Bucket>()]>,
    path: PathBuf,
    before: Counters,
    _guard: Guard,
    _namespace: NetNs,
}

impl Scene {
    /// Programs with a namespace of their own, which is that of the calling thread from now on.
    pub(super) fn new() -> Scene {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(netns::NAMED).join(format!("krn-{}-{count}-run", std::process::id()));
        let namespace = netns::create_named(&path).unwrap();
        let guard = namespace.enter().unwrap();
        stay_on_one_processor();
        for name in ["pod", "neighbour", "wire"] {
            run(&["ip", "link", "add", name, "type", "veth", "peer", "name", &format!("{name}-peer")]);
        }
        // So that the kernel takes what is for it as for this node.
        run(&["ip", "link", "set", "wire", "address", &model::MacAddr(UPLINK).to_string()]);
        let mut fast = Fast::open(None).unwrap();
        for family in Family::BOTH {
            for pod in ["pod", "neighbour"] {
                fast.set_pod(address(pod, family), Some(&link(pod))).unwrap();
            }
            let range = match family {
                Family::V4 => "10.128.1.0/24",
                Family::V6 => "fd00:10:0:1::/64",
            };
            fast.set_range(range.parse().unwrap(), true).unwrap();
            let (local, vni, port) = (address("node", family).to_string(), VNI.to_string(), PORT.to_string());
            let name = tunnel(family);
            let device =
                ["vxlan", "id", &vni, "local", &local, "dstport", &port, "nolearning", "udp6zerocsumrx"];
            run(&[&["ip", "link", "add", name, "type"][..], &device].concat());
            fast.set_link(&link(name), Some(Side::Wire)).unwrap();
            fast.set_host(address("other node", family), true).unwrap();
        }
        fast.attend_for(ATTENTION * 1000, LIFETIME * 1000, 0).unwrap();
        let flows = fast.object.map("flows");
        Scene { fast, flows, path, before: Counters::default(), _guard: guard, _namespace: namespace }
    }

    pub(super) fn index(&self, name: &str) -> u32 {
        super::super::links::find(&link(name)).unwrap().unwrap().index
    }

    pub(super) fn run(&mut self, hook: Hook, at: &str, frame: &[u8]) -> Fate {
        self.run_with(hook, at, frame, |_| {})
    }

    /// `struct __sk_buff` can be changed before the program sees it.
    pub(super) fn run_with(
        &mut self,
        hook: Hook,
        at: &str,
        frame: &[u8],
        change: impl Fn(&mut [u8]),
    ) -> Fate {
        let mut context = vec![0; 192];
        context[40..44].copy_from_slice(&self.index(at).to_ne_bytes());
        change(&mut context);
        let mut out = vec![0; 4096];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = self.fast.object.program(hook).unwrap().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        match result.return_value as i32 {
            -1 => {
                assert_eq!(out, frame, "what is left to the kernel is not changed");
                Fate::Passed
            }
            7 => Fate::Sent(out),
            2 => Fate::Dropped,
            other => panic!("the program returned {other}"),
        }
    }

    /// What was counted since the last call.
    pub(super) fn counted(&mut self) -> Vec<(&'static str, u64)> {
        let now = self.fast.counters().unwrap();
        let counted = now.since(&self.before).counted();
        self.before = now;
        counted
    }

    /// The packet takes the kernel's path for the one reason.
    #[track_caller]
    pub(super) fn passes(&mut self, hook: Hook, at: &str, frame: &[u8], reason: &'static str) {
        assert_eq!(self.run(hook, at, frame), Fate::Passed);
        assert_eq!(self.counted(), [(reason, 1)]);
    }

    /// The flow was learned with the service that it is to.
    #[track_caller]
    pub(super) fn is_of_service(&self, entered: &Packet, leaves: &Packet, (_, at): (Hook, &str)) {
        let flow = Flow {
            entered: entered.clone(),
            leaves: leaves.clone(),
            at: "wire",
            age: Duration::ZERO,
            biggest: 0,
        };
        let learned = self.entry(self.hash(entered, at)).unwrap();
        assert_eq!(learned[88..92], layout::frontend(&flow.frontend()).to_ne_bytes());
    }

    /// Writes a flow as the programs do.
    pub(super) fn write(&mut self, entered: &Packet, at: &str, flow: &Flow) {
        let key = self.key(entered, at);
        let bytes = flow.bytes(self, &key);
        self.put(self.hash_of(&key), bytes);
    }

    pub(super) fn bucket(&self, hash: u64) -> Bucket {
        Bucket(self.flows.get(&place(hash), 0).unwrap())
    }

    pub(super) fn set_bucket(&mut self, hash: u64, bucket: &Bucket) {
        self.flows.set(place(hash), bucket.0, 0).unwrap();
    }

    /// What is remembered of a flow.
    pub(super) fn entry(&self, hash: u64) -> Option<Entry> {
        let bucket = self.bucket(hash);
        let way = (0..WAYS).find(|way| bucket.hash(*way) == hash)?;
        Some(bucket.0[Bucket::entry(way)].try_into().unwrap())
    }

    /// Puts an entry where it is already, or where there is none.
    pub(super) fn put(&mut self, hash: u64, entry: Entry) {
        let mut bucket = self.bucket(hash);
        let way = (0..WAYS).find(|way| [0, hash].contains(&bucket.hash(*way))).unwrap();
        bucket.set(way, hash, entry);
        self.set_bucket(hash, &bucket);
    }

    /// Whether there was one.
    pub(super) fn forget(&mut self, hash: u64) -> bool {
        let mut bucket = self.bucket(hash);
        let Some(way) = (0..WAYS).find(|way| bucket.hash(*way) == hash) else { return false };
        bucket.set(way, 0, [0; size_of::<Entry>()]);
        self.set_bucket(hash, &bucket);
        true
    }

    pub(super) fn knows(&self, entered: &Packet, at: &str) -> bool {
        self.entry(self.hash(entered, at)).is_some()
    }

    /// Where the flow of a packet is in the map.
    pub(super) fn hash(&self, packet: &Packet, at: &str) -> u64 {
        self.hash_of(&self.key(packet, at))
    }

    fn hash_of(&self, key: &Key) -> u64 {
        hash(key, &self.fast.object.weights.get(&0, 0).unwrap())
    }

    fn key(&self, packet: &Packet, at: &str) -> Key {
        let mut key = [0; 48];
        words(&mut key[..16], packet.from.ip());
        words(&mut key[16..32], packet.to.ip());
        key[32..34].copy_from_slice(&packet.from.port().to_be_bytes());
        key[34..36].copy_from_slice(&packet.to.port().to_be_bytes());
        key[36..40].copy_from_slice(&self.index(at).to_ne_bytes());
        key[40] = if packet.from.is_ipv4() { 4 } else { 6 };
        key[41] = packet.transport.number().0;
        key
    }

    fn slot(&self, address: IpAddr) -> u32 {
        let range = self.fast.ranges.iter().find(|(range, _)| range.contains(&address));
        let pod = self.fast.pods.get(&address).map(|pod| pod.slot);
        pod.or(range.map(|(_, slot)| *slot)).unwrap()
    }

    fn generation(&self, slot: u32) -> u64 {
        self.fast.object.generations.get(&slot, 0).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = netns::remove_named(&self.path);
    }
}

/// What a program would have learned: how a packet leaves.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub(super) entered: Packet,
    pub(super) leaves: Packet,
    pub(super) at: &'static str,
    /// How long ago.
    pub(super) age: Duration,
    pub(super) biggest: u32,
}

impl Flow {
    /// What of a service the flow may be to.
    pub(super) fn frontend(&self) -> Frontend {
        let Flow { entered, leaves, .. } = self;
        let end = if entered.from == leaves.from { entered.to } else { leaves.from };
        let protocol = match entered.transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        };
        Frontend { address: end.ip(), protocol, port: end.port() }
    }

    fn bytes(&self, scene: &Scene, key: &Key) -> Entry {
        let Flow { entered, leaves, at, age, biggest } = self;
        let (near, far) = (scene.slot(entered.from.ip()), scene.slot(leaves.to.ip()));
        let service = layout::frontend(&self.frontend());
        let mut bytes = [0; FLOW.end - FLOW.start];
        let now = crate::clock::monotonic().unwrap();
        bytes[8..16].copy_from_slice(&(now - age.as_nanos() as u64).to_ne_bytes());
        bytes[16..24].copy_from_slice(&scene.generation(layout::SEQUENCE).to_ne_bytes());
        let generations: u64 =
            [layout::ALL, near, far, service].map(|slot| scene.generation(slot)).iter().sum();
        bytes[24..32].copy_from_slice(&generations.to_ne_bytes());
        for (at, number) in [(32, near), (36, far), (40, service), (44, scene.index(at)), (84, *biggest)] {
            bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        words(&mut bytes[48..64], leaves.from.ip());
        words(&mut bytes[64..80], leaves.to.ip());
        bytes[80..82].copy_from_slice(&leaves.from.port().to_be_bytes());
        bytes[82..84].copy_from_slice(&leaves.to.port().to_be_bytes());
        bytes[88] = entered.hops - leaves.hops;
        bytes[89] = u8::from(["pod", "neighbour"].contains(at));
        bytes[90] = if (entered.from, entered.to) != (leaves.from, leaves.to) {
            2
        } else {
            u8::from((entered.hops, entered.ethernet) != (leaves.hops, leaves.ethernet))
        };
        let kind = if entered.from.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        for (at, packet) in [(98, entered), (114, leaves)] {
            bytes[at..at + 14].copy_from_slice(&[&packet.ethernet.concat()[..], &kind].concat());
        }
        let check = scene.hash_of(key).wrapping_add(weigh(&bytes[8..], key.len() / 8));
        bytes[..8].copy_from_slice(&check.to_ne_bytes());
        let mut entry = [0; size_of::<Entry>()];
        entry[..FLOW.start].copy_from_slice(key);
        entry[FLOW].copy_from_slice(&bytes);
        entry
    }
}

/// `struct key`.
type Key = [u8; 48];

/// `struct entry`.
pub(super) type Entry = [u8; 264];

/// As in `bpf/fast_maps.h`.
pub(super) const WAYS: usize = 4;
const BUCKET_BITS: u32 = 15;

/// `struct bucket`.
#[derive(Clone, Copy)]
pub(super) struct Bucket([u8; WAYS * (8 + size_of::<Entry>())]);

impl Bucket {
    pub(super) fn hash(&self, way: usize) -> u64 {
        u64::from_ne_bytes(self.0[way * 8..][..8].try_into().unwrap())
    }

    pub(super) fn set(&mut self, way: usize, hash: u64, entry: Entry) {
        self.0[way * 8..][..8].copy_from_slice(&hash.to_ne_bytes());
        self.0[Bucket::entry(way)].copy_from_slice(&entry);
    }

    fn entry(way: usize) -> Range<usize> {
        let start = WAYS * 8 + way * size_of::<Entry>();
        start..start + size_of::<Entry>()
    }
}

/// Where the bucket is.
fn place(hash: u64) -> u32 {
    (hash >> (64 - BUCKET_BITS)) as u32
}

/// Where the flow is in an entry. Before it is the key, behind it what packets get before them.
pub(super) const FLOW: Range<usize> = 48..184;

/// As in `bpf/fast_flows.h`.
fn hash(key: &Key, weights: &layout::Weights) -> u64 {
    let words = key.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
    let products = words.zip(weights).map(|(word, weight)| word.wrapping_mul(*weight));
    products.fold(0, u64::wrapping_add) | 1
}

/// As in `bpf/fast_flows.h`.
fn weigh(bytes: &[u8], before: usize) -> u64 {
    let weights = (1..).map(|at| i64::from(0x9e37_79b1_u32.wrapping_mul(at).cast_signed() | 1));
    let words = bytes.chunks_exact(8).map(|word| i64::from_ne_bytes(word.try_into().unwrap()));
    let products = words.zip(weights.skip(before)).map(|(word, weight)| word.wrapping_mul(weight));
    products.fold(0, i64::wrapping_add).cast_unsigned()
}

/// The VXLAN device whose underlay is of a family.
pub(super) fn tunnel(family: Family) -> &'static str {
    match family {
        Family::V4 => "vxlan4",
        Family::V6 => "vxlan6",
    }
}

pub(super) fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

pub(super) fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn words(to: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(address) => to[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => to.copy_from_slice(&address.octets()),
    }
}

/// What is noted of a packet is the processor's.
fn stay_on_one_processor() {
    // SAFETY: cpu_set_t is plain data for which all zeroes is valid; the pointers are to values that live through the
    // calls.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::try_from(libc::sched_getcpu()).unwrap(), &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(done, 0);
}
