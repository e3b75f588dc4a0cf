//! What a BFD neighbour may send, with time passing between the packets.

#![no_main]

use std::net::IpAddr;
use std::time::Duration;

use bgp::Moment;
use bgp::bfd::{BfdConfig, Neighbours};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let neighbour = IpAddr::from([192, 0, 2, 2]);
    let mut now = Moment::default();
    let mut neighbours = Neighbours::new(1);
    neighbours.watch(neighbour, BfdConfig::default(), now);
    for packet in data.chunks(25) {
        let Some((pause, packet)) = packet.split_first() else {
            return;
        };
        now = now + Duration::from_millis(u64::from(*pause) * 10);
        neighbours.tick(now);
        neighbours.received(neighbour, packet, now);
        // However short the intervals that the neighbour wants, time goes on between two packets of ours.
        assert!(neighbours.tick(now).len() <= 1);
        assert!(neighbours.deadline().is_none_or(|deadline| deadline > now));
    }
});
