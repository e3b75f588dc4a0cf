//! Numbered traffic between two namespaces: what is lost is known by its number.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kernel::netns::{self, NetNs};

/// The time between two packets: a thousand in a second.
const PACE: Duration = Duration::from_millis(1);
/// How long the last packets may be on their way.
const LAST: Duration = Duration::from_secs(5);

/// Datagrams in one direction, a thousand in a second.
pub struct Datagrams {
    what: String,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<(u64, Vec<String>)>,
    receiver: JoinHandle<Vec<u64>>,
    sent: Arc<std::sync::atomic::AtomicU64>,
}

impl Datagrams {
    pub fn start(what: &str, from: &NetNs, to: &NetNs, address: IpAddr) -> Datagrams {
        let server = netns::run_in(to, || UdpSocket::bind((address, 0))).unwrap().unwrap();
        // A test that is not given the processor for a while must not look like a network that loses packets.
        roomy(&server);
        server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let to = server.local_addr().unwrap();
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let client = netns::run_in(from, || UdpSocket::bind(any)).unwrap().unwrap();
        client.connect(to).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(std::sync::atomic::AtomicU64::new(u64::MAX));
        let stopped = stop.clone();
        let sender = thread::spawn(move || {
            let mut errors = Vec::new();
            let mut number = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = client.send(&number.to_be_bytes()) {
                    errors.push(format!("{number}: {error}"));
                }
                number += 1;
                thread::sleep(PACE);
            }
            (number, errors)
        });
        let expected = sent.clone();
        let receiver = thread::spawn(move || {
            let mut received = Vec::new();
            let mut last = Instant::now();
            let mut buffer = [0; 8];
            loop {
                match server.recv(&mut buffer) {
                    Ok(8) => {
                        received.push(u64::from_be_bytes(buffer));
                        last = Instant::now();
                    }
                    Ok(length) => panic!("a datagram of {length} bytes"),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{error}"),
                }
                let expected = expected.load(Ordering::Relaxed);
                let over = expected != u64::MAX && last.elapsed() > LAST;
                if received.len() as u64 >= expected || over {
                    return received;
                }
            }
        });
        Datagrams { what: what.to_owned(), stop, sender, receiver, sent }
    }

    /// Ends the traffic; not one datagram may be missing, or come twice. Returns how many there were.
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, errors) = self.sender.join().unwrap();
        self.sent.store(sent, Ordering::Relaxed);
        let mut received = self.receiver.join().unwrap();
        assert_eq!(errors, Vec::<String>::new(), "{}: sending failed", self.what);
        received.sort_unstable();
        let missing: Vec<u64> = (0..sent).filter(|number| received.binary_search(number).is_err()).collect();
        assert!(missing.is_empty(), "{}: of {sent} lost are {missing:?}", self.what);
        assert_eq!(received.len() as u64, sent, "{}: some came twice", self.what);
        sent
    }
}

/// One TCP connection with a number in it every millisecond.
pub struct Stream {
    what: String,
    stop: Arc<AtomicBool>,
    writer: JoinHandle<u64>,
    reader: JoinHandle<u64>,
}

impl Stream {
    pub fn start(what: &str, from: &NetNs, to: &NetNs, address: IpAddr) -> Stream {
        let listener = netns::run_in(to, || TcpListener::bind((address, 0))).unwrap().unwrap();
        let server = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&server, Duration::from_secs(5));
        let mut client = netns::run_in(from, connect).unwrap().unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        client.set_nodelay(true).unwrap();
        for stream in [&client, &accepted] {
            stream.set_read_timeout(Some(LAST)).unwrap();
            stream.set_write_timeout(Some(LAST)).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = thread::spawn(move || {
            let mut number = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                client.write_all(&number.to_be_bytes()).unwrap();
                number += 1;
                thread::sleep(PACE);
            }
            client.shutdown(Shutdown::Write).unwrap();
            // The other end closes when it has read everything.
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            number
        });
        let reader = thread::spawn(move || {
            let mut number = 0u64;
            let mut buffer = [0; 8];
            loop {
                match accepted.read_exact(&mut buffer) {
                    Ok(()) => assert_eq!(u64::from_be_bytes(buffer), number),
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => return number,
                    Err(error) => panic!("after {number}: {error}"),
                }
                number += 1;
            }
        });
        Stream { what: what.to_owned(), stop, writer, reader }
    }

    /// Ends the connection, which must have been one and the same all the time. Returns how many numbers went over it.
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let read = self.reader.join().unwrap_or_else(|_| panic!("{}: the connection broke", self.what));
        let written = self.writer.join().unwrap_or_else(|_| panic!("{}: the connection broke", self.what));
        assert_eq!(written, read, "{}", self.what);
        written
    }
}

/// Echo requests (ICMP, ICMPv6), fifty in a second: with shorter pauses the program would spin.
pub struct Pings {
    what: String,
    stop: Arc<AtomicBool>,
    pinger: JoinHandle<Vec<String>>,
}

impl Pings {
    pub fn start(what: &str, from: NetNs, address: IpAddr) -> Pings {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let pinger = thread::spawn(move || {
            let mut rounds = Vec::new();
            // Each program waits for the last of its answers, so that what it has counted is what was lost.
            while !stopped.load(Ordering::Relaxed) {
                let mut command = Command::new("ping");
                command.args(["-q", "-i", "0.02", "-c", "25", "-W", "5"]).arg(address.to_string());
                let output = netns::run_in(&from, || command.output()).unwrap().unwrap();
                rounds.push(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            rounds
        });
        Pings { what: what.to_owned(), stop, pinger }
    }

    /// Ends them; not one answer may be missing. Returns how many there were.
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.pinger.join().unwrap();
        for round in &rounds {
            assert!(round.contains("25 packets transmitted, 25 received"), "{}: {round}", self.what);
        }
        25 * rounds.len() as u64
    }
}

/// Gives a socket 16 MiB for what it has not read yet.
fn roomy(socket: &UdpSocket) {
    let size: libc::c_int = 16 << 20;
    // SAFETY: the value is an int and lives through the call, as SO_RCVBUFFORCE takes it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}
