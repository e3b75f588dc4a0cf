//! Which endpoints a service's connections go to, as kube-proxy decides it (`CategorizeEndpoints` in
//! pkg/proxy/topology.go).

use model::{Endpoint, Node, TrafficPolicy};

/// An endpoint with its port, as a slice has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// Host byte order.
    pub(super) port: u16,
}

impl Candidate<'_> {
    fn is_on(&self, node: &Node) -> bool {
        self.endpoint.node.as_ref().is_some_and(|name| **name == node.name)
    }
}

/// The endpoints that connections under a policy go to. If none is ready, those that still serve while they terminate
/// do.
pub(super) fn choose<'a>(
    candidates: &[Candidate<'a>],
    node: &Node,
    policy: TrafficPolicy,
) -> Vec<Candidate<'a>> {
    match policy {
        TrafficPolicy::Cluster => {
            let near = nearness(candidates, node);
            usable(candidates, |candidate| near.admits(candidate.endpoint, node))
        }
        // Where an endpoint must be is said already, so hints say nothing more.
        TrafficPolicy::Local => {
            let here: Vec<Candidate<'a>> =
                candidates.iter().copied().filter(|candidate| candidate.is_on(node)).collect();
            usable(&here, |_| true)
        }
    }
}

/// Whether any endpoint could take connections, wherever it is: if none, connections are refused and not dropped.
pub(super) fn any_usable(candidates: &[Candidate<'_>]) -> bool {
    candidates
        .iter()
        .any(|Candidate { endpoint, .. }| endpoint.ready || (endpoint.serving && endpoint.terminating))
}

fn usable<'a>(candidates: &[Candidate<'a>], admits: impl Fn(&Candidate<'a>) -> bool) -> Vec<Candidate<'a>> {
    let ready: Vec<Candidate<'a>> = candidates
        .iter()
        .copied()
        .filter(|candidate| candidate.endpoint.ready && admits(candidate))
        .collect();
    if !ready.is_empty() {
        return ready;
    }
    let going = |Candidate { endpoint, .. }: &Candidate<'a>| endpoint.serving && endpoint.terminating;
    candidates.iter().copied().filter(going).collect()
}

/// Which hints are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nearness {
    Anywhere,
    Zone,
    Node,
}

impl Nearness {
    fn admits(self, endpoint: &Endpoint, node: &Node) -> bool {
        match self {
            Nearness::Anywhere => true,
            Nearness::Zone => hinted(&endpoint.zones, node.zone.as_deref()),
            Nearness::Node => hinted(&endpoint.nodes, Some(node.name.as_str())),
        }
    }
}

/// Hints count only if all ready endpoints have them, and at least one names where this node is: endpoints that are
/// half way through a change of their hints must not leave a node without any.
fn nearness(candidates: &[Candidate<'_>], node: &Node) -> Nearness {
    let ready: Vec<&Endpoint> =
        candidates.iter().map(|candidate| candidate.endpoint).filter(|endpoint| endpoint.ready).collect();
    let all_and_one = |near: Nearness, has: fn(&Endpoint) -> bool| {
        ready.iter().all(|endpoint| has(endpoint)) && ready.iter().any(|endpoint| near.admits(endpoint, node))
    };
    if all_and_one(Nearness::Node, |endpoint| !endpoint.nodes.is_empty()) {
        Nearness::Node
    } else if all_and_one(Nearness::Zone, |endpoint| !endpoint.zones.is_empty()) {
        Nearness::Zone
    } else {
        Nearness::Anywhere
    }
}

fn hinted(hints: &[Box<str>], here: Option<&str>) -> bool {
    here.is_some_and(|here| hints.iter().any(|hint| **hint == *here))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::NodeName;

    use super::*;

    fn node() -> Node {
        let name = NodeName::new("here").unwrap();
        let mut node = Node::parse(name, ["192.0.2.1"], ["10.244.0.0/24"]).unwrap();
        node.zone = Some("east".into());
        node
    }

    /// `10.0.0.<number>` on a node, with hints for zones and nodes, and `r`eady, `s`erving, `t`erminating.
    fn endpoint(number: u8, on: &str, zones: &[&str], nodes: &[&str], conditions: &str) -> Endpoint {
        let texts = |list: &[&str]| list.iter().map(|text| Box::from(*text)).collect::<Vec<Box<str>>>();
        Endpoint {
            address: [10, 0, 0, number].into(),
            ready: conditions.contains('r'),
            serving: conditions.contains('s'),
            terminating: conditions.contains('t'),
            node: (!on.is_empty()).then(|| Arc::new(NodeName::new(on).unwrap())),
            zones: texts(zones).into(),
            nodes: texts(nodes).into(),
        }
    }

    fn chosen(endpoints: &[Endpoint], policy: TrafficPolicy) -> Vec<u8> {
        let candidates: Vec<_> = endpoints.iter().map(|endpoint| Candidate { endpoint, port: 80 }).collect();
        let last = |candidate: &Candidate<'_>| match candidate.endpoint.address {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        choose(&candidates, &node(), policy).iter().map(last).collect()
    }

    #[test]
    fn ready_ones_first_then_those_that_serve_to_the_end() {
        let endpoints = [
            endpoint(1, "here", &[], &[], "rs"),
            endpoint(2, "there", &[], &[], "rs"),
            endpoint(3, "here", &[], &[], "st"),
            endpoint(4, "there", &[], &[], ""),
        ];
        assert_eq!(chosen(&endpoints, TrafficPolicy::Cluster), [1, 2]);
        assert_eq!(chosen(&endpoints, TrafficPolicy::Local), [1]);
        assert_eq!(chosen(&endpoints[1..], TrafficPolicy::Cluster), [2]);
        assert_eq!(chosen(&endpoints[1..], TrafficPolicy::Local), [3]);
        assert_eq!(chosen(&endpoints[2..], TrafficPolicy::Cluster), [3]);
        assert_eq!(chosen(&endpoints[3..], TrafficPolicy::Cluster), []);
    }

    #[test]
    fn hints_for_zones_count_if_all_have_them_and_one_is_for_here() {
        let near = endpoint(1, "here", &["east"], &[], "rs");
        let far = endpoint(2, "there", &["west"], &[], "rs");
        let plain = endpoint(3, "there", &[], &[], "rs");
        assert_eq!(chosen(&[near.clone(), far.clone()], TrafficPolicy::Cluster), [1]);
        assert_eq!(chosen(&[near.clone(), far.clone(), plain], TrafficPolicy::Cluster), [1, 2, 3]);
        assert_eq!(chosen(std::slice::from_ref(&far), TrafficPolicy::Cluster), [2]);
        // One that is not ready has no say.
        let gone = endpoint(4, "there", &[], &[], "");
        assert_eq!(chosen(&[near, far, gone], TrafficPolicy::Cluster), [1]);
    }

    #[test]
    fn hints_for_nodes_go_before_those_for_zones() {
        let here = endpoint(1, "here", &["east"], &["here"], "rs");
        let beside = endpoint(2, "beside", &["east"], &["beside"], "rs");
        assert_eq!(chosen(&[here, beside.clone()], TrafficPolicy::Cluster), [1]);
        // No endpoint is for this node: the zone's are next.
        let far = endpoint(3, "far", &["west"], &["far"], "rs");
        assert_eq!(chosen(&[beside, far], TrafficPolicy::Cluster), [2]);
    }

    #[test]
    fn hints_do_not_keep_endpoints_that_terminate_from_serving() {
        let far = endpoint(1, "far", &["west"], &[], "st");
        assert_eq!(chosen(&[far], TrafficPolicy::Cluster), [1]);
    }
}
