//! Socket options that have no safe interface.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libc::{c_int, c_void, socklen_t};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::PeerTransport;
use super::password::{self, Password};

/// The TTL that only a direct neighbour's packets can have (RFC 5082).
const HIGHEST_TTL: c_int = 255;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 128;

/// Listens on an address. What is sent has the highest TTL, so that peers may insist on it.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address.ip())?;
    socket.set_reuseaddr(true)?;
    set_ttl(socket.as_fd(), address.ip())?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Connects to a peer.
pub(super) async fn connect(to: IpAddr, transport: &PeerTransport) -> io::Result<TcpStream> {
    let socket = new(to)?;
    if let Some(password) = &transport.password {
        set_password(socket.as_fd(), to, Some(password))?;
    }
    if transport.ttl_security {
        set_ttl(socket.as_fd(), to)?;
        require_direct(socket.as_fd(), to)?;
    }
    if let Some(source) = transport.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(SocketAddr::new(to, transport.port)).await
}

/// Insists on packets that no router has passed on.
pub(super) fn require_direct(socket: BorrowedFd<'_>, peer: IpAddr) -> io::Result<()> {
    match peer {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &HIGHEST_TTL),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &HIGHEST_TTL),
    }
}

/// Sets the password of a peer on a socket that listens or is about to connect; none takes it away.
pub(super) fn set_password(
    socket: BorrowedFd<'_>,
    peer: IpAddr,
    password: Option<&Password>,
) -> io::Result<()> {
    let result = set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &Md5Sig::new(peer, password));
    match result {
        // There was none to take away.
        Err(error) if password.is_none() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn new(family_of: IpAddr) -> io::Result<TcpSocket> {
    match family_of {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // IPv4 has sockets of its own, on which its peers' passwords are.
            set::<c_int>(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1)?;
            Ok(socket)
        }
    }
}

/// Gives what is sent the highest TTL.
pub(super) fn set_ttl(socket: BorrowedFd<'_>, peer: IpAddr) -> io::Result<()> {
    match peer {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_TTL, &HIGHEST_TTL),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &HIGHEST_TTL),
    }
}

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct Md5Sig {
    address: [u8; 128],
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: c_int,
    key: [u8; password::LONGEST],
}

impl Md5Sig {
    fn new(peer: IpAddr, password: Option<&Password>) -> Md5Sig {
        let bytes = password.map_or(&[][..], Password::bytes);
        let mut key = [0; password::LONGEST];
        key[..bytes.len()].copy_from_slice(bytes);
        let mut address = [0; 128];
        // `struct sockaddr_in` and `struct sockaddr_in6`; the port does not count.
        match peer {
            IpAddr::V4(peer) => {
                address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                address[4..8].copy_from_slice(&peer.octets());
            }
            IpAddr::V6(peer) => {
                address[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                address[8..24].copy_from_slice(&peer.octets());
            }
        }
        Md5Sig { address, flags: 0, prefix_len: 0, key_len: bytes.len() as u16, interface: 0, key }
    }
}

/// Sets an option to an integer or a `repr(C)` struct without padding.
pub(super) fn set<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let pointer: *const c_void = std::ptr::from_ref(value).cast();
    // SAFETY: the descriptor is open while it is borrowed, and the kernel only reads the `size_of::<T>()` bytes
    // behind a pointer made from a reference. `T` is an integer or a `repr(C)` struct without padding.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, size_of::<T>() as socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
