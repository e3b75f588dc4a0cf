//! What this crate puts into the kernel reads well in `nft list`, loads again, and reads back here.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails them")]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::{in_namespace, json, listing};
use nft::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(text: &str) -> Value {
    text.parse::<Ipv4Addr>().unwrap().into()
}

fn v6(text: &str) -> Value {
    text.parse::<Ipv6Addr>().unwrap().into()
}

fn name(text: &str) -> Value {
    Value::ifname(text).unwrap()
}

const TCP: Value = Value::proto(6);

#[test]
fn sets_and_maps() {
    in_namespace(|| {
        let table = Table::new(Family::Ip, "cambric");
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_chain(&Chain::new(&table, "pick-3"));
        let sets = [
            (
                Set::new(&table, "pods", [Type::Ipv4Addr]).interval().comment("pod networks"),
                vec![
                    Element::prefix(ip("10.244.0.0"), 24).comment("node-1"),
                    Element::prefix(ip("10.244.1.0"), 24),
                    Element::range(v4("10.250.0.1"), v4("10.250.0.9")),
                    Element::new(v4("10.251.0.1")),
                    Element::prefix(ip("240.0.0.0"), 4),
                ],
            ),
            (
                Set::new(&table, "addresses", [Type::Ifname, Type::Ipv4Addr]),
                vec![Element::new([name("cbv1"), v4("10.244.0.2")]).comment("default/web")],
            ),
            (
                Set::new(&table, "ranges", [Type::Ipv4Addr, Type::InetService]).interval(),
                vec![Element::range([v4("10.0.0.0"), Value::port(1)], [v4("10.0.0.255"), Value::port(9)])],
            ),
            (
                Set::new(&table, "clients", [Type::Ipv4Addr]).timeouts().size(65535),
                vec![Element::new(v4("10.0.0.1")).timeout(Duration::from_secs(3600))],
            ),
            (
                Set::verdict_map(&table, "services", [Type::Ipv4Addr, Type::InetProto, Type::InetService]),
                vec![
                    Element::new([v4("10.96.0.1"), TCP, Value::port(443)])
                        .data(Verdict::goto("pick-3"))
                        .comment("default/kubernetes"),
                ],
            ),
            (
                Set::map(
                    &table,
                    "backends",
                    [Type::Ipv4Addr, Type::InetProto, Type::InetService, Type::Index],
                    [Type::Ipv4Addr, Type::InetService],
                )
                .comment("endpoints"),
                vec![
                    Element::new([v4("10.96.0.1"), TCP, Value::port(443), Value::index(1)])
                        .data([v4("10.244.0.2"), Value::port(6443)]),
                ],
            ),
            (
                Set::verdict_map(&table, "draws", [Type::Ipv4Addr, Type::Index]),
                vec![Element::new([v4("10.96.0.1"), Value::index(1)]).data(Verdict::Accept)],
            ),
            (
                Set::map(&table, "marks", [Type::Mark], [Type::Ipv4Addr]),
                vec![Element::new(Value::mark(7)).data(v4("10.0.0.1"))],
            ),
        ];
        for (set, elements) in &sets {
            batch.add_set(set);
            batch.add_elements(set, elements);
        }
        let mut socket = Socket::open().unwrap();
        socket.commit(batch).unwrap();

        // The time that is left changes from run to run.
        let text = listing();
        let (before, after) = text.split_once(" expires ").unwrap();
        let (_, after) = after.split_once(' ').unwrap();
        assert_eq!(format!("{before} {after}"), LISTED);

        let snapshot = socket.snapshot(&table).unwrap();
        assert!(snapshot.exists);
        assert_eq!(snapshot.generation, socket.generation().unwrap());
        let sorted = |mut elements: Vec<Element>| {
            elements.sort_by(|a, b| a.key.cmp(&b.key));
            elements
        };
        let by_name = |mut sets: Vec<(Set, Vec<Element>)>| {
            sets.sort_by(|a, b| a.0.name.cmp(&b.0.name));
            sets.into_iter().map(|(set, elements)| (set, sorted(elements))).collect::<Vec<_>>()
        };
        assert_eq!(by_name(snapshot.sets), by_name(sets.into()));
    });
}

const LISTED: &str = r#"table ip cambric {
	set pods {
		type ipv4_addr
		flags interval
		comment "pod networks"
		elements = { 10.244.0.0/24 comment "node-1", 10.244.1.0/24,
			     10.250.0.1-10.250.0.9, 10.251.0.1,
			     240.0.0.0/4 }
	}

	set addresses {
		type ifname . ipv4_addr
		elements = { "cbv1" . 10.244.0.2 comment "default/web" }
	}

	set ranges {
		type ipv4_addr . inet_service
		flags interval
		elements = { 10.0.0.0/24 . 1-9 }
	}

	set clients {
		type ipv4_addr
		size 65535
		flags timeout
		elements = { 10.0.0.1 timeout 1h }
	}

	map services {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.1 . tcp . 443 comment "default/kubernetes" : goto pick-3 }
	}

	map backends {
		typeof ip daddr . meta l4proto . th dport . numgen random mod 65536 : ip daddr . th dport
		comment "endpoints"
		elements = { 10.96.0.1 . tcp . 443 . 1 : 10.244.0.2 . 6443 }
	}

	map draws {
		typeof ip daddr . numgen random mod 65536 : verdict
		elements = { 10.96.0.1 . 1 : accept }
	}

	map marks {
		type mark : ipv4_addr
		elements = { 0x00000007 : 10.0.0.1 }
	}

	chain pick-3 {
	}
}
"#;

#[test]
fn ipv6_sets_and_maps() {
    in_namespace(|| {
        let table = Table::new(Family::Ip6, "cambric");
        let pods = Set::new(&table, "pods", [Type::Ipv6Addr]).interval();
        let backends = Set::map(
            &table,
            "backends",
            [Type::Ipv6Addr, Type::InetProto, Type::InetService, Type::Index],
            [Type::Ipv6Addr, Type::InetService],
        );
        let guard = Set::new(&table, "addresses", [Type::Ifname, Type::EtherAddr, Type::Ipv6Addr]);
        let sources = Set::new(&table, "sources", [Type::Ipv6Addr, Type::InetService]).interval();
        let pod_networks = [
            Element::prefix(ip("fd00:10:244::"), 64),
            Element::prefix(ip("fd00:10:244:1::"), 64),
            Element::prefix(ip("ff00::"), 8),
        ];
        let backend = Element::new([v6("fd00::1"), TCP, Value::port(443), Value::index(0x0102)])
            .data([v6("fd00:10:244::2"), Value::port(6443)]);
        let address = Element::new([name("cbv1"), Value::ether([2, 0, 0, 0, 0, 9]), v6("fd00::9")]);
        let source = Element::range([v6("fd00::"), Value::port(80)], [v6("fd00::ffff"), Value::port(80)]);
        let mut batch = Batch::new();
        batch.add_table(&table);
        for set in [&pods, &backends, &guard, &sources] {
            batch.add_set(set);
        }
        batch.add_elements(&pods, &pod_networks);
        batch.add_elements(&backends, [&backend]);
        batch.add_elements(&guard, [&address]);
        batch.add_elements(&sources, [&source]);
        let mut socket = Socket::open().unwrap();
        socket.commit(batch).unwrap();
        assert_eq!(
            listing(),
            r#"table ip6 cambric {
	set pods {
		type ipv6_addr
		flags interval
		elements = { fd00:10:244::/64,
			     fd00:10:244:1::/64,
			     ff00::/8 }
	}

	map backends {
		typeof ip6 daddr . meta l4proto . th dport . numgen random mod 65536 : ip6 daddr . th dport
		elements = { fd00::1 . tcp . 443 . 258 : fd00:10:244::2 . 6443 }
	}

	set addresses {
		type ifname . ether_addr . ipv6_addr
		elements = { "cbv1" . 02:00:00:00:00:09 . fd00::9 }
	}

	set sources {
		type ipv6_addr . inet_service
		flags interval
		elements = { fd00::/112 . 80 }
	}
}
"#
        );
        assert_eq!(socket.elements(&pods).unwrap(), pod_networks);
        assert_eq!(socket.elements(&backends).unwrap(), [backend]);
        assert_eq!(socket.elements(&guard).unwrap(), [address]);
        assert_eq!(socket.elements(&sources).unwrap(), [source]);

        // Ranges that touch go one by one.
        let mut batch = Batch::new();
        batch.delete_element(&pods, &pod_networks[0]);
        batch.delete_elements(&pods, [&pod_networks[2]]);
        socket.commit(batch).unwrap();
        assert_eq!(socket.elements(&pods).unwrap(), [pod_networks[1].clone()]);
    });
}

#[test]
fn chains_as_json() {
    in_namespace(|| {
        let table = Table::new(Family::Bridge, "guard");
        let chains = [
            Chain::base(&table, "pre", ChainType::Filter, Hook::Prerouting, priority::BRIDGE_FILTER)
                .policy(Policy::Drop)
                .comment("only own addresses"),
            Chain::new(&table, "pod").comment("one pod"),
        ];
        let mut batch = Batch::new();
        batch.add_table(&table);
        chains.iter().for_each(|chain| batch.add_chain(chain));
        let rule = Rule::new(&chains[1]).counter().comment("counts");
        batch.add_rule(&rule);
        let mut socket = Socket::open().unwrap();
        socket.commit(batch).unwrap();

        let ruleset = json();
        let objects = ruleset["nftables"].as_array().unwrap();
        let chain = &objects[2]["chain"];
        assert_eq!(chain["name"], "pre", "{ruleset:#}");
        assert_eq!(chain["type"], "filter");
        assert_eq!(chain["hook"], "prerouting");
        assert_eq!(chain["prio"], -200);
        assert_eq!(chain["policy"], "drop");
        let listed = objects.last().unwrap();
        assert_eq!(listed["rule"]["comment"], "counts", "{ruleset:#}");
        assert!(listing().contains("comment \"only own addresses\""));

        assert_eq!(socket.tables().unwrap(), std::slice::from_ref(&table));
        assert_eq!(socket.chains(&table).unwrap(), chains);
        let rules = socket.rules(&table).unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].comment, Some("counts".into()));
        assert_eq!(rules[0].tag, Some(rule.tag()));
        assert_eq!(rules[0].handle, listed["rule"]["handle"].as_u64().unwrap());
        assert_eq!(rules[0].counter, Some(Counter::default()));

        let missing = Table::new(Family::Ip, "missing");
        let snapshot = socket.snapshot(&missing).unwrap();
        assert!(!snapshot.exists && snapshot.chains.is_empty());
        assert!(socket.sets(&missing).unwrap().is_empty());
        assert!(socket.rules(&missing).unwrap().is_empty());
        assert!(socket.chains(&missing).unwrap().is_empty());
    });
}

#[test]
fn sets_of_others() {
    in_namespace(|| {
        common::run("nft add table inet other");
        common::run("nft add set inet other odd {typeof meta day . meta hour ;}");
        common::run("nft add set inet other plain {type ipv4_addr . mark ; flags interval;}");
        common::run("nft add element inet other plain {10.0.0.0/8 . 0x1}");
        common::run("nft add chain inet other c");
        common::run("nft add rule inet other c tcp dport {80, 443} accept");
        let mut socket = Socket::open().unwrap();
        let snapshot = socket.snapshot(&Table::new(Family::Inet, "other")).unwrap();
        let [odd, plain] = &snapshot.sets[..] else { panic!("{snapshot:?}") };
        assert!(odd.0.key.iter().all(|ty| matches!(ty, Type::Raw(_))), "{odd:?}");
        assert_eq!(plain.0.key, [Type::Ipv4Addr, Type::Mark]);
        assert_eq!(plain.1.len(), 1);
        assert_eq!(snapshot.rules.len(), 1);
        assert_eq!(snapshot.rules[0].tag, None);
    });
}
