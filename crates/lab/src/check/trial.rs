//! Tries of connections to services, each from a port of its own, so that all of its packets are known by that.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kernel::netns::{self, NetNs};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, socket, sockopt,
};

use super::evidence::{Got, Heard, Transport};
use super::probe::LONGEST;
use crate::echo::Answer;

/// The ports that clients use: below those that the kernel gives (net.ipv4.ip_local_port_range), above those of
/// services.
const PORTS: std::ops::Range<u16> = 12_000..29_000;
/// How long to wait before a datagram is sent again. A kernel answers datagrams with errors once a second at most
/// (net.ipv4.icmp_ratelimit), after the first few.
const AGAIN: Duration = Duration::from_millis(400);

/// Gives each try a port.
#[derive(Debug)]
pub(crate) struct Ports(AtomicU16);

impl Ports {
    /// Begins anywhere: what connection tracking still knows of an earlier check is not met again so soon.
    pub(crate) fn new() -> Ports {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let span = u64::from(PORTS.end - PORTS.start);
        let offset = (time.as_millis() as u64 / 10 * 97) % span;
        Ports(AtomicU16::new(PORTS.start + offset as u16))
    }

    /// A number for a mark, that no try of the last days had.
    pub(crate) fn mark(&self) -> u32 {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Sequence numbers of retransmissions are near each other, and marks should not be.
        (time.as_micros() as u32).wrapping_mul(0x9e37_79b1) ^ u32::from(self.next())
    }

    fn next(&self) -> u16 {
        let next = |port: u16| if port + 1 >= PORTS.end { PORTS.start } else { port + 1 };
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |port| Some(next(port)))
            .unwrap_or(PORTS.start)
    }
}

/// One try, before the captures have been looked at.
#[derive(Debug)]
pub(crate) struct Tried {
    /// The client's port; 0 if it got none.
    pub(crate) port: u16,
    pub(crate) got: Got,
    pub(crate) after: Duration,
}

/// Connects and asks who answers, which may take some time.
pub(super) fn attempt(
    from: &NetNs,
    to: SocketAddr,
    transport: Transport,
    ports: &Ports,
    patience: Duration,
) -> Tried {
    marked_attempt(from, to, transport, ports, patience, None)
}

/// Something by which the packets of a try are known wherever they are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mark(pub(crate) u32);

impl Mark {
    /// What the payload of datagrams has in it.
    pub(crate) fn text(self) -> String {
        format!("cambric-trace-{:08x}", self.0)
    }
}

/// The same with a mark: the sequence number of a TCP connection's first segment, or a text in a datagram, which an echo
/// server repeats.
pub(crate) fn marked_attempt(
    from: &NetNs,
    to: SocketAddr,
    transport: Transport,
    ports: &Ports,
    patience: Duration,
    mark: Option<Mark>,
) -> Tried {
    let tried = netns::run_in(from, || -> nix::Result<Tried> {
        let (fd, port) = bound(to, transport, ports)?;
        let begun = Instant::now();
        let asked = match transport {
            Transport::Tcp => {
                mark.map_or(Ok(()), |mark| begin_at(&fd, mark.0))?;
                ask_tcp(fd, to, patience)
            }
            Transport::Udp => {
                let question = mark.map_or_else(|| "JSON".to_owned(), |mark| format!("JSON {}", mark.text()));
                ask_udp(fd, to, patience, question.as_bytes())
            }
        };
        Ok(Tried { port, got: got(asked), after: begun.elapsed() })
    });
    let failed = |error: &dyn std::fmt::Display| Tried {
        port: 0,
        got: Got::Other(error.to_string()),
        after: Duration::ZERO,
    };
    match tried {
        Ok(Ok(tried)) => tried,
        Ok(Err(error)) => failed(&io::Error::from(error)),
        Err(error) => failed(&error),
    }
}

/// A socket at the next port that is free here.
fn bound(to: SocketAddr, transport: Transport, ports: &Ports) -> nix::Result<(OwnedFd, u16)> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    for _ in PORTS {
        let port = ports.next();
        match bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port))) {
            Err(Errno::EADDRINUSE) => {}
            result => return result.map(|()| (fd, port)),
        }
    }
    Err(Errno::EADDRINUSE)
}

/// Lets a socket that is not connected yet begin with this sequence number, by what there is for moving connections
/// between machines (TCP_REPAIR, include/uapi/linux/tcp.h).
fn begin_at(fd: &OwnedFd, sequence: u32) -> nix::Result<()> {
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
    set(libc::TCP_QUEUE_SEQ, sequence.cast_signed())?;
    set(libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
}

fn ask_tcp(fd: OwnedFd, to: SocketAddr, patience: Duration) -> io::Result<String> {
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    wait(&fd, PollFlags::POLLOUT, patience)?;
    match getsockopt(&fd, sockopt::SocketError)? {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let mut stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"JSON\n")?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && (line.len() as u64) < LONGEST && stream.read(&mut byte)? > 0 {
        line.extend(byte);
    }
    // What ends the connection is on its way before a detour ends, or it would go by another node.
    if stream.shutdown(Shutdown::Write).is_ok() {
        while stream.read(&mut byte).is_ok_and(|read| read > 0) {}
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn ask_udp(fd: OwnedFd, to: SocketAddr, patience: Duration, question: &[u8]) -> io::Result<String> {
    let socket = UdpSocket::from(fd);
    socket.connect(to)?;
    let end = Instant::now() + patience;
    let mut buffer = vec![0; LONGEST as usize];
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
                return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned());
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

fn got(asked: io::Result<String>) -> Got {
    match asked {
        Ok(text) => match serde_json::from_str::<Answer>(&text) {
            Ok(answer) => Got::Answer(Heard {
                by: format!("{}/{}", answer.identity.namespace, answer.identity.pod),
                source: answer.source,
            }),
            Err(error) => Got::Other(format!("what answers is no echo server: {error}")),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Got::Refusal,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Got::Nothing,
            _ => Got::Other(format!("it cannot connect: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    #[test]
    fn refusals_and_answers_are_told_apart() {
        let here = NetNs::current().unwrap();
        let ports = Ports::new();
        for address in ["127.0.0.1", "::1"] {
            let closed = {
                let listener = TcpListener::bind((address, 0)).unwrap();
                listener.local_addr().unwrap()
            };
            for transport in Transport::BOTH {
                let tried = attempt(&here, closed, transport, &ports, LONG);
                assert_eq!(tried.got, Got::Refusal, "{address} {transport}");
                assert!(PORTS.contains(&tried.port));
            }
            let listener = TcpListener::bind((address, 0)).unwrap();
            let open = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, source) = listener.accept().unwrap();
                stream.write_all(b"220 ready\n").unwrap();
                source
            });
            let tried = attempt(&here, open, Transport::Tcp, &ports, LONG);
            assert!(
                matches!(&tried.got, Got::Other(what) if what.contains("no echo server")),
                "{:?}",
                tried.got
            );
            assert_eq!(server.join().unwrap().port(), tried.port);
        }
    }
}
