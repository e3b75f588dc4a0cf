//! Packets that are really sent, each with a mark of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns::{self, NetNs};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, socket,
};
use trace::Packet;

use crate::check::evidence::{Got, Heard, Transport};
use crate::check::trial::{Mark, Ports, marked_attempt};

// IANA protocol numbers
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
// RFC 792, RFC 4443
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// Who sends what.
#[derive(Debug)]
pub(super) struct Sender {
    from: NetNs,
    pub(super) packet: Packet,
    pub(super) mark: Mark,
}

impl Sender {
    pub(super) fn new(from: NetNs, packet: Packet, mark: Mark) -> Sender {
        Sender { from, packet, mark }
    }

    fn send(&self, ports: &Ports, patience: Duration) -> Got {
        let Packet { destination, destination_port, protocol, .. } = self.packet;
        let transport = match protocol {
            TCP => Transport::Tcp,
            UDP => Transport::Udp,
            _ => return self.ping(patience),
        };
        let to = SocketAddr::new(destination, destination_port.unwrap_or_default());
        marked_attempt(&self.from, to, transport, ports, patience, Some(self.mark)).got
    }

    fn ping(&self, patience: Duration) -> Got {
        let asked = netns::run_in(&self.from, || ping(self.packet.destination, self.mark, patience));
        match asked {
            Ok(Ok(true)) => {
                let source = SocketAddr::new(self.packet.source, 0);
                Got::Answer(Heard { by: self.packet.destination.to_string(), source })
            }
            Ok(Ok(false)) => Got::Nothing,
            Ok(Err(error)) => Got::Other(format!("it cannot send: {error}")),
            Err(error) => Got::Other(error.to_string()),
        }
    }
}

/// Sends all, so many at the same time.
pub(super) fn send_all(senders: &[Sender], at_once: usize, ports: &Ports, patience: Duration) -> Vec<Got> {
    let results: Vec<Mutex<Option<Got>>> = senders.iter().map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(sender), Some(result)) = (senders.get(index), results.get(index)) else { return };
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.send(ports, patience));
        }
    };
    thread::scope(|scope| {
        for _ in 0..senders.len().min(at_once) {
            scope.spawn(work);
        }
    });
    let got = |result: Mutex<Option<Got>>| result.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|result| got(result).unwrap_or(Got::Nothing)).collect()
}

/// Sends an echo request; whether its reply came.
fn ping(to: IpAddr, mark: Mark, patience: Duration) -> io::Result<bool> {
    let (family, protocol, kinds) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, [ECHO_REQUEST, ECHO_REPLY]),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, [ECHO_REQUEST6, ECHO_REPLY6]),
    };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    let id = (mark.0 >> 16) as u16;
    let mut request = vec![kinds[0], 0, 0, 0];
    request.extend(id.to_be_bytes());
    request.extend((mark.0 as u16).to_be_bytes());
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
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if left.is_zero()
            || poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&fd), PollFlags::POLLIN)], timeout)? == 0
        {
            return Ok(false);
        }
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        // An IPv4 socket has the IP header as well (raw(7)).
        let header = if to.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
        let Some(answer) = buffer.get(header..length) else { continue };
        if answer.first() == Some(&kinds[1]) && has(answer, mark) {
            return Ok(true);
        }
    }
}

/// Whether bytes have a mark's text in them.
pub(super) fn has(bytes: &[u8], mark: Mark) -> bool {
    let text = mark.text();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Whether an ICMP or ICMPv6 type is that of an echo request, or of a reply.
pub(super) fn is_echo(kind: u8, protocol: u8) -> (bool, bool) {
    match protocol {
        ICMP => (kind == ECHO_REQUEST, kind == ECHO_REPLY),
        _ => (kind == ECHO_REQUEST6, kind == ECHO_REPLY6),
    }
}
