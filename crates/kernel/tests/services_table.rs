//! The services' tables: what they hold, and how they come back to it.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::pods::STRANGER;
use common::services::{Scene, external_address, service};
use common::state::{assert_same, state};
use model::{Family, Protocol, Service, TrafficPolicy};
use plan::Input;
use plan::services::picker_of;
use serde_json::Value;

/// Services of all kinds: plain, without endpoints, exposed, for some, and such whose clients stay.
fn full() -> Scene {
    let mut scene = Scene::new(3);
    let both = |number| Family::BOTH.map(|family| external_address(number, family)).to_vec();
    let some = [Protocol::Tcp, Protocol::Udp];
    scene.serve(&service(10, &Protocol::ALL), &[0, 1, 2]);
    scene.serve(&service(11, &some), &[]);
    let mut exposed = service(12, &some);
    exposed.external_addresses = both(12);
    exposed.external_policy = TrafficPolicy::Local;
    exposed.ports[0].node_port = Some(30080);
    scene.serve(&exposed, &[0, 1]);
    let balancer = Service {
        balancer_addresses: both(13),
        balancer_sources: STRANGER
            .iter()
            .map(|text| text.parse::<std::net::IpAddr>().unwrap().into())
            .collect(),
        ..service(13, &some)
    };
    scene.serve(&balancer, &[2]);
    scene.serve(&Service { affinity: Some(Duration::from_secs(600)), ..service(14, &some) }, &[0, 1]);
    scene
}

fn table(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

#[test]
fn the_table_can_be_read() {
    let scene = full();
    let text = scene.node.run("nft list table ip cambric-services");
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "map services {",
        "type ipv4_addr . inet_proto . inet_service : verdict",
        "map backends {",
        "typeof ip daddr . meta l4proto . th dport . numgen random mod 65536 : ip daddr . th dport",
        "chain pick-3 {",
        "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @backends comment \"one endpoint at random\"",
        "type nat hook prerouting priority dstnat; policy accept;",
        "type nat hook output priority -100; policy accept;",
        "ip daddr . meta l4proto . th dport vmap @services comment \"to the endpoints of the service\"",
    ] {
        assert!(lines.iter().any(|each| each == line), "{line} is not in\n{}", lines.join("\n"));
    }
    for element in [
        "10.96.0.10 . tcp . 80 comment \"default/service-10:tcp\" : goto pick-3",
        "10.96.0.10 . sctp . 80 comment \"default/service-10:sctp\" : goto pick-3",
        "10.96.0.11 . udp . 80 comment \"default/service-11:udp\" : goto refuse",
        "10.96.0.14 . udp . 80 comment \"default/service-14:udp\" : goto stick-2",
        "10.96.0.10 . tcp . 80 . 0 : 10.128.0.2 . 8080",
        "10.96.0.10 . tcp . 80 . 2 : 10.128.0.4 . 8080",
    ] {
        assert!(text.contains(element), "{element} is not in\n{text}");
    }
}

/// Another program finds in the maps what the plan says.
#[test]
fn the_maps_hold_the_plan() {
    let scene = full();
    let plan = scene.planner.services();
    for family in Family::BOTH {
        let listed = |map: &str| -> BTreeMap<String, String> {
            let text = scene.node.run(&format!("nft -j list map {} cambric-services {map}", table(family)));
            let json: Value = serde_json::from_str(&text).unwrap();
            let elements = json["nftables"][1]["map"]["elem"].as_array().unwrap().clone();
            elements.iter().map(|pair| (words(&pair[0]), words(&pair[1]))).collect()
        };
        let mine = plan.frontends.iter().filter(|(frontend, _)| frontend.family() == family);
        let (mut verdicts, mut backends) = (BTreeMap::new(), BTreeMap::new());
        for (frontend, balancer) in mine {
            let protocol = frontend.protocol.to_string().to_lowercase();
            let key = format!("{} {protocol} {}", frontend.address, frontend.port);
            let endpoints = balancer.target.backends();
            let chain = match (endpoints.len(), balancer.affinity) {
                (0, _) => "refuse".to_owned(),
                (count, None) => format!("pick-{count}"),
                (count, Some(_)) => format!("stick-{count}"),
            };
            verdicts.insert(key.clone(), format!("goto {chain}"));
            for (index, endpoint) in endpoints.iter().enumerate() {
                backends.insert(format!("{key} {index}"), format!("{} {}", endpoint.address, endpoint.port));
            }
        }
        assert_eq!(listed("services"), verdicts);
        assert_eq!(listed("backends"), backends);
    }
}

/// The values of an element, or what it leads to, as words.
fn words(value: &Value) -> String {
    match value {
        Value::Object(fields) => match fields.iter().next().unwrap() {
            (name, target) if name == "goto" => format!("goto {}", target["target"].as_str().unwrap()),
            (name, value) if name == "elem" => words(&value["val"]),
            (_, value) => words(value),
        },
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(" "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn a_kernel_that_holds_it_already_is_left_alone() {
    let mut scene = full();
    let before = state(&scene.node);
    assert!(scene.reconcile().is_quiet());
    scene.kernel.doubt_services();
    let report = scene.reconcile();
    assert!(report.is_quiet(), "{report}");
    scene.restart();
    let report = scene.reconcile();
    assert!(report.is_quiet(), "{report}");
    assert_same(&state(&scene.node), &before, "nothing");
}

/// What others can do to the table of a family. TABLE, SERVICE, POD and OTHER stand for what the family has.
const DAMAGE: [(&str, &str); 23] = [
    ("a service deleted", "delete element TABLE services { SERVICE . tcp . 80 }"),
    (
        "a service led elsewhere",
        "delete element TABLE services { SERVICE . tcp . 80 };
         add element TABLE services { SERVICE . tcp . 80 : goto refuse }",
    ),
    ("a service made", "add element TABLE services { OTHER . udp . 53 : goto pick-1 }"),
    ("a service let through", "add element TABLE services { OTHER . udp . 53 : accept }"),
    ("all services deleted", "flush map TABLE services"),
    ("an endpoint deleted", "delete element TABLE backends { SERVICE . udp . 80 . 1 }"),
    (
        "an endpoint led elsewhere",
        "delete element TABLE backends { SERVICE . udp . 80 . 1 };
         add element TABLE backends { SERVICE . udp . 80 . 1 : OTHER . 8080 }",
    ),
    ("an endpoint made", "add element TABLE backends { SERVICE . udp . 80 . 9 : OTHER . 8080 }"),
    ("all sources let in", "flush set TABLE restricted"),
    ("another range of pods", "add element TABLE cluster-pods { OTHER }"),
    ("no range of services", "flush set TABLE service-ranges"),
    ("a pod that may reach others", "add element TABLE hairpin { POD . OTHER }"),
    ("affinity without end", "flush map TABLE sticky"),
    ("a chain", "add chain TABLE extra"),
    ("a chain that is used", "add chain TABLE extra; add rule TABLE balance jump extra"),
    (
        "a chain that a service leads to",
        "add chain TABLE extra; add element TABLE services { OTHER . udp . 53 : goto extra }",
    ),
    ("a rule", "insert rule TABLE balance accept"),
    ("no rules", "flush table TABLE"),
    ("rules gone from a chain", "flush chain TABLE pick-3"),
    (
        "a chain attached elsewhere",
        "delete chain TABLE remember-out;
         add chain TABLE remember-out { type filter hook output priority 0; }",
    ),
    ("a chain that drops", "add chain TABLE unserved-forward { policy drop; }"),
    ("a set", "add set TABLE extra { type inet_service; }"),
    (
        "a set of another type",
        "flush chain TABLE postrouting; delete set TABLE hairpin; add set TABLE hairpin { type mark; }",
    ),
];

fn damage(scene: &Scene, family: Family, commands: &str) {
    let [service, pod, other] = match family {
        Family::V4 => ["10.96.0.10", "10.128.0.2", "192.0.2.7"],
        Family::V6 => ["fd00:96::a", "fd00:10::2", "2001:db8:7::7"],
    };
    let commands = commands
        .replace("TABLE", &format!("{} cambric-services", table(family)))
        .replace("SERVICE", service)
        .replace("POD", pod)
        .replace("OTHER", other);
    scene.node.run_words(&["nft", &commands]);
}

#[test]
fn what_others_did_is_put_right() {
    let mut scene = full();
    let good = state(&scene.node);
    for (what, commands) in DAMAGE {
        for family in Family::BOTH {
            damage(&scene, family, commands);
        }
        assert_ne!(state(&scene.node), good, "{what} is no damage");
        scene.kernel.doubt_services();
        let report = scene.reconcile();
        assert!(report.writes() > 0, "{what}");
        assert_same(&state(&scene.node), &good, what);
        assert!(scene.reconcile().is_quiet());
    }
    for family in Family::BOTH {
        scene.node.run(&format!("nft delete table {} cambric-services", table(family)));
    }
    scene.restart();
    scene.reconcile();
    assert_same(&state(&scene.node), &good, "the tables were deleted");
}

/// A change that cannot be carried out leads to a comparison, and that to the plan.
#[test]
fn a_change_on_what_is_not_there_is_made_good() {
    let mut scene = full();
    let slices = scene.slices(&service(10, &Protocol::ALL), &[1]);
    scene.node.run("nft flush map ip cambric-services backends");
    let mut change = plan::Change::default();
    for input in slices {
        change.extend(scene.planner.update(input));
    }
    let report = {
        let _guard = scene.node.enter();
        scene.kernel.apply(&change).unwrap()
    };
    assert!(report.services.is_some(), "{report}");
    scene.reconcile();
    let after = state(&scene.node);
    scene.restart();
    assert!(scene.reconcile().is_quiet());
    for family in Family::BOTH {
        scene.node.run(&format!("nft delete table {} cambric-services", table(family)));
    }
    scene.restart();
    scene.reconcile();
    assert_same(&used(&state(&scene.node)), &used(&after), "it was made in two ways");
}

/// A state without the chains that no element leads to.
fn used(state: &str) -> String {
    let leads_nowhere = |line: &&str| {
        let names = line.split(['"', ' ']).filter(|word| picker_of(word).is_some());
        let unused = |name: &str| !state.contains(&format!("{{\"target\":\"{name}\"}}"));
        let mut names = names.peekable();
        names.peek().is_some() && !line.contains("\"goto\"") && names.all(unused)
    };
    state.lines().filter(|line| !leads_nowhere(line)).collect::<Vec<_>>().join("\n")
}

/// However the services come and go, what is there is what a new start would make.
#[test]
fn changes_lead_where_a_new_start_would() {
    let mut scene = full();
    for step in 0..6 {
        match step {
            0 => drop(scene.serve(&service(10, &[Protocol::Udp]), &[0])),
            1 => drop(scene.update([Input::ServiceGone(service(12, &[]).name)])),
            2 => drop(scene.serve(
                &Service { affinity: Some(Duration::from_secs(9)), ..service(11, &[Protocol::Tcp]) },
                &[0, 1, 2],
            )),
            3 => drop(scene.serve(&service(14, &[Protocol::Tcp, Protocol::Udp]), &[1])),
            4 => drop(scene.serve(&service(13, &[Protocol::Tcp]), &[])),
            _ => drop(scene.update([Input::ServiceGone(service(11, &[]).name)])),
        }
        scene.restart();
        let report = scene.reconcile();
        assert!(report.is_quiet(), "step {step}: {report}");
        let whole = used(&state(&scene.node));
        for family in Family::BOTH {
            scene.node.run(&format!("nft delete table {} cambric-services", table(family)));
        }
        scene.restart();
        scene.reconcile();
        assert_same(&whole, &used(&state(&scene.node)), "a new start");
    }
}
