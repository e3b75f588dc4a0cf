//! Which routes a peer is told, and in what form.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use model::Family;

use crate::attributes::DEFAULT_LOCAL_PREF;
use crate::decision::SourceKind;
use crate::{Attributes, Community, Families, LargeCommunity, PeerConfig, SpeakerConfig};

/// Of an extended community: it means nothing to other ASes (RFC 4360, section 2).
const NOT_TRANSITIVE: u64 = 0x4000_0000_0000_0000;

/// Where a route goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Towards<'a> {
    pub(crate) speaker: &'a SpeakerConfig,
    pub(crate) peer: &'a PeerConfig,
    /// Our address on the connection.
    pub(crate) local: IpAddr,
    /// The families that were agreed on.
    pub(crate) families: Families,
    /// IPv4 prefixes may have IPv6 next hops.
    pub(crate) v4_over_v6: bool,
}

/// Where the route comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct From {
    pub(crate) kind: SourceKind,
    /// The BGP identifier of the peer from which it comes.
    pub(crate) router_id: Ipv4Addr,
}

/// What a peer is told of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    Nothing,
    /// Nothing, though it should be: we have no address of the family to name as next hop.
    NoNextHop,
    /// The route, with these attributes.
    Route(Box<Attributes>),
}

/// Whether routes of this kind go to the peer at all (RFC 4271, section 9.2; RFC 4456, section 6).
pub(crate) fn passes(kind: SourceKind, towards: Towards<'_>) -> bool {
    match kind {
        SourceKind::Local | SourceKind::External => true,
        SourceKind::Internal { client } => {
            towards.peer.asn != towards.speaker.asn || client || towards.peer.reflector_client
        }
    }
}

/// Whether the peer is to be told of a prefix at all.
pub(crate) fn accepts(towards: Towards<'_>, prefix: &IpNet) -> bool {
    towards.families.contains(Family::of_net(prefix)) && towards.peer.export.filter.accepts(prefix)
}

/// What the peer is told of a route of this family.
pub(crate) fn told(route: &Attributes, from: From, family: Family, towards: Towards<'_>) -> Told {
    let Towards { speaker, peer, .. } = towards;
    let external = peer.asn != speaker.asn;
    let kept_from = |community: &Community| match *community {
        Community::NO_ADVERTISE => true,
        Community::NO_EXPORT | Community::NO_EXPORT_SUBCONFED => external,
        _ => false,
    };
    let withheld = |community: &LargeCommunity| peer.export.withhold.contains(community);
    if !passes(from.kind, towards)
        || route.communities.iter().any(kept_from)
        || route.large_communities.iter().any(withheld)
        || (peer.export.stub && !route.as_path.is_empty())
    {
        return Told::Nothing;
    }
    let ours = match from.kind {
        SourceKind::Local => route.next_hop.is_unspecified(),
        SourceKind::External => external || peer.export.next_hop_self,
        SourceKind::Internal { .. } => external || peer.export.reflect_next_hop_self,
    };
    let Some(next_hop) = (if ours { own_address(family, towards) } else { Some(route.next_hop) })
        .filter(|address| can_tell(family, address, towards))
    else {
        return Told::NoNextHop;
    };
    let mut attributes = Attributes { next_hop, ..route.clone() };
    if external {
        attributes.as_path = std::iter::once(speaker.asn).chain(route.as_path.iter().copied()).collect();
        attributes.local_pref = None;
        attributes.originator = None;
        attributes.cluster_list = Box::default();
        attributes.extended_communities =
            route.extended_communities.iter().copied().filter(|raw| raw & NOT_TRANSITIVE == 0).collect();
        // RFC 4271, section 5.1.4: the MED of one neighbour AS is not told to another.
        let others = peer.export.med_of_others.filter(|_| from.kind != SourceKind::Local);
        attributes.med = others.or(peer.export.med).or(route.med.filter(|_| from.kind == SourceKind::Local));
    } else {
        attributes.local_pref = Some(route.local_pref.unwrap_or(DEFAULT_LOCAL_PREF));
        if let SourceKind::Internal { .. } = from.kind {
            attributes.originator = Some(route.originator.unwrap_or(from.router_id));
            attributes.cluster_list =
                std::iter::once(speaker.cluster()).chain(route.cluster_list.iter().copied()).collect();
        }
    }
    attributes.add_communities(&peer.export.communities);
    attributes.add_large_communities(&peer.export.large_communities);
    Told::Route(Box::new(attributes))
}

/// Our address to name as next hop: the session's own if it fits, else one that was configured, else, if the peer
/// can do with it, the session's own all the same.
fn own_address(family: Family, towards: Towards<'_>) -> Option<IpAddr> {
    let local = towards.local;
    if Family::of(&local) == family {
        return Some(local);
    }
    towards.peer.own_addresses.of(family).or(Some(local))
}

fn can_tell(family: Family, next_hop: &IpAddr, towards: Towards<'_>) -> bool {
    Family::of(next_hop) == family || (family == Family::V4 && towards.v4_over_v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: SourceKind = SourceKind::Local;
    const EXTERNAL: SourceKind = SourceKind::External;
    const CLIENT: SourceKind = SourceKind::Internal { client: true };
    const PLAIN: SourceKind = SourceKind::Internal { client: false };

    struct Case {
        speaker: SpeakerConfig,
        peer: PeerConfig,
        route: Attributes,
        local: IpAddr,
        v4_over_v6: bool,
    }

    fn case(asn: u32) -> Case {
        let mut speaker = SpeakerConfig::new(65000, [10, 0, 0, 1].into());
        speaker.cluster_id = Some([9, 9, 9, 9].into());
        let mut route = Attributes::new(IpAddr::from([192, 0, 2, 9]));
        (route.as_path, route.med) = ([65009].into(), Some(7));
        let peer = PeerConfig::new("p", IpAddr::from([192, 0, 2, 2]), asn);
        Case { speaker, peer, route, local: IpAddr::from([192, 0, 2, 1]), v4_over_v6: false }
    }

    fn tell(case: &Case, kind: SourceKind, family: Family) -> Told {
        let Case { speaker, peer, route, local, v4_over_v6 } = case;
        let families = Families::BOTH;
        let towards = Towards { speaker, peer, local: *local, families, v4_over_v6: *v4_over_v6 };
        told(route, From { kind, router_id: [10, 0, 0, 3].into() }, family, towards)
    }

    fn route(told: Told) -> Attributes {
        match told {
            Told::Route(attributes) => *attributes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn routes_of_our_as_are_told_to_it_only_by_a_reflector() {
        let mut to_internal = case(65000);
        assert_eq!(tell(&to_internal, PLAIN, Family::V4), Told::Nothing);
        let reflected = route(tell(&to_internal, CLIENT, Family::V4));
        assert_eq!(reflected.originator, Some([10, 0, 0, 3].into()));
        assert_eq!(&*reflected.cluster_list, [Ipv4Addr::from([9, 9, 9, 9])]);
        assert_eq!((reflected.next_hop, reflected.med), (to_internal.route.next_hop, Some(7)));
        to_internal.peer.reflector_client = true;
        assert!(matches!(tell(&to_internal, PLAIN, Family::V4), Told::Route(_)));
        to_internal.route.originator = Some([10, 0, 0, 8].into());
        to_internal.route.cluster_list = [[8, 8, 8, 8].into()].into();
        let again = route(tell(&to_internal, CLIENT, Family::V4));
        assert_eq!(again.originator, Some([10, 0, 0, 8].into()));
        assert_eq!(&*again.cluster_list, [Ipv4Addr::from([9, 9, 9, 9]), [8, 8, 8, 8].into()]);
    }

    #[test]
    fn another_as_sees_ours_in_front_and_nothing_of_our_interior() {
        let mut case = case(65001);
        case.route.local_pref = Some(300);
        case.route.originator = Some([10, 0, 0, 8].into());
        case.route.cluster_list = [[8, 8, 8, 8].into()].into();
        case.route.extended_communities = [0x0002_fde8_0000_0001, 0x4300_0000_0000_0000].into();
        for kind in [EXTERNAL, PLAIN, CLIENT] {
            let told = route(tell(&case, kind, Family::V4));
            assert_eq!(&*told.as_path, [65000, 65009]);
            assert_eq!((told.local_pref, told.med, told.originator), (None, None, None));
            assert_eq!((told.next_hop, told.cluster_list.len()), (case.local, 0));
            assert_eq!(&*told.extended_communities, [0x0002_fde8_0000_0001]);
        }
        assert_eq!(route(tell(&case, LOCAL, Family::V4)).med, Some(7));
        case.peer.export.med = Some(5);
        case.peer.export.communities = vec![Community(5)];
        case.peer.export.large_communities = vec![LargeCommunity(1, 2, 3)];
        let told = route(tell(&case, EXTERNAL, Family::V4));
        assert_eq!((told.med, told.communities.len(), told.large_communities.len()), (Some(5), 1, 1));
    }

    #[test]
    fn well_known_communities_are_kept_to() {
        for (asn, community, told) in [
            (65000, Community::NO_ADVERTISE, false),
            (65001, Community::NO_ADVERTISE, false),
            (65000, Community::NO_EXPORT, true),
            (65001, Community::NO_EXPORT, false),
            (65001, Community::NO_EXPORT_SUBCONFED, false),
            (65001, Community(1), true),
        ] {
            let mut case = case(asn);
            case.route.communities = [community].into();
            assert_eq!(
                matches!(tell(&case, EXTERNAL, Family::V4), Told::Route(_)),
                told,
                "{asn} {community}"
            );
        }
    }

    #[test]
    fn a_stub_tells_no_routes_of_others_and_what_is_withheld_is_not_told() {
        let mut case = case(65001);
        case.peer.export.stub = true;
        assert_eq!(tell(&case, EXTERNAL, Family::V4), Told::Nothing);
        assert_eq!(tell(&case, PLAIN, Family::V4), Told::Nothing);
        case.route.as_path = Box::default();
        (case.peer.export.med, case.peer.export.med_of_others) = (Some(1), Some(100));
        assert_eq!(route(tell(&case, LOCAL, Family::V4)).med, Some(1));
        assert_eq!(route(tell(&case, PLAIN, Family::V4)).med, Some(100));
        case.peer.export.withhold = vec![LargeCommunity(65000, 1, 1)];
        assert!(matches!(tell(&case, LOCAL, Family::V4), Told::Route(_)));
        case.route.large_communities = [LargeCommunity(65000, 1, 1)].into();
        assert_eq!(tell(&case, LOCAL, Family::V4), Told::Nothing);
    }

    #[test]
    fn a_reflector_puts_itself_between_peers_that_do_not_reach_each_other() {
        let mut case = case(65000);
        case.peer.reflector_client = true;
        assert_eq!(route(tell(&case, CLIENT, Family::V4)).next_hop, case.route.next_hop);
        case.peer.export.reflect_next_hop_self = true;
        assert_eq!(route(tell(&case, CLIENT, Family::V4)).next_hop, case.local);
        assert_eq!(tell(&case, CLIENT, Family::V6), Told::NoNextHop);
    }

    #[test]
    fn the_next_hop_is_one_that_the_peer_can_use() {
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        let mut case = case(65000);
        case.route.next_hop = IpAddr::from([0, 0, 0, 0]);
        assert_eq!(route(tell(&case, LOCAL, Family::V4)).next_hop, case.local);
        assert_eq!(tell(&case, LOCAL, Family::V6), Told::NoNextHop);
        case.peer.own_addresses.v6 = Some("2001:db8::1".parse().unwrap());
        assert_eq!(route(tell(&case, LOCAL, Family::V6)).next_hop, six);
        // IPv4 over a session on IPv6.
        (case.local, case.peer.own_addresses.v6) = (six, None);
        assert_eq!(tell(&case, LOCAL, Family::V4), Told::NoNextHop);
        case.v4_over_v6 = true;
        assert_eq!(route(tell(&case, LOCAL, Family::V4)).next_hop, six);
        case.peer.own_addresses.v4 = Some([192, 0, 2, 1].into());
        assert_eq!(route(tell(&case, LOCAL, Family::V4)).next_hop, IpAddr::from([192, 0, 2, 1]));
        // Learned outside, told inside.
        case.route.next_hop = IpAddr::from([203, 0, 113, 1]);
        assert_eq!(route(tell(&case, EXTERNAL, Family::V4)).next_hop, case.route.next_hop);
        case.peer.export.next_hop_self = true;
        assert_eq!(route(tell(&case, EXTERNAL, Family::V4)).next_hop, IpAddr::from([192, 0, 2, 1]));
    }
}
