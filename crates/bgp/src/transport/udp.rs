//! UDP sockets of BFD: packets that no router has passed on.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use libc::c_int;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::socket;

/// The TTL of a packet that comes from a direct neighbour (RFC 5881, section 5).
const DIRECT: c_int = 255;

/// The ports to send from (RFC 5881, section 4).
const PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// A socket that receives at one of our addresses.
pub(super) async fn receiver(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).await?;
    match address {
        SocketAddr::V4(_) => socket::set::<c_int>(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTTL, &1)?,
        SocketAddr::V6(_) => {
            socket::set::<c_int>(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &1)?;
        }
    }
    Ok(socket)
}

/// A socket that sends from one of our addresses.
pub(super) async fn sender(address: IpAddr) -> io::Result<UdpSocket> {
    let mut error = io::Error::from(io::ErrorKind::AddrInUse);
    for port in PORTS {
        match UdpSocket::bind(SocketAddr::new(address, port)).await {
            Ok(socket) => {
                socket::set_ttl(socket.as_fd(), address)?;
                return Ok(socket);
            }
            Err(taken) if taken.kind() == io::ErrorKind::AddrInUse => error = taken,
            Err(other) => return Err(other),
        }
    }
    Err(error)
}

/// Waits for the next packet of a direct neighbour: its length and where it comes from.
pub(super) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || receive_now(socket, buffer)) {
            Ok(Some(received)) => return Ok(received),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// None for a packet that a router has passed on.
fn receive_now(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<(usize, IpAddr)>> {
    let mut control = nix::cmsg_space!(c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let direct = message.cmsgs()?.any(|control| match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => ttl == DIRECT,
        _ => false,
    });
    let from = message.address.and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| IpAddr::V4(from.ip()));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| IpAddr::V6(from.ip())))
    });
    Ok(from.filter(|_| direct).map(|from| (message.bytes, from)))
}
