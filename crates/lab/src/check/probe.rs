//! Requests and their answers, from one namespace to another, each bounded in time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use kernel::netns::{self, NetNs};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::evidence::Transport;
use crate::echo::Answer;

/// How long each step of an exchange may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer that is read, in bytes.
pub(super) const LONGEST: u64 = 16 * 1024;

/// An exchange from the side of the one who asked.
#[derive(Debug)]
pub(super) struct Asked<T> {
    /// The address and port that the request left from; `None` if there was no connection.
    pub(super) local: Option<SocketAddr>,
    /// What came back, or why nothing did.
    pub(super) result: Result<T, String>,
}

/// What the far end of a [`meet`] saw.
#[derive(Debug)]
pub(super) struct Met {
    /// Where the far end listened.
    pub(super) server: SocketAddr,
    /// The exchange; the result is the source that the far end saw.
    pub(super) asked: Asked<SocketAddr>,
}

/// Asks an echo server who it is and whom it sees; over TCP so many times, by one connection.
pub(super) fn ask(from: &NetNs, to: SocketAddr, transport: Transport, times: usize) -> Asked<Answer> {
    let asked = netns::run_in(from, || match transport {
        Transport::Tcp => ask_tcp(to, times),
        Transport::Udp => ask_udp(to),
    });
    asked.unwrap_or_else(|error| Asked { local: None, result: Err(error.to_string()) })
}

fn ask_tcp(to: SocketAddr, times: usize) -> Asked<Answer> {
    let stream = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(stream) => stream,
        Err(error) => return Asked { local: None, result: Err(format!("cannot connect to {to}: {error}")) },
    };
    let exchange = || {
        limit(&stream)?;
        same_answers(times, || {
            (&stream).write_all(b"JSON\n")?;
            let mut line = String::new();
            BufReader::new((&stream).take(LONGEST)).read_line(&mut line)?;
            Ok(line)
        })
    };
    Asked { local: stream.local_addr().ok(), result: answer(to, exchange()) }
}

/// Asks so many times, at least once; the answer, which must always be the same.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if it is another one, or what `ask` says.
pub(super) fn same_answers<T: PartialEq>(
    times: usize,
    mut ask: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let first = ask()?;
    for _ in 1..times {
        if ask()? != first {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the same connection got other answers"));
        }
    }
    Ok(first)
}

fn ask_udp(to: SocketAddr) -> Asked<Answer> {
    let mut local = None;
    let mut exchange = || {
        let socket = udp_towards(to)?;
        local = socket.local_addr().ok();
        socket.send(b"JSON")?;
        let mut buffer = vec![0; LONGEST as usize];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let result = exchange();
    Asked { local, result: answer(to, result) }
}

fn answer(to: SocketAddr, result: io::Result<String>) -> Result<Answer, String> {
    let text = result.map_err(|error| no_answer(to, &error))?;
    serde_json::from_str(&text).map_err(|error| format!("{to} is no echo server: {error}"))
}

fn no_answer(to: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no answer from {to} within {} s", PATIENCE.as_secs())
        }
        _ => format!("no answer from {to}: {error}"),
    }
}

/// Sends a request to a socket that is opened for it at an address in another namespace, and answers it there; over TCP so
/// many times, by one connection.
///
/// # Errors
/// Why there can be no such socket.
pub(super) fn meet(
    from: &NetNs,
    at: &NetNs,
    address: IpAddr,
    transport: Transport,
    times: usize,
) -> Result<Met, String> {
    match transport {
        Transport::Tcp => meet_tcp(from, at, address, times),
        Transport::Udp => meet_udp(from, at, address),
    }
}

fn meet_tcp(from: &NetNs, at: &NetNs, address: IpAddr, times: usize) -> Result<Met, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot listen at {address}: {error}");
    let listener = netns::run_in(at, || TcpListener::bind((address, 0)))
        .map_err(|error| cannot(&error))?
        .map_err(|error| cannot(&error))?;
    let server = listener.local_addr().map_err(|error| cannot(&error))?;
    let connected = netns::run_in(from, || TcpStream::connect_timeout(&server, PATIENCE));
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let result = Err(format!("cannot connect to {server}: {error}"));
            return Ok(Met { server, asked: Asked { local: None, result } });
        }
        Err(error) => return Err(error.to_string()),
    };
    let exchange = || {
        limit(&stream)?;
        wait_readable(&listener)?;
        let (accepted, source) = listener.accept()?;
        limit(&accepted)?;
        same_answers(times, || {
            (&stream).write_all(b"?")?;
            (&accepted).read_exact(&mut [0])?;
            (&accepted).write_all(b"!")?;
            (&stream).read_exact(&mut [0])
        })?;
        Ok(source)
    };
    let result = exchange().map_err(|error: io::Error| no_answer(server, &error));
    Ok(Met { server, asked: Asked { local: stream.local_addr().ok(), result } })
}

fn meet_udp(from: &NetNs, at: &NetNs, address: IpAddr) -> Result<Met, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot listen at {address}: {error}");
    let socket = listen_udp(at, address).map_err(|error| cannot(&error))?;
    let server = socket.local_addr().map_err(|error| cannot(&error))?;
    let mut local = None;
    let mut exchange = || {
        let client = netns::run_in(from, || udp_towards(server)).map_err(io::Error::other)??;
        local = client.local_addr().ok();
        client.send(b"?")?;
        let (_, source) = socket.recv_from(&mut [0])?;
        socket.send_to(b"!", source)?;
        client.recv(&mut [0])?;
        Ok(source)
    };
    let result = exchange().map_err(|error: io::Error| no_answer(server, &error));
    Ok(Met { server, asked: Asked { local, result } })
}

/// A UDP socket at an address of a namespace, at a port that the kernel chooses.
pub(super) fn listen_udp(at: &NetNs, address: IpAddr) -> io::Result<UdpSocket> {
    let socket = netns::run_in(at, || UdpSocket::bind((address, 0))).map_err(io::Error::other)??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A UDP socket of the calling thread's namespace that is connected to an address.
pub(super) fn udp_towards(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn wait_readable(socket: &impl AsFd) -> io::Result<()> {
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
