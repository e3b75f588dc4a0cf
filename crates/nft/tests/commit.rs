//! Batches: all or nothing, refusals by name, generations, sizes.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails them")]

mod common;

use std::net::Ipv4Addr;
use std::time::Instant;

use common::{in_namespace, json, listing, run};
use nft::*;

fn table() -> Table {
    Table::new(Family::Ip, "cambric")
}

fn services(table: &Table) -> Set {
    Set::verdict_map(table, "services", [Type::Ipv4Addr, Type::InetProto, Type::InetService])
}

fn service(number: u32) -> Element {
    let address = Ipv4Addr::from(0x0a60_0000 + number / 4);
    let port = Value::port(80 + (number % 4) as u16);
    Element::new([address.into(), Value::proto(6), port]).data(Verdict::goto("pick-3"))
}

fn failures(error: Error) -> Vec<Failure> {
    match error {
        Error::Rejected(rejected) => rejected.failures,
        other => panic!("{other}"),
    }
}

#[test]
fn a_hundred_thousand_elements() {
    in_namespace(|| {
        const COUNT: u32 = 100_000;
        let table = table();
        let set = services(&table);
        let mut socket = Socket::open().unwrap();
        let start = Instant::now();
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_chain(&Chain::new(&table, "pick-3"));
        batch.add_set(&set);
        batch.add_elements(&set, (0..COUNT).map(service));
        let bytes = batch.byte_len();
        let encoded = start.elapsed();
        socket.commit(batch).unwrap();
        let committed = start.elapsed() - encoded;

        let start = Instant::now();
        let elements = socket.elements(&set).unwrap();
        let listed = start.elapsed();
        let mut wanted: Vec<Element> = (0..COUNT).map(service).collect();
        wanted.sort_by(|a, b| a.key.cmp(&b.key));
        assert!(elements == wanted, "{} elements listed", elements.len());

        let one = service(COUNT);
        let start = Instant::now();
        for _ in 0..100 {
            let mut batch = Batch::new();
            batch.add_elements(&set, [&one]);
            socket.commit(batch).unwrap();
            let mut batch = Batch::new();
            batch.delete_element(&set, &one);
            socket.commit(batch).unwrap();
        }
        let single = start.elapsed() / 200;

        let start = Instant::now();
        let mut batch = Batch::new();
        batch.delete_elements(&set, &elements);
        socket.commit(batch).unwrap();
        let deleted = start.elapsed();
        assert!(socket.elements(&set).unwrap().is_empty());
        println!(
            "{COUNT} elements, {bytes} bytes: encode {encoded:?}, commit {committed:?}, list {listed:?}, \
             delete {deleted:?}; one element {single:?}"
        );
    });
}

#[test]
fn a_batch_that_fails_changes_nothing_and_names_the_operation() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let table = table();
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_set(&services(&table));
        socket.commit(batch).unwrap();
        let before = json();
        let generation = socket.generation().unwrap();

        let mut batch = Batch::new();
        batch.add_chain(&Chain::new(&table, "one"));
        batch.delete_set(&table, "pods");
        batch.add_chain(&Chain::new(&table, "two"));
        batch.delete_chain(&table, "three");
        let error = socket.commit(batch).unwrap_err();
        assert_eq!(
            error.to_string(),
            "nftables batch refused, nothing changed: delete set pods in table ip cambric: No such file or directory \
             (os error 2) (and one further refusal)"
        );
        assert!(error.is_not_found());
        let failures = failures(error);
        assert_eq!(failures[0].index, Some(1));
        assert_eq!(failures[1].index, Some(3));
        assert_eq!(failures[1].operation, "delete chain three in table ip cambric");
        assert_eq!(json(), before);
        assert_eq!(socket.generation().unwrap(), generation);
    });
}

#[test]
fn each_kind_of_refused_operation_has_its_name() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let there = table();
        let chain = Chain::new(&there, "c");
        let set = services(&there);
        let mut batch = Batch::new();
        batch.add_table(&there);
        batch.add_chain(&chain);
        batch.add_set(&set);
        socket.commit(batch).unwrap();

        let missing = Table::new(Family::Ip6, "missing");
        let mut refusal = |build: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::new();
            build(&mut batch);
            let error = socket.commit(batch).unwrap_err();
            failures(error).remove(0).operation
        };
        assert_eq!(refusal(&|b| b.create_table(&there)), "add table ip cambric");
        assert_eq!(refusal(&|b| b.create_set(&set)), "add map services in table ip cambric");
        assert_eq!(refusal(&|b| b.delete_table(&missing)), "delete table ip6 missing");
        assert_eq!(refusal(&|b| b.flush_table(&missing)), "flush table ip6 missing");
        assert_eq!(refusal(&|b| b.flush_chain(&there, "x")), "flush chain x in table ip cambric");
        assert_eq!(refusal(&|b| b.flush_set(&there, "x")), "flush set x in table ip cambric");
        assert_eq!(refusal(&|b| b.add_chain(&Chain::new(&missing, "x"))), "add chain x in table ip6 missing");
        assert_eq!(
            refusal(&|b| b.delete_rule(&there, "c", 99)),
            "delete rule with handle 99 in chain c in table ip cambric"
        );
        let looks_up = Rule::new(&chain).when(Match::in_set(ip::saddr(), "x")).comment("spoofed");
        assert_eq!(
            refusal(&|b| b.add_rule(&looks_up)),
            "add rule \"spoofed\" to chain c in table ip cambric"
        );
        assert_eq!(
            refusal(&|b| b.replace_rule(&Rule::new(&chain).accept(), 98)),
            "add rule in place of handle 98 to chain c in table ip cambric"
        );
        // Of many elements, the one that is wrong: service 500 leads to a chain that does not exist.
        assert_eq!(
            refusal(&|b| {
                b.add_elements(
                    &set,
                    (0..2000).map(|n| {
                        let chain = if n == 1500 { "nowhere" } else { "c" };
                        service(n).data(Verdict::goto(chain))
                    }),
                );
            }),
            "add element 10.96.1.119 . tcp . 80 of map services in table ip cambric"
        );
        assert_eq!(
            refusal(&|b| b.delete_element(&set, &service(7))),
            "delete element 10.96.0.1 . tcp . 83 of map services in table ip cambric"
        );
    });
}

#[test]
fn what_cannot_be_sent_is_refused_with_the_reason() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let table = table();
        let chain = Chain::new(&table, "c");
        let mut refusal = |build: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::new();
            build(&mut batch);
            socket.commit(batch).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(&|b| b.add_table(&Table::new(Family::Ip, ""))),
            "nftables: table ip : the name must have 1 to 255 bytes, none of them NUL"
        );
        let key = [Type::Ipv6Addr, Type::Ipv6Addr, Type::Ipv6Addr, Type::Ipv6Addr, Type::Mark];
        assert_eq!(
            refusal(&|b| b.add_set(&Set::new(&table, "s", key))),
            "nftables: set s in table ip cambric: its key has 68 bytes, at most 64 fit"
        );
        assert_eq!(
            refusal(&|b| b.add_set(&Set::new(&table, "s", [Type::Mark]).interval())),
            "nftables: set s in table ip cambric: Mark is kept in host byte order and cannot be the key of an \
             interval set"
        );
        assert_eq!(
            refusal(&|b| b.add_elements(&services(&table), [Element::new(Value::port(80))])),
            "nftables: map services in table ip cambric: element 0x0050 has a key of 2 bytes, those of the map have \
             12"
        );
        assert_eq!(
            refusal(&|b| b.add_rule(&Rule::new(&chain).when(th::dport().is(Value::mark(80))))),
            "nftables: rule in chain c in table ip cambric: InetService compared or combined with 0x00000050 of type \
             Mark"
        );
        assert_eq!(
            refusal(&|b| {
                let key: Vec<Field> = (0..5).map(|_| ip6::saddr()).collect();
                b.add_rule(&Rule::new(&chain).vmap(key, "m"));
            }),
            "nftables: rule in chain c in table ip cambric: the fields of one key take more than 64 bytes"
        );
        assert_eq!(listing(), "");
    });
}

#[test]
fn a_stale_batch_is_refused_and_a_fresh_one_is_not() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let add = |name: &str| {
            let mut batch = Batch::new();
            batch.add_table(&Table::new(Family::Inet, name));
            batch
        };
        let generation = socket.generation().unwrap();
        socket.commit_at_generation(add("one"), generation).unwrap();
        let error = socket.commit_at_generation(add("two"), generation).unwrap_err();
        assert!(matches!(error, Error::Stale { expected } if expected == generation), "{error}");
        run("nft add table ip other");
        assert!(matches!(socket.commit_at_generation(add("two"), generation + 1), Err(Error::Stale { .. })));
        let generation = socket.generation().unwrap();
        socket.commit_at_generation(add("three"), generation).unwrap();
        let names: Vec<_> = socket.tables().unwrap().into_iter().map(|table| table.name).collect();
        assert_eq!(names, ["one", "other", "three"]);
    });
}

#[test]
fn rules_are_placed_replaced_and_deleted() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let table = table();
        let chain = Chain::new(&table, "c");
        let rule = |comment: &str| Rule::new(&chain).counter().comment(comment);
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_chain(&chain);
        batch.add_rule(&rule("b"));
        batch.add_rule(&rule("d"));
        batch.insert_rule(&rule("a"));
        socket.commit(batch).unwrap();

        let order = |socket: &mut Socket| -> String {
            socket
                .rules(&table)
                .unwrap()
                .iter()
                .map(|rule| rule.comment.as_deref().unwrap().to_owned())
                .collect()
        };
        assert_eq!(order(&mut socket), "abd");
        let rules = socket.rules(&table).unwrap();
        let mut batch = Batch::new();
        batch.add_rule_after(&rule("c"), rules[1].handle);
        batch.replace_rule(&rule("e"), rules[2].handle);
        batch.delete_rule(&table, "c", rules[0].handle);
        socket.commit(batch).unwrap();
        assert_eq!(order(&mut socket), "bce");

        let mut batch = Batch::new();
        batch.flush_chain(&table, "c");
        batch.add_rule(&rule("f").with_tag(42));
        socket.commit(batch).unwrap();
        let rules = socket.rules(&table).unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].tag, Some(42));
    });
}

#[test]
fn destroying_what_is_not_there_is_no_error() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let table = table();
        let mut batch = Batch::new();
        batch.destroy_table(&table);
        socket.commit(batch).unwrap();
        assert!(socket.tables().unwrap().is_empty());

        let set = services(&table);
        for _ in 0..2 {
            let mut batch = Batch::new();
            batch.add_table(&table);
            batch.destroy_chain(&table, "c");
            batch.destroy_set(&set);
            socket.commit(batch).unwrap();
            assert_eq!(listing(), "table ip cambric {\n}\n");
            let mut batch = Batch::new();
            let chain = Chain::new(&table, "c");
            batch.add_chain(&chain);
            batch.add_rule(&Rule::new(&chain).accept());
            batch.add_set(&set);
            socket.commit(batch).unwrap();
        }
        let mut batch = Batch::new();
        batch.destroy_table(&table);
        socket.commit(batch).unwrap();
        assert_eq!(listing(), "");
        socket.commit(Batch::new()).unwrap();
    });
}

#[test]
fn an_element_changes_what_it_holds_within_one_batch() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let table = table();
        let set = services(&table);
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_chain(&Chain::new(&table, "pick-3"));
        batch.add_set(&set);
        batch.add_elements(&set, [service(1)]);
        socket.commit(batch).unwrap();

        let changed = service(1).data(Verdict::Drop);
        let mut batch = Batch::new();
        batch.add_elements(&set, [&changed]);
        let failure = failures(socket.commit(batch).unwrap_err()).remove(0);
        assert_eq!(failure.errno, libc::EEXIST, "{failure}");

        let mut batch = Batch::new();
        batch.delete_element(&set, &changed);
        batch.add_elements(&set, [&changed]);
        socket.commit(batch).unwrap();
        assert_eq!(socket.elements(&set).unwrap(), [changed]);

        let mut batch = Batch::new();
        batch.flush_set(&table, "services");
        socket.commit(batch).unwrap();
        assert!(socket.elements(&set).unwrap().is_empty());
    });
}

#[test]
fn more_refusals_than_are_told_are_counted() {
    in_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let mut batch = Batch::new();
        for number in 0..5000 {
            batch.delete_chain(&table(), &format!("c{number}"));
        }
        let Error::Rejected(rejected) = socket.commit(batch).unwrap_err() else { panic!() };
        assert_eq!(rejected.failures.len(), 64);
        assert!(rejected.others > 0);
        assert_eq!(rejected.failures[63].operation, "delete chain c63 in table ip cambric");
        // The socket is good for the next.
        let mut batch = Batch::new();
        batch.add_table(&table());
        socket.commit(batch).unwrap();
        assert_eq!(socket.tables().unwrap(), [table()]);
    });
}
