//! Rules read in `nft list` as what they were built to be, and load again.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails them")]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::{in_namespace, listing, run};
use nft::*;

const TCP: Value = Value::proto(6);
const UDP: Value = Value::proto(17);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> Value {
    Value::ifname(text).unwrap()
}

/// Puts rules into a base chain of a table with the sets that they use, one by one, and compares each with how `nft`
/// lists it.
fn check(chain: &Chain, sets: &[Set], rules: &[(Rule, &str)]) {
    let mut socket = Socket::open().unwrap();
    let mut batch = Batch::new();
    batch.add_table(&chain.table);
    batch.add_chain(chain);
    batch.add_chain(&Chain::new(&chain.table, "next"));
    sets.iter().for_each(|set| batch.add_set(set));
    socket.commit(batch).unwrap();
    for (rule, text) in rules {
        let mut batch = Batch::new();
        batch.add_rule(rule);
        if let Err(error) = socket.commit(batch) {
            panic!("{text}: {error}");
        }
    }
    listing();
    let listing = run(&format!("nft list {}", chain.table));
    let chain_start = format!("\tchain {} {{\n", chain.name);
    let (_, body) = listing.split_once(&chain_start).unwrap();
    let (body, _) = body.split_once("\n\t}\n").unwrap();
    let listed: Vec<&str> = body.lines().skip(1).map(str::trim).collect();
    let wanted: Vec<&str> = rules.iter().map(|(_, text)| *text).collect();
    assert_eq!(listed, wanted, "\n{listing}");

    let found = socket.rules(&chain.table).unwrap();
    let tags: Vec<_> = found.iter().filter(|rule| rule.chain == chain.name).map(|rule| rule.tag).collect();
    let wanted: Vec<_> = rules.iter().map(|(rule, _)| Some(rule.tag())).collect();
    assert_eq!(tags, wanted);
}

#[test]
fn matches() {
    in_namespace(|| {
        let table = Table::new(Family::Ip, "t");
        let chain = Chain::base(&table, "pre", ChainType::Filter, Hook::Prerouting, priority::FILTER);
        let sets = [
            Set::new(&table, "pods", [Type::Ipv4Addr]).interval(),
            Set::new(&table, "addresses", [Type::Ifname, Type::Ipv4Addr]),
            Set::verdict_map(&table, "services", [Type::Ipv4Addr, Type::InetProto, Type::InetService]),
            Set::map(&table, "marks", [Type::Ipv4Addr], [Type::Mark]),
        ];
        let on = || Rule::new(&chain);
        let when = |condition: Match| on().when(condition).accept();
        let services = || vec![ip::daddr(), meta::l4proto(), th::dport()];
        let with_tcp = || on().when(meta::l4proto().is(TCP));
        check(
            &chain,
            &sets,
            &[
                (when(meta::iifname().is(name("eth0"))), "iifname \"eth0\" accept"),
                (when(meta::iifname().starts_with("cbv")), "iifname \"cbv*\" accept"),
                (when(meta::iifname().starts_not_with("cbv")), "iifname != \"cbv*\" accept"),
                (when(meta::iif().is(Value::iface_index(1))), "iif \"lo\" accept"),
                (when(meta::l4proto().is_not(UDP)), "meta l4proto != udp accept"),
                (when(meta::protocol().is(ether::IP)), "meta protocol ip accept"),
                (when(meta::mark().is(Value::mark(7))), "meta mark 0x00000007 accept"),
                (when(meta::mark().has(Value::mark(0x4000))), "meta mark & 0x00004000 != 0x00000000 accept"),
                (
                    when(meta::mark().and(Value::mark(0xff)).is(Value::mark(3))),
                    "meta mark & 0x000000ff == 0x00000003 accept",
                ),
                (when(ip::saddr().is(Ipv4Addr::new(10, 0, 0, 1))), "ip saddr 10.0.0.1 accept"),
                (when(ip::saddr().within(ip("10.0.9.9"), 12)), "ip saddr 10.0.0.0/12 accept"),
                (when(ip::daddr().not_within(ip("10.1.0.0"), 16)), "ip daddr != 10.1.0.0/16 accept"),
                (when(ip::daddr().within(ip("10.1.2.3"), 32)), "ip daddr 10.1.2.3 accept"),
                (
                    when(ip::daddr().between(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 5))),
                    "ip daddr 10.0.0.1-10.0.0.5 accept",
                ),
                (when(ip::protocol().is(UDP)), "ip protocol udp accept"),
                (with_tcp().when(th::dport().is(Value::port(80))).drop(), "tcp dport 80 drop"),
                (
                    with_tcp().when(th::dport().not_between(Value::port(5), Value::port(9))).drop(),
                    "tcp dport != 5-9 drop",
                ),
                (with_tcp().when(th::sport().at_least(Value::port(1024))).drop(), "tcp sport >= 1024 drop"),
                (
                    with_tcp().when(tcp::flags().and(tcp::SYN | tcp::ACK).is(tcp::SYN)).drop(),
                    "tcp flags syn / syn,ack drop",
                ),
                (
                    on().when(meta::l4proto().is(Value::proto(1)))
                        .when(icmp::kind().is(icmp::message(8)))
                        .drop(),
                    "icmp type echo-request drop",
                ),
                (when(ct::state().has(ct::ESTABLISHED | ct::RELATED)), "ct state established,related accept"),
                (when(ct::state().lacks(ct::INVALID)), "ct state ! invalid accept"),
                (when(ct::status().has(ct::DNAT)), "ct status dnat accept"),
                (when(ct::direction().is(ct::TO_CLIENT)), "ct direction reply accept"),
                (when(ct::mark().is(Value::mark(1))), "ct mark 0x00000001 accept"),
                (
                    when(ct::original_daddr(Family::Ip).is(Ipv4Addr::LOCALHOST)),
                    "ct original ip daddr 127.0.0.1 accept",
                ),
                (
                    with_tcp().when(ct::original_dport().is(Value::port(80))).drop(),
                    "meta l4proto tcp ct original proto-dst 80 drop",
                ),
                (when(fib::address_type(fib::DADDR).is(fib::LOCAL)), "fib daddr type local accept"),
                (
                    when(fib::oif(fib::SADDR | fib::IIF).is(Value::iface_index(0))),
                    "fib saddr . iif oif 0 accept",
                ),
                (when(numgen::random(3).is(Value::index(0))), "numgen random mod 3 0 accept"),
                (when(numgen::incremental(3).is(Value::index(1))), "numgen inc mod 3 1 accept"),
                (
                    when(hash::jhash(ip::saddr(), 4, 0xdead_beef).is(Value::index(1))),
                    "jhash ip saddr mod 4 seed 0xdeadbeef 1 accept",
                ),
                (
                    when(hash::jhash([ip::saddr(), ip::daddr()], 4, 1).is(Value::index(1))),
                    "jhash ip saddr . ip daddr mod 4 seed 0x1 1 accept",
                ),
                (when(hash::symhash(4).is(Value::index(1))), "symhash mod 4 1 accept"),
                (when(Match::in_set(ip::saddr(), "pods")), "ip saddr @pods accept"),
                (when(Match::not_in_set(ip::saddr(), "pods")), "ip saddr != @pods accept"),
                (
                    when(Match::not_in_set([meta::iifname(), ip::saddr()], "addresses")),
                    "iifname . ip saddr != @addresses accept",
                ),
                (on().vmap(services(), "services"), "ip daddr . meta l4proto . th dport vmap @services"),
                (on().counter().ret(), "counter packets 0 bytes 0 return"),
                (on().jump("next"), "jump next"),
                (on().goto("next"), "goto next"),
                (on().comment("the \"why\" of it").drop(), "drop comment \"the 'why' of it\""),
                (on().set_mark(meta::mark().or(Value::mark(0x4000))), "meta mark set meta mark | 0x00004000"),
                (on().set_mark(Field::value(Value::mark(9))), "meta mark set 0x00000009"),
                (on().set_mark(ct::mark()), "meta mark set ct mark"),
                (on().set_ct_mark(meta::mark()), "ct mark set meta mark"),
                (
                    on().set_mark(Field::map(ip::saddr(), "marks", Type::Mark)),
                    "meta mark set ip saddr map @marks",
                ),
                (
                    on().limit(10, Duration::from_secs(1), 50).accept(),
                    "limit rate 10/second burst 50 packets accept",
                ),
                (on().trace(), "meta nftrace set 1"),
            ],
        );
    });
}

#[test]
fn ipv6_matches() {
    in_namespace(|| {
        let table = Table::new(Family::Ip6, "t");
        let chain = Chain::base(&table, "pre", ChainType::Filter, Hook::Prerouting, priority::FILTER);
        let sets = [
            Set::new(&table, "pods", [Type::Ipv6Addr]).interval(),
            Set::verdict_map(&table, "services", [Type::Ipv6Addr, Type::InetProto, Type::InetService]),
        ];
        let on = || Rule::new(&chain);
        let when = |condition: Match| on().when(condition).accept();
        let address = "fd00::1".parse::<Ipv6Addr>().unwrap();
        check(
            &chain,
            &sets,
            &[
                (when(ip6::saddr().is(address)), "ip6 saddr fd00::1 accept"),
                (when(ip6::saddr().within(ip("fd00:1::9"), 64)), "ip6 saddr fd00:1::/64 accept"),
                (when(ip6::daddr().not_within(ip("fe80::"), 10)), "ip6 daddr != fe80::/10 accept"),
                (when(Match::in_set(saddr(Family::Ip6), "pods")), "ip6 saddr @pods accept"),
                (
                    on().vmap([daddr(Family::Ip6), meta::l4proto(), th::dport()], "services"),
                    "ip6 daddr . meta l4proto . th dport vmap @services",
                ),
                (when(ip6::nexthdr().is(TCP)), "ip6 nexthdr tcp accept"),
                (
                    on().when(meta::l4proto().is(Value::proto(58)))
                        .when(icmp::kind6().is(icmp::message6(135)))
                        .accept(),
                    "icmpv6 type nd-neighbor-solicit accept",
                ),
                (when(ct::original_saddr(Family::Ip6).is(address)), "ct original ip6 saddr fd00::1 accept"),
                (
                    when(hash::jhash([ip6::saddr(), ip6::daddr()], 4, 1).is(Value::index(1))),
                    "jhash ip6 saddr . ip6 daddr mod 4 seed 0x1 1 accept",
                ),
                (on().reject(Reject::PortUnreachable), "reject"),
                (on().reject(Reject::NoRoute), "reject with icmpv6 no-route"),
                (on().reject(Reject::HostUnreachable), "reject with icmpv6 addr-unreachable"),
                (on().reject(Reject::AdminProhibited), "reject with icmpv6 admin-prohibited"),
            ],
        );
    });
}

#[test]
fn statements_of_nat_chains() {
    in_namespace(|| {
        for (family, one, two, map) in
            [(Family::Ip, "10.0.0.1", "10.0.0.9", "ip"), (Family::Ip6, "fd00::1", "fd00::9", "ip6")]
        {
            let table = Table::new(family, "t");
            let pre = Chain::base(&table, "pre", ChainType::Nat, Hook::Prerouting, priority::DSTNAT);
            let post = Chain::base(&table, "post", ChainType::Nat, Hook::Postrouting, priority::SRCNAT);
            let address = if family == Family::Ip { Type::Ipv4Addr } else { Type::Ipv6Addr };
            let key = [address, Type::InetProto, Type::InetService, Type::Index];
            let sets = [
                Set::map(&table, "backends", key, [address, Type::InetService]),
                Set::map(&table, "sources", [address], [address]),
            ];
            let pick = |count| vec![daddr(family), meta::l4proto(), th::dport(), numgen::random(count)];
            let on = || Rule::new(&pre);
            let bracketed = if family == Family::Ip { one.to_owned() } else { format!("[{one}]") };
            let rules = [
                (
                    on().dnat(Nat::map_with_port(family, pick(3), "backends")),
                    format!(
                        "dnat {map} to {map} daddr . meta l4proto . th dport . numgen random mod 3 map @backends"
                    ),
                ),
                (
                    on().when(meta::l4proto().is(TCP)).dnat(Nat::to_port(ip(one), 80).persistent()),
                    format!("meta l4proto tcp dnat to {bracketed}:80 persistent"),
                ),
                (on().dnat(Nat::to(ip(one))), format!("dnat to {one}")),
            ];
            let rules: Vec<_> = rules.iter().map(|(rule, text)| (rule.clone(), &text[..])).collect();
            check(&pre, &sets, &rules);

            let on = || Rule::new(&post);
            let rules = [
                (on().masquerade(PortChoice::FullyRandom), "masquerade fully-random".to_owned()),
                (on().masquerade(PortChoice::Keep), "masquerade".to_owned()),
                (on().snat(Nat::to_range(ip(one), ip(two))), format!("snat to {one}-{two}")),
                (
                    on().snat(Nat::to(ip(one)).ports(PortChoice::FullyRandom)),
                    format!("snat to {one} fully-random"),
                ),
                (
                    on().snat(Nat::map(family, saddr(family), "sources")),
                    format!("snat to {map} saddr map @sources"),
                ),
            ];
            let rules: Vec<_> = rules.iter().map(|(rule, text)| (rule.clone(), &text[..])).collect();
            check(&post, &[], &rules);
        }
    });
}

#[test]
fn other_statements_and_families() {
    in_namespace(|| {
        let table = Table::new(Family::Ip, "t");
        let raw = Chain::base(&table, "raw", ChainType::Filter, Hook::Prerouting, priority::RAW);
        let affinity = Set::new(&table, "clients", [Type::Ipv4Addr, Type::InetService])
            .dynamic()
            .default_timeout(Duration::from_secs(10800))
            .size(65536);
        let choices =
            Set::map(&table, "choices", [Type::Ipv4Addr], [Type::Ipv4Addr]).dynamic().timeouts().size(9);
        let on = || Rule::new(&raw);
        let key = || vec![ip::saddr(), th::dport()];
        check(
            &raw,
            &[affinity, choices],
            &[
                (on().notrack(), "notrack"),
                (on().when(ct::state().has(ct::UNTRACKED)).accept(), "ct state untracked accept"),
                (on().reject(Reject::PortUnreachable), "reject"),
                (on().reject(Reject::AdminProhibited), "reject with icmp admin-prohibited"),
                (on().when(meta::l4proto().is(TCP)).reject(Reject::TcpReset), "reject with tcp reset"),
                (on().update("clients", key(), None), "update @clients { ip saddr . th dport }"),
                (
                    on().update("clients", key(), Some(Duration::from_secs(10))),
                    "update @clients { ip saddr . th dport timeout 10s }",
                ),
                (
                    on().update_map("choices", ip::saddr(), ip::daddr(), None),
                    "update @choices { ip saddr : ip daddr }",
                ),
            ],
        );

        let table = Table::new(Family::Inet, "t");
        let forward =
            Chain::base(&table, "forward", ChainType::Filter, Hook::Forward, -5).policy(Policy::Drop);
        let on = || Rule::new(&forward);
        check(
            &forward,
            &[],
            &[
                (
                    on().when(meta::nfproto().is(meta::IPV4))
                        .when(ip::saddr().is(Ipv4Addr::LOCALHOST))
                        .drop(),
                    "ip saddr 127.0.0.1 drop",
                ),
                (
                    on().when(meta::nfproto().is(meta::IPV6))
                        .when(ip6::saddr().is(Ipv6Addr::LOCALHOST))
                        .drop(),
                    "ip6 saddr ::1 drop",
                ),
                (on().reject(Reject::AdminProhibited), "reject with icmpx admin-prohibited"),
            ],
        );

        let table = Table::new(Family::Bridge, "t");
        let bridge = Chain::base(&table, "br", ChainType::Filter, Hook::Prerouting, priority::BRIDGE_FILTER);
        let pods = [
            Set::new(&table, "pods", [Type::Ifname, Type::EtherAddr, Type::Ipv4Addr]),
            Set::new(&table, "pods6", [Type::Ifname, Type::EtherAddr, Type::Ipv6Addr]),
        ];
        let on = || Rule::new(&bridge);
        check(
            &bridge,
            &pods,
            &[
                (on().when(ether::kind().is(ether::ARP)).accept(), "ether type arp accept"),
                (
                    on().when(meta::protocol().is(ether::ARP))
                        .when(Match::not_in_set(
                            [meta::iifname(), arp::saddr_ether(), arp::saddr_ip()],
                            "pods",
                        ))
                        .drop(),
                    "iifname . arp saddr ether . arp saddr ip != @pods drop",
                ),
                (
                    on().when(meta::protocol().is(ether::IP))
                        .when(Match::not_in_set([meta::iifname(), ether::saddr(), ip::saddr()], "pods"))
                        .drop(),
                    "iifname . ether saddr . ip saddr != @pods drop",
                ),
                (
                    on().when(meta::protocol().is(ether::IP6))
                        .when(Match::not_in_set([meta::iifname(), ether::saddr(), ip6::saddr()], "pods6"))
                        .drop(),
                    "iifname . ether saddr . ip6 saddr != @pods6 drop",
                ),
                (
                    on().when(ether::saddr().is(Value::ether([2, 0, 0, 0, 0, 1]))).drop(),
                    "ether saddr 02:00:00:00:00:01 drop",
                ),
            ],
        );
    });
}
