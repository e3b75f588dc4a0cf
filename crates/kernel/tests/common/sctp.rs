//! SCTP packets made by hand (RFC 9260): a kernel that keeps track of SCTP need not have its sockets.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use model::{Family, Protocol};

use super::TestNs;

/// Types of chunks (RFC 9260, section 3.2).
pub const INIT: u8 = 1;
pub const INIT_ACK: u8 = 2;

/// What is known of a packet that arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: SocketAddr,
    pub to_port: u16,
    pub chunk: u8,
}

/// A raw socket in a namespace.
pub struct Sctp(UdpSocket);

impl std::os::fd::AsRawFd for Sctp {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl Sctp {
    pub fn open(test: &TestNs, family: Family) -> Sctp {
        let _guard = test.enter();
        let domain = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
        // SAFETY: socket takes no pointers; the descriptor it returns is owned by nobody else.
        let fd = unsafe {
            let fd =
                libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, Protocol::Sctp.number().into());
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        let socket = UdpSocket::from(fd);
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Sctp(socket)
    }

    /// Sends a packet with one chunk that begins an association or agrees to one.
    pub fn send(&self, from_port: u16, to: SocketAddr, chunk: u8) {
        let tag = if chunk == INIT { 0u32 } else { 1 };
        let mut packet =
            [&from_port.to_be_bytes()[..], &to.port().to_be_bytes(), &tag.to_be_bytes()].concat();
        packet.extend([0; 4]);
        // Length, tag, window, streams out and in, first sequence number (RFC 9260, section 3.3.2).
        packet.extend([chunk, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        let sum = crc32c(&packet).to_le_bytes();
        packet[8..12].copy_from_slice(&sum);
        self.0.send_to(&packet, (to.ip(), 0)).unwrap();
    }

    /// The next packet, whose checksum must be right.
    pub fn receive(&self) -> Packet {
        let mut buffer = [0; 256];
        let (length, from) = self.0.recv_from(&mut buffer).unwrap();
        // IPv4 comes with its header.
        let header = if from.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let packet = &mut buffer[header..length];
        let sum: [u8; 4] = packet[8..12].try_into().unwrap();
        packet[8..12].fill(0);
        assert_eq!(u32::from_le_bytes(sum), crc32c(packet), "the checksum");
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let address: IpAddr = from.ip();
        Packet { from: SocketAddr::new(address, port(0)), to_port: port(2), chunk: packet[12] }
    }
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |sum: u32| (0..8).fold(sum, |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 });
    !bytes.iter().fold(!0, |sum, byte| shift(sum ^ u32::from(*byte)))
}
