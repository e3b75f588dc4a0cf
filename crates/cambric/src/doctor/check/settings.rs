//! Kernel settings.

use model::{Family, LinkName, Sending, When};

use crate::doctor::finding::{Check, Finding, Verdict};
use crate::doctor::observation::Observation;

const BRIDGE: [(Family, &str); 2] =
    [(Family::V4, "net/bridge/bridge-nf-call-iptables"), (Family::V6, "net/bridge/bridge-nf-call-ip6tables")];
const FORWARDING: [(Family, &str); 2] =
    [(Family::V4, "net/ipv4/ip_forward"), (Family::V6, "net/ipv6/conf/all/forwarding")];
const VALIDATION_OF_ALL: &str = "net/ipv4/conf/all/rp_filter";

/// The settings that the checks go by.
pub(crate) fn of_interest<'a>(links: impl Iterator<Item = &'a LinkName>) -> Vec<String> {
    let fixed = BRIDGE.into_iter().chain(FORWARDING).map(|(_, path)| path).chain([VALIDATION_OF_ALL]);
    let mut paths: Vec<String> = fixed.map(str::to_owned).collect();
    paths.extend(links.flat_map(|link| [forwarding_on(link), validation_on(link)]));
    paths
}

/// The kernel knows a setting of a link by the link's name; a dot in it is no separator.
fn forwarding_on(link: &LinkName) -> String {
    format!("net/ipv4/conf/{link}/forwarding")
}

fn validation_on(link: &LinkName) -> String {
    format!("net/ipv4/conf/{link}/rp_filter")
}

pub(super) fn bridge_netfilter(seen: &Observation, verdict: &mut Verdict) {
    for (family, path) in BRIDGE {
        let what = match seen.settings.get(path).map(String::as_str) {
            Some("1") => continue,
            Some(value) => format!("is {value}: bridged {family} packets do not pass netfilter"),
            None => "is not there: the kernel has no br_netfilter".to_owned(),
        };
        let load = if seen.settings.contains_key(path) { "" } else { "modprobe br_netfilter; " };
        verdict.find(Finding {
            check: Check::BridgeNetfilter,
            place: path.to_owned(),
            what,
            hurts: "A pod that reaches a pod of its own node through a service gets an answer from an address that it \
                    did not ask, and drops it. Some connections to services time out, others work."
                .to_owned(),
            cure: format!("{load}sysctl -w {path}=1; see that no file in /etc/sysctl.d says otherwise"),
        });
    }
}

pub(super) fn forwarding(seen: &Observation, verdict: &mut Verdict) {
    for (family, path) in FORWARDING {
        let off = seen.settings.get(path).filter(|value| *value == "0");
        if seen.local.pod_ranges.of(family).is_none() || off.is_none() {
            continue;
        }
        verdict.find(Finding {
            check: Check::Forwarding,
            place: path.to_owned(),
            what: format!("is 0: the node forwards no {family} packets"),
            hurts: "Pods reach nothing but pods of their own node, and nobody else reaches them.".to_owned(),
            cure: cure(path),
        });
    }
    let globally = seen.settings.get("net/ipv4/ip_forward").is_some_and(|value| value == "1");
    if seen.local.pod_ranges.v4.is_none() || !globally {
        return;
    }
    for link in crossed(seen) {
        let path = forwarding_on(&link);
        if seen.settings.get(&path).is_some_and(|value| value == "0") {
            verdict.find(Finding {
                check: Check::Forwarding,
                what: "is 0, though forwarding is on for all others".to_owned(),
                hurts: format!("IPv4 packets that come in by {link} and are for somebody else are dropped."),
                cure: cure(&path),
                place: path,
            });
        }
    }
}

pub(super) fn source_validation(seen: &Observation, verdict: &mut Verdict) {
    let sends_by_uplink = !matches!(seen.network.encapsulation.sending, Sending::Vxlan(When::Always));
    if seen.local.pod_ranges.v4.is_none() || !sends_by_uplink {
        return;
    }
    let mut uplinks: Vec<&LinkName> = seen.underlay.iter().map(|underlay| &underlay.link).collect();
    uplinks.dedup();
    for link in uplinks {
        let path = validation_on(link);
        let value = |path: &str| seen.settings.get(path).and_then(|value| value.parse::<u8>().ok());
        // The kernel takes the greater of both, and 2 is loose (Documentation/networking/ip-sysctl.rst).
        if value(&path).max(value(VALIDATION_OF_ALL)) != Some(1) {
            continue;
        }
        verdict.find(Finding {
            check: Check::SourceValidation,
            what: format!("is strict (1) on {link}, over which pods' packets come in without VXLAN"),
            hurts: "IPv4 packets from pods of another node are dropped when this node would answer by another way: \
                    while a mode is changed, with several uplinks, or with routes of BGP."
                .to_owned(),
            cure: cure_with(&path, 2),
            place: path,
        });
    }
}

/// The links over which pods' packets come in.
fn crossed(seen: &Observation) -> Vec<LinkName> {
    let uplinks = seen.underlay.iter().map(|underlay| underlay.link.clone());
    let ours = seen.links.iter().filter(|link| link.ours).map(|link| link.name.clone());
    let mut links: Vec<LinkName> = uplinks.chain(ours).collect();
    links.sort_unstable();
    links.dedup();
    links
}

fn cure(path: &str) -> String {
    cure_with(path, 1)
}

fn cure_with(path: &str, value: u8) -> String {
    format!("sysctl -w {path}={value}; see that no file in /etc/sysctl.d says otherwise")
}
