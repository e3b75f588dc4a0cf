//! Connecting: round trips and connections a second through a service, beside the same directly, in turns.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use kernel::{Kernel, netns};
use plan::Input;

use crate::fixture;
use crate::measure::{goal, pin};

/// Round trips in a block, and connections.
const TRIPS: u32 = 1_000;
const CONNECTIONS: u32 = 100;
/// Blocks of each kind at each size.
const BLOCKS: usize = 61;

/// Measures all sizes, through the service and directly; whether the goal is met.
///
/// The client's namespace is that of the caller: a node whose own connections are balanced. The server is in another,
/// at the other end of a veth pair.
pub(crate) fn measure(sizes: &[u32], endpoints: u32) -> bool {
    let path = format!("{}/services-server-{}", netns::NAMED, std::process::id());
    let server = netns::create_named(&path).unwrap();
    let name = path.rsplit('/').next().unwrap();
    let address = Ipv4Addr::new(172, 31, 0, 2);
    for command in [
        "ip link set lo up".to_owned(),
        format!("ip link add client type veth peer name server netns {name}"),
        "ip addr add 172.31.0.1/24 dev client".to_owned(),
        "ip link set client up".to_owned(),
        "ip route add default via 172.31.0.2".to_owned(),
        format!("ip -n {name} addr add {address}/24 dev server"),
        format!("ip -n {name} link set server up"),
        format!("ip -n {name} link set lo up"),
    ] {
        run(&command);
    }
    let listener = netns::run_in(&server, || TcpListener::bind((address, 8080)).unwrap()).unwrap();
    std::thread::spawn(move || {
        pin(&[1]);
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.set_nodelay(true);
            let mut byte = [0; 1];
            while stream.read(&mut byte).is_ok_and(|length| length == 1) && stream.write_all(&byte).is_ok() {}
        }
    });
    let measured = std::thread::scope(|scope| scope.spawn(|| blocks(sizes, endpoints, address)).join());
    netns::remove_named(&path).unwrap();
    measured.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One size's state of the kernel is kept in a table of its own namespace; sizes grow, so each is the one before and
/// more. What is compared is measured in turns: direct and through the service within a size.
fn blocks(sizes: &[u32], endpoints: u32, address: Ipv4Addr) -> bool {
    pin(&[0]);
    let direct = SocketAddr::from((address, 8080));
    let service = SocketAddr::from(([10, 96, 0, 1], 80));
    println!(
        "{:>8} {:>22} {:>22}   medians; service beside direct, in turns",
        "services", "round trip, us", "connections a second"
    );
    let mut ratios = Vec::new();
    let mut planner = fixture::planner();
    let mut kernel = Kernel::open().unwrap();
    // The first service leads to the server; the others are there to be many.
    planner.update(Input::Service(fixture::service(0)));
    let mut slice = fixture::slice(0, 0, 1);
    slice.endpoints[0].address = address.into();
    planner.update(Input::Slice(slice));
    let mut known = 1;
    for &size in sizes {
        for number in known..size {
            planner.update(Input::Service(fixture::service(number)));
            planner.update(Input::Slice(fixture::slice(number, 0, endpoints)));
        }
        known = known.max(size);
        let report = kernel.reconcile_services(planner.services()).unwrap();
        assert!(report.services.is_none(), "{report}");
        let [mut trips, mut connections] = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for block in 0..BLOCKS {
            for turn in 0..2 {
                let side = (block + turn) % 2;
                let to = if side == 0 { direct } else { service };
                trips[side].push(round_trip(to));
                connections[side].push(connect(to));
            }
        }
        let [trip_direct, trip] = trips.map(median);
        let [connect_direct, connect] = connections.map(median);
        println!(
            "{size:>8} {:>7.2} {:>7.2} {:>6.3} {:>7.0} {:>7.0} {:>6.3}",
            trip * 1e6,
            trip_direct * 1e6,
            trip / trip_direct,
            1.0 / connect,
            1.0 / connect_direct,
            connect_direct / connect
        );
        ratios.push(trip / trip_direct);
    }
    let (first, last) = (ratios[0], ratios[ratios.len() - 1]);
    goal("round trip through the service at most sizes, over that at the least", last / first, 1.03)
}

/// The time of a round trip of one byte, in seconds.
fn round_trip(to: SocketAddr) -> f64 {
    let mut stream = open(to);
    let mut byte = [0; 1];
    let start = Instant::now();
    for _ in 0..TRIPS {
        stream.write_all(&byte).unwrap();
        stream.read_exact(&mut byte).unwrap();
    }
    start.elapsed().as_secs_f64() / f64::from(TRIPS)
}

/// The time of a connection with one round trip, in seconds.
fn connect(to: SocketAddr) -> f64 {
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut stream = open(to);
        stream.write_all(&[0]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    start.elapsed().as_secs_f64() / f64::from(CONNECTIONS)
}

/// A connection that ends with a reset: one that is closed would keep its port for a minute, and the search for a free
/// one would soon be all that is measured.
fn open(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
    stream.set_nodelay(true).unwrap();
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is a linger, which lives through the call.
    let done = unsafe {
        let size = size_of::<libc::linger>() as libc::socklen_t;
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    stream
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
