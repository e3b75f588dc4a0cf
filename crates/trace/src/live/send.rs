//! Packets that are really sent, each with a mark of its own, from the network namespace of the calling thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect as connect_to,
    getsockopt, recv, sendto, socket, sockopt,
};

use super::{Mark, Reply};
use crate::Packet;
use crate::journey::Transport;

/// The ports that senders use: below those that the kernel gives (net.ipv4.ip_local_port_range), above those of services.
pub const PORTS: std::ops::Range<u16> = 12_000..29_000;
/// How long to wait before a datagram is sent again. A kernel answers datagrams with errors once a second at most
/// (net.ipv4.icmp_ratelimit), after the first few.
const AGAIN: Duration = Duration::from_millis(400);
/// The longest answer to a datagram that is read, in bytes.
const LONGEST: usize = 16 * 1024;

// IANA protocol numbers
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
// RFC 792, RFC 4443
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

impl Packet {
    /// What it is, if it is of a protocol that can be sent.
    pub fn transport(&self) -> Option<Transport> {
        match self.protocol {
            TCP => Some(Transport::Tcp),
            UDP => Some(Transport::Udp),
            ICMP | 58 => Some(Transport::Icmp),
            _ => None,
        }
    }
}

/// Sends a packet and says what comes back. A TCP connection is opened and closed again; nothing is said on it. A datagram
/// is sent again after a while, a few times.
pub fn send(
    to: SocketAddr,
    transport: Transport,
    mark: Mark,
    ports: impl Iterator<Item = u16>,
    patience: Duration,
) -> Reply {
    let sent = match transport {
        Transport::Icmp => ping(to.ip(), mark, patience),
        Transport::Tcp => bound(to, SockType::Stream, ports).map_err(io::Error::from).and_then(|(fd, _)| {
            begin_at(&fd, mark)?;
            connect(fd, to, patience).map(|_| true)
        }),
        Transport::Udp => bound(to, SockType::Datagram, ports)
            .map_err(io::Error::from)
            .and_then(|(fd, _)| ask_udp(fd, to, patience, mark.text().as_bytes()).map(|_| true)),
    };
    match sent {
        Ok(true) => Reply::Answer(String::new()),
        Ok(false) => Reply::Nothing,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Reply::Refusal,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Reply::Nothing,
            _ => Reply::Other(format!("it cannot send: {error}")),
        },
    }
}

/// A socket at the first of `ports` that is free here, and that port.
///
/// # Errors
/// `EADDRINUSE` if none is; else what the kernel says.
pub fn bound(
    to: SocketAddr,
    kind: SockType,
    ports: impl Iterator<Item = u16>,
) -> nix::Result<(OwnedFd, u16)> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    for port in ports {
        match bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port))) {
            Err(Errno::EADDRINUSE) => {}
            result => return result.map(|()| (fd, port)),
        }
    }
    Err(Errno::EADDRINUSE)
}

/// Lets a socket that is not connected yet begin with a mark as its sequence number, by what there is for moving
/// connections between machines (TCP_REPAIR, include/uapi/linux/tcp.h).
///
/// # Errors
/// What the kernel says, for instance without `CAP_NET_ADMIN`.
pub fn begin_at(fd: &OwnedFd, mark: Mark) -> nix::Result<()> {
    const TCP_SEND_QUEUE: i32 = 2;
    // Without a probe, which there is nobody for yet.
    const TCP_REPAIR_OFF_NO_WP: i32 = -1;
    let set = |option, value: i32| {
        // SAFETY: the value is an integer that lives until the call returns, and its size is given.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        Errno::result(result).map(drop)
    };
    set(libc::TCP_REPAIR, 1)?;
    set(libc::TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)?;
    set(libc::TCP_QUEUE_SEQ, mark.0.cast_signed())?;
    set(libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
}

/// Connects within a time.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`], or what the kernel says.
pub fn connect(fd: OwnedFd, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    match connect_to(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    wait(&fd, PollFlags::POLLOUT, patience)?;
    match getsockopt(&fd, sockopt::SocketError)? {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Sends a datagram, and again after a while, until one comes back.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`], or what the kernel says.
pub fn ask_udp(fd: OwnedFd, to: SocketAddr, patience: Duration, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::from(fd);
    socket.connect(to)?;
    let end = Instant::now() + patience;
    let mut buffer = vec![0; LONGEST];
    loop {
        match socket.send(question) {
            // A node hears of its own packets that they go nowhere; whether they were refused comes after that.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => drop(result?),
        }
        let left = end.saturating_duration_since(Instant::now());
        match wait(&socket, PollFlags::POLLIN, left.min(AGAIN)) {
            Ok(()) => {
                let length = socket.recv(&mut buffer)?;
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut && Instant::now() < end => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait(fd: &impl AsFd, what: PollFlags, time: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd.as_fd(), what)], timeout)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Sends an echo request; whether its reply came.
///
/// # Errors
/// What the kernel says, for instance without `CAP_NET_RAW`.
pub fn ping(to: IpAddr, mark: Mark, patience: Duration) -> io::Result<bool> {
    let (family, protocol, kinds) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, [ECHO_REQUEST, ECHO_REPLY]),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, [ECHO_REQUEST6, ECHO_REPLY6]),
    };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    let mut request = vec![kinds[0], 0, 0, 0];
    // The identifier and the sequence number.
    request.extend(mark.0.to_be_bytes());
    request.extend(mark.text().bytes());
    if to.is_ipv4() {
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&request).ones_complement();
        // The sum is in the order of the bytes that were added.
        request[2..4].copy_from_slice(&sum.to_ne_bytes());
    }
    sendto(fd.as_raw_fd(), &request, &SockaddrStorage::from(SocketAddr::new(to, 0)), MsgFlags::empty())?;
    let end = Instant::now() + patience;
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match wait(&fd, PollFlags::POLLIN, left) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(false),
            result => result?,
        }
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        // An IPv4 socket has the IP header as well (raw(7)).
        let header = if to.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
        let Some(answer) = buffer.get(header..length) else { continue };
        if answer.first() == Some(&kinds[1]) && Mark::find(answer) == Some(mark) {
            return Ok(true);
        }
    }
}

/// Whether an ICMP or ICMPv6 type is that of an echo request, or of a reply.
pub(super) fn is_echo(kind: u8, protocol: u8) -> (bool, bool) {
    match protocol {
        ICMP => (kind == ECHO_REQUEST, kind == ECHO_REPLY),
        _ => (kind == ECHO_REQUEST6, kind == ECHO_REPLY6),
    }
}
