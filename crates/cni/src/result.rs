//! What an ADD made (CNI spec 1.1.0, section 5, "ADD Success"), as it is told to the runtime and as the runtime
//! tells it back.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use model::{Attachment, Family, MacAddr, PodRange};
use serde_json::{Map, Value, json};

use crate::error::{Error, code};
use crate::version::Version;

/// What an ADD made.
#[derive(Debug, Clone)]
pub struct Made<'a> {
    /// The attachment with its addresses.
    pub attachment: &'a Attachment,
    /// The path of the container's network namespace as the runtime gave it.
    pub netns: &'a Path,
    /// The Ethernet address of the node's end of the veth pair.
    pub host_mac: MacAddr,
    /// The Ethernet address of the container's end.
    pub mac: MacAddr,
    /// In bytes.
    pub mtu: u32,
    /// The ranges that the addresses are from.
    pub ranges: &'a [PodRange],
    /// The families that have a default route through the interface.
    pub default_routes: &'a [Family],
    /// `dns` of the configuration.
    pub dns: Option<&'a Value>,
}

impl Made<'_> {
    /// The result in the form of a version. What plugins before this one made is passed through in front.
    pub fn to_json(&self, version: Version, previous: Option<&Reported>) -> Value {
        let mut result = previous.map(|previous| previous.whole.clone()).unwrap_or_default();
        result.insert("cniVersion".to_owned(), version.as_str().into());
        let before = list(&result, "interfaces").len();
        let interface = |name: &str, mac: MacAddr, sandbox: Option<&Path>| {
            let mut object = json!({ "name": name, "mac": mac.to_string() });
            if version >= Version::V1_1_0 {
                object["mtu"] = self.mtu.into();
            }
            if let Some(sandbox) = sandbox {
                object["sandbox"] = sandbox.to_string_lossy().into();
            }
            object
        };
        let host = self.attachment.id.host_link();
        extend(
            &mut result,
            "interfaces",
            [
                interface(host.as_str(), self.host_mac, None),
                interface(&self.attachment.id.ifname, self.mac, Some(self.netns)),
            ],
        );
        let addressed = self.attachment.addresses.iter().filter_map(|address| {
            Some((address, self.ranges.iter().find(|range| range.holds_pod(address))?))
        });
        let ips = addressed.clone().map(|(address, range)| {
            let prefix = range.net().prefix_len();
            let mut object = json!({
                "address": format!("{address}/{prefix}"),
                "gateway": range.gateway().to_string(),
                "interface": before + 1,
            });
            if version < Version::V1_0_0 {
                object["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
            }
            object
        });
        let routed = addressed.filter(|(_, range)| self.default_routes.contains(&range.family()));
        let routes = routed.map(|(_, range)| {
            json!({ "dst": everywhere(range.family()).to_string(), "gw": range.gateway().to_string() })
        });
        extend(&mut result, "ips", ips);
        extend(&mut result, "routes", routes);
        if let Some(dns) = self.dns {
            result.insert("dns".to_owned(), dns.clone());
        }
        // Up to 0.4.0 `dns` is required (spec 0.4.0, "Result").
        result.entry("dns").or_insert_with(|| json!({}));
        Value::Object(result)
    }
}

/// The destination of a default route.
pub fn everywhere(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert([0, 0, 0, 0].into(), 0),
        Family::V6 => IpNet::new_assert([0u16; 8].into(), 0),
    }
}

fn list<'a>(object: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn extend(object: &mut Map<String, Value>, key: &str, more: impl IntoIterator<Item = Value>) {
    let entry = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    if !entry.is_array() {
        *entry = Value::Array(Vec::new());
    }
    if let Value::Array(list) = entry {
        list.extend(more);
    }
}

/// A result that the runtime passes in, `prevResult`. Only what CHECK looks at becomes types.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// The interfaces.
    pub interfaces: Vec<ReportedInterface>,
    /// The addresses with their prefix lengths, each with the index of its interface.
    pub ips: Vec<(IpNet, Option<usize>)>,
    /// The routes, with the next hop where one is named.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
    whole: Map<String, Value>,
}

/// An interface of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedInterface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// The network namespace it is in; none on the node.
    pub sandbox: Option<String>,
}

impl Reported {
    /// Takes `prevResult` apart.
    ///
    /// # Errors
    /// [`code::INVALID_CONFIG`] naming the field that cannot be used.
    pub fn parse(value: &Value) -> Result<Reported, Error> {
        let Value::Object(whole) = value else {
            return Err(invalid("", value, "an object as ADD returns it"));
        };
        let entries = |key: &'static str| -> Result<&[Value], Error> {
            match whole.get(key) {
                None | Some(Value::Null) => Ok(&[]),
                Some(Value::Array(list)) => Ok(list),
                Some(other) => Err(invalid(key, other, "a list")),
            }
        };
        let interfaces = entries("interfaces")?.iter().enumerate().map(|(index, entry)| {
            let at = |key| format!("interfaces[{index}].{key}");
            let name = text(entry, "name", at)?.unwrap_or_default().to_owned();
            let mac = parsed(entry, "mac", at, "an Ethernet address such as 0a:58:0a:f4:01:02")?;
            let sandbox = text(entry, "sandbox", at)?.filter(|path| !path.is_empty()).map(str::to_owned);
            Ok(ReportedInterface { name, mac, sandbox })
        });
        let ips = entries("ips")?.iter().enumerate().map(|(index, entry)| {
            let at = |key| format!("ips[{index}].{key}");
            let right = "an address with its prefix length such as 10.244.1.2/24";
            let address = parsed(entry, "address", at, right)?
                .ok_or_else(|| invalid(&at("address"), &Value::Null, right))?;
            let interface = match entry.get("interface") {
                None | Some(Value::Null) => None,
                Some(value) => Some(
                    value
                        .as_u64()
                        .and_then(|index| usize::try_from(index).ok())
                        .ok_or_else(|| invalid(&at("interface"), value, "an index into interfaces"))?,
                ),
            };
            Ok((address, interface))
        });
        let routes = entries("routes")?.iter().enumerate().map(|(index, entry)| {
            let at = |key| format!("routes[{index}].{key}");
            let right = "a prefix such as 0.0.0.0/0";
            let destination =
                parsed(entry, "dst", at, right)?.ok_or_else(|| invalid(&at("dst"), &Value::Null, right))?;
            Ok((destination, parsed(entry, "gw", at, "an address")?))
        });
        Ok(Reported {
            interfaces: interfaces.collect::<Result<_, Error>>()?,
            ips: ips.collect::<Result<_, Error>>()?,
            routes: routes.collect::<Result<_, Error>>()?,
            whole: whole.clone(),
        })
    }
}

fn text<'a>(
    entry: &'a Value,
    key: &'static str,
    at: impl Fn(&'static str) -> String,
) -> Result<Option<&'a str>, Error> {
    match entry.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(invalid(&at(key), other, "a text")),
    }
}

fn parsed<T: std::str::FromStr>(
    entry: &Value,
    key: &'static str,
    at: impl Fn(&'static str) -> String,
    right: &str,
) -> Result<Option<T>, Error> {
    let text = text(entry, key, &at)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| invalid(&at(key), &Value::from(text), right))).transpose()
}

fn invalid(field: &str, value: &Value, right: &str) -> Error {
    let dot = if field.is_empty() { "" } else { "." };
    let why = format!("prevResult{dot}{field} is {value}; it would be {right}");
    Error::new(code::INVALID_CONFIG, "invalid network configuration", why)
}

#[cfg(test)]
mod tests;
