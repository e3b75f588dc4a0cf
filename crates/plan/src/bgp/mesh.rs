//! Sessions between nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{Family, Node, PerFamily, RouteFilter};

use super::{Session, SessionName, View, common, router_id};

/// The port of BGP (RFC 4271, section 4).
const PORT: u16 = 179;

/// The sessions that the node has with others.
pub(super) fn sessions(view: View<'_>) -> BTreeMap<SessionName, Session> {
    let reflectors = view.nodes.values().any(|node| node.reflector.is_some());
    let others = view.nodes.values().filter(|node| node.name != view.local.name);
    let session =
        |node: &Node| Some((SessionName::Node(node.name.clone()), session(view, node, reflectors)?));
    others.filter_map(session).collect()
}

/// `reflectors` is whether there are any.
fn session(view: View<'_>, node: &Node, reflectors: bool) -> Option<Session> {
    let local = view.local;
    // Reflectors speak with all, the others with them alone.
    if reflectors && local.reflector.is_none() && node.reflector.is_none() {
        return None;
    }
    // Neither of two sites can open a connection into the other.
    let apart = local.site.is_some() && node.site.is_some() && local.site != node.site;
    if apart {
        return None;
    }
    let roaming = local.site.is_none() && node.site.is_some();
    let (source, inner) = common(&local.addresses, &node.addresses)?;
    // The family in which a node behind a gateway comes is its choice, and it makes the same one.
    let address = if roaming { outer(&node.external, inner) } else { inner };
    // What sites have to tell each other passes through nodes that are in none: those that reflect for all, or, if there are
    // none of these, every one.
    let reflects = if reflectors { local.reflector.is_some() } else { local.site.is_none() };
    Some(Session {
        address,
        port: PORT,
        source,
        asn: view.network.bgp.asn,
        router_id: Some(router_id(node)),
        roaming,
        client: reflects && (roaming || (reflectors && node.reflector.is_none())),
        // A site does not reach the nodes of another.
        next_hop_self: roaming,
        outside: false,
        hold_time: view.network.bgp.hold_time,
        bfd: view.network.bgp.bfd.filter(|_| in_subnet(view, address) && !roaming),
        password: None,
        ttl_security: false,
        max_prefixes: None,
        import: RouteFilter::default(),
        export: RouteFilter::default(),
    })
}

fn outer(external: &PerFamily<IpAddr>, inner: IpAddr) -> IpAddr {
    external.of(Family::of(&inner)).copied().unwrap_or(inner)
}

/// Whether no router is between the node and this address: BFD over a single hop can be spoken (RFC 5881).
fn in_subnet(view: View<'_>, address: IpAddr) -> bool {
    view.underlay.of(Family::of(&address)).is_some_and(|underlay| underlay.net.contains(&address))
}
