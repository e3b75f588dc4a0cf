use std::sync::Arc;

use model::{ObjectName, PerFamily};
use plan::SetName;
use plan::services::{Balancer, ServicePlan, ServicePortName};

use super::*;
use crate::services::{all_elements, rendered};

/// What a family's addresses of the tests are.
struct Addresses {
    cluster: &'static str,
    node: &'static str,
    external: &'static str,
    client: &'static str,
    range: &'static str,
    allowed: &'static str,
    endpoints: [&'static str; 3],
}

fn addresses(family: Family) -> Addresses {
    match family {
        Family::V4 => Addresses {
            cluster: "10.96.0.1",
            node: "192.0.2.1",
            external: "198.51.100.1",
            client: "203.0.113.9",
            range: "10.96.0.0/12",
            allowed: "203.0.113.0/24",
            endpoints: ["10.244.1.2", "10.244.1.3", "10.244.2.2"],
        },
        Family::V6 => Addresses {
            cluster: "fd00:96::1",
            node: "2001:db8::1",
            external: "2001:db8:e::1",
            client: "2001:db8:c::9",
            range: "fd00:96::/108",
            allowed: "2001:db8:c::/48",
            endpoints: ["fd00:10:244:1::2", "fd00:10:244:1::3", "fd00:10:244:2::2"],
        },
    }
}

fn at(address: &str, port: u16) -> Frontend {
    Frontend { address: address.parse().unwrap(), protocol: model::Protocol::Tcp, port }
}

fn target(family: Family, count: usize) -> Target {
    let backend = |text: &&str| Backend { address: text.parse().unwrap(), port: 8080 };
    Target::Backends(addresses(family).endpoints.iter().take(count).map(backend).collect())
}

fn balancer(target: Target) -> Balancer {
    let service = ServicePortName { service: ObjectName::new("shop", "web"), port: "http".into() };
    Balancer {
        service: Arc::new(service),
        target,
        outside: None,
        exposed: true,
        affinity: None,
        sources: None,
        lingering: Arc::default(),
    }
}

/// A cluster address with affinity, a node port whose traffic from outside stays here, and a balancer's address that
/// not everybody may use.
fn plan() -> ServicePlan {
    let mut plan = ServicePlan {
        settings: Some(Settings {
            gateways: PerFamily::default(),
            pods: BTreeSet::new(),
            service_ranges: Family::BOTH.map(|family| addresses(family).range.parse().unwrap()).into(),
        }),
        ..ServicePlan::default()
    };
    for family in Family::BOTH {
        let of = addresses(family);
        let cluster = Balancer { affinity: Some(10800), exposed: false, ..balancer(target(family, 3)) };
        let node = Balancer { outside: Some(target(family, 1)), ..balancer(target(family, 3)) };
        let sources = Some(Arc::from([of.allowed.parse().unwrap()]));
        let external = Balancer { sources, outside: Some(Target::Drop), ..balancer(Target::Refuse) };
        plan.frontends.extend([
            (at(of.cluster, 80), cluster),
            (at(of.node, 30080), node),
            (at(of.external, 80), external),
        ]);
    }
    for (frontend, balancer) in &plan.frontends {
        for picker in services::pickers(balancer) {
            *plan.pickers.entry((frontend.family(), picker)).or_default() += 1;
        }
    }
    plan
}

/// The table as the kernel would show it once the plan is committed.
fn snapshot(plan: &ServicePlan, family: Family) -> nft::Snapshot {
    let settings = plan.settings.as_ref().unwrap();
    let pickers = plan.pickers.keys().filter(|(of, _)| *of == family).map(|(_, picker)| *picker);
    let table = render::render(&services::table(settings, family, pickers));
    let elements = |set: &nft::Set| {
        let all = all_elements(plan, settings, family).filter(|element| element.set.0 == set.name);
        all.map(|element| rendered(&element)).collect::<Vec<_>>()
    };
    let listed = |rule: &nft::Rule, chain: &nft::Chain| nft::ListedRule {
        table: chain.table.clone(),
        chain: chain.name.clone(),
        handle: 0,
        comment: None,
        tag: Some(rule.tag()),
        counter: None,
    };
    nft::Snapshot {
        generation: 1,
        exists: true,
        rules: table
            .chains
            .iter()
            .flat_map(|(chain, rules)| rules.iter().map(|rule| listed(rule, chain)))
            .collect(),
        chains: table.chains.iter().map(|(chain, _)| chain.clone()).collect(),
        sets: table.sets.iter().map(|set| (set.clone(), elements(set))).collect(),
    }
}

/// The elements of one set of a snapshot.
fn elements(snapshot: &mut nft::Snapshot, set: SetName) -> &mut Vec<nft::Element> {
    &mut snapshot.sets.iter_mut().find(|(each, _)| each.name == set.0).unwrap().1
}

fn decoded(family: Family, snapshot: &nft::Snapshot) -> SeenServices {
    table(family, snapshot, &[addresses(family).node.parse().unwrap()].into())
}

/// All faults of a table after it was damaged; those of a frontend begin with it.
fn faults(family: Family, damage: impl FnOnce(&mut nft::Snapshot)) -> Vec<String> {
    let mut snapshot = snapshot(&plan(), family);
    damage(&mut snapshot);
    let seen = decoded(family, &snapshot);
    let of_frontends = seen
        .frontends
        .iter()
        .flat_map(|each| each.faults.iter().map(|fault| format!("{}: {fault}", each.frontend)));
    seen.faults.iter().cloned().chain(of_frontends).collect()
}

#[test]
fn what_was_planned_is_what_is_seen() {
    let plan = plan();
    for family in Family::BOTH {
        let seen = decoded(family, &snapshot(&plan, family));
        assert!(seen.is_sound(), "{seen:#?}");
        let planned = plan.frontends.iter().filter(|(frontend, _)| frontend.family() == family);
        assert_eq!(seen.frontends.len(), planned.clone().count());
        for (frontend, balancer) in planned {
            let each = seen.frontends.iter().find(|seen| seen.frontend == *frontend).unwrap();
            assert_eq!(each.service, "shop/web:http");
            assert_eq!(each.target.as_ref(), Some(&balancer.target));
            assert_eq!(each.outside, balancer.outside);
            assert_eq!(each.affinity, balancer.affinity);
            assert_eq!(each.sources.as_deref(), balancer.sources.as_deref());
            assert_eq!(each.clients, 0);
        }
        let of = addresses(family);
        let kinds = [
            (of.cluster, AddressKind::Cluster),
            (of.node, AddressKind::Node),
            (of.external, AddressKind::External),
        ];
        for (address, kind) in kinds {
            let seen = seen.frontends.iter().find(|seen| seen.frontend.address.to_string() == address);
            assert_eq!(seen.unwrap().kind, kind);
        }
    }
}

#[test]
fn clients_that_stay_are_counted_and_those_that_stay_with_nothing_told() {
    for family in Family::BOTH {
        let of = addresses(family);
        let address = |text: &str| nft::Value::from(text.parse::<IpAddr>().unwrap());
        let learned = |client: &str, endpoint: &str| {
            let key = [address(client), address(of.cluster), nft::Value::proto(6), nft::Value::port(80)];
            nft::Element::new(key).data([address(endpoint), nft::Value::port(8080)])
        };
        let mut snapshot = snapshot(&plan(), family);
        elements(&mut snapshot, AFFINITY)
            .extend([learned(of.client, of.endpoints[1]), learned(of.external, of.endpoints[2])]);
        let seen = decoded(family, &snapshot);
        assert!(seen.is_sound(), "{seen:#?}");
        assert_eq!(seen.frontends.iter().map(|each| each.clients).sum::<usize>(), 2);
        elements(&mut snapshot, AFFINITY).push(learned(of.node, of.client));
        let seen = decoded(family, &snapshot);
        let faults: Vec<&String> = seen.frontends.iter().flat_map(|each| &each.faults).collect();
        assert_eq!(faults, ["affinity keeps 1 client with endpoints that it does not have"]);
    }
}

#[test]
fn a_table_that_is_not_there() {
    for (family, table) in Family::BOTH.into_iter().zip(["ip", "ip6"]) {
        let gone = |snapshot: &mut nft::Snapshot| {
            snapshot.exists = false;
            snapshot.sets.clear();
        };
        assert_eq!(faults(family, gone), [format!("table {table} cambric-services is missing")]);
    }
}

#[test]
fn chains_and_sets_that_are_not_as_they_should_be() {
    let missing = |snapshot: &mut nft::Snapshot| snapshot.sets.retain(|(set, _)| set.name != "keep-source");
    let said = faults(Family::V4, missing);
    assert_eq!(said[0], "set keep-source in table ip cambric-services is missing");
    let other = |snapshot: &mut nft::Snapshot| snapshot.sets[1].0.key.truncate(3);
    assert_eq!(faults(Family::V6, other)[0], "map backends in table ip6 cambric-services has another type");
    for chain in ["pick-3", "balance", "masquerade-source"] {
        let flushed = |snapshot: &mut nft::Snapshot| snapshot.rules.retain(|rule| rule.chain != chain);
        assert_eq!(
            faults(Family::V4, flushed),
            [format!("chain {chain} in table ip cambric-services has other rules")]
        );
    }
    let foreign = |snapshot: &mut nft::Snapshot| {
        snapshot
            .rules
            .iter_mut()
            .filter(|rule| rule.chain == "masquerade-source")
            .for_each(|rule| rule.tag = None);
    };
    assert_eq!(
        faults(Family::V6, foreign),
        ["chain masquerade-source in table ip6 cambric-services has other rules"]
    );
}

#[test]
fn elements_that_contradict_each_other() {
    for family in Family::BOTH {
        let of = addresses(family);
        let (cluster, node, external) = (at(of.cluster, 80), at(of.node, 30080), at(of.external, 80));
        // The element of a set that is about an address, and there the one with the highest number.
        let last = |address: &'static str| {
            let first = nft::Value::from(address.parse::<IpAddr>().unwrap());
            move |all: &[nft::Element]| {
                all.iter().rposition(|element| element.key.as_bytes().starts_with(first.as_bytes())).unwrap()
            }
        };
        let without = |set: SetName, address: &'static str| {
            faults(family, |snapshot| {
                let all = elements(snapshot, set);
                drop(all.remove(last(address)(all)));
            })
        };
        let leading = |set: SetName, address: &'static str, verdict: nft::Verdict| {
            faults(family, |snapshot| {
                let all = elements(snapshot, set);
                let at = last(address)(all);
                all[at].data = Some(verdict.into());
            })
        };
        let table = if family == Family::V4 { "ip" } else { "ip6" };
        for (found, expected) in [
            (
                without(BACKENDS, of.cluster),
                vec![format!("{cluster}: services says goto stick-3, but backends has only 2 of these endpoints")],
            ),
            (
                without(OUTSIDE_BACKENDS, of.node),
                vec![format!(
                    "{node}: outside-services says goto pick-outside-1, but outside-backends has only 0 of these \
                     endpoints"
                )],
            ),
            (
                without(SERVICES, of.cluster),
                [BACKENDS, STICKY].iter().map(|set| {
                        format!(
                            "{set} in table {table} cambric-services has {cluster}, which services does not lead \
                             anywhere"
                        )
                    })
                    .collect(),
            ),
            (without(SERVICES, of.node), vec![format!("{node}: services has no element of it")]),
            (without(STICKY, of.cluster), vec![format!("{cluster}: services says goto stick-3, but sticky keeps no client")]),
            (without(KEEP_SOURCE, of.node), vec![format!("{node}: outside-services has it, but keep-source does not")]),
            (
                without(RESTRICTED, of.external),
                vec![format!(
                    "{external}: allowed has sources of it, but restricted does not have it: all may connect"
                )],
            ),
            (
                without(EXPOSED, of.node),
                vec![format!(
                    "{node}: exposed does not have it, and no service range does: clients that are no pods get no \
                     answer"
                )],
            ),
            (
                leading(SERVICES, of.cluster, nft::Verdict::goto("refuse")),
                vec![format!("{cluster}: services says goto refuse, but backends has 3 endpoints")],
            ),
            (
                leading(SERVICES, of.node, nft::Verdict::goto("pick-1")),
                vec![format!("{node}: services says goto pick-1, but backends has 2 endpoints beyond that")],
            ),
            (
                leading(SERVICES, of.cluster, nft::Verdict::goto("pick-3")),
                vec![format!("{cluster}: sticky keeps clients, but services says goto pick-3")],
            ),
            (
                leading(SERVICES, of.node, nft::Verdict::goto("pick-outside-3")),
                vec![format!("{node}: services says goto pick-outside-3, which leads to no endpoint")],
            ),
            (
                leading(OUTSIDE, of.external, nft::Verdict::Accept),
                vec![format!("{external}: outside-services says accept, which leads to no endpoint")],
            ),
        ] {
            assert_eq!(found, expected);
        }
        let unnamed = |snapshot: &mut nft::Snapshot| {
            let all = elements(snapshot, SERVICES);
            let at = last(of.cluster)(all);
            all[at].comment = None;
        };
        assert_eq!(
            faults(family, unnamed),
            [format!("{cluster}: its element in services has no comment that names the service")]
        );
        let renamed = |snapshot: &mut nft::Snapshot| {
            let all = elements(snapshot, OUTSIDE);
            let at = last(of.node)(all);
            all[at].comment = Some("shop/other".into());
        };
        assert_eq!(
            faults(family, renamed),
            [format!("{node}: its elements name several services: shop/other, shop/web:http")]
        );
    }
}

#[test]
fn an_element_that_no_service_has() {
    let foreign = |snapshot: &mut nft::Snapshot| {
        let address = nft::Value::from("10.96.0.9".parse::<IpAddr>().unwrap());
        let key = [address, nft::Value::proto(1), nft::Value::port(80)];
        elements(snapshot, SERVICES).push(nft::Element::new(key).data(nft::Verdict::Accept));
    };
    assert_eq!(
        faults(Family::V4, foreign),
        [
            "map services in table ip cambric-services holds 10.96.0.9 . 1 . 80 : accept, which is not understood"
        ]
    );
}
