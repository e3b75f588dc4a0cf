//! What a BGP peer may send: raw bytes, or bodies of messages with a header that is right, on a session that is up.
//! Whatever comes, the speaker goes on, and its table agrees with its counts.

#![no_main]

use std::net::IpAddr;
use std::time::Duration;

use bgp::{ConnectionId, Input, Moment, Output, PeerConfig, Speaker, SpeakerConfig};
use libfuzzer_sys::fuzz_target;

const CONNECTION: ConnectionId = ConnectionId::Incoming(1);

fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else {
        return;
    };
    let internal = first & 1 == 0;
    let mut speaker = speaker(1, 65000);
    let peer_as = if internal { 65000 } else { 65001 };
    let local = IpAddr::from([192, 0, 2, 1]);
    let from = IpAddr::from([192, 0, 2, 2]);
    let mut peer = PeerConfig::new("peer", from, peer_as);
    peer.passive = true;
    let mut reflected = PeerConfig::new("client", IpAddr::from([192, 0, 2, 3]), 65000);
    (reflected.passive, reflected.reflector_client) = (true, true);
    let mut now = Moment::default();
    for (config, number, asn) in [(peer, 2, peer_as), (reflected, 3, 65000)] {
        let connection = ConnectionId::Incoming(number - 1);
        let from = config.address;
        speaker.handle(now, Input::SetPeer(Box::new(config)));
        speaker.handle(now, Input::Accepted { connection, from, local });
        // One in eight begins before the OPEN.
        if number == 3 || first & 0xe != 0 {
            for bytes in [open(number as u8, asn), keepalive()] {
                speaker.handle(now, Input::Received { connection, bytes });
            }
        }
    }
    while let [kind, len, after @ ..] = rest {
        let (body, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        now = now + Duration::from_millis(100);
        let bytes = if *kind < 0x20 { body.to_vec() } else { message(1 + kind % 5, body) };
        for output in speaker.handle(now, Input::Received { connection: CONNECTION, bytes }) {
            if let Output::Send { bytes, .. } = output {
                assert!(bytes.len() >= 19);
            }
        }
    }
    let received: usize = speaker.status(now).iter().flat_map(|peer| peer.received).sum();
    assert_eq!(received, speaker.routes().count());
    speaker.handle(now + Duration::from_secs(3600), Input::Tick);
});

fn speaker(number: u8, asn: u32) -> Speaker {
    Speaker::new(SpeakerConfig::new(asn, [10, 0, 0, number].into()), 1, Moment::default())
}

/// The OPEN that a speaker of ours sends.
fn open(number: u8, asn: u32) -> Vec<u8> {
    let mut other = speaker(number, asn);
    let mut us = PeerConfig::new("us", IpAddr::from([192, 0, 2, 1]), 65000);
    us.passive = true;
    other.handle(Moment::default(), Input::SetPeer(Box::new(us)));
    let accepted = Input::Accepted {
        connection: CONNECTION,
        from: IpAddr::from([192, 0, 2, 1]),
        local: IpAddr::from([192, 0, 2, number]),
    };
    let sent = other.handle(Moment::default(), accepted);
    sent.into_iter()
        .find_map(|output| if let Output::Send { bytes, .. } = output { Some(bytes.to_vec()) } else { None })
        .expect("an OPEN is sent at once")
}

fn keepalive() -> Vec<u8> {
    message(4, &[])
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend((19 + body.len() as u16).to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}
