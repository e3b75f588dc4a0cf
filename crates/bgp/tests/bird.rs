//! With BIRD 2: what each side means to say is what the other one hears.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use bgp::transport::{Options, Password, PeerTransport};
use bgp::{Community, LargeCommunity, LocalRoute, PrefixFilter, SessionState};
use common::bird::Bird;
use common::us::{LAST_ROUND, Us, net, peer, speaker};
use common::{Wire, address, until, until_blocking};

const STATIC: &str = "protocol static { ipv4; route 10.20.0.0/16 blackhole; route 10.21.0.0/16 blackhole; }\n\
                      protocol static { ipv6; route 2001:db8:20::/48 blackhole; route 2001:db8:21::/48 blackhole; }\n";

const LEARNED: [&str; 4] = ["10.20.0.0/16", "10.21.0.0/16", "2001:db8:20::/48", "2001:db8:21::/48"];

/// A BGP protocol of BIRD towards us.
fn towards_us(v6: bool, local_as: u32, our_as: u32, more: &str) -> String {
    importing(v6, local_as, our_as, more, "import all;")
}

fn importing(v6: bool, local_as: u32, our_as: u32, more: &str, import: &str) -> String {
    from(2, v6, local_as, our_as, more, import)
}

fn from(number: u8, v6: bool, local_as: u32, our_as: u32, more: &str, import: &str) -> String {
    let (local, remote) = (address(v6, number), address(v6, 1));
    let channel = format!("{import} export where source = RTS_STATIC; next hop self;");
    format!(
        "protocol bgp cambric {{ local {local} as {local_as}; neighbor {remote} as {our_as}; connect delay time 1; \
         connect retry time 1; error wait time 1, 2; hold time 9; {more}\n\
         ipv4 {{ {channel} {} }}; ipv6 {{ {channel} {} }}; }}\n",
        if v6 { format!("next hop address 10.0.0.{number};") } else { String::new() },
        if v6 { String::new() } else { format!("next hop address fd00::{number};") },
    )
}

/// Both families over both, with either side opening the connection.
#[test]
fn routes_of_both_families_go_both_ways_over_both() {
    for (v6, asn, we_wait) in
        [(false, 65002, false), (true, 65002, true), (true, 65000, false), (false, 65000, true)]
    {
        let wire = Wire::new();
        let passive = if we_wait { "" } else { "passive yes;" };
        let bird =
            Bird::start(&wire, "10.0.0.2", &format!("{STATIC}{}", towards_us(v6, asn, 65000, passive)));
        wire.run(async move {
            let mut us = Us::start(speaker(65000));
            us.announce(&["10.10.0.0/16", "2001:db8:10::/48"]).await;
            let mut config = peer("bird", address(v6, 2), asn);
            config.passive = we_wait;
            us.peer(config).await;
            us.up("bird").await;
            us.until_learned(&LEARNED).await;
            let as_path: &[u32] = if asn == 65000 { &[] } else { &[asn] };
            for (prefix, hop) in [("10.20.0.0/16", address(false, 2)), ("2001:db8:20::/48", address(true, 2))]
            {
                let best = us.best(prefix);
                assert_eq!((best.attributes.next_hop, &*best.attributes.as_path), (hop, as_path), "{prefix}");
            }
            let seen = until("BIRD has both", || bird.routes("cambric"), |routes| routes.len() == 2).await;
            for (prefix, hop) in [("10.10.0.0/16", "10.0.0.1"), ("2001:db8:10::/48", "fd00::1")] {
                let route = &seen[prefix];
                assert_eq!(route["next_hop"].split(' ').next().unwrap(), hop);
                assert_eq!(route["as_path"], if asn == 65000 { "" } else { "65000" });
                assert_eq!((route["origin"].as_str(), route["local_pref"].as_str()), ("IGP", "100"));
            }
            us.handle.withdraw(net("10.10.0.0/16")).await;
            us.handle.withdraw(net("2001:db8:10::/48")).await;
            until("BIRD has none", || bird.routes("cambric"), |routes| routes.is_empty()).await;
            let status = us.status("bird").await;
            assert_eq!(status.state, SessionState::Established);
            assert_eq!((status.received, status.advertised), ([2, 2], [0, 0]));
            us.handle.stop().await;
            let said = until(
                "BIRD hears us go",
                || bird.ask("show protocols all cambric"),
                |said| said.contains("Last error"),
            )
            .await;
            assert!(said.contains("Received:"), "{said}");
        });
    }
}

#[test]
fn attributes_arrive_as_they_were_meant() {
    let wire = Wire::new();
    let bird = Bird::start(&wire, "10.0.0.2", &towards_us(false, 65002, 4_200_000_000, ""));
    wire.run(async move {
        let mut us = Us::start(speaker(4_200_000_000));
        let route = LocalRoute {
            med: Some(77),
            communities: vec![Community(65000 << 16 | 5), Community(7)],
            large_communities: vec![LargeCommunity(4_200_000_000, 1, 2)],
            ..LocalRoute::default()
        };
        us.handle.announce(net("10.10.0.0/16"), route).await;
        let mut config = peer("bird", address(false, 2), 65002);
        config.export.communities = vec![Community(1 << 16 | 1)];
        us.peer(config).await;
        us.up("bird").await;
        let seen = until("BIRD has it", || bird.routes("cambric"), |routes| routes.len() == 1).await;
        let route = &seen["10.10.0.0/16"];
        assert_eq!(route["as_path"], "4200000000");
        assert_eq!(route["med"], "77");
        assert_eq!(route["community"], "(65000,5) (0,7) (1,1)");
        assert_eq!(route["large_community"], "(4200000000, 1, 2)");
    });
}

/// A recording that is still there when the speaker is not.
#[derive(Clone, Default)]
struct Recording(Arc<Mutex<Vec<u8>>>);

impl Write for Recording {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_recorded_session_leads_to_the_same_table() {
    let wire = Wire::new();
    let _bird = Bird::start(&wire, "10.0.0.2", &format!("{STATIC}{}", towards_us(false, 65002, 65000, "")));
    let recording = Recording::default();
    let record: Box<dyn Write + Send> = Box::new(recording.clone());
    let table = wire.run(async move {
        let options = Options { record: Some(record), ..Options::default() };
        let mut us = Us::with_options(speaker(65000), options);
        us.announce(&["10.10.0.0/16", "2001:db8:10::/48"]).await;
        us.peer(peer("bird", address(false, 2), 65002)).await;
        us.until_learned(&LEARNED).await;
        us.handle.routes().await.unwrap()
    });
    let recorded = recording.0.lock().unwrap().clone();
    let (answers, replayed) = bgp::record::replay(recorded.as_slice()).unwrap();
    assert!(answers.iter().flatten().any(|output| matches!(output, bgp::Output::Send { .. })));
    assert_eq!(replayed.routes().collect::<Vec<_>>(), table);
}

#[test]
fn either_side_can_ask_for_everything_again() {
    let wire = Wire::new();
    let none_of_ours = "import where net !~ 10.10.0.0/16;";
    let config = |import: &str| format!("{STATIC}{}", importing(false, 65002, 65000, "", import));
    let bird = Bird::start(&wire, "10.0.0.2", &config(none_of_ours));
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.announce(&["10.10.0.0/16", "2001:db8:10::/48"]).await;
        us.peer(peer("bird", address(false, 2), 65002)).await;
        us.until_learned(&LEARNED).await;
        until("BIRD takes one", || bird.routes("cambric"), |routes| routes.len() == 1).await;
        bird.configure("10.0.0.2", &config("import all;"));
        until("BIRD asks again", || bird.routes("cambric"), |routes| routes.len() == 2).await;

        let mut choosy = peer("bird", address(false, 2), 65002);
        choosy.import.filter = PrefixFilter::only([net("2001:db8::/32")]);
        us.peer(choosy).await;
        us.until_learned(&LEARNED[2..]).await;
        us.peer(peer("bird", address(false, 2), 65002)).await;
        us.until_learned(&LEARNED).await;
        assert_eq!(us.status("bird").await.established, 1);
    });
}

#[test]
fn routes_come_and_go_under_churn_and_the_last_state_is_what_counts() {
    let wire = Wire::new();
    let bird = Bird::start(&wire, "10.0.0.2", &towards_us(true, 65002, 65000, ""));
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.peer(peer("bird", address(true, 2), 65002)).await;
        us.up("bird").await;
        let wanted = us.churn().await;
        let last = LAST_ROUND.to_string();
        until(
            "BIRD has the last state",
            || bird.routes("cambric"),
            |routes| routes.keys().eq(&wanted) && routes.values().all(|route| route["med"] == last),
        )
        .await;
    });
}

#[test]
fn passwords_and_ttl_security_are_kept_to() {
    for v6 in [false, true] {
        for we_wait in [false, true] {
            let wire = Wire::new();
            let passive = if we_wait { "" } else { "passive yes;" };
            let secured = |password: &str| {
                let more = format!("password \"{password}\"; ttl security on; {passive}");
                format!("{STATIC}{}", towards_us(v6, 65002, 65000, &more))
            };
            let _bird = Bird::start(&wire, "10.0.0.2", &secured("sesame"));
            let wire = Arc::new(wire);
            let counting = Arc::clone(&wire);
            wire.run(async move {
                let mut us = Us::start(speaker(65000));
                let mut config = peer("bird", address(v6, 2), 65002);
                config.passive = we_wait;
                let transport = PeerTransport {
                    password: Some(Password::new(b"sesame").unwrap()),
                    ttl_security: true,
                    ..PeerTransport::default()
                };
                us.handle.set_peer(config.clone(), transport.clone()).await.unwrap();
                us.until_learned(&LEARNED).await;
                // Without the password, nothing gets through any more.
                us.handle.remove_peer(config.name.clone()).await;
                us.until_learned(&[]).await;
                let before = counting.md5_drops();
                us.handle.set_peer(config.clone(), PeerTransport::default()).await.unwrap();
                until("segments are dropped", || counting.md5_drops(), |drops| *drops > before).await;
                assert_ne!(us.status("bird").await.state, SessionState::Established);
                us.handle.set_peer(config, transport).await.unwrap();
                us.until_learned(&LEARNED).await;
            });
        }
    }
}

#[test]
fn a_peer_that_may_be_far_away_is_not_heard_if_it_must_be_near() {
    for (v6, we_wait) in [(false, true), (true, true), (false, false), (true, false)] {
        let wire = Arc::new(Wire::new());
        // Without TTL security, BIRD sends to a neighbour of another AS with a TTL of 1.
        let _bird = Bird::start(&wire, "10.0.0.2", &towards_us(v6, 65002, 65000, ""));
        let counting = Arc::clone(&wire);
        wire.run(async move {
            let us = Us::start(speaker(65000));
            let mut config = peer("bird", address(v6, 2), 65002);
            config.passive = we_wait;
            let transport = PeerTransport { ttl_security: true, ..PeerTransport::default() };
            us.handle.set_peer(config, transport).await.unwrap();
            until("segments are dropped", || counting.ttl_drops(), |drops| *drops > 0).await;
            assert_ne!(us.status("bird").await.state, SessionState::Established);
        });
    }
}

#[test]
fn a_bird_that_crashes_keeps_its_place() {
    let wire = Wire::new();
    let more = "graceful restart on; graceful restart time 30;";
    let mut bird =
        Bird::start(&wire, "10.0.0.2", &format!("{STATIC}{}", towards_us(false, 65002, 65000, more)));
    let wire = Arc::new(wire);
    let theirs = Arc::clone(&wire);
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.announce(&["10.10.0.0/16"]).await;
        us.peer(peer("bird", address(false, 2), 65002)).await;
        us.until_learned(&LEARNED).await;
        bird.kill();
        us.down("bird").await;
        us.until("all are stale", |us| us.routes.values().filter(|paths| paths[0].stale).count() == 4).await;
        let bird = tokio::task::spawn_blocking(move || {
            bird.recover(&theirs);
            bird
        });
        let bird = bird.await.unwrap();
        us.up("bird").await;
        us.until("none is stale", |us| !us.routes.values().any(|paths| paths[0].stale)).await;
        us.until_learned(&LEARNED).await;
        assert_eq!(us.lost, [], "no route was missing in between");
        until("BIRD has ours again", || bird.routes("cambric"), |routes| routes.len() == 1).await;
    });
}

#[test]
fn a_bird_keeps_our_place() {
    let wire = Wire::new();
    let bird = Bird::start(
        &wire,
        "10.0.0.2",
        &format!("{STATIC}{}", towards_us(true, 65002, 65000, "graceful restart on;")),
    );
    let ours = ["10.10.0.0/16", "2001:db8:10::/48"];
    wire.run({
        let socket = bird.asker();
        async move {
            let mut us = Us::start(speaker(65000));
            us.announce(&ours).await;
            us.peer(peer("bird", address(true, 2), 65002)).await;
            us.until_learned(&LEARNED).await;
            until("BIRD has both", || socket.routes("cambric"), |routes| routes.len() == 2).await;
        }
    });
    // Our sockets are closed, without a word.
    let gone = until_blocking(
        "BIRD notices",
        || bird.ask("show protocols all cambric"),
        |said| !said.contains("Established"),
    );
    assert!(gone.contains("Neighbor graceful restart active"), "{gone}");
    assert_eq!(bird.routes("cambric").len(), 2, "both are kept");
    wire.run(async move {
        let mut config = speaker(65000);
        config.restarting = true;
        let mut us = Us::start(config);
        us.announce(&ours[..1]).await;
        us.peer(peer("bird", address(true, 2), 65002)).await;
        us.up("bird").await;
        us.until("all has come again", |us| us.converged && us.learned().len() == 4).await;
        let left = until("BIRD sweeps", || bird.routes("cambric"), |routes| routes.len() == 1).await;
        assert!(left.contains_key(ours[0]));
    });
}

#[test]
fn we_reflect_between_clients() {
    let wire = Wire::new();
    let one = Bird::start(&wire, "10.0.0.2", &format!("{STATIC}{}", towards_us(false, 65000, 65000, "")));
    let two = Bird::start(&wire, "10.0.0.3", &from(3, true, 65000, 65000, "", "import all;"));
    wire.run(async move {
        let mut config = speaker(65000);
        config.cluster_id = Some([10, 99, 0, 1].into());
        let mut us = Us::start(config);
        us.announce(&["10.10.0.0/16"]).await;
        for (name, at) in [("one", address(false, 2)), ("two", address(true, 3))] {
            let mut client = peer(name, at, 65000);
            client.reflector_client = true;
            us.peer(client).await;
            us.up(name).await;
        }
        let seen =
            until("the other client has all", || two.routes("cambric"), |routes| routes.len() == 5).await;
        for (prefix, hop) in [("10.20.0.0/16", "10.0.0.2"), ("2001:db8:21::/48", "fd00::2")] {
            let route = &seen[prefix];
            assert_eq!(route["next_hop"].split(' ').next().unwrap(), hop);
            assert_eq!(
                (route["originator_id"].as_str(), route["cluster_list"].as_str()),
                ("10.0.0.2", "10.99.0.1")
            );
            assert_eq!(route["local_pref"], "100");
        }
        assert!(!seen["10.10.0.0/16"].contains_key("originator_id"));
        let own =
            until("the first one has ours", || one.routes("cambric"), |routes| !routes.is_empty()).await;
        assert_eq!(own.len(), 1, "its own routes do not come back to it");
    });
}

#[test]
fn ipv4_goes_over_an_ipv6_next_hop() {
    let wire = Wire::new();
    let channel = "import all; export where source = RTS_STATIC; extended next hop on;";
    let config = format!(
        "{STATIC}protocol bgp cambric {{ local fd00::2 as 65002; neighbor fd00::1 as 65000; connect delay time 1;\n\
         ipv4 {{ {channel} }}; ipv6 {{ {channel} }}; }}"
    );
    let bird = Bird::start(&wire, "10.0.0.2", &config);
    wire.run(async move {
        let mut us = Us::start(speaker(65000));
        us.announce(&["10.10.0.0/16"]).await;
        let mut config = peer("bird", address(true, 2), 65002);
        config.own_addresses = bgp::OwnAddresses::default();
        us.peer(config).await;
        us.until_learned(&LEARNED).await;
        assert_eq!(us.best("10.20.0.0/16").attributes.next_hop, address(true, 2));
        let seen = until("BIRD has it", || bird.routes("cambric"), |routes| routes.len() == 1).await;
        assert_eq!(seen["10.10.0.0/16"]["next_hop"].split(' ').next().unwrap(), "fd00::1");
    });
}
