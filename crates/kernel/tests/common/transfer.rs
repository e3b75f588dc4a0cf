//! Much data over TCP, and what becomes of it on the way.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use super::TestNs;

/// Sends bytes from one pod to another over TCP; how many Gbit/s.
pub fn transfer(from: &TestNs, to: &TestNs, address: IpAddr, bytes: usize) -> f64 {
    let listener = {
        let _guard = to.enter();
        TcpListener::bind(SocketAddr::new(address, 0)).unwrap()
    };
    let target = listener.local_addr().unwrap();
    let start = Instant::now();
    let mut stream = {
        let _guard = from.enter();
        TcpStream::connect(target).unwrap()
    };
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut buffer, mut position) = (vec![0; 1 << 18], 0);
            loop {
                let length = stream.read(&mut buffer).unwrap();
                if length == 0 {
                    return position;
                }
                for (offset, byte) in buffer[..length].iter().enumerate().step_by(1021) {
                    assert_eq!(*byte, pattern(position + offset), "at {}", position + offset);
                }
                position += length;
            }
        });
        let chunk: Vec<u8> = (0..1 << 18).map(pattern).collect();
        for _ in 0..bytes.div_ceil(chunk.len()) {
            stream.write_all(&chunk).unwrap();
        }
        drop(stream);
        let received = reader.join().unwrap();
        assert_eq!(received, bytes.div_ceil(chunk.len()) * chunk.len());
        received as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
    })
}

/// Repeats with a chunk.
fn pattern(position: usize) -> u8 {
    ((position >> 10) ^ position) as u8
}

/// The counters of fragments made and put together in a namespace.
pub fn fragments(namespace: &TestNs) -> Vec<String> {
    let text = namespace.run("nstat -asz");
    let lines = text.lines().filter(|line| line.contains("Frag") || line.contains("Reasm"));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, value) = (words.next()?, words.next()?);
            (value != "0").then(|| format!("{name} {value}"))
        })
        .collect()
}

/// linux/ethtool.h
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Has a veth link put packets of one flow together when it receives them, as network cards' drivers do. It only does
/// so if the other end cannot send big packets.
pub fn put_together(namespace: &TestNs, link: &str, peer: (&TestNs, &str)) {
    set(peer.0, peer.1, EthtoolValue { command: ETHTOOL_STSO, data: 0 });
    set(namespace, link, EthtoolValue { command: ETHTOOL_SGRO, data: 1 });
}

fn set(namespace: &TestNs, link: &str, mut value: EthtoolValue) {
    let _guard = namespace.enter();
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let name = CString::new(link).unwrap();
    // SAFETY: ifreq is plain data for which all zeroes is valid; its pointer is to a value that lives through the call.
    let done = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request)
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}
