//! Frames made by hand, and sockets that send and hear them.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use model::MacAddr;

pub const ARP: u16 = 0x0806;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;

/// A packet socket on one link: hears and sends whole frames.
pub struct Wire(OwnedFd);

impl Wire {
    /// Opens it in the namespace of the calling thread.
    pub fn open(link: &str) -> Wire {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket takes no pointers; the descriptor it returns is owned by nobody else.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        let name = std::ffi::CString::new(link).unwrap();
        // SAFETY: the name is NUL-terminated, and sockaddr_ll is plain data for which all zeroes is valid.
        let (index, mut address) =
            unsafe { (libc::if_nametoindex(name.as_ptr()), std::mem::zeroed::<libc::sockaddr_ll>()) };
        assert_ne!(index, 0, "no link {link}");
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let timeout = libc::timeval { tv_sec: 5, tv_usec: 0 };
        // SAFETY: the pointers are to values of the lengths given, which live through the calls.
        unsafe {
            let size = size_of_val(&address) as libc::socklen_t;
            assert_eq!(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size), 0);
            let size = size_of_val(&timeout) as libc::socklen_t;
            let value = (&raw const timeout).cast();
            assert_eq!(libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, size), 0);
        }
        Wire(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the pointer and the length are those of the slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame.
    pub fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; 65536];
        // SAFETY: the pointer and the length are those of the buffer.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        assert!(length > 0, "nothing came: {}", io::Error::last_os_error());
        frame.truncate(length as usize);
        frame
    }
}

pub fn ethernet(to: MacAddr, from: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0[..], &kind.to_be_bytes(), payload].concat()
}

/// An ARP request (RFC 826).
pub fn arp(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    [&head[..], &mac.0, &sender.octets(), &[0; 6], &target.octets()].concat()
}

/// An IPv4 packet (RFC 791).
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let head = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    let mut packet = [&head[..], &from.octets(), &to.octets(), payload].concat();
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// An IPv6 packet (RFC 8200).
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], next, 255];
    [&head[..], &from.octets(), &to.octets(), payload].concat()
}

/// A UDP datagram without checksum over IPv4; IPv6 receivers in the kernel want one, forwarders do not.
pub fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    [&4000u16.to_be_bytes()[..], &port.to_be_bytes(), &length, &[0, 0], payload].concat()
}

/// A VXLAN header (RFC 7348, section 5) and what it carries.
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat()
}

/// An ICMPv6 message of a type, with a target address where neighbour discovery has it.
pub fn icmp6(kind: u8, target: Ipv6Addr, rest: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), rest].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
