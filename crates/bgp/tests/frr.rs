//! With FRR: what each side means to say is what the other one hears.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bgp::transport::{Password, PeerTransport};
use bgp::{Community, LargeCommunity, LocalRoute, PrefixFilter};
use common::bird::Bird;
use common::frr::Frr;
use common::us::{LAST_ROUND, Us, net, peer, speaker};
use common::{Wire, address, until};
use serde_json::json;

const THEIRS: [&str; 2] = ["10.40.0.0/16", "2001:db8:40::/48"];

#[test]
fn routes_of_both_families_go_both_ways_with_password_and_ttl_security() {
    for (v6, asn) in [(false, 65004), (true, 65000), (true, 65004)] {
        let wire = Wire::new();
        let secured = if asn == 65000 {
            vec!["password sesame"]
        } else {
            vec!["password sesame", "ttl-security hops 1"]
        };
        let frr = Frr::start(&wire, v6, asn, 65000, &secured, &THEIRS);
        wire.run(async move {
            let mut us = Us::start(speaker(65000));
            let route = LocalRoute {
                med: Some(77),
                communities: vec![Community(65000 << 16 | 5)],
                large_communities: vec![LargeCommunity(4_200_000_000, 1, 2)],
                ..LocalRoute::default()
            };
            for prefix in ["10.10.0.0/16", "2001:db8:10::/48"] {
                us.handle.announce(net(prefix), route.clone()).await;
            }
            let transport = PeerTransport {
                password: Some(Password::new(b"sesame").unwrap()),
                ttl_security: asn != 65000,
                ..PeerTransport::default()
            };
            us.handle.set_peer(peer("frr", address(v6, 4), asn), transport).await.unwrap();
            us.until_learned(&THEIRS).await;
            let seen = until("FRR has both", || frr.routes(), |routes| routes.len() == 2).await;
            for (prefix, hop) in [("10.10.0.0/16", "10.0.0.1"), ("2001:db8:10::/48", "fd00::1")] {
                let route = &seen[prefix];
                assert_eq!(route["nexthops"][0]["ip"], hop, "{route:#}");
                assert_eq!((&route["origin"], &route["metric"]), (&json!("IGP"), &json!(77)));
                assert_eq!(route["community"]["string"], "65000:5");
                assert_eq!(route["largeCommunity"]["string"], "4200000000:1:2");
                let path = if asn == 65000 { "Local" } else { "65000" };
                assert_eq!(route["aspath"]["string"], path);
            }
            us.handle.withdraw(net("2001:db8:10::/48")).await;
            until("FRR has one", || frr.routes(), |routes| routes.len() == 1).await;
            frr.refresh();
            us.announce(&["10.11.0.0/16"]).await;
            until("FRR has two", || frr.routes(), |routes| routes.len() == 2).await;
            assert_eq!(us.downs, Vec::<String>::new());
        });
    }
}

#[test]
fn routes_come_and_go_under_churn_and_the_last_state_is_what_counts() {
    let wire = Wire::new();
    let frr = Frr::start(&wire, false, 65004, 65000, &[], &[]);
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.peer(peer("frr", address(false, 4), 65004)).await;
        us.up("frr").await;
        let wanted = us.churn().await;
        until(
            "FRR has the last state",
            || frr.routes(),
            |routes| routes.keys().eq(&wanted) && routes.values().all(|route| route["metric"] == LAST_ROUND),
        )
        .await;
    });
}

#[test]
fn we_reflect_to_frr_and_ask_it_for_everything_again() {
    let wire = Wire::new();
    let frr = Frr::start(&wire, true, 65000, 65000, &[], &THEIRS);
    // The next hops are others', since FRR would not take those of its own namespace.
    let bird = Bird::start(
        &wire,
        "10.0.0.3",
        "protocol static { ipv4; route 10.30.0.0/16 blackhole; }\n\
         protocol static { ipv6; route 2001:db8:30::/48 blackhole; }\n\
         protocol bgp cambric { local 10.0.0.3 as 65000; neighbor 10.0.0.1 as 65000; connect delay time 1; strict bind yes;\n\
         ipv4 { import all; export where source = RTS_STATIC; next hop address 10.0.0.9; };\n\
         ipv6 { import all; export where source = RTS_STATIC; next hop address fd00::9; }; }",
    );
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.announce(&["10.10.0.0/16"]).await;
        let mut choosy = peer("frr", address(true, 4), 65000);
        choosy.reflector_client = true;
        choosy.import.filter = PrefixFilter::only([net("2001:db8::/32")]);
        let mut open = choosy.clone();
        open.import.filter = PrefixFilter::accept_all();
        us.peer(choosy).await;
        let mut other = peer("bird", address(false, 3), 65000);
        other.reflector_client = true;
        us.peer(other).await;
        let all = ["10.30.0.0/16", "10.40.0.0/16", "2001:db8:30::/48", "2001:db8:40::/48"];
        us.until_learned(&[all[0], all[2], all[3]]).await;
        us.peer(open).await;
        us.until_learned(&all).await;
        let seen = until("FRR has three", || frr.routes(), |routes| routes.len() == 3).await;
        for (prefix, hop) in [("10.30.0.0/16", "10.0.0.9"), ("2001:db8:30::/48", "fd00::9")] {
            let route = &seen[prefix];
            assert_eq!(route["originatorId"], "10.0.0.3", "{route:#}");
            assert_eq!(route["clusterList"]["list"], json!(["10.0.0.1"]));
            assert_eq!(route["nexthops"][0]["ip"], hop);
        }
        assert!(seen["10.10.0.0/16"]["originatorId"].is_null());
        let theirs = until("BIRD has three", || bird.routes("cambric"), |routes| routes.len() == 3).await;
        assert_eq!(theirs["10.40.0.0/16"]["originator_id"], "10.0.0.4");
    });
}

#[test]
fn frr_keeps_our_place_when_we_restart() {
    let wire = Wire::new();
    let frr = Frr::start(&wire, true, 65004, 65000, &[], &THEIRS);
    let frr = std::sync::Arc::new(frr);
    let seeing = std::sync::Arc::clone(&frr);
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.announce(&["10.10.0.0/16", "2001:db8:10::/48"]).await;
        us.peer(peer("frr", address(true, 4), 65004)).await;
        us.until_learned(&THEIRS).await;
        until("FRR has both", || seeing.routes(), |routes| routes.len() == 2).await;
    });
    let state = || frr.ask("show bgp neighbors json");
    common::until_blocking("FRR notices", state, |said| !said.contains("\"Established\""));
    let kept = frr.routes();
    assert!(kept.len() == 2 && kept.values().all(|route| route["stale"] == true), "{kept:#?}");
    wire.run(async move {
        let mut config = speaker(65000);
        config.restarting = true;
        let mut us = Us::start(config);
        us.announce(&["10.10.0.0/16"]).await;
        us.peer(peer("frr", address(true, 4), 65004)).await;
        us.until_learned(&THEIRS).await;
        let left = until("FRR sweeps", || frr.routes(), |routes| routes.len() == 1).await;
        assert!(left["10.10.0.0/16"]["stale"].is_null());
    });
}

#[test]
fn an_frr_that_crashes_keeps_its_place() {
    let wire = Wire::new();
    let mut frr = Frr::start(&wire, false, 65004, 65000, &[], &THEIRS);
    let wire = std::sync::Arc::new(wire);
    let theirs = std::sync::Arc::clone(&wire);
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.announce(&["10.10.0.0/16"]).await;
        us.peer(peer("frr", address(false, 4), 65004)).await;
        us.until_learned(&THEIRS).await;
        frr.kill();
        us.down("frr").await;
        us.until("both are stale", |us| us.routes.values().filter(|paths| paths[0].stale).count() == 2).await;
        let frr = tokio::task::spawn_blocking(move || {
            frr.restart(&theirs);
            frr
        });
        let frr = frr.await.unwrap();
        us.up("frr").await;
        us.until("none is stale", |us| !us.routes.values().any(|paths| paths[0].stale)).await;
        us.until_learned(&THEIRS).await;
        assert_eq!(us.lost, [], "no route was missing in between");
        until("FRR has ours again", || frr.routes(), |routes| routes.len() == 1).await;
    });
}
