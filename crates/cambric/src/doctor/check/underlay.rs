//! The link to the other nodes.

use model::{Family, LinkName};

use crate::doctor::finding::{Check, Finding, Verdict};
use crate::doctor::observation::Observation;

pub(super) fn uplink(seen: &Observation, verdict: &mut Verdict) {
    for address in seen.local.addresses.iter() {
        let family = Family::of(address);
        let Some(underlay) = seen.underlay.of(family) else {
            verdict.find(Finding {
                check: Check::Uplink,
                place: format!("InternalIP {address}"),
                what: "is on none of this node's links".to_owned(),
                hurts: "Other nodes send to an address that is not here, and nothing can be sent from it.".to_owned(),
                cure: format!(
                    "put it on a link (ip address add), or start the kubelet with the address that the node has \
                     (--node-ip); ip -brief address shows those of {family}"
                ),
            });
            continue;
        };
        elsewhere(seen, family, &underlay.link, verdict);
    }
}

/// Ways to other nodes by another link. What the default route uses is no matter: there may be a network for the nodes
/// alone.
fn elsewhere(seen: &Observation, family: Family, uplink: &LinkName, verdict: &mut Verdict) {
    let ways = seen.ways.iter().filter(|(_, address, _)| Family::of(address) == family);
    let wrong: Vec<_> = ways.filter(|(_, _, link)| link.as_ref() != Some(uplink)).collect();
    let Some((node, address, link)) = wrong.first() else { return };
    let others = match wrong.len() - 1 {
        0 => String::new(),
        count => format!(", and {count} more"),
    };
    let (what, hurts) = match link {
        Some(link) => (
            format!("has the InternalIP of this node, but {address} of Node {node}{others} is reached by {link}"),
            "Packets between pods leave by a link that the other nodes do not expect: they may be dropped on the way, \
             and the MTU is that of the wrong link."
                .to_owned(),
        ),
        None => (
            format!("has the InternalIP of this node, but there is no way to {address} of Node {node}{others}"),
            "Pods here reach no pods there.".to_owned(),
        ),
    };
    verdict.find(Finding {
        check: Check::Uplink,
        place: format!("link {uplink}"),
        what,
        hurts,
        cure: format!(
            "see ip route get {address}; correct that route, or give the kubelet the address by which nodes reach each \
             other (--node-ip)"
        ),
    });
}
