//! Graceful restart, from both sides.

use std::time::Duration;

use super::net::{Net, config, net as net_of, peer};
use crate::{ConnectionId, Input, PeerName};

const SECOND: Duration = Duration::from_secs(1);
const FOUR: &str = "10.1.0.0/16";
const SIX: &str = "2001:db8:1::/48";

fn with_routes() -> Net {
    let mut net = Net::pair([65000, 65001], |_, _| {});
    net.announce(0, &[FOUR, SIX]);
    net.announce(1, &["10.9.0.0/16"]);
    assert_eq!(net.learned(1), [FOUR, SIX]);
    net
}

/// Host 0 comes back, with these routes.
fn come_back(net: &mut Net, restarting: bool, routes: &[&str]) {
    let mut config = config(0, 65000);
    config.restarting = restarting;
    net.revive(0, config);
    net.announce(0, routes);
    net.tell(0, Input::SetPeer(Box::new(peer(1, 65001))));
    net.deliver();
    net.pass(SECOND * 5);
    assert!(net.is_up(0) && net.is_up(1));
}

#[test]
fn routes_stay_while_the_peer_restarts_and_what_it_does_not_send_again_goes() {
    let mut net = with_routes();
    net.kill(0);
    assert_eq!((net.learned(1).len(), net.stale(1).len()), (2, 2));
    assert!(net.status(1).stale);
    net.pass(SECOND * 60);
    assert_eq!(net.learned(1).len(), 2);
    come_back(&mut net, true, &[FOUR]);
    assert_eq!(net.learned(1), [FOUR]);
    assert!(net.stale(1).is_empty() && !net.status(1).stale);
    assert!(net.hosts[0].converged, "and the peer's routes are here again");
    assert_eq!(net.learned(0), ["10.9.0.0/16"]);
}

#[test]
fn no_route_is_ever_missed_during_a_restart() {
    let mut net = with_routes();
    let before = net.hosts[1].answers.len();
    net.kill(0);
    net.pass(SECOND * 10);
    come_back(&mut net, true, &[FOUR, SIX]);
    let gone = net.hosts[1].answers[before..]
        .iter()
        .flatten()
        .any(|output| matches!(output, crate::Output::Rib(change) if change.paths.is_empty()));
    assert!(!gone && net.stale(1).is_empty());
}

/// A reflector passes on what the next peer says itself a moment later: the first word is not the best.
#[test]
fn after_a_restart_nothing_that_was_learned_is_told_before_all_have_sent_what_they_have() {
    let mut net = Net::new([config(0, 65000), config(1, 65000), config(2, 65000)]);
    for (here, there) in [(1, 0), (1, 2), (2, 1), (2, 0)] {
        let mut peer = peer(there, 65000);
        peer.reflector_client = here == 1;
        peer.export.reflect_next_hop_self = here == 1;
        net.tell(here, Input::SetPeer(Box::new(peer)));
    }
    net.announce(2, &[FOUR]);
    net.pass(SECOND * 5);
    let mut restarting = config(0, 65000);
    restarting.restarting = true;
    net.revive(0, restarting);
    net.announce(0, &[SIX]);
    assert_eq!(net.hosts[0].routes.len(), 1, "its own");
    let last = |net: &Net| {
        let hops = net.hosts[0].routes.get(&net_of(FOUR));
        hops.map(|paths| paths[0].attributes.next_hop)
    };
    // First the reflector alone is there.
    net.hosts[2].off = true;
    for there in [1, 2] {
        net.tell(0, Input::SetPeer(Box::new(peer(there, 65000))));
    }
    net.deliver();
    net.pass(SECOND);
    assert_eq!((net.status(0).received, last(&net)), ([1, 0], None), "it has told, and that is kept");
    net.hosts[2].off = false;
    net.pass(SECOND);
    assert_eq!((net.hosts[0].converged, last(&net)), (true, Some(super::net::at(2))));
    let told = net.hosts[0]
        .answers
        .iter()
        .flatten()
        .filter(|output| matches!(output, crate::Output::Rib(change) if change.prefix == net_of(FOUR)));
    assert_eq!(told.count(), 1);

    // Who does not come is not waited for.
    let mut restarting = config(0, 65000);
    restarting.restarting = true;
    net.kill(0);
    net.kill(2);
    net.revive(0, restarting);
    for there in [1, 2] {
        net.tell(0, Input::SetPeer(Box::new(peer(there, 65000))));
    }
    net.deliver();
    net.pass(SECOND * 2);
    assert_eq!(last(&net), None);
    net.pass(SECOND);
    assert_eq!((net.hosts[0].converged, last(&net)), (false, Some(super::net::at(1))));
}

#[test]
fn a_peer_that_does_not_come_back_is_given_up_after_its_time() {
    let mut net = with_routes();
    net.kill(0);
    net.pass(SECOND * 119);
    assert_eq!(net.learned(1).len(), 2);
    net.pass(SECOND * 2);
    assert!(net.learned(1).is_empty() && !net.status(1).stale);
}

#[test]
fn a_peer_that_lost_its_tables_gets_no_mercy() {
    let mut net = with_routes();
    net.kill(0);
    let before = net.hosts[1].answers.len();
    come_back(&mut net, false, &[FOUR]);
    assert_eq!(net.learned(1), [FOUR]);
    let gone = net.hosts[1].answers[before..]
        .iter()
        .flatten()
        .filter(|output| matches!(output, crate::Output::Rib(change) if change.paths.is_empty()));
    assert!(gone.count() >= 1);
}

#[test]
fn a_restart_that_was_not_noticed_costs_nothing() {
    let mut net = with_routes();
    net.pass(SECOND * 30);
    // Host 0 is killed, and host 1 hears of it only by its new connection.
    net.silent = true;
    net.hosts[0].off = true;
    let mut restarted = config(0, 65000);
    restarted.restarting = true;
    net.revive(0, restarted);
    net.announce(0, &[FOUR, SIX]);
    net.silent = false;
    let before = net.hosts[1].answers.len();
    net.tell(0, Input::SetPeer(Box::new(peer(1, 65001))));
    net.deliver();
    net.pass(SECOND * 3);
    assert!(net.is_up(0) && net.is_up(1));
    assert_eq!(net.learned(1), [FOUR, SIX]);
    let gone = net.hosts[1].answers[before..]
        .iter()
        .flatten()
        .any(|output| matches!(output, crate::Output::Rib(change) if change.paths.is_empty()));
    assert!(!gone && net.stale(1).is_empty());
}

#[test]
fn routes_go_at_once_when_the_peer_says_so_or_bfd_does_or_restart_is_off() {
    let mut net = with_routes();
    net.tell(0, Input::Stop);
    net.deliver();
    assert!(net.learned(1).is_empty(), "a Hard Reset");

    let mut net = with_routes();
    net.tell(1, Input::PeerUnreachable(PeerName::from("s0")));
    assert!(net.learned(1).is_empty(), "BFD");

    let mut net = with_routes();
    net.kill(0);
    assert_eq!(net.learned(1).len(), 2);
    net.tell(1, Input::PeerUnreachable(PeerName::from("s0")));
    assert!(net.learned(1).is_empty(), "BFD while the peer was away");

    let mut net = Net::pair([65000, 65001], |here, peer| {
        if here == 0 {
            peer.restart_time = None;
        }
    });
    net.announce(0, &[FOUR, SIX]);
    net.kill(0);
    assert!(net.learned(1).is_empty(), "the peer cannot");
}

/// Who is killed is lost by BFD, too, if that is spoken by the same process; then BGP has noticed before (RFC 5882, section
/// 4.3.2). One whose BFD would go on cannot be reached, whatever it does (section 4.3.1).
#[test]
fn bfd_that_ends_with_the_peer_does_not_end_its_restart() {
    let lost = || Input::PeerLost(PeerName::from("s0"));
    let mut net = with_routes();
    net.kill(0);
    net.tell(1, lost());
    assert_eq!((net.learned(1).len(), net.status(1).stale), (2, true), "it restarts");
    come_back(&mut net, true, &[FOUR, SIX]);
    net.tell(1, lost());
    net.deliver();
    assert_eq!((net.learned(1).len(), net.is_up(1)), (0, false), "its session was up, so it does not");
}

#[test]
fn a_peer_that_bfd_has_lost_is_tried_again_when_bfd_has_it_back() {
    let lost = || {
        let mut net = with_routes();
        for (host, other) in [(0, "s1"), (1, "s0")] {
            net.tell(host, Input::PeerUnreachable(PeerName::from(other)));
        }
        net.deliver();
        net.pass(SECOND * 20);
        assert!(!net.is_up(0), "nobody would watch the session");
        net
    };
    let mut net = lost();
    net.tell(1, Input::PeerReachable(PeerName::from("s0")));
    net.deliver();
    assert!(net.is_up(0), "{:?}", net.status(0));
    assert_eq!(net.learned(1), [FOUR, SIX]);
    let sessions = net.hosts[1].sessions.len();
    net.tell(1, Input::PeerReachable(PeerName::from("s0")));
    net.deliver();
    assert_eq!(net.hosts[1].sessions.len(), sessions, "it has one");

    let mut net = lost();
    net.pass(SECOND * 20);
    assert!(net.is_up(0), "the peer may have given up BFD");
}

#[test]
fn a_lost_hold_timer_does_not_cost_the_routes_of_a_peer_that_knows_rfc_8538() {
    let mut net = with_routes();
    net.silent = true;
    net.pass(SECOND * 100);
    assert!(!net.is_up(1));
    assert_eq!((net.learned(1).len(), net.stale(1).len()), (2, 2));
}

#[test]
fn the_end_of_our_routes_is_not_held_back_for_long_by_a_peer_that_says_none() {
    // A peer made of bytes: it takes everything and never says that it is done.
    let mut restarting = config(0, 65000);
    restarting.restarting = true;
    let mut net = Net::new([restarting]);
    net.announce(0, &[FOUR]);
    net.tell(0, Input::SetPeer(Box::new(peer(1, 65001))));
    let mut other = Net::new([config(0, 65000), config(1, 65001)]);
    other.tell(1, Input::SetPeer(Box::new(peer(0, 65000))));
    let connection = ConnectionId::Incoming(1);
    net.tell(0, Input::Accepted { connection, from: super::net::at(1), local: super::net::at(0) });
    for answer in sent_before_end_of_rib(&other) {
        net.push(0, connection, &answer);
    }
    assert!(net.is_up(0));
    let ends = |net: &Net| -> usize {
        let end = [0xff; 16].iter().copied().chain([0, 23, 2, 0, 0, 0, 0]).collect::<Vec<u8>>();
        let outputs = net.hosts[0].answers.iter().flatten();
        outputs
            .filter(|output| matches!(output, crate::Output::Send { bytes, .. } if bytes.windows(23).any(|at| at == end)))
            .count()
    };
    assert_eq!((ends(&net), net.status(0).advertised), (0, [1, 0]), "routes at once, their end not yet");
    net.pass(SECOND * 3);
    assert_eq!(ends(&net), 1);
    assert!(!net.hosts[0].converged);
    net.pass(SECOND * 60);
    assert!(net.hosts[0].converged);
}

/// The OPEN and the KEEPALIVE of host 1.
fn sent_before_end_of_rib(net: &Net) -> Vec<Vec<u8>> {
    let outputs = net.hosts[1].answers.iter().flatten();
    let mut sent: Vec<Vec<u8>> = outputs
        .filter_map(|output| match output {
            crate::Output::Send { bytes, .. } => Some(bytes.to_vec()),
            _ => None,
        })
        .take(1)
        .collect();
    sent.push([0xff; 16].iter().copied().chain([0, 19, 4]).collect());
    sent
}
