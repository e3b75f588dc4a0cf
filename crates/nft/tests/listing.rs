//! What this crate puts into the kernel reads well in `nft list`, loads again, and reads back here.

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

        assert_eq!(
            listing(),
            r#"table ip cambric {
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
}
"#
        );
        let mut snapshot = socket.snapshot(&table).unwrap();
        snapshot.sets.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        let _ = json();
    });
}
