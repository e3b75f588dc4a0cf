//! UPDATE messages: between the bytes and our own types.

use std::net::{IpAddr, Ipv4Addr};

use bytes::{BufMut, Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::Family;
use rustbgpd_wire::attribute::encode_path_attributes;
use rustbgpd_wire::constants::{HEADER_LEN, MARKER, attr_flags, attr_type, message_type};
use rustbgpd_wire::validate::{validate_as_path_ceiling, validate_update_attributes};
use rustbgpd_wire::{
    Afi, Aggregator, AsPath, AsPathSegment, DecodeError, ErrorDisposition, ExtendedCommunity, NlriEntry,
    NotificationCode, NotificationMessage, PathAttribute, Prefix, RawAttribute, RouteRefreshSubtype, Safi,
    UpdateMessage,
};

use crate::{Attributes, Community, LargeCommunity, Origin, OtherAttribute, nlri, usual};

/// The longest message sent. Longer ones may be received, if so agreed (RFC 8654).
const MESSAGE: usize = 4096;

/// A path with more ASes than this is a fault or an attack, and treated as withdrawn.
const MAX_AS_PATH: u16 = 1000;

/// An UPDATE in our terms.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) withdrawn: Vec<IpNet>,
    /// At most two: IPv4 in the message's own field, and what is in MP_REACH_NLRI.
    pub(crate) announced: Vec<(Attributes, Vec<IpNet>)>,
    /// The family whose routes are complete with this message (RFC 4724, section 2).
    pub(crate) end_of_rib: Option<Family>,
    /// What was wrong with it, if that did not cost the session (RFC 7606).
    pub(crate) fault: Option<String>,
}

/// Reads an UPDATE.
///
/// # Errors
/// The NOTIFICATION with which the session has to end, if it cannot be told which routes are meant.
pub(crate) fn decode(
    message: &UpdateMessage,
    four_octet_as: bool,
    internal: bool,
) -> Result<Update, NotificationMessage> {
    match usual::attributes(&message.path_attributes).filter(|_| four_octet_as) {
        Some(attributes) => {
            let withdrawn = read_nets(&message.withdrawn_routes)?;
            let nets = read_nets(&message.nlri)?;
            let announced = if nets.is_empty() { Vec::new() } else { vec![(attributes, nets)] };
            Ok(Update { withdrawn, announced, ..Update::default() })
        }
        None => decode_any(message, four_octet_as, internal),
    }
}

/// Reads an UPDATE whatever is in it.
fn decode_any(
    message: &UpdateMessage,
    four_octet_as: bool,
    internal: bool,
) -> Result<Update, NotificationMessage> {
    if message.withdrawn_routes.is_empty() && message.path_attributes.is_empty() && message.nlri.is_empty() {
        return Ok(Update { end_of_rib: Some(Family::V4), ..Update::default() });
    }
    let mut update = Update { withdrawn: read_nets(&message.withdrawn_routes)?, ..Update::default() };
    let attributes_alone =
        UpdateMessage { withdrawn_routes: Bytes::new(), nlri: Bytes::new(), ..message.clone() };
    let parsed =
        attributes_alone.parse_revised(four_octet_as, internal, false, &[]).map_err(|error| fatal(&error))?;
    let mut body = read_nets(&message.nlri)?;
    let mut reach = None;
    let attributes = &parsed.update.attributes;
    for attribute in attributes {
        match attribute {
            PathAttribute::MpReachNlri(mp) if mp.safi == Safi::Unicast => {
                reach = Some((mp.next_hop, mp.announced.iter().map(net).collect::<Vec<_>>()));
            }
            PathAttribute::MpUnreachNlri(mp) if mp.safi == Safi::Unicast => {
                let alone = attributes.len() == 1 && body.is_empty() && update.withdrawn.is_empty();
                if mp.withdrawn.is_empty() && alone {
                    update.end_of_rib = family(mp.afi);
                }
                update.withdrawn.extend(mp.withdrawn.iter().map(net));
            }
            _ => {}
        }
    }
    let has_body = !body.is_empty();
    let has_routes = has_body || reach.as_ref().is_some_and(|(_, nets)| !nets.is_empty());

    let mut worst = parsed.malformed.iter().map(|malformed| malformed.disposition).max();
    if let Some(malformed) = parsed.malformed.first() {
        update.fault = Some(malformed.error.to_string());
    }
    let valid = validate_update_attributes(attributes, has_routes, has_body, true)
        .and_then(|()| validate_as_path_ceiling(attributes, MAX_AS_PATH));
    if let Err(error) = valid {
        if error.disposition == ErrorDisposition::SessionReset {
            let data = Bytes::from(error.data);
            return Err(NotificationMessage::new(NotificationCode::UpdateMessage, error.subcode, data));
        }
        worst = worst.max(Some(error.disposition));
        update.fault.get_or_insert_with(|| {
            rustbgpd_wire::notification::description(NotificationCode::UpdateMessage, error.subcode)
                .to_owned()
        });
    }
    match worst {
        Some(ErrorDisposition::SessionReset) => {
            return Err(NotificationMessage::new(NotificationCode::UpdateMessage, 0, Bytes::new()));
        }
        Some(ErrorDisposition::TreatAsWithdraw) => {
            update.withdrawn.append(&mut body);
            update.withdrawn.extend(reach.into_iter().flat_map(|(_, nets)| nets));
            return Ok(update);
        }
        Some(ErrorDisposition::AttributeDiscard) | None => {}
    }
    if has_body {
        let next_hop = attributes.iter().find_map(|attribute| match attribute {
            PathAttribute::NextHop(address) => Some(IpAddr::V4(*address)),
            _ => None,
        });
        // `validate_update_attributes` has seen to it that there is one.
        if let Some(next_hop) = next_hop {
            update.announced.push((from_wire(attributes, next_hop), body));
        }
    }
    if let Some((next_hop, nets)) = reach.filter(|(_, nets)| !nets.is_empty()) {
        update.announced.push((from_wire(attributes, next_hop), nets));
    }
    Ok(update)
}

fn read_nets(list: &[u8]) -> Result<Vec<IpNet>, NotificationMessage> {
    nlri::ipv4(list).map_err(|error| fatal(&error))
}

fn fatal(error: &DecodeError) -> NotificationMessage {
    let (code, subcode, data) = error.to_notification();
    NotificationMessage::new(code, subcode, data)
}

fn from_wire(attributes: &[PathAttribute], next_hop: IpAddr) -> Attributes {
    let mut result = Attributes::new(next_hop);
    let mut others = Vec::new();
    for attribute in attributes {
        match attribute {
            PathAttribute::Origin(origin) => {
                result.origin = match origin {
                    rustbgpd_wire::Origin::Igp => Origin::Igp,
                    rustbgpd_wire::Origin::Egp => Origin::Egp,
                    rustbgpd_wire::Origin::Incomplete => Origin::Incomplete,
                };
            }
            PathAttribute::AsPath(path) => result.as_path = path.asns().collect(),
            PathAttribute::Aggregator(aggregator) => {
                result.aggregator = Some((aggregator.asn, aggregator.router_id));
            }
            PathAttribute::AtomicAggregate => result.atomic_aggregate = true,
            PathAttribute::LocalPref(preference) => result.local_pref = Some(*preference),
            PathAttribute::Med(med) => result.med = Some(*med),
            PathAttribute::OriginatorId(id) => result.originator = Some(*id),
            PathAttribute::ClusterList(clusters) => result.cluster_list = clusters.as_slice().into(),
            PathAttribute::Unknown(raw) => others.extend(passed_through(raw)),
            other => {
                if let Some(communities) = other.communities() {
                    result.communities = communities.iter().copied().map(Community).collect();
                } else if let Some(communities) = other.large_communities() {
                    result.large_communities = communities
                        .iter()
                        .map(|c| LargeCommunity(c.global_admin, c.local_data1, c.local_data2))
                        .collect();
                } else if let Some(communities) = other.extended_communities() {
                    result.extended_communities = communities.iter().map(|c| c.as_u64()).collect();
                } else if let Some(asn) = other.only_to_customer() {
                    others.push(OtherAttribute {
                        flags: other.flags(),
                        code: other.type_code(),
                        value: asn.to_be_bytes().into(),
                    });
                }
            }
        }
    }
    result.others = others.into();
    result
}

/// An attribute that nobody here knows, as it is sent on: only if it is transitive, and marked as having passed
/// somebody who did not know it (RFC 4271, section 5).
fn passed_through(raw: &RawAttribute) -> Option<OtherAttribute> {
    let wanted = attr_flags::OPTIONAL | attr_flags::TRANSITIVE;
    (raw.flags & wanted == wanted).then(|| OtherAttribute {
        flags: wanted | attr_flags::PARTIAL,
        code: raw.type_code,
        value: raw.data.as_ref().into(),
    })
}

fn to_wire(attributes: &Attributes, body_next_hop: Option<Ipv4Addr>) -> Vec<PathAttribute> {
    let mut list = vec![PathAttribute::Origin(match attributes.origin {
        Origin::Igp => rustbgpd_wire::Origin::Igp,
        Origin::Egp => rustbgpd_wire::Origin::Egp,
        Origin::Incomplete => rustbgpd_wire::Origin::Incomplete,
    })];
    let segments = if attributes.as_path.is_empty() {
        Vec::new()
    } else {
        vec![AsPathSegment::AsSequence(attributes.as_path.to_vec())]
    };
    list.push(PathAttribute::AsPath(AsPath { segments }));
    list.extend(body_next_hop.map(PathAttribute::NextHop));
    list.extend(attributes.med.map(PathAttribute::Med));
    list.extend(attributes.local_pref.map(PathAttribute::LocalPref));
    if attributes.atomic_aggregate {
        list.push(PathAttribute::AtomicAggregate);
    }
    list.extend(
        attributes
            .aggregator
            .map(|(asn, router_id)| PathAttribute::Aggregator(Aggregator { asn, router_id, partial: false })),
    );
    if !attributes.communities.is_empty() {
        list.push(PathAttribute::Communities(attributes.communities.iter().map(|c| c.0).collect()));
    }
    list.extend(attributes.originator.map(PathAttribute::OriginatorId));
    if !attributes.cluster_list.is_empty() {
        list.push(PathAttribute::ClusterList(attributes.cluster_list.to_vec()));
    }
    if !attributes.extended_communities.is_empty() {
        let communities = attributes.extended_communities.iter().map(|raw| ExtendedCommunity::new(*raw));
        list.push(PathAttribute::ExtendedCommunities(communities.collect()));
    }
    if !attributes.large_communities.is_empty() {
        let communities = attributes.large_communities.iter();
        list.push(PathAttribute::LargeCommunities(
            communities.map(|c| rustbgpd_wire::LargeCommunity::new(c.0, c.1, c.2)).collect(),
        ));
    }
    list.extend(attributes.others.iter().map(|other| {
        let data = Bytes::copy_from_slice(&other.value);
        PathAttribute::Unknown(RawAttribute { flags: other.flags, type_code: other.code, data })
    }));
    list
}

/// Appends the UPDATE messages that announce `nets`, all of one family, with these attributes.
///
/// False if the attributes leave no room for a prefix in a message, or have no form on the wire.
pub(crate) fn announce(
    attributes: &Attributes,
    family: Family,
    nets: &[IpNet],
    four_octet_as: bool,
    out: &mut BytesMut,
) -> bool {
    let body_next_hop = match (family, attributes.next_hop) {
        (Family::V4, IpAddr::V4(address)) => Some(address),
        _ => None,
    };
    let mut base = Vec::new();
    let list = to_wire(attributes, body_next_hop);
    if encode_path_attributes(&list, &mut base, four_octet_as, false).is_err() {
        return false;
    }
    let reach = if body_next_hop.is_some() { 0 } else { 4 + 5 + next_hop_length(attributes.next_hop) };
    let Some(room) = (MESSAGE - HEADER_LEN - 4).checked_sub(base.len() + reach).filter(|room| *room >= 17)
    else {
        return false;
    };
    for (chunk, nlri_len) in chunks(nets, room) {
        if body_next_hop.is_some() {
            start(out, 4 + base.len() + nlri_len);
            out.put_u16(0);
            put_len(out, base.len());
            out.put_slice(&base);
            put_nets(out, chunk);
        } else {
            start(out, 4 + reach + nlri_len + base.len());
            out.put_u16(0);
            put_len(out, reach + nlri_len + base.len());
            // RFC 7606, section 5.1: first, so that it can be found whatever is wrong with the rest.
            put_mp_header(out, attr_type::MP_REACH_NLRI, family, reach - 4 + nlri_len);
            out.put_u8(next_hop_length(attributes.next_hop) as u8);
            match attributes.next_hop {
                IpAddr::V4(address) => out.put_slice(&address.octets()),
                IpAddr::V6(address) => out.put_slice(&address.octets()),
            }
            out.put_u8(0);
            put_nets(out, chunk);
            out.put_slice(&base);
        }
    }
    true
}

/// Appends the UPDATE messages that withdraw `nets`, all of one family.
pub(crate) fn withdraw(family: Family, nets: &[IpNet], out: &mut BytesMut) {
    match family {
        Family::V4 => {
            for (chunk, len) in chunks(nets, MESSAGE - HEADER_LEN - 4) {
                start(out, 4 + len);
                put_len(out, len);
                put_nets(out, chunk);
                out.put_u16(0);
            }
        }
        Family::V6 => {
            for (chunk, len) in chunks(nets, MESSAGE - HEADER_LEN - 4 - 7) {
                put_unreach(family, chunk, len, out);
            }
        }
    }
}

/// Appends the message that says that a family's routes are complete.
pub(crate) fn end_of_rib(family: Family, out: &mut BytesMut) {
    match family {
        Family::V4 => {
            start(out, 4);
            out.put_u32(0);
        }
        Family::V6 => put_unreach(family, &[], 0, out),
    }
}

/// Appends a ROUTE-REFRESH of RFC 2918: all routes of the family are wanted again.
pub(crate) fn refresh(family: Family, out: &mut BytesMut) {
    put_refresh(family, RouteRefreshSubtype::Normal, out);
}

/// Appends what begins a refresh (RFC 7313).
pub(crate) fn refresh_begin(family: Family, out: &mut BytesMut) {
    put_refresh(family, RouteRefreshSubtype::BoRR, out);
}

/// Appends what ends a refresh (RFC 7313).
pub(crate) fn refresh_end(family: Family, out: &mut BytesMut) {
    put_refresh(family, RouteRefreshSubtype::EoRR, out);
}

fn put_refresh(family: Family, subtype: RouteRefreshSubtype, out: &mut BytesMut) {
    out.put_slice(&MARKER);
    put_len(out, HEADER_LEN + 4);
    out.put_u8(message_type::ROUTE_REFRESH);
    out.put_u16(afi(family) as u16);
    out.put_u8(subtype.as_u8());
    out.put_u8(Safi::Unicast as u8);
}

fn put_unreach(family: Family, nets: &[IpNet], len: usize, out: &mut BytesMut) {
    start(out, 4 + 7 + len);
    out.put_u16(0);
    put_len(out, 7 + len);
    put_mp_header(out, attr_type::MP_UNREACH_NLRI, family, 3 + len);
    put_nets(out, nets);
}

fn put_mp_header(out: &mut BytesMut, code: u8, family: Family, len: usize) {
    out.put_u8(attr_flags::OPTIONAL | attr_flags::EXTENDED_LENGTH);
    out.put_u8(code);
    put_len(out, len);
    out.put_u16(afi(family) as u16);
    out.put_u8(Safi::Unicast as u8);
}

fn start(out: &mut BytesMut, body: usize) {
    out.put_slice(&MARKER);
    put_len(out, HEADER_LEN + body);
    out.put_u8(message_type::UPDATE);
}

/// Lengths here are at most [`MESSAGE`].
fn put_len(out: &mut BytesMut, len: usize) {
    out.put_u16(len as u16);
}

fn put_nets(out: &mut BytesMut, nets: &[IpNet]) {
    for net in nets {
        let len = net.prefix_len();
        out.put_u8(len);
        let bytes = usize::from(len.div_ceil(8));
        match net {
            IpNet::V4(net) => out.put_slice(&net.network().octets()[..bytes]),
            IpNet::V6(net) => out.put_slice(&net.network().octets()[..bytes]),
        }
    }
}

/// Runs of prefixes that take at most `room` bytes, with the bytes each takes.
fn chunks(nets: &[IpNet], room: usize) -> impl Iterator<Item = (&[IpNet], usize)> {
    let mut rest = nets;
    std::iter::from_fn(move || {
        let mut len = 0;
        let mut count = 0;
        for net in rest {
            let more = 1 + usize::from(net.prefix_len().div_ceil(8));
            if len + more > room {
                break;
            }
            len += more;
            count += 1;
        }
        let (chunk, after) = rest.split_at(count);
        rest = after;
        (count > 0).then_some((chunk, len))
    })
}

fn next_hop_length(next_hop: IpAddr) -> usize {
    match next_hop {
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 16,
    }
}

pub(crate) fn afi(family: Family) -> Afi {
    match family {
        Family::V4 => Afi::Ipv4,
        Family::V6 => Afi::Ipv6,
    }
}

pub(crate) fn family(afi: Afi) -> Option<Family> {
    match afi {
        Afi::Ipv4 => Some(Family::V4),
        Afi::Ipv6 => Some(Family::V6),
        _ => None,
    }
}

/// The decoder has checked the length.
fn net(entry: &NlriEntry) -> IpNet {
    match &entry.prefix {
        Prefix::V4(prefix) => Ipv4Net::new(prefix.addr, prefix.len).unwrap_or_default().into(),
        Prefix::V6(prefix) => Ipv6Net::new(prefix.addr, prefix.len).unwrap_or_default().into(),
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
