//! Too much, too slow, and malformed.

use std::time::Duration;

use super::net::{Net, net as prefix};
use crate::{Input, LocalRoute, MaxPrefixes, Output, SessionState};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_peer_that_sends_too_much_is_left_alone_for_a_while() {
    let mut net = Net::pair([65000, 65001], |here, peer| {
        peer.max_prefixes = (here == 0).then_some(MaxPrefixes { count: 3, hold_down: SECOND * 300 });
    });
    net.announce(1, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    net.announce(1, &["2001:db8:1::/48", "2001:db8:2::/48", "2001:db8:3::/48"]);
    net.announce(1, &["10.3.0.0/16"]);
    assert_eq!((net.learned(0).len(), net.is_up(0)), (6, true));
    net.announce(1, &["10.4.0.0/16"]);
    assert!(net.learned(0).is_empty());
    assert_eq!(net.status(0).state, SessionState::Idle);
    assert!(net.status(0).last_error.is_some_and(|error| error.contains("Cease")));
    net.pass(SECOND * 290);
    assert!(!net.is_up(0) && !net.is_up(1));
    net.tell(1, Input::Withdraw(prefix("10.4.0.0/16")));
    net.pass(SECOND * 60);
    assert!(net.is_up(0));
    assert_eq!(net.learned(0).len(), 6);
}

#[test]
fn a_slow_peer_is_told_the_last_state_and_not_every_step() {
    let mut net = Net::pair([65000, 65001], |_, _| {});
    net.silent = true;
    let sent = |net: &Net| -> usize {
        let outputs = net.hosts[0].answers.iter().flatten();
        outputs.map(|output| if let Output::Send { bytes, .. } = output { bytes.len() } else { 0 }).sum()
    };
    for round in 0..40_u32 {
        for number in 0..2_000_u32 {
            let net4 = prefix(&format!("10.{}.{}.0/24", number / 256, number % 256));
            // An attribute of its own for each keeps messages from being shared.
            let route = LocalRoute { med: Some(round * 10_000 + number), ..LocalRoute::default() };
            net.tell(0, Input::Announce(net4, route));
        }
    }
    assert!(sent(&net) < 1_200_000, "{} bytes for a peer that takes none", sent(&net));
    net.silent = false;
    net.deliver();
    assert_eq!(net.learned(1).len(), 2_000);
    assert_eq!(net.hosts[1].routes[&prefix("10.0.1.0/24")][0].attributes.med, Some(390_001));
}

#[test]
fn a_peer_that_takes_nothing_for_too_long_is_given_up() {
    let mut net = Net::pair([65000, 65001], |_, peer| peer.hold_time = 0);
    assert!(net.is_up(0));
    net.silent = true;
    net.announce(0, &["10.1.0.0/16"]);
    net.pass(SECOND * 479);
    assert!(net.is_up(0));
    net.pass(SECOND * 2);
    assert!(net.status(0).last_error.is_some_and(|error| error.contains("receive window")));
}

#[test]
fn a_malformed_route_is_withdrawn_and_the_session_stays() {
    let mut net = Net::pair([65000, 65001], |_, _| {});
    net.announce(1, &["10.1.0.0/16"]);
    let connection = *net.hosts[0].speaker.connections.keys().next().unwrap();
    // ORIGIN 9 for 10.1.0.0/16.
    let attributes = [0x40, 1, 1, 9, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 192, 0, 2, 2];
    let mut message = vec![0xff; 16];
    message.extend([0, 23 + attributes.len() as u8 + 3, 2, 0, 0, 0, attributes.len() as u8]);
    message.extend(attributes);
    message.extend([16, 10, 1]);
    net.push(0, connection, &message);
    assert!(net.learned(0).is_empty() && net.is_up(0));
    assert_eq!(net.status(0).malformed_updates, 1);
    assert!(net.status(0).last_error.is_some_and(|error| error.contains("malformed UPDATE")));
}
