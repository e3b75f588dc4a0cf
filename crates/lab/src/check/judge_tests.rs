use std::net::IpAddr;

use model::Family;

use super::*;
use crate::check::evidence::{
    Expected, ExpectedRoute, Fate, Got, Heard, Leg, Party, Path, Predicted, RouteFinding, RouteWay, Target,
    Transport, Try,
};
use crate::fabric::{Found, FoundHop};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn party(name: &str, machine: &str, address: &str) -> Party {
    Party { name: name.to_owned(), machine: machine.to_owned(), address: ip(address) }
}

fn sightings(from: &str, to: &str, carried: Carried) -> Vec<Sighting> {
    let sighting = |at: &str, way, answer| Sighting {
        at: at.to_owned(),
        way,
        answer,
        carried: if answer { carried.reversed() } else { carried },
        packet: "IP a > b".to_owned(),
    };
    vec![
        sighting(from, Way::Out, false),
        sighting(to, Way::In, false),
        sighting(to, Way::Out, true),
        sighting(from, Way::In, true),
    ]
}

/// An exchange between pods of two nodes with which nothing is wrong.
fn other_node(v6: bool) -> Exchange {
    let (a, b) = if v6 { ("fd00:1::2", "fd00:2::2") } else { ("10.244.1.2", "10.244.2.2") };
    let carried =
        Carried::Vxlan { vni: 4096, port: 4789, source: ip("192.0.2.1"), destination: ip("192.0.2.2") };
    Exchange {
        row: Row::OtherNode,
        from: party("default/web-1", "a", a),
        to: party("default/web-2", "b", b),
        transport: Transport::Tcp,
        expected: Expected { source: ip(a), carried },
        predicted: Some(Predicted {
            end: "default/web-2".to_owned(),
            source: ip(a),
            carried,
            steps: Vec::new(),
        }),
        heard: Ok(Heard { by: "default/web-2".to_owned(), source: (ip(a), 40_000).into() }),
        wire: sightings("a", "b", carried),
    }
}

fn same_node() -> Exchange {
    let mut exchange = Exchange { row: Row::SameNode, wire: Vec::new(), ..other_node(false) };
    exchange.to.machine = "a".to_owned();
    exchange.expected.carried = Carried::Nowhere;
    exchange.predicted.as_mut().unwrap().carried = Carried::Nowhere;
    exchange
}

fn plain(row: Row, seen: &str) -> Exchange {
    let carried = Carried::Plain { source: ip(seen), destination: ip("198.51.100.1") };
    Exchange {
        row,
        to: party("internet", "internet", "198.51.100.1"),
        expected: Expected { source: ip(seen), carried },
        predicted: None,
        heard: Ok(Heard { by: "internet".to_owned(), source: (ip(seen), 40_000).into() }),
        wire: sightings("a", "internet", carried),
        ..other_node(false)
    }
}

fn containers() -> SharedNamespace {
    SharedNamespace {
        pod: "default/pair".to_owned(),
        node: "a".to_owned(),
        inode: 7,
        containers: 2,
        processes: vec![("left".to_owned(), 7), ("right".to_owned(), 7)],
    }
}

fn forgery(kind: ForgeryKind) -> Forgery {
    Forgery {
        row: Row::OtherNode,
        kind,
        from: party("internet", "internet", "198.51.100.1"),
        to: party("default/web-1", "a", "10.244.1.2"),
        pretended: ip("10.244.2.2"),
        seen: Some("IP x > y".to_owned()),
        arrived: false,
        control: Ok(true),
    }
}

/// A way of an outside host through node a to a pod on node b, which sees node a's gateway.
fn through_a(pod: &str) -> Path {
    let plain = Carried::Plain { source: ip("198.51.100.1"), destination: ip("192.0.2.1") };
    let vxlan =
        Carried::Vxlan { vni: 4096, port: 4789, source: ip("192.0.2.1"), destination: ip("192.0.2.2") };
    let leg = |from: &str, to: &str, carried| Leg::new(from, to, carried);
    let legs = vec![leg("internet", "a", plain), leg("a", "b", vxlan)];
    Path { by: pod.to_owned(), source: ip("10.244.1.1"), legs }
}

/// A way of a pod on node a, which is behind a NAT gateway, to one on node b.
fn through_a_gateway() -> Path {
    let destination = ip("192.0.2.2");
    let carried = Carried::Ipip { source: ip("192.168.1.11"), destination };
    let arrives = Carried::Ipip { source: ip("203.0.113.1"), destination };
    let legs = vec![Leg { arrives, ..Leg::new("a", "b", carried) }];
    Path { by: "default/web-2".to_owned(), source: ip("10.244.1.2"), legs }
}

fn on_the_wire(legs: &[Leg]) -> Vec<Sighting> {
    let of_leg = |leg: &Leg| {
        let mut all = sightings(&leg.from, &leg.to, leg.carried);
        for sighting in all.iter_mut().filter(|sighting| sighting.at == leg.to) {
            sighting.carried = if sighting.answer { leg.arrives.reversed() } else { leg.arrives };
        }
        all
    };
    legs.iter().flat_map(of_leg).collect()
}

fn answered(path: &Path) -> Try {
    let heard = Heard { by: path.by.clone(), source: (path.source, 12_345).into() };
    Try { got: Got::Answer(heard), after: 1, wire: on_the_wire(&path.legs) }
}

fn connection(row: Row, aspect: Aspect, fate: Fate, tries: Vec<Try>) -> Connection {
    let (from, through) = match row {
        Row::Inbound => (party("internet", "internet", "198.51.100.1"), Some("a".to_owned())),
        _ => (party("default/web-1", "a", "10.244.1.2"), None),
    };
    Connection {
        row,
        aspect,
        from,
        to: Target {
            name: "cluster address of one".to_owned(),
            address: "10.96.0.1:80".parse().unwrap(),
            through,
        },
        transport: Transport::Tcp,
        expected: fate.clone(),
        predicted: fate,
        steps: Vec::new(),
        tries,
    }
}

/// Connections with which nothing is wrong: an answer, a refusal and a silence from outside, and from a pod its service
/// with two endpoints, one that stays, and a refusal.
fn connections() -> Vec<Connection> {
    let path = through_a("default/web-2");
    let approach = path.legs[..1].to_vec();
    let unanswered = |got, after| {
        let mut wire = on_the_wire(&approach);
        wire.retain(|sighting| !sighting.answer);
        vec![Try { got, after, wire }]
    };
    let here = |by: &str| Path { by: by.to_owned(), source: ip("10.244.1.2"), legs: Vec::new() };
    let two = [here("default/web-2"), here("default/web-3")];
    let both = || two.iter().map(answered).collect::<Vec<Try>>();
    let across = through_a_gateway();
    let refusal = Try { got: Got::Refusal, after: 3, wire: Vec::new() };
    vec![
        connection(Row::Inbound, Aspect::Answer, Fate::answered([path.clone()]), vec![answered(&path)]),
        connection(
            Row::Inbound,
            Aspect::Refusal,
            Fate::Refused { legs: approach.clone() },
            unanswered(Got::Refusal, 3),
        ),
        connection(
            Row::Inbound,
            Aspect::Local,
            Fate::Silent { legs: approach.clone() },
            unanswered(Got::Nothing, 2000),
        ),
        connection(
            Row::Service,
            Aspect::Answer,
            Fate::answered([here("default/web-2")]),
            vec![answered(&two[0])],
        ),
        connection(Row::Service, Aspect::Share, Fate::answered(two.clone()), both()),
        connection(Row::Service, Aspect::Affinity, Fate::answered(two.clone()), vec![answered(&two[1]); 3]),
        connection(Row::Service, Aspect::Refusal, Fate::Refused { legs: Vec::new() }, vec![refusal]),
        connection(Row::BehindNat, Aspect::Answer, Fate::answered([across.clone()]), vec![answered(&across)]),
    ]
}

/// A route of a machine to node b's pods that is as it should be.
fn route(row: Row, at: &str, protocol: u8, way: RouteWay) -> RouteFinding {
    let (via, link) = match &way {
        RouteWay::Neighbour { via, link } => (*via, link.clone()),
        RouteWay::Tunnel { links } => (ip("10.244.2.1"), links[0].clone()),
    };
    let destination = "10.244.2.0/24".parse().unwrap();
    RouteFinding {
        row,
        at: at.to_owned(),
        destination,
        expected: ExpectedRoute { protocols: vec![protocol], way },
        found: vec![Found {
            destination,
            protocol,
            next_hops: vec![FoundHop { via: Some(via), link, onlink: true }],
        }],
    }
}

fn routes() -> Vec<RouteFinding> {
    let neighbour = RouteWay::Neighbour { via: ip("192.0.2.2"), link: "eth0".to_owned() };
    let tunnel = RouteWay::Tunnel { links: vec!["vxlan.cambric".to_owned()] };
    vec![
        route(Row::NoOverlay, "router", 186, neighbour.clone()),
        route(Row::CrossSubnet, "a", 204, neighbour),
        route(Row::CrossSubnet, "c", 204, tunnel),
    ]
}

pub(in crate::check) fn good() -> Evidence {
    Evidence {
        lab: "demo".to_owned(),
        nodes: vec!["a".to_owned(), "b".to_owned()],
        pods: 3,
        gateways: vec![ip("10.244.1.1"), ip("10.244.2.1")],
        families: vec![Family::V4, Family::V6],
        encapsulation: "VXLAN 4096".to_owned(),
        blind: Vec::new(),
        namespaces: vec![containers()],
        exchanges: vec![
            other_node(false),
            other_node(true),
            same_node(),
            plain(Row::Nodes, "192.0.2.1"),
            plain(Row::Outbound, "192.0.2.1"),
            plain(Row::NoOverlay, "10.244.1.2"),
            plain(Row::CrossSubnet, "10.244.1.2"),
            Exchange { row: Row::CrossSubnet, ..other_node(false) },
        ],
        connections: connections(),
        forgeries: vec![forgery(ForgeryKind::StrangersVxlan), forgery(ForgeryKind::SpoofedSource)],
        routes: routes(),
        impossible: Vec::new(),
    }
}

fn faults(evidence: &Evidence) -> Vec<(Row, String)> {
    let of = |judged: Judged| match judged.verdict {
        Verdict::NotSo(failures) => {
            let all = failures.into_iter().flat_map(|failure| failure.faults);
            all.map(|fault| (judged.row, fault)).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    judge(evidence).into_iter().flat_map(of).collect()
}

#[test]
fn good_evidence_is_believed() {
    let judged = judge(&good());
    assert!(all_so(&judged), "{judged:?}");
    let count = |verdict: &Verdict| judged.iter().filter(|one| one.verdict == *verdict).count();
    let possible = |row: Row| judged.iter().any(|one| one.row == row && one.verdict == Verdict::So);
    assert!(Row::ALL.into_iter().all(possible), "{judged:?}");
    assert_eq!((count(&Verdict::So), judged.len()), (19, 19));
}

/// Each change makes one thing wrong; each must be noticed, under its row and in words.
#[test]
fn every_kind_of_wrong_evidence_is_noticed() {
    type Change = fn(&mut Evidence);
    let cases: &[(Row, &str, Change)] = &[
        (Row::OtherNode, "no answer", |e| e.exchanges[0].heard = Err("no answer".to_owned())),
        (Row::OtherNode, "default/web-3 answered", |e| {
            e.exchanges[0].heard =
                Ok(Heard { by: "default/web-3".to_owned(), source: "10.244.1.2:1".parse().unwrap() });
        }),
        (Row::OtherNode, "the far end saw 192.0.2.1, not 10.244.1.2", |e| {
            e.exchanges[0].heard =
                Ok(Heard { by: "default/web-2".to_owned(), source: "192.0.2.1:1".parse().unwrap() });
        }),
        (Row::OtherNode, "the plans lead to nowhere", |e| {
            e.exchanges[1].predicted.as_mut().unwrap().end = "nowhere".to_owned();
        }),
        (Row::OtherNode, "by the plans the far end sees", |e| {
            e.exchanges[1].predicted.as_mut().unwrap().source = ip("2001:db8::9");
        }),
        (Row::OtherNode, "by the plans there is on the wire: nothing", |e| {
            e.exchanges[0].predicted.as_mut().unwrap().carried = Carried::Nowhere;
        }),
        (Row::OtherNode, "no request was seen going out of a", |e| {
            e.exchanges[0].wire.remove(0);
        }),
        (Row::OtherNode, "no request was seen going into b", |e| {
            e.exchanges[0].wire.remove(1);
        }),
        (Row::OtherNode, "no answer was seen going out of b", |e| {
            e.exchanges[0].wire.remove(2);
        }),
        (Row::OtherNode, "no answer was seen going into a", |e| {
            e.exchanges[0].wire.remove(3);
        }),
        (Row::OtherNode, "on the wire at b was IP a > b, not VXLAN 4096", |e| {
            e.exchanges[0].wire[1].carried = Carried::Otherwise;
        }),
        (Row::OtherNode, "not VXLAN 4096 port 4789 192.0.2.2 > 192.0.2.1", |e| {
            let plain = Carried::Plain { source: ip("10.244.2.2"), destination: ip("10.244.1.2") };
            let more = Sighting { carried: plain, ..e.exchanges[0].wire[2].clone() };
            e.exchanges[0].wire.push(more);
        }),
        (Row::SameNode, "not nothing", |e| {
            let strays = e.exchanges[0].wire.clone();
            e.exchanges[2].wire = strays;
        }),
        (Row::Nodes, "on the wire at a was", |e| {
            let vxlan = e.exchanges[0].wire[0].carried;
            e.exchanges[3].wire[0].carried = vxlan;
        }),
        (Row::Outbound, "the far end saw 10.244.1.2, not 192.0.2.1", |e| {
            e.exchanges[4].heard =
                Ok(Heard { by: "internet".to_owned(), source: "10.244.1.2:40000".parse().unwrap() });
        }),
        (Row::Containers, "container right is in network namespace 8, the pod in 7", |e| {
            e.namespaces[0].processes[1].1 = 8;
        }),
        (Row::Containers, "only 1 of 2 containers", |e| {
            e.namespaces[0].processes.pop();
        }),
        (Row::Containers, "which shares nothing", |e| e.namespaces[0].containers = 1),
        (Row::OtherNode, "it arrived", |e| e.forgeries[0].arrived = true),
        (Row::OtherNode, "never seen leaving", |e| e.forgeries[1].seen = None),
        (Row::OtherNode, "an honest packet did not arrive either", |e| e.forgeries[0].control = Ok(false)),
        (Row::OtherNode, "could not be sent: why", |e| e.forgeries[1].control = Err("why".to_owned())),
        (Row::Outbound, "nothing was tried", |e| {
            e.exchanges.remove(4);
        }),
        (Row::NoOverlay, "the far end saw 192.0.2.1, not 10.244.1.2", |e| {
            let source = "192.0.2.1:40000".parse().unwrap();
            e.exchanges[5].heard = Ok(Heard { by: "internet".to_owned(), source });
        }),
        (Row::NoOverlay, "on the wire at a was IP a > b, not plain", |e| {
            let vxlan = e.exchanges[0].wire[0].carried;
            e.exchanges[5].wire[0].carried = vxlan;
        }),
        (Row::NoOverlay, "nothing was tried", |e| e.routes.retain(|one| one.row != Row::NoOverlay)),
        (Row::NoOverlay, "there is no route", |e| e.routes[0].found.clear()),
        (Row::NoOverlay, "via 192.0.2.2 dev eth0 onlink proto 4 is not of protocol 186", |e| {
            e.routes[0].found[0].protocol = 4;
        }),
        (Row::NoOverlay, "does not lead via 192.0.2.2 dev eth0", |e| {
            let other = FoundHop { via: Some(ip("192.0.2.9")), link: "eth0".to_owned(), onlink: false };
            e.routes[0].found[0].next_hops.push(other);
        }),
        (Row::CrossSubnet, "there is another route: 10.244.2.0/24 via 192.0.2.2", |e| {
            let twice = e.routes[1].found[0].clone();
            e.routes[1].found.push(twice);
        }),
        (Row::CrossSubnet, "does not lead into vxlan.cambric", |e| {
            e.routes[2].found[0].next_hops[0].link = "eth0".to_owned();
        }),
        (Row::CrossSubnet, "no two pods of one subnet were tried", |e| drop(e.exchanges.remove(6))),
        (Row::CrossSubnet, "no two pods of different subnets were tried", |e| drop(e.exchanges.remove(7))),
        (Row::Containers, "nothing was tried", |e| e.namespaces.clear()),
        (Row::Inbound, "the far end saw 198.51.100.1, not 10.244.1.1", |e| {
            let heard = Heard { by: "default/web-2".to_owned(), source: "198.51.100.1:1".parse().unwrap() };
            e.connections[0].tries[0].got = Got::Answer(heard);
        }),
        (Row::Inbound, "default/web-9 answered", |e| {
            let heard = Heard { by: "default/web-9".to_owned(), source: "10.244.1.1:1".parse().unwrap() };
            e.connections[0].tries[0].got = Got::Answer(heard);
        }),
        (Row::Inbound, "neither an answer nor a refusal", |e| e.connections[0].tries[0].got = Got::Nothing),
        (Row::Inbound, "it was refused", |e| e.connections[0].tries[0].got = Got::Refusal),
        (Row::Inbound, "no route", |e| {
            e.connections[0].tries[0].got = Got::Other("no route".to_owned());
        }),
        (Row::Inbound, "on the wire at b was IP a > b", |e| {
            e.connections[0].tries[0].wire[5].carried = Carried::Otherwise;
        }),
        (Row::Inbound, "on the wire at c was IP a > b", |e| {
            let stray = Sighting { at: "c".to_owned(), ..e.connections[0].tries[0].wire[5].clone() };
            e.connections[0].tries[0].wire.push(stray);
        }),
        (Row::Inbound, "no request of the way a to b VXLAN 4096", |e| {
            e.connections[0].tries[0].wire.remove(5);
        }),
        (Row::Inbound, "no answer of the way internet to a plain", |e| {
            e.connections[0].tries[0].wire.remove(2);
        }),
        (Row::Inbound, "the plans lead to: default/web-2 sees 198.51.100.1", |e| {
            let mut path = through_a("default/web-2");
            path.source = ip("198.51.100.1");
            e.connections[0].predicted = Fate::answered([path]);
        }),
        (Row::Inbound, "the plans lead to: no answer", |e| {
            e.connections[0].predicted = Fate::Silent { legs: Vec::new() };
        }),
        // Who waits in vain has not been refused, and who is refused late has waited.
        (Row::Inbound, "neither an answer nor a refusal", |e| e.connections[1].tries[0].got = Got::Nothing),
        (Row::Inbound, "only after 1010 ms", |e| e.connections[1].tries[0].after = 1010),
        (Row::Inbound, "on the wire at a was IP a > b", |e| {
            let beyond = on_the_wire(&through_a("default/web-2").legs[1..]);
            e.connections[1].tries[0].wire.extend(beyond);
        }),
        (Row::Inbound, "no request of the way internet to a", |e| e.connections[1].tries[0].wire.clear()),
        (Row::Inbound, "it was refused", |e| e.connections[2].tries[0].got = Got::Refusal),
        (Row::Inbound, "default/web-2 answered, and saw 10.244.1.1", |e| {
            e.connections[2].tries = vec![answered(&through_a("default/web-2"))];
        }),
        (Row::Inbound, "on the wire at a was IP a > b", |e| {
            // An answer, though the client has taken no notice.
            e.connections[2].tries[0].wire = on_the_wire(&through_a("").legs[..1]);
        }),
        (Row::Service, "on the wire at a was IP a > b", |e| {
            e.connections[3].tries[0].wire = on_the_wire(&through_a("").legs[1..]);
        }),
        (Row::Service, "default/web-3 never answered", |e| {
            e.connections[4].tries.pop();
        }),
        (Row::Service, "did not stay with its endpoint: default/web-2 and default/web-3 answered", |e| {
            e.connections[5].tries[0] = e.connections[4].tries[0].clone();
        }),
        (Row::Service, "on the wire at a was IP a > b", |e| {
            e.connections[6].tries[0].wire = on_the_wire(&through_a("").legs[1..]);
        }),
        (Row::Service, "it was not tried", |e| e.connections[6].tries.clear()),
        (Row::Service, "nothing was tried", |e| {
            e.connections.retain(|one| one.row != Row::Service);
        }),
        (Row::BehindNat, "on the wire at b was IP a > b", |e| {
            let untranslated = e.connections[7].tries[0].wire[0].carried;
            e.connections[7].tries[0].wire[1].carried = untranslated;
        }),
        (Row::BehindNat, "nothing was tried", |e| {
            e.connections.retain(|one| one.row != Row::BehindNat);
        }),
        (Row::SameNode, "the capture on a misses packets", |e| e.blind.push("a".to_owned())),
    ];
    for (row, expected, change) in cases {
        let mut evidence = good();
        change(&mut evidence);
        let found = faults(&evidence);
        assert!(
            found.iter().any(|(at, fault)| at == row && fault.contains(expected)),
            "expected \"{expected}\" under row {}, found {found:?}",
            row.number()
        );
        assert!(!all_so(&judge(&evidence)));
        // What is wrong with one row is no fault of another, unless the captures themselves are in doubt.
        assert!(evidence.blind.len() == 1 || found.iter().all(|(at, _)| at == row), "{found:?}");
    }
}

#[test]
fn a_row_that_a_lab_cannot_have_is_no_failure() {
    let mut evidence = good();
    evidence.exchanges.remove(4);
    evidence.impossible.push((Row::Outbound, "the lab has no outside host".to_owned()));
    let judged = judge(&evidence);
    assert!(all_so(&judged));
    assert!(judged.iter().any(|one| matches!(one.verdict, Verdict::Impossible(_))));
}
