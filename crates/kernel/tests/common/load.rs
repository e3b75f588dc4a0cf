//! Datagrams that are sent all the time, with the time at which each was, and where they arrive.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::services::ready;

/// What begins each datagram.
const MAGIC: &[u8; 8] = b"numbered";
/// Between two datagrams of a flow. All of a load's flows together are some ten thousand in a second.
const PAUSE: Duration = Duration::from_micros(500);

/// A flow by its number, and a place where its datagrams can arrive.
pub type Flow = u32;
pub type Place = u32;

/// A datagram. Times are nanoseconds since the load began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    pub flow: Flow,
    pub number: u32,
    pub sent: u64,
    /// When the one before it was sent.
    pub before: u64,
}

impl Numbered {
    fn bytes(self) -> Vec<u8> {
        let Numbered { flow, number, sent, before } = self;
        let numbers = [flow.to_be_bytes(), number.to_be_bytes()].concat();
        [&MAGIC[..], &numbers, &sent.to_be_bytes(), &before.to_be_bytes()].concat()
    }

    /// The one with which a datagram or a frame ends.
    pub fn at_end_of(bytes: &[u8]) -> Option<Numbered> {
        let (_, end) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        let rest = end.strip_prefix(MAGIC)?;
        let time = |at: usize| Some(u64::from_be_bytes(rest.get(at..at + 8)?.try_into().ok()?));
        let number = |at: usize| Some(u32::from_be_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        Some(Numbered { flow: number(0)?, number: number(4)?, sent: time(8)?, before: time(16)? })
    }
}

#[derive(Debug)]
struct Client {
    flow: Flow,
    socket: UdpSocket,
    to: SocketAddr,
    number: u32,
    sent: u64,
}

#[derive(Debug, Default)]
struct Shared {
    ends: AtomicBool,
    /// How many times all servers were looked at.
    turns: AtomicU64,
    clients: Mutex<Vec<Client>>,
    servers: Mutex<Vec<(Place, UdpSocket)>>,
    arrived: Mutex<BTreeMap<(Place, Flow), Vec<Numbered>>>,
}

/// Clients that send and servers that answer until it is dropped.
#[derive(Debug)]
pub struct Load {
    began: Instant,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start() -> Load {
        let (began, shared) = (Instant::now(), Arc::new(Shared::default()));
        let run = |work: fn(&Shared, Instant)| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                while !shared.ends.load(Ordering::Relaxed) {
                    work(&shared, began);
                }
            })
        };
        let threads = vec![run(send), run(answer)];
        Load { began, shared, threads }
    }

    pub fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    pub fn add_client(&self, flow: Flow, socket: UdpSocket, to: SocketAddr) {
        socket.set_nonblocking(true).unwrap();
        let client = Client { flow, socket, to, number: 0, sent: self.now() };
        self.shared.clients.lock().unwrap().push(client);
    }

    pub fn no_clients(&self) {
        self.shared.clients.lock().unwrap().clear();
    }

    pub fn add_server(&self, place: Place, socket: UdpSocket) {
        socket.set_nonblocking(true).unwrap();
        self.shared.servers.lock().unwrap().push((place, socket));
    }

    /// Nobody is at a place any more.
    pub fn leave(&self, place: Place) {
        self.shared.servers.lock().unwrap().retain(|(there, _)| *there != place);
    }

    /// What has arrived so far is forgotten.
    pub fn forget(&self) {
        self.shared.arrived.lock().unwrap().clear();
    }

    /// What has arrived of a flow at a place, in its order.
    pub fn arrived(&self, place: Place, flow: Flow) -> Vec<Numbered> {
        self.shared.arrived.lock().unwrap().get(&(place, flow)).cloned().unwrap_or_default()
    }

    /// When the last datagram was sent that has arrived of a flow at a place.
    pub fn last(&self, place: Place, flow: Flow) -> u64 {
        let arrived = self.shared.arrived.lock().unwrap();
        arrived.get(&(place, flow)).and_then(|all| all.last()).map_or(0, |last| last.sent)
    }

    /// Waits for the next datagrams.
    pub fn turn(&self) {
        std::thread::sleep(PAUSE);
    }

    /// Waits until all that was there for the servers is read.
    pub fn flush(&self) {
        let turns = || self.shared.turns.load(Ordering::SeqCst);
        let before = turns();
        self.until("a turn of the servers", || turns() >= before + 2);
    }

    /// Waits for something that the load brings about.
    #[track_caller]
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(Instant::now() < end, "{what} does not come");
            self.turn();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let done = thread.join();
            assert!(done.is_ok() || std::thread::panicking());
        }
    }
}

/// A datagram of each client. What answers is not looked at but by connection tracking.
fn send(shared: &Shared, began: Instant) {
    for client in shared.clients.lock().unwrap().iter_mut() {
        while client.socket.recv(&mut [0; 64]).is_ok() {}
        let sent = began.elapsed().as_nanos() as u64;
        client.number += 1;
        let datagram = Numbered { flow: client.flow, number: client.number, sent, before: client.sent };
        client.sent = sent;
        // There may be no way just now.
        let _ = client.socket.send_to(&datagram.bytes(), client.to);
    }
    std::thread::sleep(PAUSE);
}

/// Reads all that has come, and answers it.
fn answer(shared: &Shared, _: Instant) {
    let servers = shared.servers.lock().unwrap();
    let handles: Vec<_> = servers.iter().map(|(_, socket)| socket.as_fd()).collect();
    ready(&handles, Duration::from_millis(1));
    for (place, socket) in servers.iter() {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(datagram) = Numbered::at_end_of(&buffer[..length]) {
                let mut arrived = shared.arrived.lock().unwrap();
                arrived.entry((*place, datagram.flow)).or_default().push(datagram);
            }
            let _ = socket.send_to(b"answer", from);
        }
    }
    shared.turns.fetch_add(1, Ordering::SeqCst);
}
