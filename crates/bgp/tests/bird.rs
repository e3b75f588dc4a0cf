//! With BIRD 2: what each side means to say is what the other one hears.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bgp::{Community, LargeCommunity, LocalRoute, SessionState};
use common::bird::Bird;
use common::us::{Us, net, peer, speaker};
use common::{Wire, address, until};

const STATIC: &str = "protocol static { ipv4; route 10.20.0.0/16 blackhole; route 10.21.0.0/16 blackhole; }\n\
                      protocol static { ipv6; route 2001:db8:20::/48 blackhole; route 2001:db8:21::/48 blackhole; }\n";

/// A BGP protocol of BIRD towards us.
fn towards_us(v6: bool, local_as: u32, our_as: u32, more: &str) -> String {
    let (local, remote) = (address(v6, 2), address(v6, 1));
    let channel = "import all; export where source = RTS_STATIC; next hop self;";
    format!(
        "protocol bgp cambric {{ local {local} as {local_as}; neighbor {remote} as {our_as}; connect delay time 1; \
         connect retry time 1; error wait time 1, 2; hold time 9; {more}\n\
         ipv4 {{ {channel} {} }}; ipv6 {{ {channel} {} }}; }}\n",
        if v6 { "next hop address 10.0.0.2;" } else { "" },
        if v6 { "" } else { "next hop address fd00::2;" },
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
            us.until_learned(&["10.20.0.0/16", "10.21.0.0/16", "2001:db8:20::/48", "2001:db8:21::/48"]).await;
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
