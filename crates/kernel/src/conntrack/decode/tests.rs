use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::super::request::Writer;
use super::*;

// What Linux 6.18 sends to a listener (little-endian), in hexadecimal.

/// A SYN to 127.0.0.9:80, which is sent to 127.0.0.1:8080.
const BEGUN: &str = "d0000000000100060000000000000000020000003400018014000180080001007f000001080002007f0000091c000280\
         050001000600000006000200c696000006000300005000003400028014000180080001007f000001080002007f000001\
         1c0002800500010006000000060002001f90000006000300c696000008000c007ed79c8608000300000001a808000700\
         00000078300004802c0001800500010001000000050002000a0000000500030000000000060004000300000006000500\
         000000000c001b0018ec581f1dce92dd";
/// Its connection is established.
const CHANGED: &str = "d0000000000100000000000000000000020000003400018014000180080001007f000001080002007f0000091c000280\
         050001000600000006000200c696000006000300005000003400028014000180080001007f000001080002007f000001\
         1c0002800500010006000000060002001f90000006000300c696000008000c007ed79c8608000300000001ae08000700\
         00069780300004802c0001800500010003000000050002000a000000050003000a000000060004002300000006000500\
         230000000c001b0018ec581f1dcfc6e6";
/// A datagram by IPv6.
const BEGUN_V6: &str = "d00000000001000600000000000000000a0000004c0001802c0001801400030000000000000000000000000000000001\
         14000400000000000000000000000000000000011c000280050001001100000006000200a44400000600030000090000\
         4c0002802c00018014000300000000000000000000000000000000011400040000000000000000000000000000000001\
         1c0002800500010011000000060002000009000006000300a444000008000c00d32ecd64080003000000018808000700\
         0000001e0c001b0018ec581f1dd1faa1";
/// A connection to a port at which nobody listens, at its end; with counters and times.
const REFUSED: &str = "04010000020100000000000000000000020000003400018014000180080001007f000001080002007f0000011c000280\
         05000100060000000600020088fa000006000300005100003400028014000180080001007f000001080002007f000001\
         1c000280050001000600000006000200005100000600030088fa000008000c00754d1c77080003000000038808000700\
         000000781c0009800c00010000000000000000010c000200000000000000003c1c000a800c0001000000000000000001\
         0c00020000000000000000281c0014800c00010018ec581f1dd2c9d00c00020018ec581f1dd2ecf2100004800c000180\
         05000100080000000c001b0018ec581f1dd2ed24";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[track_caller]
fn one(recorded: &str) -> (News, TrackedFlow) {
    let mut found = decode(&bytes(recorded)).collect::<Vec<_>>();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn tuple_of(source: &str, destination: &str, zone: u16) -> Tuple {
    Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap(), zone }
}

#[test]
fn what_a_kernel_has_sent_is_decoded() {
    let (news, begun) = one(BEGUN);
    assert_eq!(news, News::Begun);
    assert_eq!(begun.flow.original, tuple_of("127.0.0.1:50838", "127.0.0.9:80", 0));
    assert_eq!(begun.flow.reply, tuple_of("127.0.0.1:8080", "127.0.0.1:50838", 0));
    assert_eq!((begun.flow.protocol, begun.flow.id, begun.flow.zone), (6, 0x7ed7_9c86, 0));
    assert!(begun.flow.status.destination_rewritten() && !begun.flow.status.source_rewritten());
    assert!(!begun.flow.status.answered());
    assert_eq!(begun.connection, Some(Connection { name: "SYN_SENT", phase: Phase::Opening }));
    assert_eq!((begun.counters, begun.begun), (None, None));

    let (news, changed) = one(CHANGED);
    assert_eq!((news, changed.flow.id), (News::Changed, begun.flow.id));
    assert!(changed.flow.status.answered() && changed.flow.status.assured());
    assert_eq!(changed.connection, Some(Connection { name: "ESTABLISHED", phase: Phase::Established }));

    let (news, v6) = one(BEGUN_V6);
    assert_eq!((news, v6.flow.protocol, v6.connection), (News::Begun, 17, None));
    assert_eq!(v6.flow.original, tuple_of("[::1]:42052", "[::1]:9", 0));

    let (news, refused) = one(REFUSED);
    assert_eq!(news, News::Ended);
    assert!(!refused.flow.status.answered());
    assert_eq!(refused.connection, Some(Connection { name: "CLOSE", phase: Phase::Reset }));
    let counters =
        Counters { sent: Count { packets: 1, bytes: 60 }, received: Count { packets: 1, bytes: 40 } };
    assert_eq!(refused.counters, Some(counters));
    let since = refused.begun.unwrap().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(since.as_nanos(), 0x18ec_581f_1dd2_c9d0);
}

#[test]
fn flows_are_decoded_as_they_are_encoded() {
    for [client, service, endpoint] in [
        ["10.0.0.1:4000", "10.96.0.10:53", "10.0.0.2:5353"],
        ["[fd00::1]:4000", "[fd00:96::a]:53", "[fd00::2]:5353"],
    ] {
        let flow = Flow {
            protocol: 17,
            original: tuple_of(client, service, 3),
            reply: tuple_of(endpoint, client, 0),
            status: Status(0x2a),
            id: 0x0102_0304,
            zone: 7,
        };
        let mut writer = Writer::default();
        writer.message(GET, 0, 1, Some(flow.family()), |writer| {
            writer.tuple(CTA_TUPLE_ORIG, flow.protocol, &flow.original);
            writer.tuple(CTA_TUPLE_REPLY, flow.protocol, &flow.reply);
            writer.attribute(CTA_STATUS, &flow.status.0.to_be_bytes());
            writer.attribute(CTA_ID, &flow.id.to_be_bytes());
            writer.attribute(CTA_ZONE, &flow.zone.to_be_bytes());
        });
        let found: Vec<_> = frames(&writer.0).map(|frame| tracked(&frame.body[GENERIC..])).collect();
        assert!(flow.status.destination_rewritten() && flow.status.answered());
        assert_eq!(found, [Some(TrackedFlow { flow, connection: None, counters: None, begun: None })]);
    }
}

fn is_sound(TrackedFlow { flow, .. }: &TrackedFlow) -> bool {
    let ends = [&flow.original, &flow.reply].map(|tuple| [tuple.source, tuple.destination]);
    ends.as_flattened().iter().all(|end| Family::of(&end.ip()) == flow.family())
}

proptest! {
    #[test]
    fn any_bytes_are_flows_or_none(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(decode(&bytes).all(|(_, flow)| is_sound(&flow)));
        prop_assert!(tracked(&bytes).is_none_or(|flow| is_sound(&flow)));
    }

    #[test]
    fn so_are_messages_with_wrong_bytes(
        recorded in prop::sample::select(vec![BEGUN, CHANGED, BEGUN_V6, REFUSED]),
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = bytes(recorded);
        for (at, value) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        prop_assert!(decode(&bytes).all(|(_, flow)| is_sound(&flow)));
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(decode(&bytes).all(|(_, flow)| is_sound(&flow)));
    }
}
