//! Datagrams: each is answered from the very address it was sent to.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::answer::{Answer, Identity, canonical, excerpt};

/// Answers datagrams until the socket fails.
pub(super) async fn serve(socket: UdpSocket, identity: Identity) -> io::Result<()> {
    let port = socket.local_addr()?.port();
    let mut buffer = vec![0; 65_536];
    loop {
        let received = socket.async_io(Interest::READABLE, || Ok(receive(socket.as_raw_fd(), &mut buffer)?));
        let datagram = match received.await {
            Ok(Some(datagram)) => datagram,
            Ok(None) => continue,
            // A pending ICMP error of an earlier answer; it says nothing about this socket.
            Err(error) if is_of_peer(&error) => continue,
            Err(error) => return Err(error),
        };
        let asked = &buffer[..datagram.length];
        let answer = Answer {
            identity: identity.clone(),
            protocol: "UDP".into(),
            source: canonical(datagram.source.address),
            destination: canonical(SocketAddr::new(datagram.destination.address(), port)),
            asked: excerpt(asked),
        };
        let bytes = match asked {
            [b'E', b'C', b'H', b'O', ..] => asked.to_vec(),
            [b'J', b'S', b'O', b'N', ..] => answer.to_json().into_bytes(),
            _ => (answer.to_line() + "\n").into_bytes(),
        };
        let reply = || Ok(send(socket.as_raw_fd(), &bytes, &datagram)?);
        if let Err(error) = socket.async_io(Interest::WRITABLE, reply).await {
            tracing::debug!(peer = %datagram.source.address, %error, "cannot answer a datagram");
        }
    }
}

fn is_of_peer(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::ECONNREFUSED
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
                | Errno::EMSGSIZE
                | Errno::EPROTO
                | Errno::EACCES
                | Errno::ENOPROTOOPT
        )
    )
}

struct Datagram {
    length: usize,
    source: Peer,
    destination: Destination,
}

struct Peer {
    address: SocketAddr,
    raw: SockaddrStorage,
}

/// The address a datagram was sent to, in the form in which the answer hands it back to the kernel.
enum Destination {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Destination {
    fn address(&self) -> IpAddr {
        match self {
            Self::V4(info) => Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into(),
            Self::V6(info) => Ipv6Addr::from(info.ipi6_addr.s6_addr).into(),
        }
    }
}

fn receive(socket: RawFd, buffer: &mut [u8]) -> nix::Result<Option<Datagram>> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket, &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let destination = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Destination::V4(info)),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Destination::V6(info)),
        _ => None,
    });
    let address = message.address.and_then(|raw| Some(Peer { address: socket_address(&raw)?, raw }));
    Ok(address.zip(destination).map(|(source, destination)| Datagram {
        length: message.bytes,
        source,
        destination,
    }))
}

fn send(socket: RawFd, bytes: &[u8], asked: &Datagram) -> nix::Result<usize> {
    let slices = [IoSlice::new(bytes)];
    let (mut v4, mut v6);
    let control = match asked.destination {
        Destination::V4(info) => {
            v4 = info;
            v4.ipi_spec_dst = v4.ipi_addr;
            // The route decides the interface, as for any other packet; only the source address is asked for.
            v4.ipi_ifindex = 0;
            ControlMessage::Ipv4PacketInfo(&v4)
        }
        Destination::V6(info) => {
            v6 = info;
            let link_local = Ipv6Addr::from(v6.ipi6_addr.s6_addr).is_unicast_link_local();
            if !link_local {
                v6.ipi6_ifindex = 0;
            }
            ControlMessage::Ipv6PacketInfo(&v6)
        }
    };
    sendmsg(socket, &slices, &[control], MsgFlags::MSG_DONTWAIT, Some(&asked.source.raw))
}

fn socket_address(raw: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v6) = raw.as_sockaddr_in6() {
        return Some(SocketAddr::V6((*v6).into()));
    }
    raw.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()))
}
