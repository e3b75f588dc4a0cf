//! The decision process (RFC 4271, section 9.1.2; RFC 4456, section 9): which of a prefix's paths are best.
//!
//! The outcome depends on the paths alone and not on the order in which they came. So the age of a path decides
//! nothing, and MEDs, which can be compared only between paths from one neighbour AS, are compared first among those.

use std::cmp::{Ordering, Reverse};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::Attributes;

/// Where a path comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) kind: SourceKind,
    /// The BGP identifier of the peer.
    pub(crate) router_id: Ipv4Addr,
    pub(crate) address: IpAddr,
}

/// What kind of peer a path comes from. The order is that of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SourceKind {
    /// No peer: the route begins here.
    Local,
    /// A peer of another AS.
    External,
    /// A peer of this AS.
    Internal {
        /// Whether it is a client of this reflector.
        client: bool,
    },
}

/// A path to choose from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) attributes: &'a Arc<Attributes>,
    pub(crate) origin: &'a Origin,
}

/// How many paths may be used side by side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Multipath {
    pub(crate) most: usize,
    pub(crate) across_as: bool,
}

/// The indices of the paths to use, the best first; none only if there is no path.
pub(crate) fn select(candidates: &[Candidate<'_>], multipath: Multipath) -> Vec<usize> {
    let unbeaten_in_its_as = |index: &usize| {
        let one = &candidates[*index];
        !candidates.iter().enumerate().any(|(other_index, other)| {
            other_index != *index
                && other.attributes.neighbour_as() == one.attributes.neighbour_as()
                && compare(other, one, true).then(other_index.cmp(index)) == Ordering::Less
        })
    };
    let best = (0..candidates.len())
        .filter(unbeaten_in_its_as)
        .min_by(|a, b| compare(&candidates[*a], &candidates[*b], false).then(a.cmp(b)));
    let Some(best) = best else {
        return Vec::new();
    };
    let mut selected = vec![best];
    if multipath.most > 1 {
        let mut equals: Vec<usize> = (0..candidates.len())
            .filter(|index| *index != best && as_good(&candidates[*index], &candidates[best], multipath))
            .collect();
        equals.sort_by(|a, b| compare(&candidates[*a], &candidates[*b], false).then(a.cmp(b)));
        for index in equals {
            let next_hop = candidates[index].attributes.next_hop;
            let known = selected.iter().any(|other| candidates[*other].attributes.next_hop == next_hop);
            if !known && selected.len() < multipath.most {
                selected.push(index);
            }
        }
    }
    selected
}

/// Less is better. With `med`, both are from one neighbour AS.
fn compare(a: &Candidate<'_>, b: &Candidate<'_>, med: bool) -> Ordering {
    let by_med = if med { metric(a).cmp(&metric(b)) } else { Ordering::Equal };
    rank(a)
        .cmp(&rank(b))
        .then(by_med)
        .then_with(|| is_external(b).cmp(&is_external(a)))
        .then_with(|| originator(a).cmp(&originator(b)))
        .then_with(|| a.attributes.cluster_list.len().cmp(&b.attributes.cluster_list.len()))
        .then_with(|| a.origin.address.cmp(&b.origin.address))
}

/// What is compared before MED.
fn rank(candidate: &Candidate<'_>) -> (bool, Reverse<u32>, usize, crate::Origin) {
    let attributes = candidate.attributes;
    let foreign = candidate.origin.kind != SourceKind::Local;
    (foreign, Reverse(attributes.preference()), attributes.as_path.len(), attributes.origin)
}

/// A missing MED is the best one (RFC 4271, section 9.1.2.2 c).
fn metric(candidate: &Candidate<'_>) -> u32 {
    candidate.attributes.med.unwrap_or(0)
}

fn is_external(candidate: &Candidate<'_>) -> bool {
    candidate.origin.kind == SourceKind::External
}

fn originator(candidate: &Candidate<'_>) -> Ipv4Addr {
    candidate.attributes.originator.unwrap_or(candidate.origin.router_id)
}

/// Whether only the tie-breakers tell the two apart. A reflector that puts itself into the way makes it longer, and a path
/// without it is better.
fn as_good(a: &Candidate<'_>, best: &Candidate<'_>, multipath: Multipath) -> bool {
    let same_as = a.attributes.neighbour_as() == best.attributes.neighbour_as();
    rank(a) == rank(best)
        && is_external(a) == is_external(best)
        && a.attributes.cluster_list.len() == best.attributes.cluster_list.len()
        && (same_as || multipath.across_as)
        && (!same_as || metric(a) == metric(best))
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
