//! Removing pods' interfaces, many at once, without waiting for the kernel to free them.
//!
//! The kernel takes a link out of sight within a millisecond or two, most of which it spends waiting for its own
//! processors, with the lock held that all changes of links need (`synchronize_net` in
//! `unregister_netdevice_many_notify`, net/core/dev.c). It waits as often for one link as for many that are removed by
//! one request, and the one such request that there is removes all links of a group (`rtnl_group_dellink`,
//! net/core/rtnetlink.c). So links that are to go are first put into a group of their own.
//!
//! Then the system call waits, some tens of milliseconds, until no processor can still be using a link (`rcu_barrier`
//! in `netdev_run_todo`). Nobody needs to wait for that. Since a system call cannot be left, a process that is nobody's
//! business stays in it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use model::{AttachmentId, LinkName};

use super::{Interface, own_link, requests, state};
use crate::netlink::{NetlinkSocket, frames, u32_at};
use crate::rtnl::RouteSocket;
use crate::{Error, Result};

const RTM_DELLINK: u16 = libc::RTM_DELLINK;
const RTNLGRP_LINK: libc::c_int = libc::RTNLGRP_LINK as libc::c_int;
/// Length of `struct nlmsghdr` and `struct ifinfomsg`.
const HEADERS: usize = 32;
/// Links that go at once. The news of all of them has room in the buffer.
const MOST: usize = 256;
/// Size in bytes of the buffer for news of links.
const BUFFER: libc::c_int = 4 * 1024 * 1024;
/// The group that links are put into, or the next one that nobody uses.
const GROUP: u32 = 0x6362_7600;

/// Interfaces of pods that are about to be removed.
#[derive(Debug)]
pub struct Removal {
    links: Vec<Interface>,
    /// Links that were asked for and stay.
    spared: BTreeSet<LinkName>,
    /// A group that no link is in; none is needed for one link.
    group: u32,
}

impl Removal {
    /// The interface of one pod, if it is there.
    ///
    /// # Errors
    /// [`Error::Foreign`] if what has the name is not ours; else what the kernel says.
    pub fn of(node: &mut RouteSocket, id: &AttachmentId) -> Result<Removal> {
        let links = own_link(node, id)?.into_iter().collect();
        Ok(Removal { links, spared: BTreeSet::new(), group: GROUP })
    }

    /// Those of `names` that are there and ours, up to some hundreds; see [`Removal::spares`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of_all(node: &mut RouteSocket, names: &BTreeSet<LinkName>) -> Result<Removal> {
        let mut links = state::interfaces(node)?;
        let used: BTreeSet<u32> = links.iter().map(|link| link.group).collect();
        let group = (GROUP..).find(|group| !used.contains(group)).unwrap_or(GROUP);
        links.retain(|link| names.contains(&link.name));
        let (mut links, others): (Vec<_>, Vec<_>) = links.into_iter().partition(Interface::is_pods);
        let more = links.split_off(links.len().min(MOST));
        let spared = others.into_iter().chain(more).map(|link| link.name).collect();
        Ok(Removal { links, spared, group })
    }

    /// The names of the interfaces on the node's side.
    pub fn names(&self) -> impl Iterator<Item = &LinkName> {
        self.links.iter().map(|link| &link.name)
    }

    /// Whether a link that was asked for stays, because it is not ours or there are too many.
    pub fn spares(&self, name: &LinkName) -> bool {
        self.spared.contains(name)
    }

    /// Removes the interfaces, and returns when none of their ends can be seen any more.
    ///
    /// What is left is a child process, without standard input and output and without what is in `shed`, that ends when
    /// the kernel has freed the interfaces. So this is for a process that ends soon itself. The child keeps open what
    /// else the caller has open, and with it what the kernel does when the last one closes it.
    ///
    /// # Errors
    /// What the kernel says; [`Error::System`] if no process can be started.
    pub fn carry_out(mut self, node: &mut RouteSocket, shed: &[BorrowedFd<'_>]) -> Result<()> {
        let mut what = String::from("remove");
        for (name, word) in self.names().zip(std::iter::once(" link ").chain(std::iter::repeat(", "))) {
            what = what + word + name.as_str();
        }
        let failed = |source| Error::System { what: what.clone(), source };
        if self.links.len() > 1 {
            self.gather(node)?;
        }
        let request = match self.links.as_slice() {
            [] => return Ok(()),
            [link] => request(link.index, None),
            _ => request(0, Some(self.group)),
        };
        let news = NetlinkSocket::open(libc::NETLINK_ROUTE)?;
        let indices = self.links.iter().map(|link| link.index).collect();
        attend(&news, &indices).map_err(failed)?;
        let worker = NetlinkSocket::open(libc::NETLINK_ROUTE)?;
        let (read, write) = pipe().map_err(failed)?;
        let shed: Vec<RawFd> = (0..=2).chain(shed.iter().map(AsRawFd::as_raw_fd)).collect();
        // SAFETY: the child calls nothing but system calls, so it does not matter what other threads were at.
        match unsafe { libc::fork() } {
            -1 => return Err(Error::system(what)),
            0 => work(worker.as_fd().as_raw_fd(), write.as_raw_fd(), &request, &shed),
            _ => drop(write),
        }
        match outcome(&news, &read, indices).map_err(failed)? {
            // Who else removes links, a pod's namespace that ends for instance, may have been quicker.
            0 | libc::ENODEV => Ok(()),
            errno => {
                let source = io::Error::from_raw_os_error(errno);
                Err(Error::Refused { what, source, detail: None })
            }
        }
    }

    /// Puts the links into the group, and forgets those that are gone.
    fn gather(&mut self, node: &mut RouteSocket) -> Result<()> {
        let moves: Vec<_> = self.links.iter().map(|link| requests::regroup(link, self.group)).collect();
        let mut results = node.batch(&moves).into_iter();
        let mut failed = None;
        self.links.retain(|_| match results.next() {
            Some(Err(error)) if error.errno() == Some(libc::ENODEV) => false,
            Some(Err(error)) => {
                failed = Some(error);
                true
            }
            _ => true,
        });
        failed.map_or(Ok(()), Err)
    }
}

/// What the child does: it sends the request and passes the kernel's answer on.
fn work(socket: RawFd, answer: RawFd, request: &[u8], shed: &[RawFd]) -> ! {
    let mut reply = [0u8; 64];
    // SAFETY: all pointers and lengths are those of arrays that live through the calls; _exit ends this process,
    // which owns none of the descriptors that the parent goes on using.
    unsafe {
        for fd in shed {
            libc::close(*fd);
        }
        let sent = libc::send(socket, request.as_ptr().cast(), request.len(), 0);
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

/// Waits until the links are out of sight or the child knows more; 0, or the kernel's error number.
fn outcome(news: &NetlinkSocket, answer: &OwnedFd, mut there: BTreeSet<u32>) -> io::Result<i32> {
    let mut polled = [news.as_fd().as_raw_fd(), answer.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let mut received = Vec::new();
    while !there.is_empty() {
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
        match news.receive(&mut received, libc::MSG_DONTWAIT) {
            Ok(datagram) => {
                for frame in frames(datagram) {
                    // ifi_index
                    there.remove(&u32_at(frame.body, 4).unwrap_or_default());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Something was lost, so only the child can tell; a negative descriptor is not polled.
            Err(_) => polled[0].fd = -1,
        }
    }
    Ok(0)
}

/// Has a socket receive the news that one of the links is gone, and nothing else.
///
/// The kernel says a dozen things of each link that goes, and of everybody's. All of that would have to fit the buffer
/// and would wake this process.
fn attend(news: &NetlinkSocket, indices: &BTreeSet<u32>) -> io::Result<()> {
    let instruction =
        |code: u32, on_true: u8, k: u32| libc::sock_filter { code: code as u16, jt: on_true, jf: 0, k };
    let load = |size: u32, offset: u32| instruction(libc::BPF_LD | size | libc::BPF_ABS, 0, offset);
    // Skips the next instruction.
    let unless = |value: u32| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, value);
    let answer = |length: u32| instruction(libc::BPF_RET | libc::BPF_K, 0, length);
    // What is loaded is taken for big-endian, and is in the byte order of the host.
    let mut filter = vec![
        // nlmsg_type
        load(libc::BPF_H, 4),
        unless(u32::from(RTM_DELLINK.to_be())),
        answer(0),
        // ifi_family: a bridge that loses a port says so by the same message, in its own family.
        load(libc::BPF_B, 16),
        unless(libc::AF_UNSPEC as u32),
        answer(0),
        // ifi_index
        load(libc::BPF_W, 20),
    ];
    for index in indices {
        let other = libc::sock_filter { jt: 0, jf: 1, ..unless(index.to_be()) };
        filter.extend([other, answer(u32::MAX)]);
    }
    filter.push(answer(0));
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
    // What does not fit is not waited for, so a smaller buffer than this will do, only not as well.
    let _ = news.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER);
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

/// `RTM_DELLINK` by index or by group, to be acknowledged without the request.
fn request(index: u32, group: Option<u32>) -> Vec<u8> {
    let mut bytes = vec![0; HEADERS];
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    bytes[4..6].copy_from_slice(&RTM_DELLINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[20..24].copy_from_slice(&index.to_ne_bytes());
    if let Some(group) = group {
        bytes.extend(8u16.to_ne_bytes());
        bytes.extend(libc::IFLA_GROUP.to_ne_bytes());
        bytes.extend(group.to_ne_bytes());
    }
    let length = bytes.len() as u32;
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
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
