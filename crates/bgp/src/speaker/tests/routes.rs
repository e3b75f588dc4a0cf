//! Routes: what goes where.

use std::time::Duration;

use model::Family;

use super::net::{Net, at, config, net as prefix, peer};
use crate::record::{Recorder, replay};
use crate::{Community, Families, Input, LocalRoute, Output, PeerName, PrefixFilter};

const FOUR: &str = "10.1.0.0/16";
const SIX: &str = "2001:db8:1::/48";

/// Speakers of which each has those as peers that are named with it: `(here, there, client)`.
fn mesh(asns: &[u32], sessions: &[(usize, usize, bool)]) -> Net {
    let mut net = Net::new(asns.iter().enumerate().map(|(number, asn)| config(number, *asn)));
    for (here, there, client) in sessions {
        let mut peer = peer(*there, asns[*there]);
        peer.reflector_client = *client;
        net.tell(*here, Input::SetPeer(Box::new(peer)));
    }
    net.deliver();
    net.pass(Duration::from_secs(5));
    net
}

fn both_ways(pairs: &[(usize, usize)]) -> Vec<(usize, usize, bool)> {
    pairs.iter().flat_map(|(a, b)| [(*a, *b, false), (*b, *a, false)]).collect()
}

#[test]
fn routes_of_both_families_come_and_go() {
    for asns in [[65000, 65000], [65000, 65001]] {
        let mut net = Net::pair(asns, |_, _| {});
        net.announce(0, &[FOUR, SIX]);
        assert_eq!(net.learned(1), [FOUR, SIX]);
        let four = &net.hosts[1].routes[&prefix(FOUR)][0];
        assert_eq!((four.attributes.next_hop, four.peer.clone()), (at(0), Some(PeerName::from("s0"))));
        assert_eq!((net.status(0).advertised, net.status(1).received), ([1, 1], [1, 1]));
        net.tell(0, Input::Withdraw(prefix(FOUR)));
        net.deliver();
        assert_eq!(net.learned(1), [SIX]);
        net.tell(0, Input::Stop);
        net.deliver();
        assert!(net.learned(1).is_empty());
    }
}

#[test]
fn what_was_announced_before_the_session_is_told_too_and_only_agreed_families_are() {
    let mut net = Net::new([config(0, 65000), config(1, 65001)]);
    net.announce(0, &[FOUR, SIX]);
    let mut only_six = peer(0, 65000);
    only_six.families = Families::only(Family::V6);
    net.tell(0, Input::SetPeer(Box::new(peer(1, 65001))));
    net.tell(1, Input::SetPeer(Box::new(only_six)));
    net.deliver();
    assert_eq!(net.learned(1), [SIX]);
    assert_eq!(net.status(0).advertised, [0, 1]);
}

#[test]
fn without_a_next_hop_of_the_family_a_route_is_not_told_and_that_is_said() {
    let mut net = Net::pair([65000, 65001], |_, peer| peer.own_addresses.v6 = None);
    net.announce(0, &[FOUR, SIX]);
    assert_eq!((net.learned(1), net.status(0).without_next_hop), (vec![FOUR.to_owned()], 1));
    net.tell(0, Input::Withdraw(prefix(SIX)));
    assert_eq!(net.status(0).without_next_hop, 0);
}

#[test]
fn in_a_full_mesh_every_route_takes_one_step() {
    let mut net = mesh(&[65000; 4], &both_ways(&[(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]));
    for host in 0..4 {
        net.announce(host, &[&format!("10.{host}.0.0/16"), &format!("2001:db8:{host}::/48")]);
    }
    for host in 0..4 {
        assert_eq!(net.learned(host).len(), 6);
        for paths in net.hosts[host].routes.values() {
            assert_eq!(paths[0].attributes.cluster_list.len(), 0);
        }
    }
}

#[test]
fn reflectors_join_their_clients_and_do_not_loop() {
    // 0 and 1 reflect, each for all of 2, 3 and 4; clients know only the reflectors.
    let mut sessions = vec![(0, 1, false), (1, 0, false)];
    for client in 2..5 {
        for reflector in 0..2 {
            sessions.extend([(reflector, client, true), (client, reflector, false)]);
        }
    }
    let mut net = mesh(&[65000; 5], &sessions);
    for client in 2..5 {
        net.announce(client, &[&format!("10.{client}.0.0/16"), &format!("2001:db8:{client}::/48")]);
    }
    for host in 2..5 {
        assert_eq!(net.learned(host).len(), 4, "{:?}", net.learned(host));
        for (prefix, paths) in net.hosts[host].routes.iter().filter(|(_, paths)| paths[0].peer.is_some()) {
            let attributes = &paths[0].attributes;
            let from =
                (2..5).find(|client| format!("{prefix}").contains(&format!("{client}.0.0/16"))).map(at);
            assert!(from.is_none_or(|from| attributes.next_hop == from), "{prefix}: {attributes:?}");
            assert_eq!(attributes.cluster_list.len(), 1);
        }
    }
    net.kill(2);
    net.pass(Duration::from_secs(300));
    for host in [0, 1, 3, 4] {
        assert!(!net.learned(host).contains(&"10.2.0.0/16".to_owned()), "host {host}");
    }
}

#[test]
fn ases_in_a_ring_do_not_loop_and_take_the_other_way_round() {
    let mut net = mesh(&[65000, 65001, 65002, 65003], &both_ways(&[(0, 1), (1, 2), (2, 3), (3, 0)]));
    net.announce(0, &[FOUR, SIX]);
    assert_eq!(&*net.hosts[1].routes[&prefix(FOUR)][0].attributes.as_path, [65000]);
    net.tell(0, Input::RemovePeer(PeerName::from("s1")));
    net.deliver();
    for known in [FOUR, SIX] {
        assert_eq!(&*net.hosts[1].routes[&prefix(known)][0].attributes.as_path, [65002, 65003, 65000]);
    }
    net.tell(0, Input::Withdraw(prefix(FOUR)));
    net.deliver();
    assert!((1..4).all(|host| net.learned(host) == [SIX]));
}

#[test]
fn two_nodes_with_one_address_share_its_traffic() {
    let mut net = mesh(&[65000; 3], &both_ways(&[(0, 1), (0, 2), (1, 2)]));
    net.announce(1, &["192.0.2.200/32"]);
    net.announce(2, &["192.0.2.200/32"]);
    let hops = |net: &Net| -> Vec<std::net::IpAddr> {
        net.hosts[0].routes[&prefix("192.0.2.200/32")].iter().map(|path| path.attributes.next_hop).collect()
    };
    assert_eq!(hops(&net), [at(1), at(2)]);
    net.tell(1, Input::Withdraw(prefix("192.0.2.200/32")));
    net.deliver();
    assert_eq!(hops(&net), [at(2)]);
}

#[test]
fn filters_hold_both_ways_and_when_they_change() {
    let mut net = Net::pair([65000, 65001], |here, peer| {
        if here == 0 {
            peer.export.filter = PrefixFilter::only([prefix("10.0.0.0/8")]);
        }
    });
    net.announce(0, &[FOUR, SIX, "192.168.0.0/16"]);
    net.announce(1, &["10.9.0.0/16", "2001:db8:9::/48"]);
    assert_eq!(
        (net.learned(1), net.learned(0)),
        (vec![FOUR.to_owned()], vec!["10.9.0.0/16".to_owned(), "2001:db8:9::/48".to_owned()])
    );
    let mut changed = peer(1, 65001);
    changed.export.filter = PrefixFilter::only([prefix("2001:db8::/32")]);
    changed.import.filter = PrefixFilter::only([prefix("10.0.0.0/8")]);
    net.tell(0, Input::SetPeer(Box::new(changed)));
    net.deliver();
    assert_eq!((net.learned(1), net.learned(0)), (vec![SIX.to_owned()], vec!["10.9.0.0/16".to_owned()]));
    net.tell(0, Input::SetPeer(Box::new(peer(1, 65001))));
    net.deliver();
    assert_eq!((net.learned(1).len(), net.learned(0).len()), (3, 2), "asked for by route refresh");
    assert_eq!(net.status(0).established, 1);
}

#[test]
fn a_refresh_brings_all_again_and_sweeps_what_is_no_more() {
    let mut net = Net::pair([65000, 65001], |_, _| {});
    net.announce(0, &[FOUR, SIX]);
    let updates = net.status(1).updates;
    net.tell(1, Input::RefreshPeer(PeerName::from("s0"), Family::V4));
    net.deliver();
    assert_eq!(net.status(1).updates, updates + 1, "one family, and no more");
    assert_eq!((net.learned(1).len(), net.stale(1).len()), (2, 0));
}

#[test]
fn communities_of_a_route_can_change() {
    let mut net = Net::pair([65000, 65001], |_, _| {});
    net.announce(0, &[FOUR]);
    let route = LocalRoute { communities: vec![Community(5)], med: Some(3), ..LocalRoute::default() };
    net.tell(0, Input::Announce(prefix(FOUR), route));
    net.deliver();
    let attributes = &net.hosts[1].routes[&prefix(FOUR)][0].attributes;
    assert_eq!((&*attributes.communities, attributes.med), (&[Community(5)][..], Some(3)));
}

#[test]
fn what_was_recorded_is_answered_alike() {
    let mut net = mesh(&[65000, 65001, 65000], &both_ways(&[(0, 1), (0, 2), (1, 2)]));
    for host in 0..3 {
        net.announce(host, &[&format!("10.{host}.0.0/16"), &format!("2001:db8:{host}::/48")]);
    }
    net.kill(2);
    net.pass(Duration::from_secs(400));
    for (number, asn) in [(0, 65000), (1, 65001)] {
        let mut recording = Vec::new();
        let start = net.hosts[number].told[0].0;
        let mut recorder = Recorder::new(&mut recording, &config(number, asn), number as u64, start).unwrap();
        for (moment, input) in &net.hosts[number].told {
            recorder.record(*moment, input).unwrap();
        }
        let (answers, speaker) = replay(recording.as_slice()).unwrap();
        let sent = answers.iter().flatten().filter(|output| matches!(output, Output::Send { .. })).count();
        assert!(sent > 10);
        assert_eq!(answers, net.hosts[number].answers);
        assert_eq!(speaker.status(net.now), net.hosts[number].speaker.status(net.now));
    }
}
