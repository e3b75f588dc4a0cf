//! A blocking netlink socket and the framing of its messages (linux/netlink.h, RFC 3549).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Error, Result};

/// Length of `struct nlmsghdr` in bytes.
pub(crate) const HEADER: usize = 16;

/// `NLM_F_ACK_TLVS` and `NLMSGERR_ATTR_MSG`, linux/netlink.h.
const ACK_TLVS: u16 = 0x200;
const ERROR_MESSAGE: u16 = 1;
pub(crate) const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
pub(crate) const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;

/// The kernel makes datagrams of up to 32 KiB, more for a link with many virtual functions.
const RECEIVE: usize = 256 * 1024;

pub(crate) struct NetlinkSocket {
    fd: OwnedFd,
}

/// One message of a datagram.
pub(crate) struct Frame<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The port that the request came from, in notifications.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

impl NetlinkSocket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open(protocol: libc::c_int) -> Result<NetlinkSocket> {
        // SAFETY: socket takes no pointers; the descriptor it returns is owned by nobody else.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
            if fd < 0 {
                return Err(Error::system("open a netlink socket"));
            }
            OwnedFd::from_raw_fd(fd)
        };
        let socket = NetlinkSocket { fd };
        // SAFETY: sockaddr_nl is plain data for which all zeroes is valid.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        // SAFETY: address is a sockaddr_nl of the length given and lives through the call.
        let bound = unsafe {
            libc::bind(
                socket.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if bound < 0 {
            return Err(Error::system("bind a netlink socket"));
        }
        Ok(socket)
    }

    /// Sets an option of `SOL_NETLINK` or `SOL_SOCKET` whose value is an integer.
    pub(crate) fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: the option's value is an int, which lives through the call.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Has the kernel drop what a port has caused, before it takes room in the receive buffer.
    pub(crate) fn drop_from(&self, port: u32) -> io::Result<()> {
        // `nlmsg_pid` of the first message (linux/netlink.h); all of a datagram have the same cause. The program loads
        // words in network byte order, the field is in the host's.
        const PORT_AT: u32 = 12;
        let port = u32::from_be_bytes(port.to_ne_bytes());
        let [load, equal, answer] = [
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::BPF_RET | libc::BPF_K,
        ]
        .map(|code| code as u16);
        let mut program = [
            libc::sock_filter { code: load, jt: 0, jf: 0, k: PORT_AT },
            libc::sock_filter { code: equal, jt: 0, jf: 1, k: port },
            libc::sock_filter { code: answer, jt: 0, jf: 0, k: 0 },
            libc::sock_filter { code: answer, jt: 0, jf: 0, k: u32::MAX },
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the option's value is a program whose pointer and length are those of the array, which lives through
        // the call; the kernel copies it.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sets the sizes in bytes of the socket's buffers, past the system's limit if this process may.
    pub(crate) fn set_buffers(&self, send: libc::c_int, receive: libc::c_int) -> Result<()> {
        for (forced, limited, size) in
            [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive)]
        {
            self.set(libc::SOL_SOCKET, forced, size)
                .or_else(|_| self.set(libc::SOL_SOCKET, limited, size))
                .map_err(|source| Error::System { what: "size a netlink socket's buffers".into(), source })?;
        }
        Ok(())
    }

    /// Lets a receive fail with `EAGAIN` after a while. The kernel answers before the send returns, so an answer that
    /// is not there by then will never be.
    pub(crate) fn set_timeout(&self, seconds: libc::time_t) -> Result<()> {
        let limit = libc::timeval { tv_sec: seconds, tv_usec: 0 };
        // SAFETY: the option's value is a timeval, which lives through the call.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const limit).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(Error::system("set a netlink socket's time limit")) } else { Ok(()) }
    }

    /// Has the kernel send what it tells a group of its own accord.
    pub(crate) fn listen(&self, group: libc::c_int) -> Result<()> {
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(|source| Error::System { what: "listen to the kernel's news".into(), source })
    }

    /// How many datagrams there was no room for since the socket was opened (`SK_MEMINFO_DROPS`, linux/sock_diag.h).
    pub(crate) fn drops(&self) -> io::Result<u32> {
        let mut info = [0u32; 16];
        let mut length = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the option's value is an array of u32 of the length given, and both live through the call.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        match result {
            0 => Ok(info.get(libc::SK_MEMINFO_DROPS as usize).copied().unwrap_or_default()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends one datagram to the kernel.
    pub(crate) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        loop {
            // SAFETY: the pointer and the length are those of a slice that lives through the call.
            let sent =
                unsafe { libc::send(self.fd.as_raw_fd(), datagram.as_ptr().cast(), datagram.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Receives one datagram from the kernel, the part of `buffer` that it fills. `flags` as in recv(2).
    pub(crate) fn receive<'a>(&self, buffer: &'a mut Vec<u8>, flags: libc::c_int) -> io::Result<&'a [u8]> {
        if buffer.len() < RECEIVE {
            // Memory fresh from the system is zero already and costs nothing until it is written to.
            *buffer = vec![0; RECEIVE];
        }
        loop {
            // SAFETY: the pointer and the length are those of a buffer that lives through the call.
            let length = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    flags | libc::MSG_TRUNC,
                )
            };
            if let Ok(length) = usize::try_from(length) {
                // With MSG_TRUNC this is the datagram's length even if it did not fit.
                return buffer.get(..length).ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The messages of a datagram. What is cut short at its end is left out.
pub(crate) fn frames(mut datagram: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.get(..HEADER)?;
        let length = u32_at(header, 0)? as usize;
        let body = datagram.get(HEADER..length)?;
        let frame = Frame {
            kind: u16_at(header, 4)?,
            flags: u16_at(header, 6)?,
            sequence: u32_at(header, 8)?,
            port: u32_at(header, 12)?,
            body,
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(frame)
    })
}

/// What an `NLMSG_ERROR` or `NLMSG_DONE` says (`struct nlmsgerr`, linux/netlink.h).
pub(crate) fn acknowledged(frame: &Frame<'_>, what: &str) -> Result<()> {
    let code = i32_at(frame.body, 0).unwrap_or_default();
    if code == 0 {
        return Ok(());
    }
    // After the error number comes the request's header, with its body unless the answer is capped; a DONE has
    // neither.
    let skipped = match (frame.kind, frame.flags & libc::NLM_F_CAPPED as u16) {
        (NLMSG_DONE, _) => 4,
        (_, 0) => 4 + u32_at(frame.body, 4).unwrap_or_default() as usize,
        _ => 4 + HEADER,
    };
    let explained = frame.body.get(skipped.next_multiple_of(4)..).filter(|_| frame.flags & ACK_TLVS != 0);
    let detail = attributes(explained.unwrap_or_default())
        .find(|(kind, _)| *kind == ERROR_MESSAGE)
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    Err(Error::Refused { what: what.to_owned(), source: io::Error::from_raw_os_error(-code), detail })
}

/// The attributes (`struct nlattr`) in `bytes`, with their types without the flags.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & libc::NLA_TYPE_MASK as u16;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_and_attributes_are_told_apart() {
        let mut datagram = Vec::new();
        for (kind, body) in [(24u16, &b"abcde"[..]), (25, b""), (26, b"xyz")] {
            datagram.extend_from_slice(&(HEADER as u32 + body.len() as u32).to_ne_bytes());
            datagram.extend_from_slice(&kind.to_ne_bytes());
            datagram.extend_from_slice(&[0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
            datagram.extend_from_slice(body);
            datagram.resize(datagram.len().next_multiple_of(4), 0);
        }
        let found: Vec<_> = frames(&datagram).map(|frame| (frame.kind, frame.body.to_vec())).collect();
        assert_eq!(found, [(24, b"abcde".to_vec()), (25, Vec::new()), (26, b"xyz".to_vec())]);
        // The last one is cut short.
        assert_eq!(frames(&datagram[..datagram.len() - 2]).count(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            for frame in frames(&bytes) {
                prop_assert!(frame.body.len() <= bytes.len());
            }
            for (_, value) in attributes(&bytes) {
                prop_assert!(value.len() <= bytes.len());
            }
        }
    }
}
