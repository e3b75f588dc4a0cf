//! The netlink socket: the only system calls of this crate.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::Error;

/// A datagram holds at most 32 KiB of a dump, and one message of a notification.
const RECEIVE_BYTES: usize = 128 * 1024;

/// A socket of family `NETLINK_NETFILTER` in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    fd: OwnedFd,
    port_id: u32,
    buf: Vec<u8>,
}

/// What a receive brought.
pub(crate) enum Received<'a> {
    Datagram(&'a [u8]),
    /// Nothing is waiting.
    Empty,
    /// The kernel had more to say than the receive buffer takes, and dropped it.
    Overrun,
}

impl NetlinkSocket {
    pub(crate) fn open() -> Result<NetlinkSocket, Error> {
        // SAFETY: the call takes no pointers.
        let fd = check("open", unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER)
        })?;
        // SAFETY: the descriptor is new and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: sockaddr_nl is plain data for which all zeros is a value.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        let mut len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address is a valid sockaddr_nl of the length given.
        check("bind", unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        // SAFETY: the kernel writes at most `len` bytes to the address.
        check("getsockname", unsafe {
            libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len)
        })?;
        let socket = NetlinkSocket { fd, port_id: address.nl_pid, buf: vec![0; RECEIVE_BYTES] };
        socket.option("NETLINK_CAP_ACK", libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        socket.option("NETLINK_EXT_ACK", libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
        Ok(socket)
    }

    /// The kernel's address of this socket.
    pub(crate) fn port_id(&self) -> u32 {
        self.port_id
    }

    pub(crate) fn join_group(&self, group: u32) -> Result<(), Error> {
        let group = group as libc::c_int;
        self.option("NETLINK_ADD_MEMBERSHIP", libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Makes room to send this many bytes at once. Beyond `net.core.wmem_max` that takes CAP_NET_ADMIN; without it the
    /// limit stays and sending more fails with EMSGSIZE.
    pub(crate) fn reserve_send(&self, bytes: usize) -> Result<(), Error> {
        self.reserve("SO_SNDBUF", libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes)
    }

    /// Makes room for this many bytes to wait; as [`NetlinkSocket::reserve_send`].
    pub(crate) fn reserve_receive(&self, bytes: usize) -> Result<(), Error> {
        self.reserve("SO_RCVBUF", libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes)
    }

    fn reserve(
        &self,
        what: &'static str,
        force: libc::c_int,
        plain: libc::c_int,
        bytes: usize,
    ) -> Result<(), Error> {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        match self.option(what, libc::SOL_SOCKET, force, bytes) {
            Err(error) if error.errno() == Some(libc::EPERM) => {
                self.option(what, libc::SOL_SOCKET, plain, bytes)
            }
            result => result,
        }
    }

    fn option(
        &self,
        what: &'static str,
        level: libc::c_int,
        name: libc::c_int,
        value: libc::c_int,
    ) -> Result<(), Error> {
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the value is a c_int of the length given.
        check(what, unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), len)
        })?;
        Ok(())
    }

    /// Sends the parts to the kernel as one datagram. The kernel has acted on it, and its answers wait, on return.
    pub(crate) fn send(&self, parts: &[&[u8]]) -> Result<(), Error> {
        let mut vectors: Vec<libc::iovec> = parts
            .iter()
            .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() })
            .collect();
        // SAFETY: msghdr is plain data for which all zeros is a value; without an address it goes to the kernel.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = vectors.len() as _;
        loop {
            // SAFETY: the header points to vectors of borrowed parts, all alive here; sending does not write to them.
            let sent = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const header, 0) };
            match check_size("send", sent) {
                Err(error) if error.errno() == Some(libc::EINTR) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Takes the next datagram, without waiting for one.
    pub(crate) fn receive(&mut self) -> Result<Received<'_>, Error> {
        loop {
            // SAFETY: the kernel writes at most as many bytes as the buffer has; with MSG_TRUNC it returns the whole
            // length of the datagram.
            let size = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    self.buf.as_mut_ptr().cast(),
                    self.buf.len(),
                    libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                )
            };
            match check_size("receive", size) {
                Ok(size) if size > self.buf.len() => {
                    return Err(Error::Malformed { what: "datagram longer than the receive buffer" });
                }
                Ok(size) => return Ok(Received::Datagram(&self.buf[..size])),
                Err(error) => match error.errno() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return Ok(Received::Empty),
                    Some(libc::ENOBUFS) => return Ok(Received::Overrun),
                    _ => return Err(error),
                },
            }
        }
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for NetlinkSocket {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

fn check(what: &'static str, result: libc::c_int) -> Result<libc::c_int, Error> {
    if result < 0 { Err(Error::Socket { what, source: io::Error::last_os_error() }) } else { Ok(result) }
}

fn check_size(what: &'static str, result: libc::ssize_t) -> Result<usize, Error> {
    usize::try_from(result).map_err(|_| Error::Socket { what, source: io::Error::last_os_error() })
}
