//! With GoBGP: what each side means to say is what the other one hears.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;

use bgp::transport::{Password, PeerTransport};
use bgp::{Community, LargeCommunity, LocalRoute, PrefixFilter, SessionState};
use common::gobgp::GoBgp;
use common::us::{LAST_ROUND, Us, net, peer, speaker};
use common::{Wire, address, until};
use serde_json::json;

const ORIGIN: u64 = 1;
const AS_PATH: u64 = 2;
const NEXT_HOP: u64 = 3;
const MED: u64 = 4;
const LOCAL_PREF: u64 = 5;
const COMMUNITIES: u64 = 8;
const ORIGINATOR_ID: u64 = 9;
const CLUSTER_LIST: u64 = 10;
const MP_REACH: u64 = 14;
const LARGE_COMMUNITIES: u64 = 32;

#[test]
fn routes_of_both_families_go_both_ways() {
    for (v6, asn) in [(false, 65002), (true, 65000)] {
        let wire = Wire::new();
        let gobgp = GoBgp::start(&wire, v6, asn, 65000, "");
        gobgp.announce(&[("10.20.0.0/16", "10.0.0.2"), ("2001:db8:20::/48", "fd00::2")]);
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
            us.peer(peer("gobgp", address(v6, 2), asn)).await;
            us.until_learned(&["10.20.0.0/16", "2001:db8:20::/48"]).await;
            let seen = until("GoBGP has both", || gobgp.routes(), |routes| routes.len() == 2).await;
            for (prefix, attribute, hop) in
                [("10.10.0.0/16", NEXT_HOP, "10.0.0.1"), ("2001:db8:10::/48", MP_REACH, "fd00::1")]
            {
                let route = &seen[prefix];
                assert_eq!(route[&attribute]["nexthop"], hop);
                assert_eq!(route[&ORIGIN]["value"], 0);
                assert_eq!(route[&MED]["metric"], 77);
                assert_eq!(route[&COMMUNITIES]["communities"], json!([65000_u32 << 16 | 5]));
                let large = json!([{"ASN": 4_200_000_000_u32, "LocalData1": 1, "LocalData2": 2}]);
                assert_eq!(route[&LARGE_COMMUNITIES]["value"], large);
                if asn == 65000 {
                    assert_eq!(route[&LOCAL_PREF]["value"], 100);
                } else {
                    assert_eq!(route[&AS_PATH]["as_paths"][0]["asns"], json!([65000]));
                    assert!(!route.contains_key(&LOCAL_PREF));
                }
            }
            us.handle.withdraw(net("10.10.0.0/16")).await;
            until("GoBGP has one", || gobgp.routes(), |routes| routes.len() == 1).await;
            gobgp.withdraw("10.20.0.0/16");
            us.until_learned(&["2001:db8:20::/48"]).await;
            assert_eq!(us.status("gobgp").await.established, 1);
        });
    }
}

#[test]
fn routes_come_and_go_under_churn_and_the_last_state_is_what_counts() {
    let wire = Wire::new();
    let gobgp = GoBgp::start(&wire, false, 65002, 65000, "");
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.peer(peer("gobgp", address(false, 2), 65002)).await;
        us.up("gobgp").await;
        let wanted = us.churn().await;
        let seen = until(
            "GoBGP has the last state",
            || gobgp.routes(),
            |routes| {
                routes.keys().eq(&wanted) && routes.values().all(|route| route[&MED]["metric"] == LAST_ROUND)
            },
        )
        .await;
        assert!(seen["10.10.0.0/24"][&NEXT_HOP]["nexthop"] == "10.0.0.1");
    });
}

#[test]
fn a_password_is_kept_to() {
    for v6 in [false, true] {
        let wire = Arc::new(Wire::new());
        let gobgp = GoBgp::with_password(&wire, v6, 65002, 65000, "sesame", "");
        gobgp.announce(&[("10.20.0.0/16", "10.0.0.2"), ("2001:db8:20::/48", "fd00::2")]);
        let counting = Arc::clone(&wire);
        wire.run(async move {
            let mut us = Us::start(speaker(65000));
            us.announce(&["10.10.0.0/16"]).await;
            us.peer(peer("gobgp", address(v6, 2), 65002)).await;
            until("segments are dropped", || counting.md5_drops(), |drops| *drops > 0).await;
            assert_ne!(us.status("gobgp").await.state, SessionState::Established);
            let transport = PeerTransport {
                password: Some(Password::new(b"sesame").unwrap()),
                ..PeerTransport::default()
            };
            us.handle.set_peer(peer("gobgp", address(v6, 2), 65002), transport).await.unwrap();
            us.until_learned(&["10.20.0.0/16", "2001:db8:20::/48"]).await;
            until("GoBGP has it", || gobgp.routes(), |routes| routes.contains_key("10.10.0.0/16")).await;
        });
    }
}

#[test]
fn we_ask_for_everything_again() {
    let wire = Wire::new();
    let gobgp = GoBgp::start(&wire, false, 65002, 65000, "");
    gobgp.announce(&[("10.20.0.0/16", "10.0.0.2"), ("2001:db8:20::/48", "fd00::2")]);
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        let mut choosy = peer("gobgp", address(false, 2), 65002);
        choosy.import.filter = PrefixFilter::only([net("2001:db8::/32")]);
        us.peer(choosy).await;
        us.until_learned(&["2001:db8:20::/48"]).await;
        us.peer(peer("gobgp", address(false, 2), 65002)).await;
        us.until_learned(&["10.20.0.0/16", "2001:db8:20::/48"]).await;
        assert_eq!(us.status("gobgp").await.established, 1);
    });
}

#[test]
fn gobgp_reflects_for_us_and_we_for_it() {
    let wire = Wire::new();
    let more = "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                route-reflector-cluster-id = \"10.98.0.1\"";
    let gobgp = GoBgp::start(&wire, false, 65000, 65000, more);
    let bird = common::bird::Bird::start(
        &wire,
        "10.0.0.3",
        "protocol static { ipv4; route 10.30.0.0/16 blackhole; }\n\
         protocol bgp cambric { local 10.0.0.3 as 65000; neighbor 10.0.0.1 as 65000; connect delay time 1; strict bind yes; strict bind yes;\n\
         ipv4 { import all; export where source = RTS_STATIC; next hop self; }; }",
    );
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.announce(&["10.10.0.0/16"]).await;
        us.peer(peer("gobgp", address(false, 2), 65000)).await;
        let mut client = peer("bird", address(false, 3), 65000);
        client.reflector_client = true;
        us.peer(client).await;
        us.until_learned(&["10.30.0.0/16"]).await;
        let seen = until("GoBGP has both", || gobgp.routes(), |routes| routes.len() == 2).await;
        let reflected = &seen["10.30.0.0/16"];
        assert_eq!(reflected[&ORIGINATOR_ID]["value"], "10.0.0.3");
        assert_eq!(reflected[&CLUSTER_LIST]["value"], json!(["10.0.0.1"]));
        assert_eq!(reflected[&NEXT_HOP]["nexthop"], "10.0.0.3");
        assert!(!seen["10.10.0.0/16"].contains_key(&ORIGINATOR_ID));
        assert!(bird.routes("cambric").contains_key("10.10.0.0/16"));
    });
}

#[test]
fn gobgp_keeps_our_place_when_we_restart() {
    let wire = Wire::new();
    let more =
        "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 30\nnotification-enabled = true";
    let gobgp = GoBgp::start(&wire, false, 65002, 65000, more);
    gobgp.announce(&[("10.20.0.0/16", "10.0.0.2")]);
    let gobgp = Arc::new(gobgp);
    let seeing = Arc::clone(&gobgp);
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.announce(&["10.10.0.0/16", "2001:db8:10::/48"]).await;
        us.peer(peer("gobgp", address(false, 2), 65002)).await;
        us.until_learned(&["10.20.0.0/16"]).await;
        until("GoBGP has both", || seeing.routes(), |routes| routes.len() == 2).await;
    });
    let state = || gobgp.ask(&["neighbor"]);
    common::until_blocking("GoBGP notices", state, |said| !said.contains("Establ"));
    assert_eq!(gobgp.routes().len(), 2, "both are kept");
    wire.run(async move {
        let mut config = speaker(65000);
        config.restarting = true;
        let mut us = Us::start(config);
        us.announce(&["10.10.0.0/16"]).await;
        us.peer(peer("gobgp", address(false, 2), 65002)).await;
        us.until_learned(&["10.20.0.0/16"]).await;
        us.until("all has come again", |us| us.converged).await;
        let left = until("GoBGP sweeps", || gobgp.routes(), |routes| routes.len() == 1).await;
        assert!(left.contains_key("10.10.0.0/16"));
    });
}

#[test]
fn a_gobgp_that_crashes_keeps_its_place() {
    let wire = Arc::new(Wire::new());
    let more = "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 30";
    let mut gobgp = GoBgp::start(&wire, false, 65002, 65000, more);
    let theirs = [("10.20.0.0/16", "10.0.0.2"), ("2001:db8:20::/48", "fd00::2")];
    gobgp.announce(&theirs);
    let end = Arc::clone(&wire);
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.announce(&["10.10.0.0/16"]).await;
        us.peer(peer("gobgp", address(false, 2), 65002)).await;
        us.until_learned(&theirs.map(|(prefix, _)| prefix)).await;
        gobgp.kill();
        us.down("gobgp").await;
        us.until("both are stale", |us| us.routes.values().filter(|paths| paths[0].stale).count() == 2).await;
        let gobgp = tokio::task::spawn_blocking(move || {
            // It has to be told its routes before it can tell them.
            end.join(false);
            gobgp.recover(&end);
            gobgp.announce(&theirs);
            end.join(true);
            gobgp
        });
        let gobgp = gobgp.await.unwrap();
        us.up("gobgp").await;
        us.until("none is stale", |us| !us.routes.values().any(|paths| paths[0].stale)).await;
        us.until_learned(&theirs.map(|(prefix, _)| prefix)).await;
        assert_eq!(us.lost, [], "no route was missing in between");
        until("GoBGP has ours again", || gobgp.routes(), |routes| routes.len() == 1).await;
    });
}
