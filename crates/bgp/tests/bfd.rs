//! BFD with BIRD and FRR, over both families.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use bgp::bfd::{BfdConfig, Change, Diagnostic, Reachability};
use bgp::transport::bfd::Bfd;
use common::bird::Bird;
use common::frr::Bfdd;
use common::us::{Us, peer, speaker};
use common::{PATIENCE, Wire, address, until, us};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

const FAST: BfdConfig =
    BfdConfig { min_tx: Duration::from_millis(100), min_rx: Duration::from_millis(100), multiplier: 3 };

async fn next(changes: &mut UnboundedReceiver<Change>) -> Change {
    timeout(PATIENCE, changes.recv()).await.unwrap().unwrap()
}

#[test]
fn bird_and_we_see_each_other_and_notice_when_we_do_not() {
    let wire = Wire::new();
    let mut bird = Bird::start(
        &wire,
        "10.0.0.2",
        "protocol bfd { interface \"eth0\" { min rx interval 100 ms; min tx interval 100 ms; idle tx interval 300 ms; \
         multiplier 3; }; neighbor 10.0.0.1 dev \"eth0\" local 10.0.0.2; neighbor fd00::1 dev \"eth0\" local fd00::2; }",
    );
    wire.run(async move {
        let (bfd, mut changes) = Bfd::start(&[us(false), us(true)], 1).await.unwrap();
        for v6 in [false, true] {
            bfd.watch(address(v6, 2), FAST).await;
        }
        for _ in 0..2 {
            assert_eq!(next(&mut changes).await.reachability, Reachability::Up);
        }
        until(
            "BIRD sees us, and both are up to speed",
            || bird.ask("show bfd sessions"),
            |said| [" Up ", "0.100", "0.300"].iter().all(|word| said.matches(word).count() == 2),
        )
        .await;
        bird.kill();
        let since = Instant::now();
        for _ in 0..2 {
            assert_eq!(
                next(&mut changes).await.reachability,
                Reachability::Down(Diagnostic::DetectionTimeExpired)
            );
        }
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    });
}

#[test]
fn frr_and_we_see_each_other_and_it_is_told_when_we_stop() {
    let wire = Wire::new();
    let frr = Bfdd::start(&wire);
    wire.run(async move {
        let (bfd, mut changes) = Bfd::start(&[us(false), us(true)], 1).await.unwrap();
        for v6 in [false, true] {
            bfd.watch(address(v6, 4), FAST).await;
        }
        for _ in 0..2 {
            assert_eq!(next(&mut changes).await.reachability, Reachability::Up);
        }
        let agreed = |peer: &serde_json::Value| {
            let remote = ["remote-receive-interval", "remote-transmit-interval", "remote-detect-multiplier"];
            peer["status"] == "up" && remote.map(|field| peer[field].as_u64().unwrap()) == [100, 100, 3]
        };
        until(
            "FRR sees us, and knows our intervals",
            || frr.peers(),
            |said| said.as_array().is_some_and(|peers| peers.len() == 2 && peers.iter().all(agreed)),
        )
        .await;
        bfd.forget(address(false, 4)).await;
        until(
            "FRR hears us stop",
            || frr.peers(),
            |said| {
                said.as_array().is_some_and(|peers| {
                    peers.iter().any(|peer| {
                        peer["peer"] == "10.0.0.1"
                            && peer["status"] == "down"
                            && peer["diagnostic"] == "neighbor signaled session down"
                    })
                })
            },
        )
        .await;
        assert!(changes.try_recv().is_err(), "the other session stays");
    });
}

/// The hold time is 90 seconds; BFD notices at once.
#[test]
fn a_peer_that_bfd_has_lost_loses_its_routes() {
    let wire = Wire::new();
    let bird = Bird::start(
        &wire,
        "10.0.0.2",
        "protocol static { ipv4; route 10.20.0.0/16 blackhole; }\n\
         protocol bfd { interface \"eth0\" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }\n\
         protocol bgp cambric { local 10.0.0.2 as 65002; neighbor 10.0.0.1 as 65000; connect delay time 1; bfd on;\n\
         ipv4 { import all; export where source = RTS_STATIC; }; }",
    );
    wire.run(async move {
        let mut us_speaking = Us::start(speaker(65000));
        let (bfd, mut changes) = Bfd::start(&[us(false)], 1).await.unwrap();
        us_speaking.peer(peer("bird", address(false, 2), 65002)).await;
        us_speaking.until_learned(&["10.20.0.0/16"]).await;
        bfd.watch(address(false, 2), FAST).await;
        assert_eq!(next(&mut changes).await.reachability, Reachability::Up);
        // From then on both know that the other one sends every 100 ms; before, it was every second.
        until("BIRD is up to speed", || bird.ask("show bfd sessions"), |said| said.contains("0.300")).await;
        bird.freeze();
        let since = Instant::now();
        assert!(matches!(next(&mut changes).await.reachability, Reachability::Down(_)));
        us_speaking.handle.peer_unreachable("bird".into()).await;
        us_speaking.until_learned(&[]).await;
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    });
}
