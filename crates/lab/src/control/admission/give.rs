//! What a service is given: cluster addresses and node ports. Pure.

use std::collections::HashSet;
use std::net::IpAddr;

use apiserver::error::Cause;
use serde_json::{Value, json};

use crate::control::object::{list, text};
use crate::control::ranges::Pool;

/// The ports that nodes give to services.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// What stored services have. It may hold what a refused write would have had, too.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) addresses: HashSet<IpAddr>,
    pub(super) ports: HashSet<(u16, String)>,
    next_port: u16,
}

impl Taken {
    pub(super) fn add(&mut self, service: &Value) {
        self.addresses.extend(addresses(service));
        self.ports.extend(node_ports(service));
    }

    pub(super) fn remove(&mut self, service: &Value) {
        for address in addresses(service) {
            self.addresses.remove(&address);
        }
        for port in node_ports(service) {
            self.ports.remove(&port);
        }
    }

    /// The next port that neither a service has nor `asked` has.
    fn port(&mut self, protocol: &str, asked: &[(u16, String)]) -> Option<u16> {
        for _ in NODE_PORTS {
            let port = self.next_port.clamp(*NODE_PORTS.start(), *NODE_PORTS.end());
            self.next_port = if port == *NODE_PORTS.end() { *NODE_PORTS.start() } else { port + 1 };
            let key = (port, protocol.to_owned());
            if !self.ports.contains(&key) && !asked.contains(&key) {
                return Some(port);
            }
        }
        None
    }
}

fn addresses(service: &Value) -> impl Iterator<Item = IpAddr> + use<> {
    let ips: Vec<IpAddr> =
        list(&service["spec"]["clusterIPs"]).iter().filter_map(|ip| text(ip).parse().ok()).collect();
    ips.into_iter()
}

/// The ports of the nodes that a service has, that of its health check too.
fn node_ports(service: &Value) -> impl Iterator<Item = (u16, String)> + use<> {
    let ports = list(&service["spec"]["ports"]).iter();
    let ports = ports.map(|port| (&port["nodePort"], text(&port["protocol"])));
    let all = ports.chain([(&service["spec"]["healthCheckNodePort"], "TCP")]);
    let all = all.filter_map(|(number, protocol)| Some((port_number(number)?, protocol.to_owned())));
    all.collect::<Vec<_>>().into_iter()
}

/// A port that is set: 0 stands for none.
fn port_number(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok().filter(|number| *number != 0)
}

/// Gives a service what it needs and has not got.
///
/// # Errors
/// The field that asks for what cannot be given.
pub(super) fn give(
    service: &mut Value,
    old: Option<&Value>,
    pools: &mut [Pool],
    taken: &mut Taken,
) -> Result<(), Cause> {
    if service["spec"]["type"] == "ExternalName" {
        if let Some(spec) = service["spec"].as_object_mut() {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
        }
        return Ok(());
    }
    let old = old.filter(|old| old["spec"]["type"] != "ExternalName");
    give_addresses(service, old, pools, taken)?;
    give_ports(service, old, taken)?;
    give_health_port(service, old, taken)
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn give_addresses(
    service: &mut Value,
    old: Option<&Value>,
    pools: &mut [Pool],
    taken: &Taken,
) -> Result<(), Cause> {
    let spec = &service["spec"];
    let mut asked: Vec<String> = list(&spec["clusterIPs"]).iter().map(|ip| text(ip).to_owned()).collect();
    let first = text(&spec["clusterIP"]);
    if asked.is_empty() && !first.is_empty() {
        asked.push(first.into());
    }
    let had: Vec<String> = old
        .into_iter()
        .flat_map(|old| list(&old["spec"]["clusterIPs"]))
        .map(|ip| text(ip).to_owned())
        .collect();
    if asked.is_empty() {
        asked.clone_from(&had);
    }
    let headless = asked.first().is_some_and(|ip| ip == "None");
    let before = |field: &str| old.map_or(&Value::Null, |old| &old["spec"][field]);
    let or_before = |field: &'static str| if spec[field].is_null() { before(field) } else { &spec[field] };
    let families_asked = list(or_before("ipFamilies"));
    let policy = text(or_before("ipFamilyPolicy"));
    let selects = spec["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    // Whoever writes the endpoints of a headless service may write them in any family, whatever the cluster has.
    let free = headless && !selects && families_asked.is_empty() && policy != "SingleStack";
    let policy = match policy {
        "" if free || asked.len() > 1 || families_asked.len() > 1 => "RequireDualStack",
        "" => "SingleStack",
        policy => policy,
    };
    let mut has: Vec<&'static str> = pools.iter().map(|pool| family(&pool.range().addr())).collect();
    if free {
        has.extend(["IPv4", "IPv6"].iter().filter(|one| !has.contains(one)).copied().collect::<Vec<_>>());
    }
    let families = families(families_asked, &asked, policy, &has)?;
    let mut ips = Vec::new();
    let mut claimed = taken.addresses.clone();
    for ip in &had {
        if let Ok(ip) = ip.parse() {
            claimed.remove(&ip);
        }
    }
    if headless {
        ips.push("None".to_owned());
    } else {
        for family_name in &families {
            let wanted = asked.iter().find_map(|ip| ip.parse().ok().filter(|ip| family(ip) == *family_name));
            ips.push(one_address(wanted, family_name, pools, &claimed)?.to_string());
        }
    }
    let policy = policy.to_owned();
    let spec = &mut service["spec"];
    spec["clusterIP"] = json!(ips.first());
    spec["clusterIPs"] = json!(ips);
    spec["ipFamilies"] = json!(families);
    spec["ipFamilyPolicy"] = policy.into();
    Ok(())
}

fn one_address(
    wanted: Option<IpAddr>,
    family_name: &str,
    pools: &mut [Pool],
    taken: &HashSet<IpAddr>,
) -> Result<IpAddr, Cause> {
    let full = || {
        Cause::forbidden("spec.clusterIPs", &format!("the service range has no {family_name} address left"))
    };
    let pool = pools.iter_mut().find(|pool| family(&pool.range().addr()) == family_name).ok_or_else(full)?;
    let Some(ip) = wanted else { return pool.take(taken).ok_or_else(full) };
    let why = if !pool.range().contains(&ip) {
        format!("it is not in the service range {}", pool.range())
    } else if taken.contains(&ip) {
        "another service has it".into()
    } else {
        return Ok(ip);
    };
    Err(Cause::invalid("spec.clusterIPs", &json!(ip), &why))
}

/// The families of a service, by what it asks for and what there is to have.
fn families(
    by_field: &[Value],
    asked: &[String],
    policy: &str,
    has: &[&'static str],
) -> Result<Vec<&'static str>, Cause> {
    let by_field = by_field.iter().map(text).map(str::to_owned);
    let by_address = asked.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| family(&ip).to_owned());
    let mut families: Vec<&'static str> = Vec::new();
    for wanted in by_field.chain(by_address) {
        let known = has.iter().find(|one| **one == wanted);
        let known = known.ok_or_else(|| {
            let why = format!("the cluster's services have {} only", has.join(" and "));
            Cause::invalid("spec.ipFamilies", &json!(wanted), &why)
        })?;
        if !families.contains(known) {
            families.push(known);
        }
    }
    families.extend(has.iter().filter(|one| !families.contains(*one)).copied().collect::<Vec<_>>());
    match policy {
        "SingleStack" => families.truncate(1),
        "RequireDualStack" if families.len() < 2 => {
            let why = format!("the cluster's services have {} only", has.join(" and "));
            return Err(Cause::invalid("spec.ipFamilyPolicy", &json!(policy), &why));
        }
        _ => {}
    }
    Ok(families)
}

fn give_ports(service: &mut Value, old: Option<&Value>, taken: &mut Taken) -> Result<(), Cause> {
    let spec = &mut service["spec"];
    let balanced = spec["type"] == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false;
    let needs = spec["type"] == "NodePort" || balanced;
    let keeps = needs || spec["type"] == "LoadBalancer";
    let had: Vec<(u16, String)> = old.into_iter().flat_map(node_ports).collect();
    let old_ports = old.map(|old| list(&old["spec"]["ports"])).unwrap_or_default();
    let asked: Vec<(u16, String)> = list(&spec["ports"])
        .iter()
        .filter_map(|port| Some((port_number(&port["nodePort"])?, text(&port["protocol"]).to_owned())))
        .collect();
    let mut own: Vec<(u16, String, Value)> = Vec::new();
    for (index, port) in spec["ports"].as_array_mut().into_iter().flatten().enumerate() {
        let protocol = text(&port["protocol"]).to_owned();
        let Some(port_map) = port.as_object_mut() else { continue };
        if !keeps {
            port_map.remove("nodePort");
            continue;
        }
        let number = port_map.get("port").cloned().unwrap_or_default();
        let wanted = port_map.get("nodePort").and_then(Value::as_u64).filter(|port| *port != 0);
        if let Some(wanted) = wanted {
            let field = format!("spec.ports[{index}].nodePort");
            let key = u16::try_from(wanted).ok().filter(|port| NODE_PORTS.contains(port));
            let Some(key) = key else {
                let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
                return Err(Cause::invalid(field, &json!(wanted), why));
            };
            let key = (key, protocol.clone());
            if taken.ports.contains(&key) && !had.contains(&key) {
                let why =
                    format!("provided port is already allocated: another service has it for {protocol}");
                return Err(Cause::invalid(field, &json!(wanted), &why));
            }
            own.push((key.0, protocol, number));
        } else if needs {
            let before =
                old_ports.iter().find(|old| old["port"] == number && old["protocol"] == protocol.as_str());
            let before =
                before.and_then(|old| u16::try_from(old["nodePort"].as_u64()?).ok()).filter(|p| *p != 0);
            // Both protocols of one port have the same node port, as far as it is free.
            let twin = own.iter().find(|(_, _, other)| *other == number).map(|(port, _, _)| *port);
            let is_free = |key: (u16, String)| !taken.ports.contains(&key) && !asked.contains(&key);
            let twin = twin.filter(|port| is_free((*port, protocol.clone())));
            let given = before.or(twin).or_else(|| taken.port(&protocol, &asked));
            let full = || Cause::forbidden("spec.ports", "no node port from 30000 to 32767 is left");
            let given = given.ok_or_else(full)?;
            port_map.insert("nodePort".into(), given.into());
            own.push((given, protocol, number));
        }
    }
    Ok(())
}

/// The port on which each node says whether it has endpoints of a service that wants local ones only.
fn give_health_port(service: &mut Value, old: Option<&Value>, taken: &mut Taken) -> Result<(), Cause> {
    let spec = &service["spec"];
    if spec["type"] != "LoadBalancer" || spec["externalTrafficPolicy"] != "Local" {
        return Ok(());
    }
    let had = old.and_then(|old| port_number(&old["spec"]["healthCheckNodePort"]));
    let field = "spec.healthCheckNodePort";
    let of_ports: Vec<(u16, String)> = node_ports(service).collect();
    let port = match port_number(&spec["healthCheckNodePort"]).or(had) {
        Some(port) if Some(port) == had => port,
        Some(port) if !NODE_PORTS.contains(&port) => {
            let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
            return Err(Cause::invalid(field, &json!(port), why));
        }
        Some(port) if taken.ports.contains(&(port, "TCP".to_owned())) => {
            let why = "provided port is already allocated: another service has it for TCP";
            return Err(Cause::invalid(field, &json!(port), why));
        }
        Some(port) => port,
        None => taken
            .port("TCP", &of_ports)
            .ok_or_else(|| Cause::forbidden(field, "no node port from 30000 to 32767 is left"))?,
    };
    service["spec"]["healthCheckNodePort"] = port.into();
    Ok(())
}
