//! What a change of services leaves behind in the kernel: flows and affinities that lead to where nobody is any more.

use std::collections::BTreeSet;

use model::{Family, Protocol};

use super::{Backend, Balancer, Frontend, ServicePlan};

/// Where something may be left behind. What of it is, [`ServicePlan::is_stale`] and [`ServicePlan::forgets`] say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// The frontends whose flows have to be looked at.
    ///
    /// All of them are UDP: a peer that has gone answers nothing there, and the client goes on sending. TCP and SCTP
    /// notice, and an endpoint that terminates is to end its connections in its own time.
    pub flows: BTreeSet<Frontend>,
    /// The families in which clients may stay with an endpoint that their frontend has no more.
    pub affinities: BTreeSet<Family>,
}

impl Leftovers {
    /// All that there may be of somebody who did not keep account.
    pub fn of(plan: &ServicePlan) -> Leftovers {
        Leftovers {
            flows: plan.frontends.keys().copied().filter(counts).collect(),
            affinities: Family::BOTH.into(),
        }
    }

    /// Takes in a change of one frontend.
    pub fn note(&mut self, frontend: &Frontend, before: Option<&Balancer>, after: Option<&Balancer>) {
        if counts(frontend) && leaves_flows(before, after) {
            self.flows.insert(*frontend);
        }
        if leaves_affinities(before, after) {
            self.affinities.insert(frontend.family());
        }
    }

    /// Takes in a frontend that is gone, of which no more is known.
    pub fn note_gone(&mut self, frontend: Frontend) {
        if counts(&frontend) {
            self.flows.insert(frontend);
        }
    }

    /// Takes in more.
    pub fn extend(&mut self, more: Leftovers) {
        self.flows.extend(more.flows);
        self.affinities.extend(more.affinities);
    }

    /// Whether nothing can be left.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.affinities.is_empty()
    }
}

impl ServicePlan {
    /// Whether a UDP flow to a frontend leads to where it should no more: it was made before the frontend had its
    /// endpoints, its endpoint is gone, or the frontend itself is. Connection tracking would keep it for as long as
    /// packets come. An endpoint that still serves while it terminates keeps its flows.
    ///
    /// `answers` is where the flow's answers come from: the endpoint, or the frontend itself if nothing was rewritten.
    pub fn is_stale(&self, frontend: &Frontend, answers: &Backend) -> bool {
        match self.frontends.get(frontend) {
            Some(balancer) => !balancer.serves(answers),
            // What was not rewritten is none of ours.
            None => (frontend.address, frontend.port) != (answers.address, answers.port),
        }
    }

    /// Whether clients of a frontend must not stay with an endpoint.
    pub fn forgets(&self, frontend: &Frontend, endpoint: &Backend) -> bool {
        let sticky = self.frontends.get(frontend).filter(|balancer| balancer.affinity.is_some());
        sticky.is_none_or(|balancer| !balancer.has(endpoint))
    }
}

impl Balancer {
    /// Whether any client's new connections may go there.
    fn has(&self, endpoint: &Backend) -> bool {
        self.target.backends().binary_search(endpoint).is_ok()
            || self.outside.as_ref().is_some_and(|outside| outside.backends().binary_search(endpoint).is_ok())
    }

    /// Whether any client's connections may be there.
    fn serves(&self, endpoint: &Backend) -> bool {
        self.has(endpoint) || self.lingering.binary_search(endpoint).is_ok()
    }

    fn endpoints(&self) -> impl Iterator<Item = &Backend> {
        self.target.backends().iter().chain(self.outside.iter().flat_map(|outside| outside.backends()))
    }

    fn is_served(&self) -> bool {
        self.endpoints().next().is_some()
    }
}

fn counts(frontend: &Frontend) -> bool {
    frontend.protocol == Protocol::Udp
}

fn leaves_flows(before: Option<&Balancer>, after: Option<&Balancer>) -> bool {
    match (before, after) {
        (None, None) => false,
        // It went to wherever the route led.
        (None, Some(_)) => true,
        (Some(before), None) => before.is_served() || !before.lingering.is_empty(),
        (Some(before), Some(after)) => {
            let ends = |endpoint: &Backend| !after.serves(endpoint);
            before.endpoints().chain(&*before.lingering).any(ends) || !before.is_served() && after.is_served()
        }
    }
}

fn leaves_affinities(before: Option<&Balancer>, after: Option<&Balancer>) -> bool {
    let sticky = |balancer: &&Balancer| balancer.affinity.is_some();
    match (before.filter(sticky), after.filter(sticky)) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(before), Some(after)) => before.endpoints().any(|endpoint| !after.has(endpoint)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::ObjectName;

    use super::super::{ServicePortName, Target};
    use super::*;

    const FRONTENDS: [&str; 2] = ["10.96.0.10", "fd00:96::a"];

    fn frontend(address: &str, protocol: Protocol) -> Frontend {
        Frontend { address: address.parse().unwrap(), protocol, port: 53 }
    }

    /// An endpoint in the family of an address.
    fn endpoint(near: &str, number: u8) -> Backend {
        let text = if near.contains(':') { format!("fd00::{number:x}") } else { format!("10.0.0.{number}") };
        Backend { address: text.parse().unwrap(), port: 5353 }
    }

    /// What becomes of connections to an address of this family.
    fn balancer(near: &str, everywhere: &[u8], outside: Option<&[u8]>) -> Balancer {
        let target = |numbers: &[u8]| match numbers {
            [] => Target::Refuse,
            numbers => Target::Backends(numbers.iter().map(|number| endpoint(near, *number)).collect()),
        };
        Balancer {
            service: Arc::new(ServicePortName {
                service: ObjectName::new("default", "dns"),
                port: "".into(),
            }),
            target: target(everywhere),
            outside: outside.map(target),
            exposed: outside.is_some(),
            affinity: None,
            sources: None,
            lingering: Arc::default(),
        }
    }

    fn sticky(balancer: Balancer) -> Balancer {
        Balancer { affinity: Some(60), ..balancer }
    }

    fn plan_of(frontend: Frontend, balancer: Balancer) -> ServicePlan {
        ServicePlan { frontends: [(frontend, balancer)].into(), ..ServicePlan::default() }
    }

    #[test]
    fn a_flow_is_stale_if_no_client_would_come_to_its_endpoint() {
        for address in FRONTENDS {
            let udp = frontend(address, Protocol::Udp);
            let itself = Backend { address: udp.address, port: udp.port };
            let stale = |plan: &ServicePlan, answers: &Backend| plan.is_stale(&udp, answers);

            let plan = plan_of(udp, balancer(address, &[1, 2], None));
            assert!(!stale(&plan, &endpoint(address, 1)));
            assert!(stale(&plan, &endpoint(address, 3)), "its endpoint is gone");
            assert!(stale(&plan, &Backend { port: 53, ..endpoint(address, 1) }), "its port is another");
            assert!(stale(&plan, &itself), "it was made before the frontend");

            let plan = plan_of(udp, balancer(address, &[1, 2], Some(&[2, 3])));
            assert!(!stale(&plan, &endpoint(address, 1)) && !stale(&plan, &endpoint(address, 3)));
            assert!(stale(&plan, &endpoint(address, 4)));

            let plan = plan_of(udp, balancer(address, &[], None));
            assert!(stale(&plan, &endpoint(address, 1)) && stale(&plan, &itself));

            let plan = ServicePlan::default();
            assert!(stale(&plan, &endpoint(address, 1)), "the frontend is gone");
            assert!(
                stale(&plan, &Backend { port: 5353, ..itself }),
                "so is one with an endpoint on its address"
            );
            assert!(!stale(&plan, &itself), "what was not rewritten is none of ours");
        }
    }

    #[test]
    fn flows_are_looked_at_only_where_an_endpoint_went_or_the_first_came() {
        for address in FRONTENDS {
            let of = |everywhere: &[u8], outside: Option<&[u8]>| Some(balancer(address, everywhere, outside));
            let cases = [
                ("a new frontend", None, of(&[1], None), true),
                ("a new frontend without endpoints", None, of(&[], None), true),
                ("the first endpoint", of(&[], None), of(&[1], None), true),
                ("one more endpoint", of(&[1], None), of(&[1, 2], None), false),
                ("one endpoint less", of(&[1, 2], None), of(&[1], None), true),
                ("the last endpoint gone", of(&[1], None), of(&[], None), true),
                ("another endpoint", of(&[1], None), of(&[2], None), true),
                ("one that is only for the outside now", of(&[1], None), of(&[2], Some(&[1])), false),
                ("one less for the outside", of(&[1], Some(&[1, 2])), of(&[1], Some(&[1])), true),
                ("another policy", of(&[1, 2], Some(&[1])), of(&[1, 2], None), false),
                ("nothing", of(&[1], None), of(&[1], None), false),
                ("still no endpoint", of(&[], None), of(&[], Some(&[])), false),
                ("the frontend gone", of(&[1], None), None, true),
                ("a frontend without endpoints gone", of(&[], None), None, false),
            ];
            for (what, before, after, looked_at) in cases {
                for protocol in Protocol::ALL {
                    let frontend = frontend(address, protocol);
                    let mut leftovers = Leftovers::default();
                    leftovers.note(&frontend, before.as_ref(), after.as_ref());
                    let counts = looked_at && protocol == Protocol::Udp;
                    assert_eq!(leftovers.flows.contains(&frontend), counts, "{what}, {frontend}");
                    assert_eq!(leftovers.is_empty(), !counts);
                }
            }
        }
    }

    #[test]
    fn flows_stay_with_an_endpoint_that_terminates_until_it_serves_no_more() {
        for address in FRONTENDS {
            let udp = frontend(address, Protocol::Udp);
            let before = balancer(address, &[1, 2], None);
            let going =
                Balancer { lingering: [endpoint(address, 2)].into(), ..balancer(address, &[1], None) };
            let after = balancer(address, &[1], None);
            assert!(!plan_of(udp, going.clone()).is_stale(&udp, &endpoint(address, 2)));
            assert!(plan_of(udp, sticky(going.clone())).forgets(&udp, &endpoint(address, 2)));
            let looked_at = |before: &Balancer, after: Option<&Balancer>| {
                let mut leftovers = Leftovers::default();
                leftovers.note(&udp, Some(before), after);
                leftovers.flows.contains(&udp)
            };
            assert!(!looked_at(&before, Some(&going)));
            assert!(looked_at(&going, Some(&after)));
            assert!(looked_at(&Balancer { target: Target::Refuse, ..going }, None));
        }
    }

    #[test]
    fn clients_are_forgotten_with_their_endpoint() {
        for address in FRONTENDS {
            let of = |everywhere: &[u8]| Some(balancer(address, everywhere, None));
            let keeping = |everywhere: &[u8]| of(everywhere).map(sticky);
            for (what, before, after, looked_at) in [
                ("a new frontend", None, keeping(&[1]), false),
                ("one more endpoint", keeping(&[1]), keeping(&[1, 2]), false),
                ("one endpoint less", keeping(&[1, 2]), keeping(&[1]), true),
                ("no endpoint", keeping(&[1, 2]), keeping(&[]), true),
                ("one endpoint less, without affinity", of(&[1, 2]), of(&[1]), false),
                ("affinity from now on", of(&[1, 2]), keeping(&[1]), false),
                ("affinity no more", keeping(&[1]), of(&[1]), true),
                ("the frontend gone", keeping(&[1]), None, true),
            ] {
                let tcp = frontend(address, Protocol::Tcp);
                let mut leftovers = Leftovers::default();
                leftovers.note(&tcp, before.as_ref(), after.as_ref());
                assert_eq!(leftovers.affinities.contains(&tcp.family()), looked_at, "{what}, {tcp}");
            }
            let udp = frontend(address, Protocol::Udp);
            let plan = plan_of(udp, sticky(balancer(address, &[1], None)));
            assert!(!plan.forgets(&udp, &endpoint(address, 1)));
            assert!(plan.forgets(&udp, &endpoint(address, 2)));
            assert!(plan.forgets(&frontend(address, Protocol::Tcp), &endpoint(address, 1)));
            let plan = plan_of(udp, balancer(address, &[1], None));
            assert!(plan.forgets(&udp, &endpoint(address, 1)), "there is no affinity any more");
        }
    }

    #[test]
    fn of_a_plan_there_may_be_leftovers_everywhere() {
        let mut plan = ServicePlan::default();
        for address in FRONTENDS {
            for protocol in Protocol::ALL {
                plan.frontends.insert(frontend(address, protocol), balancer(address, &[1], None));
            }
        }
        let mut leftovers = Leftovers::of(&plan);
        assert_eq!(leftovers.affinities, Family::BOTH.into());
        assert_eq!(leftovers.flows, FRONTENDS.map(|address| frontend(address, Protocol::Udp)).into());
        leftovers.note_gone(frontend("192.0.2.1", Protocol::Udp));
        leftovers.note_gone(frontend("192.0.2.1", Protocol::Tcp));
        assert_eq!(leftovers.flows.len(), 3);
    }
}
