//! Packets that say no more than that their sender is there.

use std::io;
use std::mem::{self, size_of};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use model::Family;
use plan::ipip::Outer;

use crate::{Error, Result};

const NO_NEXT_HEADER: u8 = 59;

/// What is in the outer header of a keepalive: no next header (RFC 8200, section 4.7), from and to nobody.
///
/// The outer header has protocol 4 for IPv4 and 41 for IPv6. To keep both open takes both.
pub fn keepalive(family: Family) -> Vec<u8> {
    match family {
        Family::V4 => {
            let mut header = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, NO_NEXT_HEADER, 0x7a, 0xb0];
            header.resize(20, 0);
            header
        }
        Family::V6 => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, NO_NEXT_HEADER, 64];
            header.resize(40, 0);
            header
        }
    }
}

/// Sends a keepalive for one inner family, from the network namespace of the calling thread. The programs are not
/// needed for it, and hold none back.
///
/// # Errors
/// If this process may not send such packets, the source is no address of this node, or there is no route.
pub fn send_keepalive(outer: Outer, inner: Family) -> Result<()> {
    let (source, destination) = (outer.source(), outer.destination());
    let failed = |source| {
        let what = format!("send a keepalive for {inner} to {destination}");
        Error::System { what, source }
    };
    let socket = raw(outer.family(), inner).map_err(failed)?;
    let packet = keepalive(inner);
    let (from, to) = (SocketAddress::new(source), SocketAddress::new(destination));
    // SAFETY: the pointers and lengths are those of values that live through the calls.
    let sent = unsafe {
        if libc::bind(socket.as_raw_fd(), from.pointer(), from.length()) < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        let (data, length) = (packet.as_ptr().cast(), packet.len());
        libc::sendto(socket.as_raw_fd(), data, length, 0, to.pointer(), to.length())
    };
    if sent < 0 { Err(failed(io::Error::last_os_error())) } else { Ok(()) }
}

/// A socket for packets of protocol 4 or 41; the kernel makes their outer header (raw(7)).
fn raw(outer: Family, inner: Family) -> io::Result<OwnedFd> {
    let domain = match outer {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let protocol = match inner {
        Family::V4 => libc::IPPROTO_IPIP,
        Family::V6 => libc::IPPROTO_IPV6,
    };
    // SAFETY: socket takes no pointers; the descriptor it returns is owned by nobody else.
    unsafe {
        let socket = libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        if socket < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(socket)) }
    }
}

/// An address without a port, as the kernel takes it.
enum SocketAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl SocketAddress {
    fn new(address: IpAddr) -> SocketAddress {
        match address {
            IpAddr::V4(address) => {
                // SAFETY: sockaddr_in is plain data for which all zeroes is valid.
                let mut socket: libc::sockaddr_in = unsafe { mem::zeroed() };
                socket.sin_family = libc::AF_INET as libc::sa_family_t;
                socket.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
                SocketAddress::V4(socket)
            }
            IpAddr::V6(address) => {
                // SAFETY: sockaddr_in6 is plain data for which all zeroes is valid.
                let mut socket: libc::sockaddr_in6 = unsafe { mem::zeroed() };
                socket.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                socket.sin6_addr.s6_addr = address.octets();
                SocketAddress::V6(socket)
            }
        }
    }

    fn pointer(&self) -> *const libc::sockaddr {
        match self {
            SocketAddress::V4(socket) => (&raw const *socket).cast(),
            SocketAddress::V6(socket) => (&raw const *socket).cast(),
        }
    }

    fn length(&self) -> libc::socklen_t {
        match self {
            SocketAddress::V4(_) => size_of::<libc::sockaddr_in>() as libc::socklen_t,
            SocketAddress::V6(_) => size_of::<libc::sockaddr_in6>() as libc::socklen_t,
        }
    }
}
