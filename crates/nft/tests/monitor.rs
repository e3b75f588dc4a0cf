//! Notifications: whose change it was, and that nothing is lost in silence.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails them")]

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::{in_namespace, run};
use nft::*;

/// All events up to the end of the next commit.
fn events(monitor: &mut Monitor) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        assert!(monitor.wait(Some(Duration::from_secs(10))).unwrap(), "no notification: {events:?}");
        events.extend(monitor.read().unwrap());
        if matches!(events.last(), Some(Event::Generation { .. })) {
            return events;
        }
    }
}

#[test]
fn changes_are_told_with_their_origin() {
    in_namespace(|| {
        let mut monitor = Monitor::open().unwrap();
        let mut socket = Socket::open().unwrap();
        let table = Table::new(Family::Ip6, "cambric");
        let chain = Chain::new(&table, "c");
        let set = Set::new(&table, "ports", [Type::InetService]);
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_chain(&chain);
        batch.add_set(&set);
        batch.add_elements(&set, [Element::new(Value::port(80))]);
        batch.add_rule(&Rule::new(&chain).accept());
        socket.commit(batch).unwrap();

        let port_id = socket.port_id();
        let handle = socket.rules(&table).unwrap()[0].handle;
        let change = |object| Change { table: table.clone(), object, port_id };
        let rule = || Object::Rule { chain: "c".into(), handle };
        let told = events(&mut monitor);
        let generation = socket.generation().unwrap();
        assert_eq!(
            told[..5],
            [
                Event::Added(change(Object::Table)),
                Event::Added(change(Object::Chain("c".into()))),
                Event::Added(change(Object::Set("ports".into()))),
                Event::Added(change(Object::Elements("ports".into()))),
                Event::Added(change(rule())),
            ]
        );
        let Event::Generation { id, port_id: by, thread_id, .. } = &told[5] else { panic!("{told:?}") };
        // SAFETY: the call takes nothing.
        let this_thread = unsafe { libc::gettid() } as u32;
        assert_eq!((*id, *by, *thread_id), (generation, port_id, this_thread));

        run("nft delete rule ip6 cambric c handle 3");
        let told = events(&mut monitor);
        let Event::Deleted(deleted) = &told[0] else { panic!("{told:?}") };
        assert_eq!(deleted.object, rule());
        assert_ne!(deleted.port_id, port_id);
        assert!(matches!(&told[1], Event::Generation { thread, .. } if thread == "nft"), "{told:?}");

        let mut batch = Batch::new();
        batch.delete_table(&table);
        socket.commit(batch).unwrap();
        let told = events(&mut monitor);
        assert!(told.contains(&Event::Deleted(change(Object::Table))), "{told:?}");
        assert!(told.contains(&Event::Deleted(change(Object::Set("ports".into())))), "{told:?}");
        assert_eq!(monitor.read().unwrap(), []);
        assert!(!monitor.wait(Some(Duration::ZERO)).unwrap());
    });
}

#[test]
fn a_reader_that_lags_is_told_of_the_loss() {
    in_namespace(|| {
        let mut monitor = Monitor::open().unwrap();
        let mut socket = Socket::open().unwrap();
        let table = Table::new(Family::Ip, "cambric");
        let set = Set::new(&table, "pods", [Type::Ipv4Addr]);
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_set(&set);
        batch.add_elements(&set, (0..200_000).map(|n| Element::new(Value::from(Ipv4Addr::from(n)))));
        socket.commit(batch).unwrap();
        let mut told = Vec::new();
        while monitor.wait(Some(Duration::ZERO)).unwrap() {
            told.extend(monitor.read().unwrap());
        }
        assert!(told.contains(&Event::Overrun), "{} events", told.len());

        let mut batch = Batch::new();
        batch.delete_table(&table);
        socket.commit(batch).unwrap();
        assert!(!events(&mut monitor).contains(&Event::Overrun));
    });
}

#[test]
fn listings_are_whole_while_others_change_the_rule_set() {
    in_namespace(|| {
        let table = Table::new(Family::Ip, "cambric");
        let set = Set::new(&table, "pods", [Type::Ipv4Addr]);
        let mut socket = Socket::open().unwrap();
        let mut other = Socket::open().unwrap();
        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_set(&set);
        batch.add_elements(&set, (0..5_000).map(|n| Element::new(Value::from(Ipv4Addr::from(n)))));
        socket.commit(batch).unwrap();
        let elements = |from: u32| (from..from + 1000).map(|n| Element::new(Value::from(Ipv4Addr::from(n))));
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                for round in 0..40_u32 {
                    // Each state has 5,000 elements.
                    let mut batch = Batch::new();
                    batch.delete_elements(&set, elements(round * 1000));
                    batch.add_elements(&set, elements(round * 1000 + 5_000));
                    other.commit(batch).unwrap();
                }
            });
            let mut listings = 0;
            while !changes.is_finished() || listings == 0 {
                match socket.elements(&set) {
                    Ok(elements) => {
                        listings += 1;
                        assert_eq!(elements.len(), 5_000);
                    }
                    Err(Error::Unsettled { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            changes.join().unwrap();
        });
        assert_eq!(socket.snapshot(&table).unwrap().sets[0].1.len(), 5_000);
    });
}
