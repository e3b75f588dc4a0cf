//! Sessions with `BgpPeer`s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{BgpPeer, Family, PeerPassword};

use super::{Session, SessionName, View};
use crate::Problem;

/// Adds the sessions that the node has with those which choose it.
pub(super) fn add_sessions(
    view: View<'_>,
    sessions: &mut BTreeMap<SessionName, Session>,
    problems: &mut Vec<Problem>,
) {
    for peer in view.peers.peers.values().filter(|peer| selects(peer, view)) {
        match session(view, sessions, peer) {
            Ok(session) => drop(sessions.insert(SessionName::Peer(peer.name.clone()), session)),
            Err(problem) => problems.push(*problem),
        }
    }
}

fn selects(peer: &BgpPeer, view: View<'_>) -> bool {
    peer.nodes.iter().all(|(key, value)| view.peers.labels.get(key) == Some(value))
}

fn session(
    view: View<'_>,
    sessions: &BTreeMap<SessionName, Session>,
    peer: &BgpPeer,
) -> Result<Session, Box<Problem>> {
    let (name, address) = (|| peer.name.clone(), peer.address);
    let family = Family::of(&address);
    let Some(source) = view.local.addresses.of(family).copied() else {
        let node = view.local.name.clone();
        return Err(Problem::NoAddressForPeer { peer: name(), address, node, family }.into());
    };
    if let Some(holder) = holder(sessions, view, address) {
        return Err(Problem::PeerAddressTaken { peer: name(), address, holder }.into());
    }
    Ok(Session {
        address,
        port: peer.port,
        source,
        asn: peer.asn,
        router_id: None,
        roaming: false,
        client: false,
        next_hop_self: false,
        outside: true,
        hold_time: peer.hold_time,
        bfd: peer.bfd,
        password: password(view, peer)?,
        ttl_security: peer.ttl_security,
        max_prefixes: peer.max_prefixes,
        import: peer.import.clone(),
        export: peer.export.clone(),
    })
}

/// Who has an address already. A connection from it could be of either, and each address has one password.
fn holder(sessions: &BTreeMap<SessionName, Session>, view: View<'_>, address: IpAddr) -> Option<String> {
    let session = sessions.iter().find(|(_, session)| session.address == address && !session.roaming);
    let session = session.map(|(name, _)| name.to_string());
    session.or_else(|| view.local.addresses.iter().any(|own| *own == address).then(|| "this node".to_owned()))
}

fn password(view: View<'_>, peer: &BgpPeer) -> Result<Option<PeerPassword>, Box<Problem>> {
    let Some(key) = &peer.password else { return Ok(None) };
    let missing = |reason: String| Box::new(Problem::NoPassword { peer: peer.name.clone(), reason });
    match view.peers.passwords.get(key) {
        Some(Ok(password)) => Ok(Some(password.clone())),
        Some(Err(reason)) => Err(missing(reason.clone())),
        None => Err(missing(format!("Secret {} has not been read yet", key.secret))),
    }
}
