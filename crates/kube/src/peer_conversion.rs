//! From a `BgpPeer` to what is known of a peer, and back.

use ipnet::IpNet;
use model::{Asn, BfdTimers, BgpPeer, Family, HoldTime, ObjectName, RouteFilter, RouteRule, SecretKey};

use crate::bgp_peer::{Action, BgpPeerSpec, FilterRule, NodeSelector, PasswordSecret};
use crate::cluster_network::BfdSpec;
use crate::conversion::read;
use crate::error::{PeerError, SpecError};

/// The port of BGP (RFC 4271, section 4).
const PORT: u16 = 179;

/// Reads a spec that came over the API.
///
/// # Errors
/// [`SpecError`] naming the field, its value and what would be right.
pub(crate) fn read_peer(name: &str, spec: &serde_json::Value) -> Result<BgpPeer, SpecError> {
    Ok(peer(name, &read(spec)?)?)
}

/// Checks the spec of the `BgpPeer` of this name.
///
/// # Errors
/// [`PeerError`] naming the field, its value and what would be right.
pub fn peer(name: &str, spec: &BgpPeerSpec) -> Result<BgpPeer, PeerError> {
    let address = spec.address.parse().map_err(|_| PeerError::Address(spec.address.clone()))?;
    let port = match spec.port {
        None => PORT,
        Some(port) => match u16::try_from(port) {
            Ok(port @ 1..) => port,
            _ => return Err(PeerError::Port(port)),
        },
    };
    let max_prefixes = match spec.max_prefixes {
        Some(count) => match usize::try_from(count) {
            Ok(count @ 1..) => Some(count),
            _ => return Err(PeerError::MaxPrefixes(count)),
        },
        None => None,
    };
    Ok(BgpPeer {
        name: name.into(),
        nodes: spec.node_selector.match_labels.clone(),
        address,
        port,
        asn: Asn::new(spec.asn)?,
        password: spec.password_secret.as_ref().map(secret_key).transpose()?,
        ttl_security: spec.ttl_security,
        hold_time: spec.hold_time_seconds.map_or(Ok(HoldTime::default()), HoldTime::new)?,
        bfd: spec.bfd.map(timers).transpose()?,
        max_prefixes,
        import: filter("importFilter", &spec.import_filter)?,
        export: filter("exportFilter", &spec.export_filter)?,
    })
}

fn secret_key(PasswordSecret { namespace, name, key }: &PasswordSecret) -> Result<SecretKey, PeerError> {
    for (field, value) in [("namespace", namespace), ("name", name), ("key", key)] {
        // They become part of a request's path and of a selector of fields.
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if value.is_empty() || !value.chars().all(inner) {
            return Err(PeerError::Secret { field, value: value.clone() });
        }
    }
    Ok(SecretKey { secret: ObjectName::new(namespace.as_str(), name.as_str()), key: key.as_str().into() })
}

pub(crate) fn timers(spec: BfdSpec) -> Result<BfdTimers, model::TimerError> {
    BfdTimers::new(spec.interval_milliseconds, spec.multiplier)
}

pub(crate) fn timers_spec(timers: BfdTimers) -> BfdSpec {
    BfdSpec {
        interval_milliseconds: u64::try_from(timers.interval.as_millis()).ok(),
        multiplier: Some(timers.multiplier.into()),
    }
}

fn filter(field: &'static str, rules: &[FilterRule]) -> Result<RouteFilter, PeerError> {
    let rule = |(index, rule): (usize, &FilterRule)| {
        let prefix = || PeerError::Prefix { field, index, value: rule.prefix.clone() };
        let within: IpNet = rule.prefix.parse().map_err(|_| prefix())?;
        let (least, most) = (within.prefix_len(), longest(&within));
        let length = |name: &'static str, value: Option<u64>, least: u8| match value.map(u8::try_from) {
            None => Ok(None),
            Some(Ok(length)) if (least..=most).contains(&length) => Ok(Some(length)),
            Some(_) => {
                let value = value.unwrap_or_default();
                Err(PeerError::Length { field, index, name, value, least, most })
            }
        };
        let min = length("minLength", rule.min_length, least)?;
        let max = length("maxLength", rule.max_length, min.unwrap_or(least))?;
        Ok(RouteRule { within: within.trunc(), min, max, accept: rule.action == Action::Accept })
    };
    Ok(RouteFilter { rules: rules.iter().enumerate().map(rule).collect::<Result<_, PeerError>>()? })
}

fn longest(net: &IpNet) -> u8 {
    match Family::of_net(net) {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

impl From<&BgpPeer> for BgpPeerSpec {
    fn from(peer: &BgpPeer) -> Self {
        let secret = |key: &SecretKey| PasswordSecret {
            namespace: key.secret.namespace.to_string(),
            name: key.secret.name.to_string(),
            key: key.key.to_string(),
        };
        let rule = |rule: &RouteRule| FilterRule {
            prefix: rule.within.to_string(),
            min_length: rule.min.map(u64::from),
            max_length: rule.max.map(u64::from),
            action: if rule.accept { Action::Accept } else { Action::Reject },
        };
        let rules = |filter: &RouteFilter| filter.rules.iter().map(rule).collect();
        BgpPeerSpec {
            node_selector: NodeSelector { match_labels: peer.nodes.clone() },
            address: peer.address.to_string(),
            port: Some(peer.port.into()),
            asn: peer.asn.value().into(),
            password_secret: peer.password.as_ref().map(secret),
            ttl_security: peer.ttl_security,
            hold_time_seconds: Some(peer.hold_time.seconds().into()),
            bfd: peer.bfd.map(timers_spec),
            max_prefixes: peer.max_prefixes.and_then(|count| u64::try_from(count).ok()),
            import_filter: rules(&peer.import),
            export_filter: rules(&peer.export),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn full() -> Value {
        json!({
            "nodeSelector": {"matchLabels": {"rack": "1"}},
            "address": "2001:db8::1",
            "port": 1179,
            "asn": 65001,
            "passwordSecret": {"namespace": "net", "name": "bgp", "key": "tor"},
            "ttlSecurity": true,
            "holdTimeSeconds": 9,
            "bfd": {"intervalMilliseconds": 50, "multiplier": 5},
            "maxPrefixes": 100,
            "importFilter": [
                {"prefix": "10.1.0.0/16", "action": "reject"},
                {"prefix": "10.0.0.0/8", "minLength": 16, "maxLength": 24, "action": "accept"},
            ],
            "exportFilter": [{"prefix": "::/0", "maxLength": 0, "action": "accept"}],
        })
    }

    #[test]
    fn everything_is_taken_over_and_survives_the_way_through_an_object() {
        let peer = read_peer("tor", &full()).unwrap();
        assert_eq!((&*peer.name, peer.port, peer.asn.value()), ("tor", 1179, 65001));
        assert_eq!(peer.nodes["rack"], "1");
        assert_eq!(peer.password.as_ref().unwrap().secret, ObjectName::new("net", "bgp"));
        assert_eq!(peer.bfd, BfdTimers::new(Some(50), Some(5)).ok());
        assert_eq!((peer.hold_time.seconds(), peer.max_prefixes), (9, Some(100)));
        let rules: Vec<_> = peer.import.rules.iter().map(|rule| (rule.min, rule.max, rule.accept)).collect();
        assert_eq!(rules, [(None, None, false), (Some(16), Some(24), true)]);
        assert_eq!(super::peer("tor", &BgpPeerSpec::from(&peer)), Ok(peer));
    }

    #[test]
    fn a_short_object_gets_the_defaults() {
        let peer = read_peer("tor", &json!({"address": "192.0.2.1", "asn": 65001})).unwrap();
        assert_eq!((peer.port, peer.hold_time.seconds(), peer.bfd), (179, 90, None));
        assert!(peer.nodes.is_empty() && peer.password.is_none() && !peer.ttl_security);
        assert_eq!(super::peer("tor", &BgpPeerSpec::from(&peer)), Ok(peer));
    }

    #[test]
    fn errors_name_field_value_and_what_would_be_right() {
        for (pointer, value, expected) in [
            ("/address", json!("tor.example"), "spec.address: \"tor.example\" is not an IP address"),
            ("/port", json!(65536), "spec.port: 65536 is out of range; use 1 to 65535"),
            ("/asn", json!(65535), "spec.asn: 65535 is the number of no autonomous system; use 1"),
            ("/passwordSecret/key", json!("a/b"), "spec.passwordSecret.key: \"a/b\" is no name"),
            ("/passwordSecret/namespace", json!(""), "spec.passwordSecret.namespace: \"\" is no name"),
            ("/holdTimeSeconds", json!(2), "spec.holdTimeSeconds: 2 is no hold time; use 0"),
            ("/bfd/multiplier", json!(0), "spec.bfd.multiplier: 0 is out of range; use 1 to 255"),
            (
                "/bfd/intervalMilliseconds",
                json!(1),
                "spec.bfd.intervalMilliseconds: 1 is out of range; use 10",
            ),
            ("/maxPrefixes", json!(0), "spec.maxPrefixes: 0 is out of range; use at least 1"),
            ("/importFilter/0/prefix", json!("10.0.0.0"), "spec.importFilter[0].prefix: \"10.0.0.0\" is not"),
            (
                "/importFilter/1/minLength",
                json!(7),
                "spec.importFilter[1].minLength: 7 is out of range; use 8 to 32",
            ),
            (
                "/importFilter/1/maxLength",
                json!(15),
                "spec.importFilter[1].maxLength: 15 is out of range; use 16 to 32",
            ),
            (
                "/exportFilter/0/maxLength",
                json!(129),
                "spec.exportFilter[0].maxLength: 129 is out of range; use 0 to 128",
            ),
            (
                "/exportFilter/0/action",
                json!("deny"),
                "spec.exportFilter[0].action: unknown variant `deny`, expected `accept` or `reject`",
            ),
        ] {
            let mut spec = full();
            *spec.pointer_mut(pointer).unwrap() = value;
            let error = read_peer("tor", &spec).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = read_peer("tor", &json!({"asn": 65001})).unwrap_err().to_string();
        assert_eq!(error, "spec: missing field `address`");
    }
}
