//! The capture against the kernel: two namespaces, a cable between them, and VXLAN on it.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use model::LinkName;
use trace::capture::{
    Capture, CaptureError, Captured, Direction, Encapsulation, Limits, Options, Packet, PcapWriter, Recorder,
    Recording, Tunnels,
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A namespace with a name of its own, gone when dropped.
struct Space(String);

impl Space {
    fn new() -> Space {
        let name = format!("cbt-cap-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let space = Space(name);
        space.ip("link set lo up");
        space
    }

    fn ip(&self, arguments: &str) {
        let all: Vec<&str> = ["-n", &self.0].into_iter().chain(arguments.split(' ')).collect();
        run("ip", &all);
    }

    /// Runs a function in the namespace, on a thread of its own.
    fn with<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        thread::scope(|scope| {
            let inside = move || {
                // SAFETY: setns takes no pointers; only this thread, which ends next, changes its namespace.
                assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
                function()
            };
            scope.spawn(inside).join().unwrap()
        })
    }

    fn record(&self, options: &Options) -> Recorder {
        let capture = self.with(|| Capture::open(options)).unwrap();
        Recorder::start(capture, Limits::default()).unwrap()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {text}", arguments.join(" "));
}

/// Two namespaces with a veth pair, `eth0` at both ends.
fn pair() -> (Space, Space) {
    let (a, b) = (Space::new(), Space::new());
    a.ip(&format!("link add eth0 type veth peer name eth0 netns {}", b.0));
    for (space, host) in [(&a, 1), (&b, 2)] {
        space.ip(&format!("address add 192.0.2.{host}/24 dev eth0"));
        space.ip(&format!("address add 2001:db8::{host}/64 dev eth0 nodad"));
        space.ip("link set eth0 up");
    }
    (a, b)
}

fn overlay(space: &Space, host: u8, peer: u8) {
    space.ip(&format!(
        "link add vx0 type vxlan id 77 dstport 4789 local 192.0.2.{host} remote 192.0.2.{peer}"
    ));
    space.ip(&format!("address add 10.9.0.{host}/24 dev vx0"));
    space.ip(&format!("address add fd00:9::{host}/64 dev vx0 nodad"));
    space.ip("link set vx0 up");
}

/// Sends a datagram from `a` to an address in `b` and back; returns the client's port.
fn exchange(a: &Space, b: &Space, server: &str) -> u16 {
    let address: IpAddr = server.parse().unwrap();
    let server = b.with(|| UdpSocket::bind((address, 0)).unwrap());
    let to = server.local_addr().unwrap();
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let client = a.with(|| UdpSocket::bind(any).unwrap());
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    client.send_to(b"there", to).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..length], from).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 5);
    client.local_addr().unwrap().port()
}

fn eth0() -> Options {
    Options::on(LinkName::new("eth0").unwrap())
}

/// The UDP packets from or to a port, innermost, with what was captured around them.
fn with_port(recording: &Recording, port: u16) -> Vec<(Captured, Packet)> {
    assert!(!recording.incomplete);
    let of_port = |packet: &Packet| {
        let ports = packet.innermost().ip().and_then(|ip| ip.ports());
        ports.is_some_and(|(from, to)| from == port || to == port)
    };
    let decoded = recording.frames.iter().map(|frame| (frame.clone(), frame.decode(&Tunnels::default())));
    decoded.filter(|(_, packet)| of_port(packet)).collect()
}

#[test]
fn both_ends_see_a_packet_and_its_answer() {
    for server in ["192.0.2.2", "2001:db8::2"] {
        let (a, b) = pair();
        let begin = SystemTime::now();
        let (at_a, at_b) = (a.record(&eth0()), b.record(&eth0()));
        let port = exchange(&a, &b, server);
        let (at_a, at_b) = (at_a.stop().unwrap(), at_b.stop().unwrap());
        let directions = |recording| -> Vec<Direction> {
            with_port(recording, port).into_iter().map(|(captured, _)| captured.direction).collect()
        };
        assert_eq!(directions(&at_a), [Direction::Out, Direction::In]);
        assert_eq!(directions(&at_b), [Direction::In, Direction::Out]);
        for (captured, packet) in with_port(&at_a, port) {
            assert!(captured.time >= begin && captured.time <= SystemTime::now());
            assert_eq!(captured.length, captured.frame.len());
            assert!(packet.inner().is_none());
        }
    }
}

#[test]
fn vxlan_of_the_kernel_is_read_through() {
    let (a, b) = pair();
    overlay(&a, 1, 2);
    overlay(&b, 2, 1);
    for server in ["10.9.0.2", "fd00:9::2"] {
        let recorder = b.record(&eth0());
        let port = exchange(&a, &b, server);
        let seen = with_port(&recorder.stop().unwrap(), port);
        assert_eq!(seen.len(), 2);
        for ((captured, packet), (from, to)) in
            seen.iter().zip([("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1")])
        {
            let outer = packet.ip().unwrap();
            assert_eq!((outer.source.to_string(), outer.destination.to_string()), (from.into(), to.into()));
            assert_eq!(packet.inner().unwrap().0, Encapsulation::Vxlan(77));
            assert!(packet.ethernet.is_some() && packet.innermost().ethernet.is_some());
            assert_eq!(captured.direction == Direction::In, from == "192.0.2.1");
        }
    }
}

#[test]
fn all_interfaces_are_captured_but_loopback() {
    let (a, b) = pair();
    let recorder = a.record(&Options::default());
    let port = exchange(&a, &b, "192.0.2.2");
    let own = exchange(&a, &a, "127.0.0.1");
    let recording = recorder.stop().unwrap();
    assert_eq!(with_port(&recording, port).len(), 2);
    assert_eq!(with_port(&recording, own).len(), 0);
}

#[test]
fn a_stop_ends_a_waiting_capture_and_limits_hold() {
    let (a, b) = pair();
    let recorder = a.record(&eth0());
    assert!(!recorder.stop().unwrap().incomplete);
    let capture = a.with(|| Capture::open(&eth0())).unwrap();
    let recorder = Recorder::start(capture, Limits { frames: 1, bytes: 1 << 20 }).unwrap();
    exchange(&a, &b, "192.0.2.2");
    let recording = recorder.stop().unwrap();
    assert!(recording.incomplete);
    assert_eq!(recording.frames.len(), 1);
}

/// The kernel begins to stamp frames a moment after the first socket has asked for it. What comes before that must not
/// be taken for something from after the stop.
#[test]
fn what_was_sent_before_the_stop_is_in_the_recording() {
    let (a, b) = pair();
    for _ in 0..50 {
        let mut capture = a.with(|| Capture::open(&eth0())).unwrap();
        let port = exchange(&a, &b, "192.0.2.2");
        capture.stop_handle().stop();
        exchange(&a, &b, "192.0.2.2");
        let mut recording = Recording::default();
        while let Some(captured) = capture.next().unwrap() {
            recording.frames.push(captured);
        }
        assert_eq!(with_port(&recording, port).len(), 2);
    }
}

#[test]
fn long_frames_are_cut_and_their_length_told() {
    let (a, b) = pair();
    let recorder = a.record(&Options { snap_length: 40, ..eth0() });
    exchange(&a, &b, "192.0.2.2");
    let recording = recorder.stop().unwrap();
    assert!(recording.frames.iter().all(|frame| frame.frame.len() <= 40));
    assert!(recording.frames.iter().any(|frame| frame.length > 40));
}

#[test]
fn a_link_that_is_not_there_is_named() {
    let a = Space::new();
    let error = a.with(|| Capture::open(&eth0())).unwrap_err();
    assert!(matches!(&error, CaptureError::NoLink { .. }));
    assert!(error.to_string().contains("eth0"), "{error}");
}

#[test]
fn tcpdump_reads_the_file() {
    let (a, b) = pair();
    overlay(&a, 1, 2);
    overlay(&b, 2, 1);
    let recorder = a.record(&eth0());
    let port = exchange(&a, &b, "10.9.0.2");
    let recording = recorder.stop().unwrap();
    let mut pcap = PcapWriter::new(Vec::new()).unwrap();
    for frame in &recording.frames {
        pcap.write(frame.time, &frame.frame, frame.length).unwrap();
    }
    let path = std::env::temp_dir().join(format!("{}.pcap", a.0));
    std::fs::write(&path, pcap.into_inner()).unwrap();
    let output = Command::new("tcpdump").args(["-nn", "-r"]).arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("VXLAN, flags [I] (0x08), vni 77"), "{text}");
    assert!(text.contains(&format!("10.9.0.1.{port} > 10.9.0.2.")), "{text}");
}
