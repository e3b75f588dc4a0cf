//! Services whose endpoints come and go fifty times a second, with a client for each that connects all the time: no connection
//! to a live endpoint fails, and nothing comes to an endpoint that has been gone for 10 ms. It lasts for `CHURN_SECONDS`, a
//! quarter of a minute if nobody says otherwise.
//!
//! An endpoint is a pod that always listens, so a connection that comes to one that is no endpoint succeeds, and tells
//! when it came.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::TestNs;
use common::cluster;
use common::pods::{self, Pod};
use common::services::{
    PORT, Scene, TARGET_PORT, assert_clean, cluster_address, connect, endpoint, listen, ready, service,
    slices,
};
use kernel::Kernel;
use model::{Family, Protocol, Service};
use plan::{Change, Planner};

/// Changes of an endpoint in a second, at most: a machine that is busy with other things may take longer.
const RATE: u32 = 50;
/// The seconds that changes are made for, unless somebody says otherwise.
const SECONDS: u32 = 15;
/// How long after a commit a packet may be on its way.
const GRACE: Duration = Duration::from_millis(10);
/// How long a client waits before it connects again, or sends the next datagram: the load is for connections to meet
/// changes, not to take the processor from who makes them.
const PAUSE: Duration = Duration::from_millis(5);
const SERVICES: usize = 4;
/// Pods of which each service has some as its endpoints.
const ENDPOINTS: usize = 6;
/// How often threads look whether it is over.
const LOOK: Duration = Duration::from_millis(100);

#[test]
fn connections_go_to_live_endpoints_only() {
    let Scene { node, world: _world, pods, planner, kernel } = Scene::new((ENDPOINTS + SERVICES) as u8);
    let services: Vec<Service> =
        (1..=SERVICES).map(|number| service(number as u8, &[Protocol::Tcp, Protocol::Udp])).collect();
    let watch = Watch::new();
    let mut churn = Churn { node: &node, pods: &pods, services: &services, watch: &watch, planner, kernel };
    let mut members = vec![vec![true; ENDPOINTS]; SERVICES];
    churn.begin(&members);
    let churned = thread::scope(|scope| {
        for (number, pod) in pods.iter().enumerate().take(ENDPOINTS) {
            for family in Family::BOTH {
                let listener = listen(&pod.test, pod.address(family));
                let socket = pods::socket(&pod.test, pod.address(family), TARGET_PORT);
                let watch = &watch;
                scope.spawn(move || serve_connections(&listener, number, watch));
                scope.spawn(move || serve_datagrams(&socket, number, watch));
            }
        }
        // However it ends, the others must not go on for ever. Servers end last: who is in the middle of a connection when
        // it is over is still to be answered.
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            thread::scope(|scope| {
                for number in 0..SERVICES {
                    // The families in turn, so that both have clients.
                    let family = Family::BOTH[number % 2];
                    let to = SocketAddr::new(cluster_address(number as u8 + 1, family), PORT);
                    let (client, watch) = (&pods[ENDPOINTS + number], &watch);
                    let socket = pods::socket(&client.test, client.address(family), 0);
                    scope.spawn(move || keep_connecting(&client.test, to, number, watch));
                    scope.spawn(move || keep_sending(&socket, to, number, watch));
                }
                let churned =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| churn.run(&mut members)));
                watch.over.store(true, Ordering::Relaxed);
                churned
            })
        }));
        watch.closed.store(true, Ordering::Relaxed);
        served.and_then(|churned| churned)
    });
    churned.unwrap();
    let (connections, datagrams) = (watch.connections.into_inner(), watch.datagrams.into_inner());
    let all = all_changes();
    println!("{all} changes, {connections} connections, {datagrams} datagrams answered");
    let least = u64::from(all);
    assert!(connections > least && datagrams > least, "{connections} connections, {datagrams} datagrams");
}

fn all_changes() -> u32 {
    RATE * std::env::var("CHURN_SECONDS").map_or(SECONDS, |text| text.parse().unwrap())
}

/// What threads tell each other.
struct Watch {
    start: Instant,
    /// Clients are to end, and then servers.
    over: AtomicBool,
    closed: AtomicBool,
    /// When a pod ceased to be an endpoint of a service, in microseconds since the start; 0 while it is one.
    gone: Vec<Vec<AtomicU64>>,
    connections: AtomicU64,
    datagrams: AtomicU64,
}

impl Watch {
    fn new() -> Watch {
        let none = |_| (0..ENDPOINTS).map(|_| AtomicU64::new(0)).collect();
        Watch {
            start: Instant::now(),
            over: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            gone: (0..SERVICES).map(none).collect(),
            connections: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
        }
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Something that began then was answered by an endpoint.
    fn check(&self, service: usize, endpoint: usize, began: Duration) {
        let gone = Duration::from_micros(self.gone[service][endpoint].load(Ordering::SeqCst));
        let late = began.saturating_sub(gone);
        assert!(
            gone.is_zero() || late < GRACE,
            "service {service}: a packet came to endpoint {endpoint} {late:?} after its end"
        );
    }
}

struct Churn<'a> {
    node: &'a TestNs,
    pods: &'a [Pod],
    services: &'a [Service],
    watch: &'a Watch,
    planner: Planner,
    kernel: Kernel,
}

impl Churn<'_> {
    /// All services, with all of their endpoints.
    fn begin(&mut self, members: &[Vec<bool>]) {
        for (number, service) in self.services.iter().enumerate() {
            let mut change = self.planner.update(plan::Input::Service(service.clone()));
            change.extend(self.with(number, &members[number]));
            self.commit(&change);
        }
    }

    /// Adds and removes endpoints.
    fn run(&mut self, members: &mut [Vec<bool>]) {
        let begun = Instant::now();
        let mut random: u64 = 0x5eed;
        let (mut changes, all) = (0, all_changes());
        while changes < all {
            // Xorshift (Marsaglia): the same changes in each run.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (number, endpoint) = (random as usize % SERVICES, (random >> 32) as usize % ENDPOINTS);
            let members = &mut members[number];
            let last = members.iter().filter(|member| **member).count() == 1;
            if members[endpoint] && last {
                continue;
            }
            members[endpoint] = !members[endpoint];
            let gone = &self.watch.gone[number][endpoint];
            if members[endpoint] {
                gone.store(0, Ordering::SeqCst);
            }
            let change = self.with(number, members);
            self.commit(&change);
            if !members[endpoint] {
                gone.store(self.watch.start.elapsed().as_micros() as u64, Ordering::SeqCst);
            }
            changes += 1;
            thread::sleep(
                (begun + Duration::from_secs(1) / RATE * changes).saturating_duration_since(Instant::now()),
            );
        }
    }

    fn with(&mut self, number: usize, members: &[bool]) -> Change {
        let there = self.pods.iter().zip(members).filter(|(_, member)| **member);
        let endpoints = there
            .flat_map(|(pod, _)| Family::BOTH.map(|family| endpoint(pod.address(family), &cluster::name(0))));
        let mut change = Change::default();
        for input in slices(&self.services[number], endpoints.collect()) {
            change.extend(self.planner.update(input));
        }
        change
    }

    fn commit(&mut self, change: &Change) {
        let _guard = self.node.enter();
        let report = self.kernel.apply(change).unwrap();
        assert_clean(&report);
        assert!(!report.reconcile_needed);
    }
}

fn serve_connections(listener: &TcpListener, number: usize, watch: &Watch) {
    while watch.is_open() {
        if ready(std::slice::from_ref(listener), LOOK).is_some() {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0];
            // A client that failed has said so itself.
            if stream.read_exact(&mut question).is_ok() {
                let _ = stream.write_all(&[number as u8]);
            }
        }
    }
}

fn serve_datagrams(socket: &UdpSocket, number: usize, watch: &Watch) {
    while watch.is_open() {
        if ready(std::slice::from_ref(socket), LOOK).is_some() {
            let mut question = [0; 8];
            let (_, from) = socket.recv_from(&mut question).unwrap();
            socket.send_to(&[&question[..], &[number as u8]].concat(), from).unwrap();
        }
    }
}

fn keep_connecting(client: &TestNs, to: SocketAddr, service: usize, watch: &Watch) {
    while watch.goes_on() {
        let began = watch.start.elapsed();
        let mut answer = [0];
        let mut exchange = || {
            let mut stream = connect(client, to)?;
            stream.write_all(b"?")?;
            stream.read_exact(&mut answer)
        };
        exchange().unwrap_or_else(|error| panic!("{to}: {error}"));
        watch.check(service, answer[0].into(), began);
        watch.connections.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

/// One flow of datagrams, which connection tracking would keep where it is.
fn keep_sending(socket: &UdpSocket, to: SocketAddr, service: usize, watch: &Watch) {
    socket.set_read_timeout(Some(LOOK)).unwrap();
    for question in 0u64.. {
        if !watch.goes_on() {
            return;
        }
        let question = question.to_be_bytes();
        let began = watch.start.elapsed();
        socket.send_to(&question, to).unwrap();
        let mut answer = [0; 9];
        // What is under way when its endpoint ends may be lost with it. An answer that comes late is not to this one.
        while socket.recv(&mut answer).is_ok() {
            if answer[..8] == question {
                watch.check(service, answer[8].into(), began);
                watch.datagrams.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        thread::sleep(PAUSE);
    }
}
