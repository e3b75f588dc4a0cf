//! Measures the fast path beside the kernel's own path, in turns: round trips of one byte between pods, both ends in one
//! thread on one core, so that little is measured but the way of the packets.
//!
//! `cargo run --release -p kernel --example fast_path [BLOCKS]`. Exits with a failure if the fast path is the slower one
//! anywhere, with one flow or with 10,000.

#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::TestNs;
use common::fast::{At, Nodes};
use common::pods::socket;
use common::services::{PORT, TARGET_PORT, cluster_address, endpoint, service, slices};
use model::{Family, Protocol, Sending, When};
use plan::Input;

/// Round trips in a block.
const TRIPS: usize = 5_000;
/// UDP sockets at each end. Each at one talks to each at the other, which makes 10,000 flows.
const SOCKETS: usize = 100;
/// For how long flows are used before they are measured: connection tracking takes them for settled after two seconds.
const WARM: Duration = Duration::from_secs(4);

const MODES: [(&str, Sending); 3] = [
    ("VXLAN", Sending::Vxlan(When::Always)),
    ("IP in IP", Sending::Ipip(When::Always)),
    ("plain", Sending::Plain),
];

/// Makes one round trip, by the next flow if there are several.
type Trip = Box<dyn FnMut()>;

fn main() -> ExitCode {
    let blocks: usize = std::env::args().nth(1).map_or(15, |text| text.parse().unwrap());
    stay();
    // The same cluster twice: one has the fast path.
    let mut clusters = [false, true].map(|fast_path| Nodes::new(MODES[0].1, fast_path));
    println!("round trip, us: medians of {blocks} blocks of {TRIPS} trips each, in turns");
    println!("{:<42} {:>8} {:>8} {:>6}", "", "kernel", "fast", "ratio");
    let mut sound = true;
    for (name, mode) in MODES {
        for (nodes, fast_path) in clusters.iter_mut().zip([false, true]) {
            nodes.change(mode, fast_path);
        }
        for family in Family::BOTH {
            let row = format!("{family}, other node, {name}");
            sound &= compare(&mut clusters, &row, blocks, |nodes| pods(nodes, (1, 0), family));
        }
    }
    for family in Family::BOTH {
        let row = format!("{family}, same node");
        sound &= compare(&mut clusters, &row, blocks, |nodes| pods(nodes, (0, 1), family));
    }
    for nodes in &mut clusters {
        serve(nodes);
    }
    let row = "IPv4, a service on the other node, plain";
    sound &= compare(&mut clusters, row, blocks, |nodes| {
        let listener = listener(&nodes.pod((1, 0)).test, nodes.pod((1, 0)).v4.into(), TARGET_PORT);
        let _guard = nodes.pod((0, 0)).test.enter();
        let client = TcpStream::connect((cluster_address(10, Family::V4), PORT)).unwrap();
        trip(client, listener)
    });
    let between = |nodes: &mut Nodes| {
        let address = "172.16.0.2".parse().unwrap();
        let listener = listener(&nodes.nodes[1].test, address, 0);
        let _guard = nodes.nodes[0].test.enter();
        trip(TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener)
    };
    compare(&mut clusters, "(IPv4, node to node, no pods)", blocks, between);
    let row = format!("IPv4, other node, plain, {} UDP flows", SOCKETS * SOCKETS);
    sound &= compare(&mut clusters, &row, blocks, many);
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures both clusters in turns; whether the one with the fast path is not the slower one.
fn compare(clusters: &mut [Nodes; 2], row: &str, blocks: usize, open: impl Fn(&mut Nodes) -> Trip) -> bool {
    let mut opened = clusters.each_mut().map(open);
    let mut times = [Vec::new(), Vec::new()];
    let warm = Instant::now();
    let mut block = 0;
    while times[1].len() < blocks {
        for turn in 0..2 {
            let side = (block + turn) % 2;
            for node in &mut clusters[side].nodes {
                let _guard = node.test.enter();
                node.kernel.attend().unwrap();
            }
            let time = trips(&mut opened[side]);
            if warm.elapsed() > WARM {
                times[side].push(time.as_secs_f64() * 1e6);
            }
        }
        block += 1;
    }
    let [kernel, fast] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    println!("{row:<42} {kernel:>8.2} {fast:>8.2} {:>6.2}", fast / kernel);
    fast < kernel
}

/// The time of one round trip.
fn trips(trip: &mut Trip) -> Duration {
    let start = Instant::now();
    for _ in 0..TRIPS {
        trip();
    }
    start.elapsed() / TRIPS as u32
}

fn pods(nodes: &Nodes, to: At, family: Family) -> Trip {
    let pod = nodes.pod(to);
    let listener = listener(&pod.test, pod.address(family), 0);
    let _guard = nodes.pod((0, 0)).test.enter();
    trip(TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener)
}

/// Each of many sockets to each of many on the other node.
fn many(nodes: &mut Nodes) -> Trip {
    let sockets = |at: At| -> Vec<UdpSocket> {
        let pod = nodes.pod(at);
        (0..SOCKETS).map(|_| socket(&pod.test, pod.v4.into(), 0)).collect()
    };
    let (clients, servers) = (sockets((0, 0)), sockets((1, 0)));
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.local_addr().unwrap()).collect();
    let mut next = 0;
    Box::new(move || {
        let (client, server) = (next / SOCKETS % SOCKETS, next % SOCKETS);
        next += 1;
        let mut byte = [0];
        clients[client].send_to(&byte, addresses[server]).unwrap();
        let (_, from) = servers[server].recv_from(&mut byte).unwrap();
        servers[server].send_to(&byte, from).unwrap();
        clients[client].recv_from(&mut byte).unwrap();
    })
}

fn listener(test: &TestNs, address: IpAddr, port: u16) -> TcpListener {
    let _guard = test.enter();
    TcpListener::bind((address, port)).unwrap()
}

fn trip(mut client: TcpStream, listener: TcpListener) -> Trip {
    let (mut server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    Box::new(move || {
        let mut byte = [0];
        client.write_all(&byte).unwrap();
        server.read_exact(&mut byte).unwrap();
        server.write_all(&byte).unwrap();
        client.read_exact(&mut byte).unwrap();
    })
}

/// A service with an endpoint on the other node.
fn serve(nodes: &mut Nodes) {
    let service = service(10, &[Protocol::Tcp]);
    let endpoints = vec![endpoint(nodes.pod((1, 0)).v4.into(), &common::cluster::name(1))];
    let news = slices(&service, endpoints).into_iter().chain([Input::Service(service.clone())]);
    nodes.nodes[0].update(news);
}

/// One core for all.
fn stay() {
    // SAFETY: cpu_set_t is plain data for which all zeroes is valid, and the call reads as much as it is told.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
    }
}
