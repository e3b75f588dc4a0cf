//! The packets that are sent to other nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use kernel::probe::{self, Echo, Echoed, Letter, Summed};
use model::{Family, LinkName, NetworkConfig, Node, NodeName, PerFamily, Sending};
use plan::ipip::Outer;
use plan::{ENCAPSULATION_OVERHEAD_V4, ENCAPSULATION_OVERHEAD_V6, Underlay};

use super::{common_addresses, others};
use crate::doctor::finding::{Check, Remark};
use crate::doctor::observation::{Arrived, LetterSeen, Observation, PathSeen};

/// To so many other nodes packets are sent. They are the next by name, so that all together the nodes see to all.
const MOST_NODES: usize = 16;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// After this time a node says again that a port is closed, however often it has said so (`icmp_ratelimit`, icmp(7)).
const ICMP_REST: Duration = Duration::from_millis(1200);
/// The size in bytes of a packet that gets through everywhere (RFC 791: 576 is what all must take).
const SMALL: u32 = 100;
/// The sizes in bytes that are tried where a big packet does not arrive: common tunnels' and links', and the least that
/// IPv6 needs.
const SMALLER: [u32; 3] = [1450, 1400, 1280];

/// Sends what there is to send, and writes down what comes back.
pub(super) fn send(seen: &mut Observation, routes: &BTreeMap<IpNet, LinkName>) {
    let targets = targets(&seen.local, others(&seen.local, &seen.nodes).collect());
    let left_out = others(&seen.local, &seen.nodes).count() - targets.len();
    let asked: Vec<(NodeName, IpAddr)> = targets
        .iter()
        .flat_map(|node| {
            common_addresses(&seen.local, node).into_iter().map(|address| (node.name.clone(), address))
        })
        .collect();
    let letters: Vec<LetterSeen> =
        targets.iter().flat_map(|node| letters_to(&seen.local, node, routes)).collect();
    if left_out > 0 {
        let text =
            format!("packets were sent to {} other nodes; {left_out} more were left out", targets.len());
        seen.remarks.push(Remark::new(Check::PathMtu, text));
    }
    match paths(seen, asked) {
        Ok(paths) => seen.paths = paths,
        Err(error) => seen.leave_out(Check::PathMtu, &error),
    }
    match delivered(letters) {
        Ok(letters) => seen.letters = letters,
        Err(error) => seen.leave_out(Check::Checksums, &error),
    }
}

/// The nodes whose names come next after this node's, and then from the beginning.
fn targets<'a>(local: &Node, mut others: Vec<&'a Node>) -> Vec<&'a Node> {
    others.sort_by_key(|node| (node.name < local.name, node.name.clone()));
    others.truncate(MOST_NODES);
    others
}

/// Asks each address with a small packet and with the biggest that pods' packets make; and, where
/// that does not arrive, once more, with smaller ones beside it.
fn paths(seen: &Observation, asked: Vec<(NodeName, IpAddr)>) -> kernel::Result<Vec<PathSeen>> {
    let size = |to: &IpAddr| biggest(&seen.network, &seen.local, &seen.underlay, Family::of(to));
    let asked: Vec<(NodeName, IpAddr, u32)> =
        asked.into_iter().filter_map(|(node, to)| size(&to).map(|size| (node, to, size))).collect();
    let requests: Vec<Echo> = asked
        .iter()
        .flat_map(|(_, to, size)| [Echo { to: *to, size: SMALL }, Echo { to: *to, size: *size }])
        .collect();
    let mut answers = probe::echo(&requests, PATIENCE)?.into_iter();
    let mut paths = Vec::new();
    for (node, to, size) in asked {
        let (Some(small), Some(big)) = (answers.next(), answers.next()) else { break };
        paths.push(PathSeen { node, to, size, small, big, fits: None });
    }
    let silent = |path: &PathSeen| path.small == Echoed::Answer && path.big == Echoed::Nothing;
    let sizes = |path: &PathSeen| -> Vec<u32> {
        std::iter::once(path.size).chain(SMALLER.into_iter().filter(|size| *size < path.size)).collect()
    };
    let again: Vec<Echo> = paths
        .iter()
        .filter(|path| silent(path))
        .flat_map(|path| sizes(path).into_iter().map(|size| Echo { to: path.to, size }))
        .collect();
    let answers = probe::echo(&again, PATIENCE)?;
    for path in paths.iter_mut().filter(|path| silent(path)) {
        let own = again.iter().zip(&answers).filter(|(request, _)| request.to == path.to);
        let answered =
            own.clone().filter(|(_, answer)| **answer == Echoed::Answer).map(|(request, _)| request.size);
        path.fits = answered.max();
        if let Some((_, answer)) = own.into_iter().find(|(request, _)| request.size == path.size) {
            path.big = answer.clone();
        }
    }
    Ok(paths)
}

/// The size in bytes of the biggest packet that a pod's can become between nodes; `None` if no link is known that has the
/// node's address of the family.
fn biggest(
    network: &NetworkConfig,
    local: &Node,
    underlay: &PerFamily<Underlay>,
    family: Family,
) -> Option<u32> {
    let overhead = match (network.encapsulation.sending, family) {
        (Sending::Vxlan(_), Family::V4) => ENCAPSULATION_OVERHEAD_V4,
        (Sending::Vxlan(_), Family::V6) => ENCAPSULATION_OVERHEAD_V6,
        (Sending::Ipip(_), _) => Outer::overhead_of(family),
        (Sending::Plain, _) => 0,
    };
    let wrapped = plan::pod_mtu(network, local, underlay).0 + overhead;
    Some(underlay.of(family)?.mtu.min(wrapped))
}

/// From this node's own pod address of each family to that of the other, where a route of ours leads there: elsewhere the
/// packets would leave for who knows where.
fn letters_to(local: &Node, node: &Node, routes: &BTreeMap<IpNet, LinkName>) -> Vec<LetterSeen> {
    let letter = |family: Family| {
        let (own, range) = (local.pod_ranges.of(family)?, node.pod_ranges.of(family)?);
        let link = routes.get(&range.net())?.clone();
        let letter = Letter { from: own.gateway(), to: range.gateway() };
        Some(LetterSeen { node: node.name.clone(), letter, link, arrived: Arrived::default() })
    };
    Family::BOTH.into_iter().filter_map(letter).collect()
}

/// Sends each letter as usual. Where that does not arrive, one with a checksum of our own follows, and then the usual one
/// again: one packet can be lost without a reason, and the other node may have answered others just before.
fn delivered(mut letters: Vec<LetterSeen>) -> kernel::Result<Vec<LetterSeen>> {
    for summed in [Summed::ByDevice, Summed::ByHand, Summed::ByDevice] {
        let mut open: Vec<&mut LetterSeen> =
            letters.iter_mut().filter(|seen| !seen.arrived.by_device).collect();
        if open.is_empty() {
            break;
        }
        let next = Instant::now() + ICMP_REST;
        let sent: Vec<Letter> = open.iter().map(|seen| seen.letter).collect();
        for (seen, arrived) in open.iter_mut().zip(probe::letters(&sent, summed, PATIENCE)?) {
            match summed {
                Summed::ByHand => seen.arrived.by_hand |= arrived,
                Summed::ByDevice => seen.arrived.by_device |= arrived,
            }
        }
        if open.iter().any(|seen| !seen.arrived.by_device) {
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use model::{Encapsulation, Mtu};

    use super::*;

    #[test]
    fn packets_are_as_big_as_those_of_pods() {
        let net = |text: &str| Underlay { link: LinkName::bridge(), net: text.parse().unwrap(), mtu: 1500 };
        let underlay = PerFamily { v4: Some(net("192.0.2.1/24")), v6: Some(net("2001:db8::1/64")) };
        let local = Node::parse(NodeName::new("a").unwrap(), ["192.0.2.1", "2001:db8::1"], []).unwrap();
        let mut network =
            NetworkConfig::parse(&["10.244.0.0/16".to_owned()], &[], Encapsulation::default(), "auto")
                .unwrap();
        let sizes = |network: &NetworkConfig| Family::BOTH.map(|of| biggest(network, &local, &underlay, of));
        assert_eq!(sizes(&network), [Some(1500), Some(1500)]);
        network.mtu = Mtu::Fixed(1300);
        assert_eq!(sizes(&network), [Some(1350), Some(1370)]);
        network.encapsulation.sending = Sending::Plain;
        assert_eq!(sizes(&network), [Some(1300), Some(1300)]);
        assert_eq!(biggest(&network, &local, &PerFamily::default(), Family::V4), None);
    }

    #[test]
    fn each_node_sees_to_the_next() {
        let node = |name: &str| Node::parse(NodeName::new(name).unwrap(), [], []).unwrap();
        let all: Vec<Node> = (10..40).map(|number| node(&format!("n{number}"))).collect();
        let others: Vec<&Node> = all.iter().filter(|one| one.name.as_str() != "n30").collect();
        let chosen: Vec<&str> = targets(&node("n30"), others).iter().map(|node| node.name.as_str()).collect();
        let expected: Vec<String> = (31..40).chain(10..17).map(|number| format!("n{number}")).collect();
        assert_eq!(chosen, expected);
    }
}
