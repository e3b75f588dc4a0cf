//! Sessions: how they come and how they go.

use std::time::Duration;

use proptest::prelude::*;

use super::net::{Net, at, config, peer};
use crate::{ConnectionId, ImportNextHop, Input, Output, PeerConfig, PeerName, SessionState};

const SECOND: Duration = Duration::from_secs(1);

fn one_session_each(net: &Net) -> bool {
    (0..2).all(|host| net.is_up(host) && net.hosts[host].speaker.connections.len() == 1)
}

#[test]
fn either_side_may_open() {
    for asns in [[65000, 65000], [65000, 4_200_000_000]] {
        for passive in [0, 1] {
            let net = Net::pair(asns, |here, peer| peer.passive = here == passive);
            assert!(one_session_each(&net), "{:?} {:?}", net.status(0), net.status(1));
        }
    }
}

proptest! {
    /// Both open at once, and messages come in any order: one connection is left, the same on both sides.
    #[test]
    fn of_two_connections_one_stays(chance in 1u64.., equal_ids in any::<bool>(), ibgp in any::<bool>()) {
        let asns = if ibgp { [65000, 65000] } else { [65000, 65001] };
        let mut second = config(1, asns[1]);
        if equal_ids && !ibgp {
            second.router_id = config(0, asns[0]).router_id;
        }
        let mut net = Net::new([config(0, asns[0]), second]);
        net.chance = chance | 1;
        net.tell(0, Input::SetPeer(Box::new(peer(1, asns[1]))));
        net.tell(1, Input::SetPeer(Box::new(peer(0, asns[0]))));
        net.deliver();
        net.pass(SECOND * 5);
        prop_assert!(one_session_each(&net), "{:?} {:?}", net.status(0), net.status(1));
        // And it stays up.
        let ups = |net: &Net| net.hosts.iter().map(|host| host.sessions.len()).collect::<Vec<_>>();
        let before = ups(&net);
        net.pass(SECOND * 600);
        prop_assert_eq!(ups(&net), before);
    }
}

#[test]
fn silence_ends_the_session_within_the_hold_time() {
    let mut net = Net::pair([65000, 65001], |_, peer| peer.hold_time = 9);
    assert!(one_session_each(&net));
    assert_eq!(net.status(0).hold_time, Some(SECOND * 9));
    net.pass(SECOND * 100);
    assert!(one_session_each(&net), "keepalives are sent");
    net.silent = true;
    net.pass(SECOND * 5);
    assert!(net.is_up(0));
    net.pass(SECOND * 5);
    assert!(!net.is_up(0) && !net.is_up(1));
    assert!(net.status(0).last_error.is_some_and(|error| error.contains("Hold Timer Expired")));
}

#[test]
fn attempts_come_quickly_at_first_and_seldom_later() {
    let mut net = Net::new([config(0, 65000)]);
    let mut lonely = peer(1, 65001);
    lonely.connect_retry = SECOND * 8;
    net.tell(0, Input::SetPeer(Box::new(lonely)));
    let attempts = |net: &Net| {
        let outputs = net.hosts[0].answers.iter().flatten();
        outputs.filter(|output| matches!(output, Output::Connect { .. })).count()
    };
    net.pass(SECOND * 3);
    assert!((3..=4).contains(&attempts(&net)), "{}", attempts(&net));
    net.pass(SECOND * 60);
    let before = attempts(&net);
    net.pass(SECOND * 800);
    let later = attempts(&net) - before;
    assert!((100..=134).contains(&later), "{later} in 100 waits of 6 to 8 seconds");
    assert!(net.status(0).last_error.is_some_and(|error| error.contains("refused")));
}

#[test]
fn the_wrong_as_and_the_wrong_identifier_are_refused_with_a_reason() {
    let mut net = Net::new([config(0, 65000), config(1, 65001)]);
    net.tell(0, Input::SetPeer(Box::new(peer(1, 65009))));
    net.tell(1, Input::SetPeer(Box::new(peer(0, 65000))));
    net.deliver();
    assert!(!net.is_up(0) && !net.is_up(1));
    let reasons: Vec<String> = (0..2).filter_map(|host| net.status(host).last_error).collect();
    assert!(reasons.iter().all(|reason| reason.contains("Bad Peer AS")), "{reasons:?}");

    let net = Net::pair([65000, 65001], |here, peer| {
        peer.router_id = (here == 0).then_some([10, 9, 9, 9].into());
    });
    assert!(!net.is_up(0));
    assert!(net.status(0).last_error.is_some_and(|reason| reason.contains("Bad BGP Identifier")));
}

#[test]
fn strangers_are_not_answered() {
    let mut net = Net::new([config(0, 65000)]);
    let connection = ConnectionId::Incoming(7);
    net.tell(0, Input::Accepted { connection, from: at(5), local: at(0) });
    assert_eq!(net.hosts[0].answers, [vec![]]);
    net.push(0, connection, &[0; 40]);
    assert_eq!(net.hosts[0].answers.last(), Some(&vec![Output::Close { connection }]));
}

/// A node behind a gateway that nobody has told of: it is not let in, but the peer's status says what is so.
#[test]
fn a_stranger_with_the_identifier_of_a_peer_is_noted_there() {
    let mut net = Net::new([config(0, 65000), config(1, 65000)]);
    net.tell(
        0,
        Input::SetPeer(Box::new(PeerConfig {
            router_id: Some(config(1, 65000).router_id),
            ..peer(5, 65000)
        })),
    );
    net.tell(1, Input::SetPeer(Box::new(peer(0, 65000))));
    net.deliver();
    assert!(!net.is_up(0));
    assert_eq!(net.status(0).translated, Some(at(1)));
}

#[test]
fn many_connections_of_a_peer_cost_little() {
    let mut net = Net::new([config(0, 65000)]);
    let mut quiet = peer(1, 65001);
    quiet.passive = true;
    net.tell(0, Input::SetPeer(Box::new(quiet)));
    for number in 0..100 {
        let connection = ConnectionId::Incoming(number);
        net.tell(0, Input::Accepted { connection, from: at(1), local: at(0) });
    }
    assert_eq!(net.hosts[0].speaker.connections.len(), 2);
}

/// Two nodes behind one gateway: the same address, told apart by their identifiers.
#[test]
fn peers_that_share_an_address_are_told_apart_by_their_identifiers() {
    let mut net = Net::new([config(0, 65000), config(1, 65000)]);
    for (name, number) in [("inside-a", 1), ("inside-b", 2)] {
        let mut inside = peer(1, 65000);
        (inside.name, inside.passive, inside.router_id) =
            (PeerName::from(name), true, Some([10, 0, 0, number].into()));
        net.tell(0, Input::SetPeer(Box::new(inside)));
    }
    net.tell(1, Input::SetPeer(Box::new(peer(0, 65000))));
    net.deliver();
    let states: Vec<(String, SessionState)> = net.hosts[0]
        .speaker
        .status(net.now)
        .into_iter()
        .map(|status| (status.name.to_string(), status.state))
        .collect();
    assert_eq!(
        states,
        [("inside-a".to_owned(), SessionState::Active), ("inside-b".to_owned(), SessionState::Established)]
    );
    // One that says nothing is let go.
    let connection = ConnectionId::Incoming(77);
    net.tell(0, Input::Accepted { connection, from: at(1), local: at(0) });
    net.pass(SECOND * 31);
    assert!(net.hosts[0].answers.iter().flatten().any(|output| *output == Output::Close { connection }));
    // And one that says nonsense.
    let connection = ConnectionId::Incoming(78);
    net.tell(0, Input::Accepted { connection, from: at(1), local: at(0) });
    net.push(0, connection, &[0; 40]);
    assert!(net.hosts[0].speaker.nameless.is_empty());
}

/// A node behind a gateway whose address changes: its routes lead to where it is now.
#[test]
fn a_peer_that_roams_is_known_by_its_identifier() {
    let mut net = Net::new([config(0, 65000), config(1, 65000)]);
    let mut inside = peer(7, 65000);
    (inside.passive, inside.roaming, inside.router_id) = (true, true, Some([10, 0, 0, 2].into()));
    inside.import.next_hop = ImportNextHop::PeerAddress;
    net.tell(0, Input::SetPeer(Box::new(inside)));
    net.tell(1, Input::SetPeer(Box::new(peer(0, 65000))));
    net.announce(1, &["10.1.0.0/16"]);
    assert_eq!(net.status(0).remote, Some(at(1)));
    let paths = net.hosts[0].routes.values().next().unwrap();
    assert_eq!(paths[0].attributes.next_hop, at(1));
    // A stranger with another identifier is let go.
    let mut stranger = Net::new([config(0, 65000), config(2, 65000)]);
    let mut inside = peer(7, 65000);
    (inside.passive, inside.roaming, inside.router_id) = (true, true, Some([10, 0, 0, 9].into()));
    stranger.tell(0, Input::SetPeer(Box::new(inside)));
    stranger.tell(1, Input::SetPeer(Box::new(peer(0, 65000))));
    stranger.deliver();
    assert!(!stranger.is_up(0) && !stranger.is_up(1));
}

#[test]
fn nonsense_ends_the_session_with_a_notification() {
    let mut net = Net::pair([65000, 65001], |here, peer| peer.passive = here == 0);
    let connection = *net.hosts[0].speaker.connections.keys().next().unwrap();
    net.push(0, connection, &[0xab; 64]);
    net.deliver();
    assert!(net.status(1).last_error.is_some_and(|error| error.contains("Connection Not Synchronized")));
}

#[test]
fn a_reset_and_a_changed_peer_come_back() {
    let mut net = Net::pair([65000, 65001], |_, _| {});
    net.tell(0, Input::ResetPeer(PeerName::from("s1")));
    net.deliver();
    net.pass(SECOND * 10);
    assert!(one_session_each(&net));
    let mut shorter = peer(1, 65001);
    shorter.hold_time = 30;
    net.tell(0, Input::SetPeer(Box::new(shorter)));
    net.deliver();
    net.pass(SECOND * 10);
    assert!(one_session_each(&net));
    assert_eq!(net.status(1).hold_time, Some(SECOND * 30));
    net.tell(0, Input::RemovePeer(PeerName::from("s1")));
    net.deliver();
    assert!(!net.is_up(1) && net.hosts[0].speaker.status(net.now).is_empty());
    assert_eq!(net.hosts[0].speaker.connections.len(), 0);
}
