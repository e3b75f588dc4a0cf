//! From what is planned to what the speaker is told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp::bfd::BfdConfig;
use bgp::transport::{Password, PasswordError, PeerTransport};
use bgp::{
    Attributes, Export, FilterRule, Import, ImportNextHop, LargeCommunity, LocalRoute, MaxPrefixes,
    OwnAddresses, PeerConfig, PeerName, PrefixFilter, SpeakerConfig,
};
use ipnet::IpNet;
use model::{Asn, BfdTimers, Family, PerFamily, RouteFilter};
use plan::bgp::{Session, SessionName, Speaker};
use plan::site::{End, Heard};

/// The longest wait between two attempts to connect: nodes come back within seconds.
const CONNECT_RETRY: Duration = Duration::from_secs(10);
/// How long a peer that has announced too much is left alone.
const HOLD_DOWN: Duration = Duration::from_secs(300);
/// What a peer outside is told with routes that begin on other nodes, so that it sends straight to a pod's node if it
/// knows how. Routes that begin here have none, which is better than any.
const MED_OF_OTHERS: u32 = 100;

// What large communities of the nodes' AS are about, in the second of their three numbers.
const SERVICE: u32 = 1;
const HEARD: u32 = 2;
/// As many communities as go with a route, whose message may have 4096 bytes (RFC 4271, section 4). Who hears more is
/// taken to hear these alone.
const MOST_HEARD: usize = 300;

/// The speaker itself. `restarting` is whether the routes of an earlier one are in the kernel.
pub(super) fn speaker(speaker: &Speaker, restarting: bool) -> SpeakerConfig {
    SpeakerConfig {
        cluster_id: speaker.cluster_id,
        restarting,
        ..SpeakerConfig::new(speaker.asn.value(), speaker.router_id)
    }
}

/// What the speaker calls a session.
pub(super) fn name(session: &SessionName) -> PeerName {
    session.to_string().into()
}

/// A peer, and how it is reached.
pub(super) fn peer(
    speaker: &Speaker,
    name: &SessionName,
    session: &Session,
) -> Result<(PeerConfig, PeerTransport), PasswordError> {
    // A cluster is no transit between its neighbours. What nodes know of services they have from the API.
    let withhold = if session.outside { Vec::new() } else { vec![service_community(speaker)] };
    // Its own address may be anybody's on this side of the gateway.
    let next_hop = match session.roaming {
        true => ImportNextHop::PeerAddress,
        false => ImportNextHop::AsReceived,
    };
    let config = PeerConfig {
        passive: session.roaming,
        roaming: session.roaming,
        router_id: session.router_id,
        hold_time: session.hold_time.seconds(),
        connect_retry: CONNECT_RETRY,
        reflector_client: session.client,
        max_prefixes: session.max_prefixes.map(|count| MaxPrefixes { count, hold_down: HOLD_DOWN }),
        own_addresses: own_addresses(&speaker.addresses),
        import: Import { filter: filter(&session.import), next_hop, ..Import::default() },
        export: Export {
            filter: filter(&session.export),
            next_hop_self: true,
            reflect_next_hop_self: session.next_hop_self,
            stub: session.outside,
            withhold,
            med_of_others: session.outside.then_some(MED_OF_OTHERS),
            ..Export::default()
        },
        ..PeerConfig::new(self::name(name), session.address, session.asn.value())
    };
    let password = session.password.as_ref().map(|password| Password::new(password.reveal().as_bytes()));
    let transport = PeerTransport {
        port: session.port,
        source: Some(session.source),
        password: password.transpose()?,
        ttl_security: session.ttl_security,
    };
    Ok((config, transport))
}

/// The route to an address of a service.
pub(super) fn service_route(speaker: &Speaker) -> LocalRoute {
    LocalRoute { large_communities: vec![service_community(speaker)], ..LocalRoute::default() }
}

/// The route to a pod range. With it goes whom the node hears through NAT gateways with packets of the range's family.
pub(super) fn pod_route(speaker: &Speaker, range: &IpNet) -> LocalRoute {
    let inner = Family::of_net(range);
    let heard = speaker.heard.iter().filter(|(_, family)| *family == inner);
    let tell = |(end, _): &(End, Family)| LargeCommunity(speaker.asn.value(), HEARD, end.value());
    LocalRoute { large_communities: heard.map(tell).take(MOST_HEARD).collect(), ..LocalRoute::default() }
}

/// What another node tells with the route to one of its pod ranges; the addresses are those of the range.
pub(super) fn heard(asn: Asn, range: &IpNet, attributes: &Attributes) -> Heard {
    let told = attributes.large_communities.iter();
    let told = told.filter(|community| (community.0, community.1) == (asn.value(), HEARD));
    told.map(|community| (End::from(community.2), Family::of_net(range))).collect()
}

/// By which peers know routes to services (RFC 8092).
fn service_community(speaker: &Speaker) -> LargeCommunity {
    LargeCommunity(speaker.asn.value(), SERVICE, 1)
}

pub(super) fn bfd(timers: BfdTimers) -> BfdConfig {
    BfdConfig { min_tx: timers.interval, min_rx: timers.interval, multiplier: timers.multiplier }
}

/// What is to be said of an address that cannot be listened on.
pub(super) fn deaf(at: SocketAddr, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "BGP: cannot listen on {at}: another process has the port, perhaps BIRD, FRR, GoBGP or an agent in another \
             container. See which (ss -ltnp sport = :{}) and end it",
            at.port()
        ),
        _ => format!("BGP: {error}"),
    };
    format!("{why}; sessions that this node opens come up meanwhile, and it is tried again every few seconds")
}

/// Rules that say nothing of the default route do not mean it.
fn filter(filter: &RouteFilter) -> PrefixFilter {
    let rule = |rule: &model::RouteRule| FilterRule {
        within: rule.within,
        min: rule.min,
        max: rule.max,
        accept: rule.accept,
    };
    let default = |within: IpNet| FilterRule { within, min: None, max: Some(0), accept: false };
    let defaults = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())].map(default);
    PrefixFilter { rules: filter.rules.iter().map(rule).chain(defaults).collect(), otherwise: true }
}

fn own_addresses(addresses: &PerFamily<IpAddr>) -> OwnAddresses {
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let v6 = |address: IpAddr| match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    };
    OwnAddresses { v4: addresses.v4.and_then(v4), v6: addresses.v6.and_then(v6) }
}

/// Spreads the timers of nodes.
pub(super) fn seed(router_id: Ipv4Addr) -> u64 {
    u64::from(u32::from(router_id))
}

#[cfg(test)]
mod tests {
    use model::RouteRule;

    use super::*;

    #[test]
    fn the_default_route_passes_only_if_a_rule_says_so() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let plain = filter(&RouteFilter::default());
        for (prefix, passes) in [
            ("0.0.0.0/0", false),
            ("::/0", false),
            ("0.0.0.0/1", true),
            ("10.0.0.0/8", true),
            ("2001:db8::/32", true),
        ] {
            assert_eq!(plain.accepts(&net(prefix)), passes, "{prefix}");
        }
        let rule = |within: &str, max, accept| RouteRule { within: net(within), min: None, max, accept };
        let rules = vec![rule("0.0.0.0/0", Some(0), true), rule("10.0.0.0/8", None, false)];
        let filter = filter(&RouteFilter { rules });
        for (prefix, passes) in [("0.0.0.0/0", true), ("::/0", false), ("10.1.0.0/16", false)] {
            assert_eq!(filter.accepts(&net(prefix)), passes, "{prefix}");
        }
    }
}
