//! What nodes and services are given as they are written: pod ranges, cluster addresses and node ports.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use apiserver::ApiError;
use apiserver::admission::{Admission, Operation, Request};
use apiserver::error::Cause;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::object::{list, name, text};
use super::ranges::{Pool, node_ranges};

/// The ports that nodes give to services.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Gives nodes their pod ranges when they are made.
pub(super) struct NodeRanges {
    pub(super) cluster: Vec<IpNet>,
}

impl Admission for NodeRanges {
    fn admit(&self, request: &mut Request<'_, '_>) -> Result<(), ApiError> {
        let is_new_node = request.operation == Operation::Create && request.kind.kind == "Node";
        if !is_new_node || !list(&request.object["spec"]["podCIDRs"]).is_empty() {
            return Ok(());
        }
        let mut taken = HashSet::new();
        request.for_each("", "nodes", |node| {
            taken.extend(
                list(&node["spec"]["podCIDRs"]).iter().filter_map(|one| text(one).parse::<IpNet>().ok()),
            );
        })?;
        let mut ranges = Vec::new();
        for (range, part) in self.cluster.iter().zip(node_ranges(&self.cluster, &taken)) {
            let part = part.ok_or_else(|| {
                let why =
                    format!("the pod range {range} of the ClusterNetwork has no part left for another node");
                ApiError::forbidden(request.kind, name(request.object), &why)
            })?;
            ranges.push(part.to_string());
        }
        let first = ranges.first().cloned();
        request.object["spec"]["podCIDR"] = json!(first);
        request.object["spec"]["podCIDRs"] = json!(ranges);
        Ok(())
    }
}

/// Gives services their cluster addresses and node ports, and takes them back.
pub(super) struct Services {
    state: Mutex<Given>,
}

#[derive(Debug)]
struct Given {
    /// One for each family, the cluster's first family first.
    pools: Vec<Pool>,
    /// What services have; read from the store at first, and again when something seems to be taken.
    taken: Option<Taken>,
}

/// What stored services have. It may hold what a refused write would have had, too.
#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: HashSet<(u16, String)>,
    next_port: u16,
}

impl Taken {
    fn add(&mut self, service: &Value) {
        self.addresses.extend(addresses(service));
        self.ports.extend(node_ports(service));
    }

    fn remove(&mut self, service: &Value) {
        for address in addresses(service) {
            self.addresses.remove(&address);
        }
        for port in node_ports(service) {
            self.ports.remove(&port);
        }
    }

    fn port(&mut self, protocol: &str) -> Option<u16> {
        for _ in NODE_PORTS {
            let port = self.next_port.clamp(*NODE_PORTS.start(), *NODE_PORTS.end());
            self.next_port = if port == *NODE_PORTS.end() { *NODE_PORTS.start() } else { port + 1 };
            if !self.ports.contains(&(port, protocol.to_owned())) {
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

fn node_ports(service: &Value) -> impl Iterator<Item = (u16, String)> + use<> {
    let ports = list(&service["spec"]["ports"]).iter().filter_map(|port| {
        let number = u16::try_from(port["nodePort"].as_u64()?).ok().filter(|number| *number != 0)?;
        Some((number, text(&port["protocol"]).to_owned()))
    });
    ports.collect::<Vec<_>>().into_iter()
}

impl Services {
    /// Gives addresses of the ranges, of which the first of each family counts.
    pub(super) fn new(ranges: &[IpNet]) -> Self {
        let mut pools: Vec<Pool> = Vec::new();
        for range in ranges {
            if !pools.iter().any(|pool| pool.range().addr().is_ipv4() == range.addr().is_ipv4()) {
                pools.push(Pool::new(*range));
            }
        }
        Self { state: Mutex::new(Given { pools, taken: None }) }
    }
}

impl Admission for Services {
    fn admit(&self, request: &mut Request<'_, '_>) -> Result<(), ApiError> {
        if request.kind.kind != "Service" || !request.kind.group.is_empty() {
            return Ok(());
        }
        let mut given = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Given { pools, taken } = &mut *given;
        if request.operation == Operation::Delete {
            if let Some(taken) = taken.as_mut().filter(|_| !request.dry_run) {
                taken.remove(request.object);
            }
            return Ok(());
        }
        let mut known = match taken.take() {
            Some(taken) => taken,
            None => stored(request)?,
        };
        let mut result = give(request.object, request.old, pools, &mut known);
        if result.is_err() {
            // What seems to be taken may have been asked for by a write that was refused.
            known = stored(request)?;
            result = give(request.object, request.old, pools, &mut known);
        }
        if result.is_ok() && !request.dry_run {
            if let Some(old) = request.old {
                known.remove(old);
            }
            known.add(request.object);
        }
        *taken = Some(known);
        result.map_err(|cause| ApiError::invalid(request.kind, name(request.object), vec![cause]))
    }
}

fn stored(request: &Request<'_, '_>) -> Result<Taken, ApiError> {
    let mut taken = Taken::default();
    request.for_each("", "services", |service| taken.add(&service))?;
    Ok(taken)
}

fn give(
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
    give_ports(service, old, taken)
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
    let policy = match text(&spec["ipFamilyPolicy"]) {
        "" if asked.len() > 1 || list(&spec["ipFamilies"]).len() > 1 => "RequireDualStack",
        "" => "SingleStack",
        policy => policy,
    };
    let families = families(spec, &asked, policy, pools)?;
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

/// The families of a service, by what it asks for and what the cluster has.
fn families(
    spec: &Value,
    asked: &[String],
    policy: &str,
    pools: &[Pool],
) -> Result<Vec<&'static str>, Cause> {
    let has: Vec<&'static str> = pools.iter().map(|pool| family(&pool.range().addr())).collect();
    let by_field = list(&spec["ipFamilies"]).iter().map(text).map(str::to_owned);
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
                return Err(Cause::invalid(field, &json!(wanted), "provided port is already allocated"));
            }
            own.push((key.0, protocol, number));
        } else if needs {
            let before =
                old_ports.iter().find(|old| old["port"] == number && old["protocol"] == protocol.as_str());
            let before =
                before.and_then(|old| u16::try_from(old["nodePort"].as_u64()?).ok()).filter(|p| *p != 0);
            // Both protocols of one port have the same node port, as far as it is free.
            let twin = own.iter().find(|(_, _, other)| *other == number).map(|(port, _, _)| *port);
            let twin = twin.filter(|port| !taken.ports.contains(&(*port, protocol.clone())));
            let given = before.or(twin).or_else(|| taken.port(&protocol));
            let full = || Cause::forbidden("spec.ports", "no node port from 30000 to 32767 is left");
            let given = given.ok_or_else(full)?;
            port_map.insert("nodePort".into(), given.into());
            own.push((given, protocol, number));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
