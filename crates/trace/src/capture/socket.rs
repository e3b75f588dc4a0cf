//! A packet socket (packet(7)) with the kernel's time stamps, and a way to stop it from another thread.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::LinkName;

use super::{Packet, Tunnels, decode};

/// An instruction of a classic BPF program (linux/filter.h) as `tcpdump -dd` prints it: code, jump if true, jump if false,
/// operand.
pub type Instruction = (u16, u8, u8, u32);

/// What to capture.
#[derive(Debug, Clone)]
pub struct Options {
    /// The interface; `None` for all of the namespace except loopback.
    pub link: Option<LinkName>,
    /// The most bytes of a frame that are kept.
    pub snap_length: usize,
    /// The size in bytes of the kernel's buffer, beyond which packets are lost and counted.
    pub buffer: usize,
    /// A program that says which frames are wanted.
    pub filter: Vec<Instruction>,
}

impl Default for Options {
    /// All interfaces but loopback, whole frames, a buffer of 8 MiB.
    fn default() -> Options {
        Options { link: None, snap_length: 65_536, buffer: 8 << 20, filter: without_loopback() }
    }
}

impl Options {
    /// The defaults for one interface.
    pub fn on(link: LinkName) -> Options {
        Options { link: Some(link), filter: Vec::new(), ..Options::default() }
    }
}

/// A program that takes all frames except those of loopback interfaces, which would be seen twice.
fn without_loopback() -> Vec<Instruction> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    // The ancillary fields of a frame are loaded from negative offsets.
    let hardware_type = (libc::SKF_AD_OFF + libc::SKF_AD_HATYPE).cast_unsigned();
    vec![
        (LOAD as u16, 0, 0, hardware_type),
        (EQUAL as u16, 0, 1, u32::from(libc::ARPHRD_LOOPBACK)),
        (RETURN as u16, 0, 0, 0),
        (RETURN as u16, 0, 0, u32::MAX),
    ]
}

/// Why packets cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// There is no such interface.
    #[error("cannot capture on {link}: there is no such interface in this network namespace")]
    NoLink {
        /// The name asked for.
        link: LinkName,
    },
    /// The kernel refused something.
    #[error("cannot capture: {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Which way a frame went, seen from the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    In,
    /// It went out.
    Out,
}

/// A frame as it was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// When the kernel saw it.
    pub time: SystemTime,
    /// The interface's index in its namespace.
    pub link_index: u32,
    /// Which way it went.
    pub direction: Direction,
    /// The length in bytes on the wire, of which `frame` may hold less.
    pub length: usize,
    /// The bytes from the Ethernet header on.
    pub frame: Vec<u8>,
}

impl Captured {
    /// Decodes the frame.
    pub fn decode(&self, tunnels: &Tunnels) -> Packet {
        decode(&self.frame, tunnels)
    }
}

/// An open capture.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    stop: Stop,
    snap_length: usize,
    /// How many frames the kernel has put in the queue, and how many were fetched from it.
    queued: u64,
    fetched: u64,
    /// How many frames the kernel had to drop.
    dropped: u64,
    /// Whether the stop was seen: then what `queued` counts is all that is wanted.
    stopped: bool,
}

/// Stops a capture, from any thread.
#[derive(Debug, Clone)]
pub struct Stop(Arc<OwnedFd>);

impl Stop {
    /// Lets [`Capture::next`] return `None`, once it has returned what was captured so far.
    pub fn stop(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is valid for its length. It can only fail if the counter is full, so already set.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl Capture {
    /// Begins to capture in the network namespace of the calling thread. The capture may then go to another thread.
    ///
    /// # Errors
    /// [`CaptureError::NoLink`], or [`CaptureError::System`], for instance without `CAP_NET_RAW`.
    pub fn open(options: &Options) -> Result<Capture, CaptureError> {
        let index = options.link.as_ref().map_or(Ok(0), index_of)?;
        // SAFETY: plain system calls with integers; the results are checked and owned at once. Protocol 0 receives
        // nothing until the socket is bound, so that no frame passes the filter before it is there.
        let socket = unsafe { owned(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0)) }
            .map_err(system("open a packet socket"))?;
        // SAFETY: as above.
        let stop = unsafe { owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }
            .map_err(system("make an event descriptor"))?;
        let buffer = libc::c_int::try_from(options.buffer).unwrap_or(libc::c_int::MAX);
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &buffer)
            .map_err(system("set SO_RCVBUFFORCE"))?;
        let on: libc::c_int = 1;
        set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &on).map_err(system("set SO_TIMESTAMPNS"))?;
        attach(&socket, &options.filter)?;
        bind(&socket, index)?;
        let snap_length = options.snap_length;
        let stop = Stop(Arc::new(stop));
        Ok(Capture { socket, stop, snap_length, queued: 0, fetched: 0, dropped: 0, stopped: false })
    }

    /// A handle to stop the capture with.
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// The next frame; waits for it. `None` when the capture was stopped and all frames from before are returned.
    ///
    /// # Errors
    /// [`CaptureError::System`], for instance if the interface is gone.
    #[allow(clippy::should_implement_trait)] // an iterator of results would go on past an error
    pub fn next(&mut self) -> Result<Option<Captured>, CaptureError> {
        loop {
            if !self.stopped && self.wait()? {
                self.count()?;
                self.stopped = true;
            }
            // The time stamps would not do to tell what is from before the stop: frames that come before the kernel has
            // got around to stamping any are stamped when they are fetched.
            if self.stopped && self.fetched >= self.queued {
                return Ok(None);
            }
            match self.receive()? {
                Some(captured) => {
                    self.fetched += 1;
                    return Ok(Some(captured));
                }
                None if self.stopped => return Ok(None),
                None => {}
            }
        }
    }

    /// How many frames the kernel had to drop, because they were not fetched in time.
    ///
    /// # Errors
    /// [`CaptureError::System`] if the kernel does not tell.
    pub fn dropped(&mut self) -> Result<u64, CaptureError> {
        self.count()?;
        Ok(self.dropped)
    }

    /// Takes in the kernel's counters, which begin anew with that.
    fn count(&mut self) -> Result<(), CaptureError> {
        // SAFETY: all-zero is a valid tpacket_stats, which is plain integers.
        let mut stats: libc::tpacket_stats = unsafe { mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: both pointers are valid, and length is the size of what the first points to.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(system("read PACKET_STATISTICS")(io::Error::last_os_error()));
        }
        // tp_packets counts those that were dropped too (packet_getsockopt in net/packet/af_packet.c).
        self.queued += u64::from(stats.tp_packets.saturating_sub(stats.tp_drops));
        self.dropped += u64::from(stats.tp_drops);
        Ok(())
    }

    /// Waits until there is a frame or the stop; true if it is the stop.
    fn wait(&self) -> Result<bool, CaptureError> {
        let poll = |fd: &OwnedFd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut fds = [poll(&self.socket), poll(&self.stop.0)];
        loop {
            // SAFETY: the array is valid for the length given.
            if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) } >= 0 {
                return Ok(fds[1].revents != 0);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(system("wait for a frame")(error));
            }
        }
    }

    /// A frame, if one is there.
    fn receive(&self) -> Result<Option<Captured>, CaptureError> {
        let mut frame = vec![0u8; self.snap_length];
        // SAFETY: all-zero is a valid value of each of these C structures.
        let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { mem::zeroed() };
        // Of 8 bytes each, for the alignment of a control message's header.
        let mut control = [0u64; 16];
        let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: message points to buffers that live through the call, with their sizes. MSG_TRUNC returns the
        // length of the frame even if it does not fit.
        let length = unsafe {
            libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC | libc::MSG_DONTWAIT)
        };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(system("receive a frame")(error)),
            };
        };
        frame.truncate(length);
        frame.shrink_to_fit();
        Ok(Some(Captured {
            // SAFETY: recvmsg has filled message in, and control still lives.
            time: unsafe { time_stamp(&message) }.unwrap_or_else(SystemTime::now),
            link_index: from.sll_ifindex.cast_unsigned(),
            direction: if from.sll_pkttype == libc::PACKET_OUTGOING { Direction::Out } else { Direction::In },
            length,
            frame,
        }))
    }
}

/// The kernel's time stamp among the control messages.
///
/// # Safety
/// `message` must have been filled in by recvmsg, and its control buffer must still live.
unsafe fn time_stamp(message: &libc::msghdr) -> Option<SystemTime> {
    // SAFETY: the caller guarantees a valid message; each header is checked for null before it is used, and its
    // data is read unaligned and only of the type that holds this structure.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                let seconds = u64::try_from(time.tv_sec).ok()?;
                return Some(UNIX_EPOCH + Duration::new(seconds, u32::try_from(time.tv_nsec).ok()?));
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}

fn index_of(link: &LinkName) -> Result<libc::c_uint, CaptureError> {
    let name = CString::new(link.as_str()).map_err(|_| CaptureError::NoLink { link: link.clone() })?;
    // SAFETY: name is a NUL-terminated string that lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(CaptureError::NoLink { link: link.clone() }),
        index => Ok(index),
    }
}

fn attach(socket: &OwnedFd, filter: &[Instruction]) -> Result<(), CaptureError> {
    if filter.is_empty() {
        return Ok(());
    }
    let mut program: Vec<libc::sock_filter> =
        filter.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let length = u16::try_from(program.len())
        .map_err(|_| system("attach the filter")(io::ErrorKind::InvalidInput.into()))?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).map_err(system("attach the filter"))
}

fn bind(socket: &OwnedFd, index: libc::c_uint) -> Result<(), CaptureError> {
    // SAFETY: all-zero is a valid sockaddr_ll, which is plain integers.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: address is valid and of the length given.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
        return Err(system("bind the packet socket")(io::Error::last_os_error()));
    }
    Ok(())
}

fn set<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: value is valid for its size. Each caller gives the type that the option takes; a pointer in it points
    // to what lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the result of a system call that makes a descriptor.
///
/// # Safety
/// If it is a descriptor, nothing else may own it.
unsafe fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller guarantees that it is a descriptor of nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> CaptureError {
    move |source| CaptureError::System { what, source }
}
