//! Maps that are full: who comes too late does without.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use model::Family;

use super::scene::{Packet, Scene, Transport, link};

/// `max_entries` in `bpf/fast_maps.h`.
const ENDPOINTS: u32 = 4096;
const RANGES: u32 = 65536;
const FLOWS: u32 = 131_072;

#[test]
fn a_pod_for_which_there_is_no_room_does_without() {
    let mut scene = Scene::new();
    let pods = || (0..ENDPOINTS).map(|number| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)));
    for pod in pods() {
        scene.fast.set_pod(pod, Some(&link("pod"))).unwrap();
    }
    let there = scene.fast.object.endpoints.keys().count();
    assert_eq!(there, ENDPOINTS as usize);
    for pod in pods() {
        scene.fast.set_pod(pod, None).unwrap();
    }
    // The first are those of the scene.
    assert_eq!(scene.fast.object.endpoints.keys().count(), 4);
}

#[test]
fn nodes_for_which_there_is_no_room_do_without() {
    let mut scene = Scene::new();
    let ranges =
        || (0..RANGES + 2).map(|number| Ipv4Net::new_assert(Ipv4Addr::from(0x6400_0000 + number), 32).into());
    for range in ranges() {
        scene.fast.set_range(range, true).unwrap();
    }
    for range in ranges() {
        scene.fast.set_range(range, false).unwrap();
    }
    // There is room again.
    scene.fast.set_range("192.0.2.0/24".parse().unwrap(), true).unwrap();
    assert!(scene.fast.ranges.len() == 3);
}

#[test]
fn flows_make_room_for_others() {
    let mut scene = Scene::new();
    let entered = Packet::new(Transport::Tcp, Family::V4, "pod", "far");
    let mut key = scene.key(&entered, "pod");
    for number in 0..FLOWS * 2 {
        key[..4].copy_from_slice(&number.to_be_bytes());
        scene.fast.object.flows.insert(key, [0; 224], 0).unwrap();
    }
    let there = scene.fast.flows().unwrap();
    assert!(there <= FLOWS as usize, "{there}");
    let journey = super::leaving::out(Transport::Tcp, Family::V4);
    journey.settle();
    journey.enters(&mut scene, "unknown");
    journey.leaves(&mut scene, "learned");
    journey.is_sent(&mut scene);
}
