//! Which received routes are taken, and in what form.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{Attributes, ImportNextHop, PeerConfig, SpeakerConfig};

/// Where a route came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Via<'a> {
    pub(crate) speaker: &'a SpeakerConfig,
    pub(crate) peer: &'a PeerConfig,
    /// The address from which the peer's packets come.
    pub(crate) remote: IpAddr,
    /// Our address on the connection.
    pub(crate) local: IpAddr,
}

/// The attributes with which routes are kept; none if they must not be used at all.
///
/// What is refused here is treated as withdrawn: it may take the place of a route that was good.
pub(crate) fn attributes(mut attributes: Attributes, via: Via<'_>) -> Option<Attributes> {
    let Via { speaker, peer, remote, local } = via;
    let external = peer.asn != speaker.asn;
    let looped = attributes.as_path.contains(&speaker.asn)
        || attributes.originator == Some(speaker.router_id)
        || attributes.cluster_list.contains(&speaker.cluster());
    if looped || attributes.next_hop == local {
        return None;
    }
    if external {
        // RFC 4271, section 6.3: the path of another AS begins with it.
        if attributes.neighbour_as() != Some(peer.asn) {
            return None;
        }
        // RFC 4271, section 5.1.5, and RFC 7606, sections 7.9 and 7.10: they mean nothing from outside.
        attributes.local_pref = None;
        attributes.originator = None;
        attributes.cluster_list = Box::default();
    }
    let import = &peer.import;
    if import.local_pref.is_some() {
        attributes.local_pref = import.local_pref;
    }
    if import.next_hop == ImportNextHop::PeerAddress {
        attributes.next_hop = remote;
    }
    attributes.add_communities(&import.communities);
    attributes.add_large_communities(&import.large_communities);
    Some(attributes)
}

/// Whether a prefix is taken.
pub(crate) fn accepts(peer: &PeerConfig, prefix: &IpNet) -> bool {
    peer.import.filter.accepts(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Community, LargeCommunity};

    fn with(asn: u32, change: impl FnOnce(&mut Attributes, &mut PeerConfig)) -> Option<Attributes> {
        let speaker = SpeakerConfig::new(65000, [10, 0, 0, 1].into());
        let remote = IpAddr::from([192, 0, 2, 2]);
        let mut peer = PeerConfig::new("p", remote, asn);
        let mut received = Attributes::new(IpAddr::from([192, 0, 2, 9]));
        received.as_path = if asn == 65000 { Box::default() } else { [asn].into() };
        change(&mut received, &mut peer);
        let via = Via { speaker: &speaker, peer: &peer, remote, local: IpAddr::from([192, 0, 2, 1]) };
        attributes(received, via)
    }

    #[test]
    fn loops_are_refused() {
        assert!(with(65001, |_, _| {}).is_some());
        assert!(with(65000, |_, _| {}).is_some());
        assert!(with(65001, |a, _| a.as_path = [65001, 65000].into()).is_none(), "our AS");
        assert!(with(65000, |a, _| a.originator = Some([10, 0, 0, 1].into())).is_none(), "our route");
        assert!(with(65000, |a, _| a.cluster_list = [[10, 0, 0, 1].into()].into()).is_none(), "our cluster");
        assert!(with(65001, |a, _| a.next_hop = IpAddr::from([192, 0, 2, 1])).is_none(), "our address");
        assert!(with(65001, |a, _| a.as_path = [65002].into()).is_none(), "a path that is not the peer's");
    }

    #[test]
    fn what_is_of_another_as_does_not_rule_ours() {
        let taken = with(65001, |a, _| a.local_pref = Some(9000)).unwrap();
        assert_eq!(taken.local_pref, None);
        let taken = with(65000, |a, _| a.local_pref = Some(9000)).unwrap();
        assert_eq!(taken.local_pref, Some(9000));
    }

    #[test]
    fn settings_are_applied() {
        let taken = with(65001, |_, peer| {
            peer.import.local_pref = Some(50);
            peer.import.next_hop = ImportNextHop::PeerAddress;
            peer.import.communities = vec![Community(1)];
            peer.import.large_communities = vec![LargeCommunity(1, 2, 3)];
        })
        .unwrap();
        assert_eq!((taken.local_pref, taken.next_hop), (Some(50), IpAddr::from([192, 0, 2, 2])));
        assert_eq!(
            (&*taken.communities, &*taken.large_communities),
            (&[Community(1)][..], &[LargeCommunity(1, 2, 3)][..])
        );
    }
}
