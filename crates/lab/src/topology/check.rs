//! Checks a topology file and makes it complete.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, MIN_MTU, PerFamily};

use super::addresses::{Allocator, usable};
use super::source::{self, Text};
use super::{
    Interface, MAX_MACHINES, MAX_SUBNETS, Machine, Nat, Network, Role, RouterBgp, Subnet, Topology,
    TopologyError, bgp, nat, network, peers, routes,
};
use crate::paths::{FABRIC, MAX_MEMBER_NAME, is_label};

type Result<T> = std::result::Result<T, TopologyError>;

pub(super) fn check(file: &source::File) -> Result<Topology> {
    let network = network::check(&file.network)?;
    let subnets = subnets(file, &network)?;
    let drafts = drafts(file, &subnets)?;
    let addresses = assign(&drafts, &subnets)?;
    let mut machines: Vec<Machine> =
        drafts.into_iter().zip(addresses).map(|(draft, addresses)| draft.with(addresses)).collect();
    for (index, routes) in routes::of_all(&machines, &subnets).into_iter().enumerate() {
        if let Some(machine) = machines.get_mut(index) {
            machine.routes = routes;
        }
    }
    let mut topology = Topology { network, subnets, machines, peers: BTreeMap::new() };
    topology.peers = match &file.bgp_peers {
        Some(list) => peers::check(list)?,
        None => topology.router_peers(),
    };
    Ok(topology)
}

fn subnets(file: &source::File, network: &Network) -> Result<Vec<Subnet>> {
    let list = &file.subnets;
    if list.value.is_empty() || list.value.len() > MAX_SUBNETS {
        return Err(TopologyError::at(list, format!("subnets: a topology has 1 to {MAX_SUBNETS} subnets")));
    }
    let mut subnets: Vec<Subnet> = Vec::new();
    for source in &list.value {
        let name = label(&source.name, "subnet")?;
        if subnets.iter().any(|other| other.name == name) {
            let message = format!("there are two subnets \"{name}\"; give each its own name");
            return Err(TopologyError::at(&source.name, message));
        }
        // Nobody sees two networks that are each behind a gateway at the same time, so they may have the same prefix.
        let hidden = nat::hides(file, &name);
        let seen = subnets.iter().filter(|other| !(hidden && nat::hides(file, &other.name)));
        let prefixes = prefixes(source, &seen.collect::<Vec<_>>(), network)?;
        let mtu = mtu(source, &prefixes)?;
        subnets.push(Subnet { name, prefixes, mtu });
    }
    Ok(subnets)
}

fn prefixes(source: &source::Subnet, others: &[&Subnet], network: &Network) -> Result<PerFamily<IpNet>> {
    let name = &source.name.value;
    let mut prefixes = PerFamily::default();
    for text in &source.prefixes.value {
        let prefix = prefix(text, name)?;
        let family = Family::of_net(&prefix);
        if let Some(first) = prefixes.insert(family, prefix) {
            let message =
                format!("subnet {name}: {first} and {prefix} are both {family}; use one prefix per family");
            return Err(TopologyError::at(text, message));
        }
        let meets = |other: &IpNet| other.contains(&prefix) || prefix.contains(other);
        let subnet = others.iter().find(|other| other.prefixes.iter().any(meets));
        let range = network.config.pod_ranges.iter().map(|range| range.net()).find(meets);
        let services = network.config.service_ranges.iter().copied().find(meets);
        let balanced = network.load_balancer_ranges.iter().copied().find(meets);
        let other = match (subnet, range, services, balanced) {
            (Some(subnet), ..) => format!("the subnet {}", subnet.name),
            (_, Some(range), ..) => format!("the pod range {range}"),
            (_, _, Some(services), _) => format!("the service range {services}"),
            (.., Some(balanced)) => format!("the load balancer range {balanced}"),
            _ => continue,
        };
        let message =
            format!("subnet {name}: {prefix} overlaps {other}; use a prefix that is apart from all others");
        return Err(TopologyError::at(text, message));
    }
    if prefixes.is_empty() {
        let message =
            format!("subnet {name} has no prefix; use for instance [192.0.2.0/24, \"2001:db8::/64\"]");
        return Err(TopologyError::at(&source.prefixes, message));
    }
    Ok(prefixes)
}

fn prefix(text: &Text, subnet: &str) -> Result<IpNet> {
    let fail = |why: &str| Err(TopologyError::at(text, format!("subnet {subnet}: \"{}\" {why}", text.value)));
    let Ok(prefix) = text.value.parse::<IpNet>() else {
        return fail("is not an address prefix; it would look like 192.0.2.0/24 or 2001:db8::/64");
    };
    if prefix != prefix.trunc() {
        return fail(&format!("has bits set after its length; use {}", prefix.trunc()));
    }
    if prefix.prefix_len() > prefix.max_prefix_len() - 2 {
        return fail("has no room for two machines; use /30 or shorter for IPv4, /126 or shorter for IPv6");
    }
    let first = prefix.network();
    let reserved = match first {
        IpAddr::V4(first) => first.is_loopback() || first.is_link_local() || first.octets()[0] == 0,
        IpAddr::V6(first) => first.is_loopback() || first.is_unicast_link_local(),
    };
    if reserved || first.is_multicast() || first.is_unspecified() || prefix.prefix_len() == 0 {
        return fail("is not for hosts; use a private or documentation prefix such as 192.0.2.0/24");
    }
    Ok(prefix)
}

fn mtu(source: &source::Subnet, prefixes: &PerFamily<IpNet>) -> Result<u32> {
    let least = if prefixes.v6.is_some() { MIN_MTU } else { 576 };
    match &source.mtu {
        None => Ok(1500),
        Some(mtu) if (least..=65_535).contains(&mtu.value) => Ok(mtu.value),
        Some(mtu) => {
            let (name, value) = (&source.name.value, mtu.value);
            let message = format!("subnet {name}: mtu {value} cannot be used; use {least} to 65535");
            Err(TopologyError::at(mtu, message))
        }
    }
}

/// A machine whose addresses are not yet complete.
struct Draft<'a> {
    name: &'a Text,
    role: Role,
    /// The subnets of its interfaces.
    subnets: Vec<usize>,
    /// The addresses that the file gives its first interface.
    given: &'a [Text],
    labels: BTreeMap<String, String>,
    bgp: Option<RouterBgp>,
    nat: Option<Nat>,
}

impl<'a> Draft<'a> {
    fn new(name: &'a Text, role: Role, subnets: Vec<usize>) -> Draft<'a> {
        Draft { name, role, subnets, given: &[], labels: BTreeMap::new(), bgp: None, nat: None }
    }
}

impl Draft<'_> {
    fn with(self, addresses: Vec<PerFamily<IpNet>>) -> Machine {
        let interface =
            |(index, (subnet, addresses))| Interface { link: format!("eth{index}"), subnet, addresses };
        Machine {
            name: self.name.value.clone(),
            role: self.role,
            interfaces: self.subnets.into_iter().zip(addresses).enumerate().map(interface).collect(),
            routes: Vec::new(),
            labels: self.labels,
            bgp: self.bgp,
            nat: self.nat,
        }
    }
}

fn drafts<'a>(file: &'a source::File, subnets: &[Subnet]) -> Result<Vec<Draft<'a>>> {
    let mut drafts = Vec::new();
    for router in &file.routers {
        let bgp = router.bgp.as_ref().map(|bgp| bgp::check(&router.name, bgp)).transpose()?;
        let legs = router_subnets(router, subnets)?;
        drafts.push(Draft { bgp, ..Draft::new(&router.name, Role::Router, legs) });
    }
    for gateway in &file.nat_gateways {
        let legs = vec![known(&gateway.inside, subnets)?, known(&gateway.outside, subnets)?];
        if legs.first() == legs.last() {
            let message = format!("NAT gateway {}: inside and outside are one subnet", gateway.name.value);
            return Err(TopologyError::at(&gateway.outside, message + "; use two"));
        }
        let nat = Some(nat::check(gateway)?);
        drafts.push(Draft { nat, ..Draft::new(&gateway.name, Role::NatGateway, legs) });
    }
    for node in &file.nodes.value {
        let subnets = vec![known(&node.subnet, subnets)?];
        let labels = labels(node)?;
        drafts.push(Draft { given: &node.addresses, labels, ..Draft::new(&node.name, Role::Node, subnets) });
    }
    for host in &file.outside {
        let subnets = vec![known(&host.subnet, subnets)?];
        drafts.push(Draft { given: &host.addresses, ..Draft::new(&host.name, Role::Outside, subnets) });
    }
    if file.nodes.value.is_empty() || drafts.len() > MAX_MACHINES {
        let message = format!(
            "a topology has at least one node, and at most {MAX_MACHINES} nodes, routers, NAT gateways and outside \
             hosts together"
        );
        return Err(TopologyError::at(&file.nodes, message));
    }
    for (index, draft) in drafts.iter().enumerate() {
        let name = label(draft.name, draft.role.noun())?;
        let earlier = drafts.iter().take(index).find(|other| other.name.value == name);
        if let Some(other) = earlier {
            let (first, second) = (other.role.noun(), draft.role.noun());
            let message =
                format!("there are two machines \"{name}\" ({first} and {second}); give each its own name");
            return Err(TopologyError::at(draft.name, message));
        }
    }
    Ok(drafts)
}

fn router_subnets(router: &source::Router, subnets: &[Subnet]) -> Result<Vec<usize>> {
    let name = &router.name.value;
    let mut legs = Vec::new();
    for text in &router.subnets.value {
        let subnet = known(text, subnets)?;
        if legs.contains(&subnet) {
            let message = format!("router {name} is already in subnet \"{}\"; name each once", text.value);
            return Err(TopologyError::at(text, message));
        }
        legs.push(subnet);
    }
    if legs.len() < 2 {
        let message = format!("router {name} has less than two subnets to route between; name at least two");
        return Err(TopologyError::at(&router.subnets, message));
    }
    Ok(legs)
}

fn known(text: &Text, subnets: &[Subnet]) -> Result<usize> {
    subnets.iter().position(|subnet| subnet.name == text.value).ok_or_else(|| {
        let names: Vec<&str> = subnets.iter().map(|subnet| subnet.name.as_str()).collect();
        let message = format!("there is no subnet \"{}\"; use one of {}", text.value, names.join(", "));
        TopologyError::at(text, message)
    })
}

fn label(text: &Text, noun: &str) -> Result<String> {
    let name = &text.value;
    if name == FABRIC {
        let message = format!("{noun} \"{FABRIC}\": the lab itself uses this name; use another");
        return Err(TopologyError::at(text, message));
    }
    if !is_label(name, MAX_MEMBER_NAME) {
        let message = format!(
            "{noun} \"{name}\": a name has 1 to {MAX_MEMBER_NAME} lower-case letters, digits and single '-', and begins and \
             ends with a letter or digit"
        );
        return Err(TopologyError::at(text, message));
    }
    Ok(name.clone())
}

/// Labels as Kubernetes takes them (concepts/overview/working-with-objects/labels, "Syntax and character set").
fn labels(node: &source::Node) -> Result<BTreeMap<String, String>> {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let word = |text: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let bytes = text.as_bytes();
        bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().copied().all(inner)
    };
    for (key, value) in &node.labels {
        let good_key = match key.split_once('/') {
            Some((prefix, name)) => model::NodeName::new(prefix).is_ok() && word(name),
            None => word(key),
        };
        if !good_key || !(value.value.is_empty() || word(&value.value)) {
            let message = format!(
                "node {}: \"{key}: {}\" is no label; key and value have at most 63 letters, digits, '-', '_' and '.', \
                 begin and end with a letter or digit, and the key may have a DNS name and '/' before it",
                node.name.value, value.value
            );
            return Err(TopologyError::at(value, message));
        }
    }
    Ok(node.labels.iter().map(|(key, value)| (key.clone(), value.value.clone())).collect())
}

/// Gives every interface its addresses: first those of the file, then the free ones.
fn assign(drafts: &[Draft<'_>], subnets: &[Subnet]) -> Result<Vec<Vec<PerFamily<IpNet>>>> {
    let mut allocators: Vec<Allocator> =
        subnets.iter().map(|subnet| Allocator::new(&subnet.prefixes)).collect();
    let mut all = Vec::new();
    for draft in drafts {
        let mut interfaces = vec![PerFamily::default(); draft.subnets.len()];
        if let (Some(first), Some(index)) = (interfaces.first_mut(), draft.subnets.first())
            && let (Some(subnet), Some(allocator)) = (subnets.get(*index), allocators.get_mut(*index))
        {
            *first = given(draft, subnet, allocator)?;
        }
        all.push(interfaces);
    }
    for (draft, interfaces) in drafts.iter().zip(&mut all) {
        for (index, addresses) in draft.subnets.iter().zip(interfaces) {
            let (Some(subnet), Some(allocator)) = (subnets.get(*index), allocators.get_mut(*index)) else {
                continue;
            };
            for family in Family::BOTH {
                if subnet.prefixes.of(family).is_none() || addresses.of(family).is_some() {
                    continue;
                }
                let Some(address) = allocator.next(draft.role, family) else {
                    let (name, subnet) = (&draft.name.value, &subnet.name);
                    let message = format!(
                        "subnet {subnet} has no {family} address left for {name}; use a shorter prefix"
                    );
                    return Err(TopologyError::at(draft.name, message));
                };
                addresses.insert(family, address);
            }
        }
    }
    Ok(all)
}

fn given(draft: &Draft<'_>, subnet: &Subnet, allocator: &mut Allocator) -> Result<PerFamily<IpNet>> {
    let (noun, name) = (draft.role.noun(), &draft.name.value);
    let mut addresses = PerFamily::default();
    for text in draft.given {
        let fail = |why: String| {
            Err(TopologyError::at(text, format!("{noun} {name}: address \"{}\" {why}", text.value)))
        };
        let Ok(address) = text.value.parse::<IpAddr>() else {
            return fail("is not an IP address; it would look like 192.0.2.11 or 2001:db8::11".to_owned());
        };
        let family = Family::of(&address);
        let net = match subnet.prefixes.of(family) {
            Some(prefix) if prefix.contains(&address) => *prefix,
            Some(prefix) => return fail(format!("is not in subnet {}; use one of {prefix}", subnet.name)),
            None => return fail(format!("is {family}, but subnet {} has no {family} prefix", subnet.name)),
        };
        if !usable(&net, &address) {
            return fail(format!("cannot be a host's, it is the first or the broadcast address of {net}"));
        }
        if addresses.of(family).is_some() {
            return fail(format!("is the second {family} address; use one per family"));
        }
        if !allocator.take(address) {
            return fail("has been given to another machine before; give each its own".to_owned());
        }
        addresses.insert(family, super::addresses::within(address, &net));
    }
    Ok(addresses)
}
