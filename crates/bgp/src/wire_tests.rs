use bytes::Buf;
use proptest::prelude::*;
use rustbgpd_wire::{Message, decode_message};

use super::*;

fn messages(mut bytes: Bytes) -> Vec<UpdateMessage> {
    let mut updates = Vec::new();
    while bytes.has_remaining() {
        let len = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        assert!(len <= MESSAGE);
        match decode_message(&mut bytes.split_to(len), 4096).unwrap() {
            Message::Update(update) => updates.push(update),
            other => panic!("{other}"),
        }
    }
    updates
}

fn any_net(family: Family) -> BoxedStrategy<IpNet> {
    match family {
        Family::V4 => (any::<u32>(), 0u8..=32)
            .prop_map(|(bits, len)| IpNet::from(Ipv4Net::new(bits.into(), len).unwrap().trunc()))
            .boxed(),
        Family::V6 => (any::<u128>(), 0u8..=128)
            .prop_map(|(bits, len)| IpNet::from(Ipv6Net::new(bits.into(), len).unwrap().trunc()))
            .boxed(),
    }
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    (
        prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        prop::collection::vec(1u32.., 0..300),
        any::<Option<u32>>(),
        any::<Option<u32>>(),
        prop::collection::vec(any::<u32>(), 0..20),
        prop::collection::btree_set(any::<(u32, u32, u32)>(), 0..20),
        prop::collection::vec(1u32.., 0..4),
        any::<bool>(),
    )
        .prop_map(|(origin, path, med, local_pref, communities, large, clusters, flag)| Attributes {
            origin,
            as_path: path.into(),
            med,
            local_pref,
            communities: communities.into_iter().map(Community).collect(),
            large_communities: large.into_iter().map(|(a, b, c)| LargeCommunity(a, b, c)).collect(),
            originator: clusters.first().map(|id| (*id).into()),
            cluster_list: clusters.into_iter().map(Ipv4Addr::from).collect(),
            atomic_aggregate: flag,
            aggregator: flag.then_some((70000, Ipv4Addr::new(192, 0, 2, 7))),
            others: if flag {
                [OtherAttribute { flags: 0xe0, code: 99, value: [1, 2, 3].into() }].into()
            } else {
                Box::default()
            },
            ..Attributes::new("192.0.2.1".parse().unwrap())
        })
}

/// An attribute as peers send it, one that is nearly so, or any bytes in its place.
fn any_attribute() -> impl Strategy<Value = Vec<u8>> {
    let usual = prop_oneof![
        (0..4_u8).prop_map(|origin| (0x40, 1, vec![origin])),
        prop::collection::vec(prop_oneof![9 => 1..70_000_u32, 1 => Just(0)], 0..4).prop_map(|path| {
            let ases = path.iter().flat_map(|asn| asn.to_be_bytes());
            (
                0x40,
                2,
                if path.is_empty() {
                    Vec::new()
                } else {
                    [2, path.len() as u8].into_iter().chain(ases).collect()
                },
            )
        }),
        prop_oneof![4 => Just([192, 0, 2, 1]), 1 => Just([0; 4]), 1 => Just([255; 4]), 1 => any::<[u8; 4]>()]
            .prop_map(|hop| (0x40, 3, hop.to_vec())),
        any::<[u8; 4]>().prop_map(|med| (0x80, 4, med.to_vec())),
        any::<[u8; 4]>().prop_map(|preference| (0x40, 5, preference.to_vec())),
        prop::collection::vec(any::<[u8; 4]>(), 0..4).prop_map(|all| (0xc0, 8, all.concat())),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|value| (0xc0, 99, value)),
    ];
    let wrong = prop_oneof![
        20 => Just(None),
        1 => (0..3_usize, any::<u8>()).prop_map(Some),
        1 => (3..12_usize, any::<u8>()).prop_map(Some),
    ];
    (usual, wrong).prop_map(|((flags, code, value), wrong)| {
        let mut bytes = [&[flags, code, value.len() as u8], value.as_slice()].concat();
        if let Some((place, byte)) = wrong
            && let Some(at) = bytes.get_mut(place)
        {
            *at = byte;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn usual_attributes_are_read_as_by_the_library(
        mut attributes in prop::collection::vec(any_attribute(), 0..8),
        shuffled in prop::bool::weighted(0.2),
        complete in prop::bool::weighted(0.8),
        withdrawn in prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(any::<u8>(), 0..6)],
        nlri in prop_oneof![1 => Just(vec![]), 3 => Just(vec![24, 10, 1, 2]), 1 => Just(vec![33, 1, 2, 3, 4, 5])],
        internal in any::<bool>(),
        four_octet_as in prop::bool::weighted(0.8),
    ) {
        if complete {
            attributes.extend([
                vec![0x40, 1, 1, 0], vec![0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe8], vec![0x40, 3, 4, 192, 0, 2, 1],
            ]);
        }
        if !shuffled {
            attributes.sort_by_key(|attribute| attribute[1]);
            attributes.dedup_by_key(|attribute| attribute[1]);
        }
        let message = UpdateMessage {
            withdrawn_routes: withdrawn.into(),
            path_attributes: attributes.concat().into(),
            nlri: nlri.into(),
        };
        prop_assert_eq!(
            decode(&message, four_octet_as, internal),
            decode_any(&message, four_octet_as, internal)
        );
    }
}

#[test]
fn what_peers_usually_send_is_read_the_short_way() {
    let bytes = [
        &[0x40, 1, 1, 0][..],
        &[0x40, 2, 10, 2, 2, 0, 0, 0xfd, 0xe8, 0, 1, 0x11, 0x70],
        &[0x40, 3, 4, 192, 0, 2, 1],
        &[0x80, 4, 4, 0, 0, 0, 7],
        &[0x40, 5, 4, 0, 0, 0, 200],
        &[0xc0, 8, 8, 0xfd, 0xe8, 0, 1, 0xfd, 0xe8, 0, 2],
    ];
    let wanted = Attributes {
        as_path: [65000, 70000].into(),
        med: Some(7),
        local_pref: Some(200),
        communities: [Community(65000 << 16 | 1), Community(65000 << 16 | 2)].into(),
        ..Attributes::new("192.0.2.1".parse().unwrap())
    };
    assert_eq!(usual::attributes(&bytes.concat()), Some(wanted));
    assert_eq!(usual::attributes(&bytes[..2].concat()), None, "no next hop");
}

proptest! {
    #[test]
    fn what_is_announced_is_read_as_it_was_meant(
        attributes in any_attributes(),
        v4 in prop::collection::vec(any_net(Family::V4), 1..2000),
        v6 in prop::collection::vec(any_net(Family::V6), 1..1000),
        v4_over_v6 in any::<bool>(),
        four_octet_as in any::<bool>(),
    ) {
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        for (family, nets) in [(Family::V4, v4), (Family::V6, v6)] {
            let mut attributes = attributes.clone();
            if family == Family::V6 || v4_over_v6 {
                attributes.next_hop = six;
            }
            let mut out = BytesMut::new();
            prop_assert!(announce(&attributes, family, &nets, four_octet_as, &mut out));
            let mut read = Vec::new();
            for message in messages(out.freeze()) {
                let update = decode(&message, four_octet_as, true).unwrap();
                prop_assert_eq!(update.fault, None);
                prop_assert!(update.withdrawn.is_empty() && update.end_of_rib.is_none());
                for (with, nets) in update.announced {
                    prop_assert_eq!(&with, &attributes);
                    read.extend(nets);
                }
            }
            prop_assert_eq!(&read, &nets);

            let mut out = BytesMut::new();
            withdraw(family, &nets, &mut out);
            let mut gone = Vec::new();
            for message in messages(out.freeze()) {
                let update = decode(&message, true, true).unwrap();
                prop_assert!(update.announced.is_empty() && update.end_of_rib.is_none());
                gone.extend(update.withdrawn);
            }
            prop_assert_eq!(&gone, &nets);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        withdrawn in prop::collection::vec(any::<u8>(), 0..40),
        attributes in prop::collection::vec(any::<u8>(), 0..200),
        nlri in prop::collection::vec(any::<u8>(), 0..40),
        internal in any::<bool>(),
    ) {
        let message = UpdateMessage {
            withdrawn_routes: withdrawn.into(),
            path_attributes: attributes.into(),
            nlri: nlri.into(),
        };
        let _ = decode(&message, true, internal);
    }
}

#[test]
fn the_end_of_each_family_is_told_and_understood() {
    for family in Family::BOTH {
        let mut out = BytesMut::new();
        end_of_rib(family, &mut out);
        let read = messages(out.freeze());
        let update = decode(&read[0], true, false).unwrap();
        assert_eq!(update, Update { end_of_rib: Some(family), ..Update::default() });
    }
}

#[test]
fn faults_cost_the_route_or_the_attribute_or_the_session_as_rfc_7606_says() {
    let origin = [0x40, 1, 1, 0];
    let path = [0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe8];
    let next_hop = [0x40, 3, 4, 192, 0, 2, 1];
    let update = |parts: &[&[u8]], nlri: &'static [u8]| UpdateMessage {
        withdrawn_routes: Bytes::new(),
        path_attributes: Bytes::from(parts.concat()),
        nlri: Bytes::from_static(nlri),
    };

    // A bad ORIGIN: the route is withdrawn.
    let read = decode(&update(&[&[0x40, 1, 1, 9], &path, &next_hop], &[24, 10, 1, 2]), true, false).unwrap();
    assert_eq!(read.withdrawn, ["10.1.2.0/24".parse::<IpNet>().unwrap()]);
    assert!(read.announced.is_empty() && read.fault.is_some());
    // No NEXT_HOP, also from a peer of our own AS.
    let read = decode(&update(&[&origin, &path], &[24, 10, 1, 2]), true, true).unwrap();
    assert!(read.announced.is_empty() && read.withdrawn.len() == 1);
    // An AS_SET (RFC 9774).
    let set = [0x40, 2, 6, 1, 1, 0, 0, 0xfd, 0xe8];
    let read = decode(&update(&[&origin, &set, &next_hop], &[24, 10, 1, 2]), true, false).unwrap();
    assert!(read.announced.is_empty() && read.withdrawn.len() == 1);
    // A bad AGGREGATOR: only the attribute goes.
    let read = decode(&update(&[&origin, &path, &next_hop, &[0xc0, 7, 1, 0]], &[24, 10, 1, 2]), true, false)
        .unwrap();
    assert_eq!((read.announced.len(), read.announced[0].0.aggregator), (1, None));
    assert!(read.fault.is_some());
    // A prefix that cannot be read: nobody knows what is meant.
    let notification =
        decode(&update(&[&origin, &path, &next_hop], &[33, 10, 1, 2]), true, false).unwrap_err();
    assert_eq!(notification.code, NotificationCode::UpdateMessage);
    assert!(decode(&update(&[&origin, &path, &next_hop], &[24, 10]), true, false).is_err());
}
