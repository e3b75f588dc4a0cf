//! Maps that are full: who comes too late does without.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use model::Family;

use super::super::object::Hook;
use super::scene::{Entry, FLOW, Fate, Scene, Transport, WAYS, link};

/// `max_entries` in `bpf/fast_maps.h`.
const ENDPOINTS: u32 = 4096;
const RANGES: u32 = 65536;

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
fn a_flow_takes_the_place_of_the_one_that_was_validated_the_longest_ago() {
    let mut scene = Scene::new();
    let journey = super::leaving::out(Transport::Tcp, Family::V4);
    journey.settle();
    let hash = scene.hash(&journey.entered, "pod");
    for oldest in 0..WAYS {
        let mut full = scene.bucket(hash);
        for way in 0..WAYS {
            let mut entry = [0; size_of::<Entry>()];
            let validated: u64 = if way == oldest { 1000 } else { 1001 + way as u64 };
            entry[FLOW][8..16].copy_from_slice(&validated.to_ne_bytes());
            full.set(way, way as u64 + 1, entry);
        }
        scene.set_bucket(hash, &full);
        scene.counted();
        journey.enters(&mut scene, "unknown");
        journey.leaves_counted(&mut scene, &[("learned", 1), ("evicted", 1)]);
        journey.is_sent(&mut scene);
        let hashes: Vec<u64> = (0..WAYS).map(|way| scene.bucket(hash).hash(way)).collect();
        let expected = |way| if way == oldest { hash } else { way as u64 + 1 };
        assert_eq!(hashes, (0..WAYS).map(expected).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_remembered_is_what_was_learned_and_not_ended() {
    let mut scene = Scene::new();
    let journey = super::leaving::out(Transport::Tcp, Family::V4);
    journey.settle();
    journey.enters(&mut scene, "unknown");
    journey.leaves(&mut scene, "learned");
    assert_eq!(scene.fast.counters().unwrap().flows(), 1);
    scene.fast.invalidate().unwrap();
    journey.enters(&mut scene, "stale");
    journey.leaves(&mut scene, "refreshed");
    assert_eq!(scene.fast.counters().unwrap().flows(), 1);
    let mut last = journey.entered.frame();
    last[journey.entered.transport_at() + 13] |= 1;
    assert_eq!(scene.run(Hook::FromPod, "pod", &last), Fate::Passed);
    assert_eq!(scene.fast.counters().unwrap().flows(), 0);
}
