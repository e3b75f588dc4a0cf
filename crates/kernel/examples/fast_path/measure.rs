//! What is measured of a way.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use kernel::netns::{Guard, NetNs};

use crate::ways::Way;

/// Round trips, connections and bytes in a block.
const TRIPS: usize = 2_000;
const CONNECTIONS: usize = 200;
const BYTES: usize = 64 << 20;
/// The bytes of a stream before those that are measured: some hundred packets, so that it is on the fast path.
const WARM_UP: usize = 16 << 20;
/// How many blocks of bytes there are for each of the others: throughput is the less steady.
const BLOCKS_OF_BYTES: usize = 4;
/// How many streams are several.
const STREAMS: usize = 8;
/// UDP sockets at each end. Each at one talks to each at the other, which makes 10,000 flows.
const SOCKETS: usize = 100;
/// A stream's sender is on one core, and its receiver on the other. All else is on the first.
const CORES: [usize; 2] = [0, 1];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    TcpTrip,
    UdpTrip,
    Stream,
    Streams,
    /// A connection, a byte each way, and its end.
    Connect,
    /// Round trips by one of many UDP flows after the other.
    ManyFlows,
}

/// One block: a time in microseconds or a throughput in Gbit/s, and how many trips, connections or gigabytes it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) value: f64,
    pub(crate) work: f64,
}

impl Measure {
    pub(crate) const OF_WAYS: [Measure; 5] =
        [Measure::TcpTrip, Measure::UdpTrip, Measure::Stream, Measure::Streams, Measure::Connect];

    pub(crate) fn is_time(self) -> bool {
        !matches!(self, Measure::Stream | Measure::Streams)
    }

    /// How long flows are used before they are measured: connection tracking takes those of UDP for settled after two
    /// seconds.
    pub(crate) fn warms_up_for(self) -> Duration {
        match self {
            Measure::UdpTrip | Measure::ManyFlows => Duration::from_secs(4),
            _ => Duration::from_millis(500),
        }
    }

    /// How many blocks there are to measure, if it is so many of a round trip.
    pub(crate) fn blocks(self, trips: usize) -> usize {
        if self.is_time() { trips } else { trips * BLOCKS_OF_BYTES }
    }

    /// The cores it uses.
    pub(crate) fn cores(self) -> &'static [usize] {
        if self.is_time() { &CORES[..1] } else { &CORES }
    }

    /// Makes all that is there during all blocks.
    pub(crate) fn open(self, way: &Way) -> Box<dyn FnMut() -> Block> {
        stay(CORES[0]);
        match self {
            Measure::TcpTrip => tcp_trip(way),
            Measure::UdpTrip => udp_trip(way),
            Measure::Stream => streams(way, 1),
            Measure::Streams => streams(way, STREAMS),
            Measure::Connect => connect(way),
            Measure::ManyFlows => many_flows(way),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Measure::TcpTrip => "TCP round trip",
            Measure::UdpTrip => "UDP round trip",
            Measure::Stream => "one stream",
            Measure::Streams => "8 streams",
            Measure::Connect => "connect, request, response",
            Measure::ManyFlows => "UDP round trip",
        })
    }
}

fn enter(namespace: &Path) -> Guard {
    NetNs::open(namespace).unwrap().enter().unwrap()
}

fn listen(way: &Way) -> (TcpListener, SocketAddr) {
    let _guard = enter(&way.server);
    let listener = TcpListener::bind(way.listen).unwrap();
    let at = way.service.unwrap_or(listener.local_addr().unwrap());
    (listener, at)
}

fn connection(way: &Way, listener: &TcpListener, to: SocketAddr) -> [TcpStream; 2] {
    let client = {
        let _guard = enter(&way.client);
        TcpStream::connect(to).unwrap()
    };
    let ends = [client, listener.accept().unwrap().0];
    for end in &ends {
        end.set_nodelay(true).unwrap();
        control_congestion(end);
    }
    ends
}

/// Has a connection use what Linux uses unless it is told otherwise. BBR, which some machines have instead, sends by timers
/// at a rate that it estimates, so that throughput says less of what packets cost.
fn control_congestion(end: &TcpStream) {
    let name = b"cubic";
    // SAFETY: the pointer and the length are those of the name, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            end.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "cubic: {}", std::io::Error::last_os_error());
}

fn exchange([client, server]: &mut [TcpStream; 2]) {
    let mut byte = [0];
    client.write_all(&byte).unwrap();
    server.read_exact(&mut byte).unwrap();
    server.write_all(&byte).unwrap();
    client.read_exact(&mut byte).unwrap();
}

/// The time of one of `count`.
fn timed(count: usize, mut each: impl FnMut()) -> Block {
    let start = Instant::now();
    for _ in 0..count {
        each();
    }
    Block { value: start.elapsed().as_secs_f64() * 1e6 / count as f64, work: count as f64 }
}

fn tcp_trip(way: &Way) -> Box<dyn FnMut() -> Block> {
    let (listener, to) = listen(way);
    let mut ends = connection(way, &listener, to);
    Box::new(move || timed(TRIPS, || exchange(&mut ends)))
}

fn udp(namespace: &Path, address: SocketAddr) -> UdpSocket {
    let _guard = enter(namespace);
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

/// Any port of any address of the family.
fn any(of: SocketAddr) -> SocketAddr {
    let address: &str = if of.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    address.parse().unwrap()
}

fn ask(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) {
    let mut byte = [0];
    client.send_to(&byte, to).unwrap();
    let (_, from) = server.recv_from(&mut byte).unwrap();
    server.send_to(&byte, from).unwrap();
    client.recv_from(&mut byte).unwrap();
}

fn udp_trip(way: &Way) -> Box<dyn FnMut() -> Block> {
    let server = udp(&way.server, way.listen);
    let to = way.service.unwrap_or(server.local_addr().unwrap());
    let client = udp(&way.client, any(to));
    Box::new(move || timed(TRIPS, || ask(&client, to, &server)))
}

fn many_flows(way: &Way) -> Box<dyn FnMut() -> Block> {
    let servers: Vec<UdpSocket> = (0..SOCKETS).map(|_| udp(&way.server, way.listen)).collect();
    let clients: Vec<UdpSocket> = (0..SOCKETS).map(|_| udp(&way.client, any(way.listen))).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.local_addr().unwrap()).collect();
    let mut next = 0;
    Box::new(move || {
        timed(TRIPS, || {
            let (client, server) = (next / SOCKETS % SOCKETS, next % SOCKETS);
            next += 1;
            ask(&clients[client], addresses[server], &servers[server]);
        })
    })
}

fn connect(way: &Way) -> Box<dyn FnMut() -> Block> {
    let (listener, to) = listen(way);
    let client = way.client.clone();
    Box::new(move || {
        let _guard = enter(&client);
        timed(CONNECTIONS, || {
            let client = TcpStream::connect(to).unwrap();
            let mut ends = [client, listener.accept().unwrap().0];
            exchange(&mut ends);
            let [client, mut server] = ends;
            // Whoever ends it has the port for a minute; the server's is always the same.
            drop(client);
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        })
    })
}

/// Each block has connections of its own: how fast one is depends on the sizes that its buffers have grown to, and stays so.
fn streams(way: &Way, count: usize) -> Box<dyn FnMut() -> Block> {
    let (listener, to) = listen(way);
    let way = way.clone();
    Box::new(move || {
        let mut streams: Vec<[TcpStream; 2]> = (0..count).map(|_| connection(&way, &listener, to)).collect();
        transfer(&mut streams, WARM_UP);
        let start = Instant::now();
        transfer(&mut streams, BYTES / count);
        let gigabits = BYTES as f64 * 8.0 / 1e9;
        let work = (BYTES + WARM_UP * count) as f64 / 1e9;
        Block { value: gigabits / start.elapsed().as_secs_f64(), work }
    })
}

/// Sends so many bytes by each of some streams at the same time.
fn transfer(streams: &mut [[TcpStream; 2]], bytes: usize) {
    std::thread::scope(|scope| {
        for [client, server] in streams {
            scope.spawn(move || {
                stay(CORES[0]);
                let chunk = vec![0; 1 << 17];
                (0..bytes / chunk.len()).for_each(|_| client.write_all(&chunk).unwrap());
            });
            scope.spawn(move || {
                stay(CORES[1]);
                let (mut buffer, mut left) = (vec![0; 1 << 17], bytes);
                while left > 0 {
                    left -= server.read(&mut buffer).unwrap();
                }
            });
        }
    });
}

/// Has the calling thread stay on a core.
fn stay(core: usize) {
    // SAFETY: cpu_set_t is plain data for which all zeroes is valid, and the call reads as much as it is told.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
    }
}
