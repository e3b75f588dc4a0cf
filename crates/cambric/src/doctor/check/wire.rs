//! What became of the packets that were sent to other nodes.

use std::net::IpAddr;

use kernel::counters::Arrivals;
use kernel::probe::Echoed;
use model::{LinkName, NodeName};

use crate::doctor::finding::{Check, Finding, Remark, Verdict};
use crate::doctor::observation::{LetterSeen, Observation, PathSeen};

/// Fewer garbled packets than this are an accident,
const SOME: u64 = 100;
/// and so are fewer than one of so many.
const ONE_OF: u64 = 10_000;

pub(super) fn path_mtu(seen: &Observation, verdict: &mut Verdict) {
    for path in &seen.paths {
        let PathSeen { node, to, size, small, big, fits } = path;
        match (small, big) {
            (_, Echoed::Answer) => {}
            // The sender is told, so packets get through: in pieces, or smaller ones after the first.
            (_, Echoed::TooBig(told)) => {
                let told = told.map_or("less".to_owned(), |told| format!("{told} bytes"));
                let text = format!(
                    "the way to {to} of Node {node} carries {told}, and not the {size} that the plan goes by; senders \
                     are told, which costs the first packet. To spare that, set mtu in the ClusterNetwork"
                );
                verdict.remarks.push(Remark::new(Check::PathMtu, text));
            }
            (Echoed::Answer, _) => {
                let fits = fits.map_or(String::new(), |fits| format!("; one of {fits} bytes does"));
                verdict.find(Finding {
                    check: Check::PathMtu,
                    place: format!("way to {to} of Node {node}"),
                    what: format!("a packet of {size} bytes does not arrive, and nobody says why{fits}"),
                    hurts: "Small packets pass and big ones vanish: connections open and then hang with the first data."
                        .to_owned(),
                    cure: "raise the MTU of the links between the nodes, or have their routers and firewalls pass ICMP \
                           \"fragmentation needed\" and \"packet too big\"; or set a smaller mtu in the ClusterNetwork \
                           and restart the pods"
                        .to_owned(),
                });
            }
            (Echoed::Unsent(why), _) => {
                let text = format!("nothing can be sent to {to} of Node {node}: {why}");
                verdict.unchecked.push(Remark::new(Check::PathMtu, text));
            }
            _ => {
                let text = format!("{to} of Node {node} does not answer echo requests (ping)");
                verdict.unchecked.push(Remark::new(Check::PathMtu, text));
            }
        }
    }
}

pub(super) fn checksums(seen: &Observation, verdict: &mut Verdict) {
    for LetterSeen { node, letter, link, arrived } in &seen.letters {
        match (arrived.by_hand, arrived.by_device) {
            (_, true) => {}
            (true, false) => verdict.find(offload(node, letter.to, link)),
            (false, false) => {
                let text =
                    format!("no answer from {} of Node {node} by the way that pods' packets take", letter.to);
                verdict.unchecked.push(Remark::new(Check::Checksums, text));
            }
        }
    }
    for Arrivals { protocol, taken, garbled } in &seen.arrivals {
        if *garbled < SOME || garbled.saturating_mul(ONE_OF) < *taken {
            continue;
        }
        verdict.find(Finding {
            check: Check::Checksums,
            place: format!("{protocol} to this node"),
            what: format!("{garbled} packets have come with a wrong checksum, and {taken} with a right one"),
            hurts: "They were dropped. Somebody's network card computes checksums wrongly, or a line is bad.".to_owned(),
            cure: "see where they come from (tcpdump -vv shows \"bad cksum\"), and turn checksum offload off there: \
                   ethtool -K LINK tx off"
                .to_owned(),
        });
    }
}

fn offload(node: &NodeName, to: IpAddr, link: &LinkName) -> Finding {
    Finding {
        check: Check::Checksums,
        place: format!("link {link}"),
        what: format!(
            "a datagram to {to} of Node {node} arrives if its checksum was computed here, but not if that was left to the \
             device"
        ),
        hurts:
            "Packets of pods arrive with wrong checksums and are dropped: ping works, and TCP and UDP do not."
                .to_owned(),
        cure: format!(
            "ethtool -K {link} tx off, here and on the other nodes with such a network card; update its driver, or the \
             hypervisor's"
        ),
    }
}
