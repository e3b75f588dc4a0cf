//! Services whose endpoints come and go fifty times a second for a minute, with a client for each that connects all the
//! time: no connection to a live endpoint fails, and nothing comes to an endpoint that has been gone for 10 ms.
//!
//! An endpoint is a pod that always listens, so a connection that comes to one that is no endpoint succeeds, and tells
//! when it came. `CHURN_SECONDS` makes it longer.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::pods;
use common::services::{Scene, TARGET_PORT, cluster_address, connect, listen, service};
use model::{Family, Protocol};
use plan::Change;

/// Changes of an endpoint in a second.
const RATE: u32 = 50;
/// How long after a commit a packet may be on its way.
const GRACE: Duration = Duration::from_millis(10);
const SERVICES: usize = 4;
/// Pods of which each service has some as its endpoints.
const ENDPOINTS: usize = 6;

/// When a pod ceased to be an endpoint of a service, in microseconds since the start; 0 while it is one.
type Gone = Vec<Vec<AtomicU64>>;

#[test]
fn connections_go_to_live_endpoints_only() {
    let time = std::env::var("CHURN_SECONDS").map_or(60, |text| text.parse().unwrap());
    let mut scene = Scene::new((ENDPOINTS + SERVICES) as u8);
    let services: Vec<_> =
        (1..=SERVICES).map(|number| service(number as u8, &[Protocol::Tcp, Protocol::Udp])).collect();
    // Which pods are endpoints, by service: at least one always.
    let mut members: Vec<Vec<usize>> = vec![(0..ENDPOINTS).collect(); SERVICES];
    for (service, members) in services.iter().zip(&members) {
        scene.serve(service, members);
    }
    let gone: Gone =
        (0..SERVICES).map(|_| (0..ENDPOINTS).map(|_| AtomicU64::new(0)).collect()).collect();
    let (over, start) = (AtomicBool::new(false), Instant::now());
    let (connections, datagrams) = (AtomicU64::new(0), AtomicU64::new(0));
    let changes = std::thread::scope(|scope| {
        for pod in 0..ENDPOINTS {
            for family in Family::BOTH {
                serve(scope, &scene, pod, family, &over);
            }
        }
        for number in 0..SERVICES {
            // The families in turn, so that both have clients.
            let family = Family::BOTH[number % 2];
            let to = SocketAddr::new(cluster_address(number as u8 + 1, family), 80);
            let client = &scene.pods[ENDPOINTS + number].test;
            let check = |endpoint: usize, began: Duration| {
                let gone = gone[number][endpoint].load(Ordering::SeqCst);
                let late = began.saturating_sub(Duration::from_micros(gone));
                assert!(
                    gone == 0 || late < GRACE,
                    "service {number}: a packet came to endpoint {endpoint} {late:?} after its end"
                );
            };
            let (over, connections, datagrams) = (&over, &connections, &datagrams);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let began = start.elapsed();
                    let mut stream = connect(client, to).unwrap_or_else(|error| panic!("{to}: {error}"));
                    stream.write_all(b"?").unwrap();
                    let mut answer = [0];
                    stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("{to}: {error}"));
                    check(answer[0].into(), began);
                    connections.fetch_add(1, Ordering::Relaxed);
                }
            });
            // One flow of datagrams that connection tracking would keep where it is.
            let address = scene.pods[ENDPOINTS + number].address(family);
            let socket = pods::socket(client, address, 0);
            scope.spawn(move || {
                socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                while !over.load(Ordering::Relaxed) {
                    let began = start.elapsed();
                    // What is sent while its endpoint ends may be lost with it.
                    let mut answer = [0];
                    if socket.send_to(b"?", to).is_ok() && socket.recv(&mut answer).is_ok() {
                        check(answer[0].into(), began);
                        datagrams.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let changes = churn(&mut Turn { scene: &mut scene_handle(&scene), services: &services, members: &mut members, gone: &gone, start }, Duration::from_secs(time));
        over.store(true, Ordering::Relaxed);
        changes
    });
    let (connections, datagrams) = (connections.into_inner(), datagrams.into_inner());
    println!("{changes} changes, {connections} connections, {datagrams} datagrams answered");
    assert!(u64::from(changes) >= u64::from(RATE) * time * 9 / 10, "only {changes} changes");
    assert!(connections > u64::from(changes) && datagrams > u64::from(changes));
}
