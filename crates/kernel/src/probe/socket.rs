//! Raw sockets (raw(7)) that talk to one address, and hear of what went wrong.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use model::Family;

use crate::{Error, Result};

/// Long enough for an ICMP error or a jumbo frame.
const LONGEST: usize = 65_536;

/// What a socket has for its owner.
pub(super) enum Heard {
    Nothing,
    Packet(Vec<u8>),
    /// An error number.
    Error(i32),
}

/// A raw socket that does not block.
pub(super) struct RawSocket {
    fd: OwnedFd,
    peer: IpAddr,
}

impl RawSocket {
    /// For ICMP with an address. Packets are not fragmented, and what is known of the path's MTU is not gone by.
    pub(super) fn icmp(to: IpAddr) -> Result<RawSocket> {
        let protocol = match to {
            IpAddr::V4(_) => libc::IPPROTO_ICMP,
            IpAddr::V6(_) => libc::IPPROTO_ICMPV6,
        };
        let socket = RawSocket::open(to, protocol)?;
        match to {
            IpAddr::V4(_) => socket.set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?,
            IpAddr::V6(_) => {
                socket.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            }
        }
        socket.name(to, libc::connect, "connect")?;
        Ok(socket)
    }

    /// For UDP headers that are made by hand.
    pub(super) fn udp(from: IpAddr, to: IpAddr) -> Result<RawSocket> {
        let socket = RawSocket::open(to, libc::IPPROTO_UDP)?;
        socket.name(from, libc::bind, "bind")?;
        socket.name(to, libc::connect, "connect")?;
        Ok(socket)
    }

    fn open(peer: IpAddr, protocol: libc::c_int) -> Result<RawSocket> {
        let domain = match peer {
            IpAddr::V4(_) => libc::AF_INET,
            IpAddr::V6(_) => libc::AF_INET6,
        };
        // SAFETY: socket takes no pointers; the descriptor it returns is owned by nobody else.
        let fd = unsafe {
            let fd =
                libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol);
            if fd < 0 {
                return Err(Error::system("open a raw socket"));
            }
            OwnedFd::from_raw_fd(fd)
        };
        let socket = RawSocket { fd, peer };
        match peer {
            IpAddr::V4(_) => socket.set(libc::IPPROTO_IP, libc::IP_RECVERR, 1)?,
            IpAddr::V6(_) => socket.set(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?,
        }
        Ok(socket)
    }

    pub(super) fn family(&self) -> Family {
        Family::of(&self.peer)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> Result<()> {
        // SAFETY: the value is an int that lives through the call, as these options take it.
        let done = unsafe {
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), size)
        };
        if done < 0 { Err(Error::system("set up a raw socket")) } else { Ok(()) }
    }

    /// Binds or connects the socket.
    fn name(
        &self,
        address: IpAddr,
        call: unsafe extern "C" fn(RawFd, *const libc::sockaddr, libc::socklen_t) -> libc::c_int,
        verb: &str,
    ) -> Result<()> {
        let named = match address {
            IpAddr::V4(v4) => {
                let name = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: 0,
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: the name is a sockaddr_in of the length given and lives through the call.
                unsafe { call(self.fd.as_raw_fd(), (&raw const name).cast(), size_of_val(&name) as u32) }
            }
            IpAddr::V6(v6) => {
                let name = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: 0,
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.octets() },
                    sin6_scope_id: 0,
                };
                // SAFETY: the name is a sockaddr_in6 of the length given and lives through the call.
                unsafe { call(self.fd.as_raw_fd(), (&raw const name).cast(), size_of_val(&name) as u32) }
            }
        };
        if named < 0 { Err(Error::system(format!("{verb} a raw socket to {address}"))) } else { Ok(()) }
    }

    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        // SAFETY: the packet is as long as said and lives through the call.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn receive(&self) -> Heard {
        let mut packet = vec![0; LONGEST];
        // SAFETY: the buffer is as long as said and lives through the call.
        let length = unsafe { libc::recv(self.fd.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
        match usize::try_from(length) {
            Ok(length) => {
                packet.truncate(length);
                Heard::Packet(packet)
            }
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) | None => Heard::Nothing,
                Some(errno) => Heard::Error(errno),
            },
        }
    }

    /// The largest packet that is known to fit on the way, in bytes.
    pub(super) fn path_mtu(&self) -> Option<u32> {
        // What was learned since it was connected is not known to the socket before it is again.
        self.name(self.peer, libc::connect, "connect").ok()?;
        let (level, option) = match self.family() {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_MTU),
            Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        };
        let mut value: libc::c_int = 0;
        let mut size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: value and size live through the call, and size is that of value.
        let done = unsafe {
            libc::getsockopt(self.fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut size)
        };
        (done == 0).then(|| u32::try_from(value).ok()).flatten()
    }
}

impl AsRawFd for RawSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Waits until one of the sockets has something; whether one has, or the time is up.
pub(super) fn wait(sockets: &[&impl AsRawFd], deadline: Instant) -> Result<bool> {
    let poll = |socket: &&_| {
        let fd = AsRawFd::as_raw_fd(*socket);
        libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
    };
    let mut polled: Vec<libc::pollfd> = sockets.iter().map(poll).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = left.as_millis().min(i32::MAX as u128) as i32 + i32::from(!left.is_zero());
        // SAFETY: the array is as long as said and lives through the call.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
        match ready {
            0 => return Ok(false),
            1.. => return Ok(true),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(Error::system("wait for answers")),
        }
    }
}
