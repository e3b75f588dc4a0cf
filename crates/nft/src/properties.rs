//! Properties: what is encoded decodes to the same, and no input makes a decoder panic.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use crate::attr::Messages;
use crate::batch::Batch;
use crate::uapi::*;
use crate::{Chain, Comment, Element, Family, Rule, Set, Table, Type, Value, Verdict};
use crate::{decode, describe, monitor};

fn round_trip(set: &Set, elements: &[Element]) -> Vec<Element> {
    let mut batch = Batch::new();
    batch.add_elements(set, elements);
    batch.seal(1).unwrap();
    let mut raw = Vec::new();
    for message in Messages::new(&batch.messages.buf) {
        decode::elements(&message.unwrap(), &mut raw).unwrap();
    }
    decode::join(set, raw).unwrap()
}

fn comment() -> impl Strategy<Value = Option<Comment>> {
    option::of(any::<String>().prop_map(Comment::from))
}

/// Ranges that do not overlap, from the numbers between which they lie; some of them touch.
fn ranges(bounds: Vec<u32>, of: impl Fn(u32) -> Value) -> Vec<Element> {
    bounds.chunks_exact(2).map(|pair| Element::range(of(pair[0]), of(pair[1]))).collect()
}

proptest! {
    #[test]
    fn ranges_read_back(bounds in btree_set(prop_oneof![any::<u32>(), 0..40_u32, u32::MAX - 40..=u32::MAX], 0..40)) {
        let bounds: Vec<u32> = bounds.into_iter().collect();
        let table = Table::new(Family::Inet, "t");
        let v4 = Set::new(&table, "s", [Type::Ipv4Addr]).interval();
        let elements = ranges(bounds.clone(), |number| Ipv4Addr::from(number).into());
        prop_assert_eq!(round_trip(&v4, &elements), elements);
        let v6 = Set::new(&table, "s", [Type::Ipv6Addr]).interval();
        let high = u128::MAX << 32;
        let elements = ranges(bounds, |number| Ipv6Addr::from(high | u128::from(number)).into());
        prop_assert_eq!(round_trip(&v6, &elements), elements);
    }

    #[test]
    fn elements_read_back(
        keys in btree_set((any::<[u8; 16]>(), any::<u8>(), any::<u16>(), any::<u32>()), 1..300),
        comment in comment(),
        timeout in option::of(0..u64::MAX),
        chain in "[a-z]{1,255}",
    ) {
        let table = Table::new(Family::Ip6, "t");
        let key = [Type::Ipv6Addr, Type::InetProto, Type::InetService, Type::Index];
        let set = Set::verdict_map(&table, "m", key).timeouts();
        let element = |(address, proto, port, index): ([u8; 16], u8, u16, u32)| {
            let address = Ipv6Addr::from(address).into();
            let key = [address, Value::proto(proto), Value::port(port), Value::index(index)];
            Element {
                comment: comment.clone(),
                timeout: timeout.map(Duration::from_millis),
                ..Element::new(key).data(Verdict::goto(&*chain))
            }
        };
        let mut elements: Vec<Element> = keys.into_iter().map(element).collect();
        elements.sort_by(|a, b| a.key.cmp(&b.key));
        prop_assert_eq!(round_trip(&set, &elements), elements);
    }

    #[test]
    fn any_bytes_decode_to_something_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }

    #[test]
    fn torn_messages_decode_to_something_or_an_error(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample().messages.buf;
        for (position, byte) in changes {
            *position.get_mut(&mut bytes[..]) = byte;
        }
        bytes.truncate(length.index(bytes.len()) + 1);
        decode_all(&bytes);
    }
}

fn decode_all(bytes: &[u8]) {
    let _ = monitor::decode_events(bytes);
    let mut raw = Vec::new();
    for message in Messages::new(bytes).flatten() {
        let _ = decode::table_object(&message);
        let _ = decode::chain(&message);
        let _ = decode::rule(&message);
        let _ = decode::set(&message);
        let _ = decode::elements(&message, &mut raw);
        let _ = decode::generation(&message);
    }
    let mut batch = Batch::new();
    batch.messages.buf = bytes.to_vec();
    for position in 0..4 {
        describe::operation(&batch, position, None);
        describe::operation(&batch, position, Some(40));
    }
    let table = Table::new(Family::Ip, "t");
    decode::join(&Set::new(&table, "s", [Type::Ipv4Addr]).interval(), raw);
}

/// A batch with a message of each kind.
fn sample() -> Batch {
    let table = Table::new(Family::Ip, "t");
    let chain = Chain::new(&table, "c").comment("why");
    let set = Set::verdict_map(&table, "m", [Type::Ipv4Addr, Type::Index]).size(7).timeouts();
    let element = Element::new([Ipv4Addr::LOCALHOST.into(), Value::index(1)]).data(Verdict::goto("c"));
    let mut batch = Batch::new();
    batch.add_rule(&Rule::new(&chain).counter().comment("x").drop());
    batch.add_set(&set);
    batch.add_elements(&set, [element.comment("y").timeout(Duration::from_secs(1))]);
    batch.add_chain(&chain);
    batch.add_table(&table);
    batch.delete_rule(&table, "c", 7);
    batch.flush_set(&table, "m");
    batch
}

#[test]
fn a_chunk_stays_below_the_limit_of_an_attribute() {
    let table = Table::new(Family::Ip6, "t");
    let set =
        Set::verdict_map(&table, "m", [Type::Ifname, Type::Ipv6Addr, Type::Ipv6Addr]).interval().timeouts();
    let name = Value::ifname("eth0").unwrap();
    let element = |number: u128| {
        let address: Value = Ipv6Addr::from(number).into();
        Element::range([name, address, address], [name, address, Ipv6Addr::from(number + 1).into()])
            .data(Verdict::goto("c".repeat(255)))
            .timeout(Duration::from_secs(1))
            .comment("y".repeat(200))
    };
    let mut batch = Batch::new();
    batch.add_elements(&set, (0..500).map(|number| element(number * 2)));
    batch.seal(1).unwrap();
    let mut lengths = Vec::new();
    for message in Messages::new(&batch.messages.buf) {
        let [.., list] = crate::attr::table::<4>(message.unwrap().nfgen().unwrap().1).unwrap();
        lengths.push(list.unwrap().len());
    }
    assert!(lengths.len() > 4, "{lengths:?}");
    assert!(lengths.iter().all(|&length| length <= usize::from(u16::MAX) - 4), "{lengths:?}");
    assert_eq!(batch.count as usize, lengths.len());
    let mut raw = Vec::new();
    for message in Messages::new(&batch.messages.buf) {
        assert_eq!(message.as_ref().unwrap().nft_type(), Some(NFT_MSG_NEWSETELEM));
        decode::elements(&message.unwrap(), &mut raw).unwrap();
    }
    assert_eq!(raw.len(), 500);
}
