//! Removing a pod's interface without waiting for the kernel to free it.
//!
//! The kernel takes a link out of sight within a millisecond or two. Then the system call waits, some tens of
//! milliseconds, until no processor can still be using it (`rcu_barrier` in `netdev_run_todo`, net/core/dev.c).
//! Nobody needs to wait for that. Since a system call cannot be left, a process that is nobody's business stays in it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use model::AttachmentId;

use super::own_link;
use crate::netlink::NetlinkSocket;
use crate::rtnl::RouteSocket;
use crate::{Error, Result};

const RTM_DELLINK: u16 = libc::RTM_DELLINK;
const RTNLGRP_LINK: libc::c_int = libc::RTNLGRP_LINK as libc::c_int;
/// `struct nlmsghdr` and `struct ifinfomsg`.
const REQUEST: usize = 32;

/// Removes a pod's interface as [`super::detach`] does, and returns when neither end can be seen any more.
///
/// What is left is a child process, without standard input and output, that ends when the kernel has freed the
/// interface. So this is for a process that ends soon itself. The child also keeps open what the caller has open, and
/// with it what the kernel does when the last one closes it.
///
/// # Errors
/// As [`super::detach`]; [`Error::System`] if no process can be started.
pub fn detach_early(node: &mut RouteSocket, id: &AttachmentId) -> Result<bool> {
    let Some(found) = own_link(node, id)? else { return Ok(false) };
    let what = format!("remove link {}", found.name);
    let failed = |source| Error::System { what: what.clone(), source };
    let news = NetlinkSocket::open(libc::NETLINK_ROUTE)?;
    attend(&news, found.index).map_err(failed)?;
    let worker = NetlinkSocket::open(libc::NETLINK_ROUTE)?;
    let (read, write) = pipe().map_err(failed)?;
    let request = request(found.index);
    // SAFETY: the child calls nothing but system calls, so it does not matter what other threads were at.
    match unsafe { libc::fork() } {
        -1 => return Err(Error::system(what)),
        0 => work(worker.as_fd().as_raw_fd(), write.as_raw_fd(), &request),
        _ => drop(write),
    }
    match outcome(&news, &read).map_err(failed)? {
        0 => Ok(true),
        libc::ENODEV => Ok(false),
        errno => {
            let source = io::Error::from_raw_os_error(errno);
            Err(Error::Refused { what, source, detail: None })
        }
    }
}

/// What the child does: it sends the request and passes the kernel's answer on.
fn work(socket: RawFd, answer: RawFd, request: &[u8; REQUEST]) -> ! {
    let mut reply = [0u8; 64];
    // SAFETY: all pointers and lengths are those of arrays that live through the calls; _exit ends this process,
    // which owns none of the descriptors that the parent goes on using.
    unsafe {
        for standard in 0..=2 {
            libc::close(standard);
        }
        let sent = libc::send(socket, request.as_ptr().cast(), REQUEST, 0);
        let received =
            if sent < 0 { -1 } else { libc::recv(socket, reply.as_mut_ptr().cast(), reply.len(), 0) };
        // The acknowledgement: a header, and the error number, negative.
        let code = if received < 20 {
            *libc::__errno_location()
        } else {
            -i32::from_ne_bytes([reply[16], reply[17], reply[18], reply[19]])
        };
        let bytes = code.to_ne_bytes();
        libc::write(answer, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(0)
    }
}

/// Waits until the link is out of sight or the child knows more; 0, or the kernel's error number.
fn outcome(news: &NetlinkSocket, answer: &OwnedFd) -> io::Result<i32> {
    let mut polled = [news.as_fd().as_raw_fd(), answer.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        // SAFETY: the pointer and the length are those of the array, which lives through the call.
        if unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if polled[1].revents != 0 {
            return code(answer);
        }
        // Nothing but this one piece of news passes the filter.
        if polled[0].revents != 0 {
            return Ok(0);
        }
    }
}

/// Has a socket receive the news that a link is gone, and nothing else.
///
/// The kernel says a dozen things of each link that goes. When many pods go at once, each of as many processes would
/// be woken by all of that.
fn attend(news: &NetlinkSocket, index: u32) -> io::Result<()> {
    let instruction =
        |code: u32, on_false: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: on_false, k };
    let load = |size: u32, offset: u32| instruction(libc::BPF_LD | size | libc::BPF_ABS, 0, offset);
    let equal =
        |value: u32, on_false: u8| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, on_false, value);
    // What is loaded is taken for big-endian, and is in the byte order of the host.
    let mut filter = [
        // nlmsg_type
        load(libc::BPF_H, 4),
        equal(u32::from(libc::RTM_DELLINK.to_be()), 5),
        // ifi_family: a bridge that loses a port says so by the same message, in its own family.
        load(libc::BPF_B, 16),
        equal(libc::AF_UNSPEC as u32, 3),
        // ifi_index
        load(libc::BPF_W, 20),
        equal(index.to_be(), 1),
        instruction(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the option's value is a sock_fprog with a filter of the length that it says, both alive here; the kernel
    // keeps a copy.
    let result = unsafe {
        libc::setsockopt(
            news.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    news.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK)
}

/// What the child wrote.
fn code(answer: &OwnedFd) -> io::Result<i32> {
    let mut bytes = [0u8; 4];
    // SAFETY: the pointer and the length are those of the array, which lives through the call.
    let length = unsafe { libc::read(answer.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
    match length {
        4 => Ok(i32::from_ne_bytes(bytes)),
        0.. => Err(io::Error::other("the process that was to do it was killed")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `RTM_DELLINK` by index, to be acknowledged without the request.
fn request(index: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    bytes[0..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&RTM_DELLINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[20..24].copy_from_slice(&index.to_ne_bytes());
    bytes
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: the array has room for two descriptors, which nobody else owns.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}
