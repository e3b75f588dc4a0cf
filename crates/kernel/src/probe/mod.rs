//! A few packets to other nodes, to see what comes back. It is for whoever asks to say to whom and how many; nothing is
//! sent twice here.

mod socket;

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use model::Family;

use self::socket::{Heard, RawSocket};
use crate::{Error, Result};

/// The UDP port on which nobody should listen (the first that traceroute(8) uses), so that the answer is an ICMP error.
const NOBODYS_PORT: u16 = 33_434;
/// What a datagram carries, so that whoever sees it knows what it is.
const LETTER: &[u8] = b"cambric doctor: does this arrive unharmed?";

/// What came back for an echo request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Echoed {
    /// The answer.
    Answer,
    /// Word that the packet is too big; the size that fits in bytes, if that was told.
    TooBig(Option<u32>),
    /// Nothing.
    Nothing,
    /// It could not be sent, and why.
    Unsent(String),
}

/// An echo request (RFC 792, RFC 4443) that no router may fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Echo {
    /// Whom to ask.
    pub to: IpAddr,
    /// The size of the IP packet in bytes.
    pub size: u32,
}

/// Sends echo requests, all at once, and waits until each has an answer or the time is up. What was learned before about
/// the size of packets is not gone by.
///
/// # Errors
/// [`Error::System`] if there are no raw sockets for this process (CAP_NET_RAW).
pub fn echo(requests: &[Echo], patience: Duration) -> Result<Vec<Echoed>> {
    let mut open = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let socket = RawSocket::icmp(request.to)?;
        // Many processes may ask the same node; the number in the request says whose answer it is.
        let identifier = (std::process::id() as u16).rotate_left(4) ^ index as u16;
        let outcome = match socket.send(&echo_request(*request, identifier, index as u16)) {
            Ok(()) => None,
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                Some(Echoed::TooBig(socket.path_mtu()))
            }
            Err(error) => Some(Echoed::Unsent(error.to_string())),
        };
        open.push((socket, identifier, outcome));
    }
    let deadline = Instant::now() + patience;
    loop {
        let waiting: Vec<&RawSocket> =
            open.iter().filter(|(_, _, outcome)| outcome.is_none()).map(|(socket, ..)| socket).collect();
        if waiting.is_empty() || !socket::wait(&waiting, deadline)? {
            break;
        }
        for (socket, identifier, outcome) in &mut open {
            while outcome.is_none() {
                match socket.receive() {
                    Heard::Nothing => break,
                    Heard::Packet(packet) if is_answer(socket.family(), &packet, *identifier) => {
                        *outcome = Some(Echoed::Answer);
                    }
                    Heard::Packet(_) => {}
                    Heard::Error(libc::EMSGSIZE) => *outcome = Some(Echoed::TooBig(socket.path_mtu())),
                    Heard::Error(errno) => {
                        *outcome = Some(Echoed::Unsent(io::Error::from_raw_os_error(errno).to_string()));
                    }
                }
            }
        }
    }
    Ok(open.into_iter().map(|(_, _, outcome)| outcome.unwrap_or(Echoed::Nothing)).collect())
}

/// Who computes the checksum of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Summed {
    /// This process.
    ByHand,
    /// The kernel, which leaves it to the device if that says it can.
    ByDevice,
}

/// Between whom a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Letter {
    /// An address of this node.
    pub from: IpAddr,
    /// The other node's, of the same family.
    pub to: IpAddr,
}

/// Sends UDP datagrams to a port on which nobody listens, all at once, and says of each whether it has arrived. A kernel
/// that gets one with a wrong checksum drops it, and else says that the port is closed: but no more than once in a second
/// if it is often asked (`icmp_ratelimit`, icmp(7)).
///
/// # Errors
/// [`Error::System`] if there are no raw sockets for this process (CAP_NET_RAW), or an address is not this node's.
pub fn letters(between: &[Letter], summed: Summed, patience: Duration) -> Result<Vec<bool>> {
    let mut open = Vec::new();
    for Letter { from, to } in between {
        let failed = |source| Error::System { what: format!("send a datagram from {from} to {to}"), source };
        let socket = UdpSocket::bind((*from, 0)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        socket.connect((*to, NOBODYS_PORT)).map_err(failed)?;
        // What cannot be sent does not arrive, which is all that is asked. The usual socket hears of both: it has the port.
        let _ = match summed {
            Summed::ByDevice => socket.send(LETTER).map(drop),
            Summed::ByHand => {
                let port = socket.local_addr().map_err(failed)?.port();
                RawSocket::udp(*from, *to)?.send(&datagram(*from, *to, port))
            }
        };
        open.push((socket, false));
    }
    let deadline = Instant::now() + patience;
    loop {
        let waiting: Vec<&UdpSocket> =
            open.iter().filter(|(_, arrived)| !arrived).map(|(socket, _)| socket).collect();
        if waiting.is_empty() || !socket::wait(&waiting, deadline)? {
            break;
        }
        for (socket, arrived) in &mut open {
            let refused = |error: io::Error| error.raw_os_error() == Some(libc::ECONNREFUSED);
            *arrived |= socket.recv(&mut [0; 1]).err().is_some_and(refused);
        }
    }
    Ok(open.into_iter().map(|(_, arrived)| arrived).collect())
}

/// An ICMP message; its checksum is the kernel's for IPv6, and ours for IPv4.
fn echo_request(Echo { to, size }: Echo, identifier: u16, sequence: u16) -> Vec<u8> {
    let (kind, header) = match to {
        IpAddr::V4(_) => (8, 20),
        IpAddr::V6(_) => (128, 40),
    };
    let length = (size as usize).saturating_sub(header).max(8);
    let mut message = vec![0; length];
    let head = [kind, 0, 0, 0];
    let rest = [identifier.to_be_bytes(), sequence.to_be_bytes()].concat();
    for (to, from) in message.iter_mut().zip(head.into_iter().chain(rest)) {
        *to = from;
    }
    if to.is_ipv4() {
        let sum = checksum(&[&message]);
        put(&mut message, 2, sum);
    }
    message
}

fn is_answer(family: Family, packet: &[u8], identifier: u16) -> bool {
    // A raw socket of IPv4 gives the IP header too (raw(7)).
    let (start, reply) = match family {
        Family::V4 => (packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4), 0),
        Family::V6 => (0, 129),
    };
    let message = packet.get(start..).unwrap_or_default();
    message.first() == Some(&reply) && message.get(4..6) == Some(&identifier.to_be_bytes()[..])
}

/// A UDP datagram with its checksum (RFC 768; RFC 8200, section 8.1).
fn datagram(from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    let length = (8 + LETTER.len()) as u16;
    let mut datagram = [port, NOBODYS_PORT, length, 0].map(u16::to_be_bytes).concat();
    datagram.extend(LETTER);
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let tail = [0, libc::IPPROTO_UDP as u16, 0, length].map(u16::to_be_bytes).concat();
    let sum = checksum(&[&octets(from), &octets(to), &tail, &datagram]);
    // Zero would mean that there is none.
    put(&mut datagram, 6, if sum == 0 { 0xffff } else { sum });
    datagram
}

fn put(message: &mut [u8], at: usize, number: u16) {
    if let Some(space) = message.get_mut(at..at + 2) {
        space.copy_from_slice(&number.to_be_bytes());
    }
}

/// The Internet checksum (RFC 1071) of parts, all but the last of an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    };
    let mut sum: u32 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_has_the_right_checksum() {
        let [from, to]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let bytes = datagram(from, to, 4000);
        let pseudo = [192, 0, 2, 1, 192, 0, 2, 2, 0, 17, 0, bytes.len() as u8];
        assert_eq!(checksum(&[&pseudo, &bytes]), 0);
        let request = echo_request(Echo { to, size: 1501 }, 7, 1);
        assert_eq!((request.len(), checksum(&[&request])), (1481, 0));
        let six = echo_request(Echo { to: "::1".parse().unwrap(), size: 1500 }, 7, 1);
        assert_eq!((six.len(), &six[..8]), (1460, &[128, 0, 0, 0, 0, 7, 0, 1][..]));
    }

    #[test]
    fn an_answer_is_known_by_its_number() {
        let mut packet = vec![0x46];
        packet.resize(24, 0);
        packet.extend([0, 0, 0, 0, 0, 7, 0, 1]);
        assert!(is_answer(Family::V4, &packet, 7));
        assert!(!is_answer(Family::V4, &packet, 8));
        assert!(is_answer(Family::V6, &[129, 0, 0, 0, 0, 7], 7));
        assert!(!is_answer(Family::V6, &[], 7) && !is_answer(Family::V4, &[0x4f], 7));
    }
}
