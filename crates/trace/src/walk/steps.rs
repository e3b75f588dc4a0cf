//! The steps of a packet, as the kernel takes them.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, LinkName, MacAddr, Node, NodeName};
use plan::{Entry, Field, Hook, Key, Link, Member, NodePlan, Origin, Route, SetName, TableFamily, Value};

use super::filter::{self, Fields, Verdict};
use super::{End, Hop, Loss, Packet, Start, Step, Walk, World};

/// More tunnels than a packet can need: it crosses at most one.
const MOST_TUNNELS: usize = 4;

// linux/if_ether.h
const ETHER_IPV4: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;
// IANA protocol number
const UDP: u8 = 17;

/// Walks a packet from its start to its end.
pub fn walk(world: &World, start: &Start, packet: Packet) -> Walk {
    let mut walker = Walker { world, hops: Vec::new(), packet };
    let end = match start {
        Start::Pod(node, link) => walker.leave_pod(node, link),
        Start::Node(node) => walker.route(node, None),
    };
    let end = end.unwrap_or_else(End::Lost);
    Walk { hops: walker.hops, end, packet: walker.packet }
}

struct Walker<'w> {
    world: &'w World,
    hops: Vec<Hop>,
    packet: Packet,
}

impl<'w> Walker<'w> {
    fn leave_pod(&mut self, node: &NodeName, port: &LinkName) -> Result<End, Loss> {
        let plan = self.plan(node)?;
        let mut fields = self.fields();
        fields.insert(Field::InputLink, Value::Link(port.clone()));
        let ether_type = match self.family() {
            Family::V4 => ETHER_IPV4,
            Family::V6 => ETHER_IPV6,
        };
        fields.insert(Field::EtherType, Value::EtherType(ether_type));
        if let Some(mac) = pod_mac(plan, port) {
            fields.insert(Field::EtherSource, Value::Mac(mac));
        }
        self.hook(node, plan, TableFamily::Bridge, Hook::BridgePrerouting, &fields)?;
        self.route(node, Some(port))
    }

    /// A packet that a node has to bring on its way; `from` is the port of the bridge that it came in by.
    fn route(&mut self, node: &NodeName, from: Option<&LinkName>) -> Result<End, Loss> {
        let destination = self.packet.destination;
        let plan = self.plan(node)?;
        if owns(self.world, node, plan, &destination) {
            return Ok(End::Node(node.clone()));
        }
        if let Some((net, link, origin)) = connected(plan, &destination) {
            if from.is_some() {
                self.hop(node, Step::Bridged { bridge: link.clone() }, origin);
            } else {
                self.hop(
                    node,
                    Step::Routed { destination: net, via: None, link: Some(link.clone()) },
                    origin,
                );
            }
            self.leave(node, plan, Some(&link))?;
            return match pod_port(plan, &destination) {
                Some(port) => Ok(End::Pod(node.clone(), port)),
                None => Err(Loss::NoSuchPod(destination)),
            };
        }
        match lookup(plan, &destination) {
            Some((route, origin)) => {
                let step = Step::Routed {
                    destination: route.destination,
                    via: Some(route.via),
                    link: Some(route.link.clone()),
                };
                self.hop(node, step, Some(origin));
                self.leave(node, plan, Some(&route.link))?;
                self.tunnel(node, plan, route)
            }
            None => {
                let everywhere = match self.family() {
                    Family::V4 => IpNet::new_assert([0, 0, 0, 0].into(), 0),
                    Family::V6 => IpNet::new_assert([0u16; 8].into(), 0),
                };
                self.hop(node, Step::Routed { destination: everywhere, via: None, link: None }, None);
                self.leave(node, plan, None)?;
                let nodes = &self.world.nodes;
                let owner =
                    nodes.iter().find(|(_, (node, _))| node.addresses.iter().any(|a| *a == destination));
                Ok(owner.map_or(End::Outside, |(name, _)| End::Node(name.clone())))
            }
        }
    }

    fn tunnel(&mut self, node: &NodeName, plan: &'w NodePlan, route: &Route) -> Result<End, Loss> {
        if self.hops.iter().filter(|hop| matches!(hop.step, Step::Encapsulated { .. })).count()
            >= MOST_TUNNELS
        {
            return Err(Loss::Loop);
        }
        let link = &route.link;
        let Some(Entry::Neighbour { mac, .. }) = entry(plan, &Key::Neighbour(link.clone(), route.via)) else {
            return Err(Loss::NoNeighbour(route.via));
        };
        let key = Key::Forwarding(link.clone(), *mac);
        let Some(Entry::Forwarding { node: remote, .. }) = entry(plan, &key) else {
            return Err(Loss::NoForwarding(*mac));
        };
        let Some((local, vni, port)) = vxlan(plan, link).map(|(local, vni, port, _)| (local, vni, port))
        else {
            return Err(Loss::TunnelMismatch(link.clone()));
        };
        let origin = plan.entries.get(&key).map(|planned| planned.origin.clone());
        let step = Step::Encapsulated { link: link.clone(), source: local, destination: *remote, mac: *mac };
        self.hop(node, step, origin);

        let nodes = &self.world.nodes;
        let (name, (_, plan)) = nodes
            .iter()
            .find(|(_, (node, _))| node.addresses.iter().any(|address| address == remote))
            .ok_or(Loss::NoSuchNode(*remote))?;
        let outer =
            Packet { source: local, destination: *remote, protocol: UDP, destination_port: Some(port) };
        self.hook(name, plan, Family::of(remote).into(), Hook::Input, &fields(&outer))?;
        // The device takes what is addressed to it by identifier, port and Ethernet address.
        if vxlan(plan, link) != Some((*remote, vni, port, *mac)) {
            return Err(Loss::TunnelMismatch(link.clone()));
        }
        self.hop(name, Step::Decapsulated { link: link.clone() }, None);
        self.route(name, None)
    }

    /// The hook on the way out; `None` is the node's own uplink.
    fn leave(&mut self, node: &NodeName, plan: &'w NodePlan, link: Option<&LinkName>) -> Result<(), Loss> {
        let mut fields = self.fields();
        // The name of the uplink is not in the plan, and no rule asks for it: it is just none of ours.
        let link = link.cloned().or_else(|| LinkName::new("uplink").ok());
        fields.extend(link.map(|link| (Field::OutputLink, Value::Link(link))));
        let family = self.family();
        if self.hook(node, plan, family.into(), Hook::SourceNat, &fields)? {
            let node_address = self.world.nodes.get(node).and_then(|(node, _)| node.addresses.of(family));
            if let Some(source) = node_address {
                self.packet.source = *source;
                self.hop(node, Step::Masqueraded { source: *source }, Some(Origin::ClusterNetwork));
            }
        }
        Ok(())
    }

    /// Runs a hook; true if it masquerades.
    fn hook(
        &mut self,
        node: &NodeName,
        plan: &'w NodePlan,
        family: TableFamily,
        hook: Hook,
        fields: &Fields,
    ) -> Result<bool, Loss> {
        let (decided, masquerade) = match filter::run(plan, family, hook, fields) {
            Verdict::Dropped(chain, rule) => {
                return Err(Loss::Dropped { chain: chain.name.clone(), comment: rule.comment });
            }
            Verdict::Pass(decided) => (decided, false),
            Verdict::Masqueraded(chain, rule) => (Some((chain, rule)), true),
        };
        if let Some((chain, rule)) = decided {
            let step = Step::Rule { chain: chain.name.clone(), comment: rule.comment };
            self.hop(node, step, filter::origin(plan, family));
        }
        Ok(masquerade)
    }

    fn hop(&mut self, node: &NodeName, step: Step, origin: Option<Origin>) {
        self.hops.push(Hop { node: node.clone(), step, origin });
    }

    fn plan(&self, node: &NodeName) -> Result<&'w NodePlan, Loss> {
        let found = self.world.nodes.get(node).map(|(_, plan)| plan);
        found.ok_or(Loss::NoSuchNode(self.packet.source))
    }

    fn family(&self) -> Family {
        Family::of(&self.packet.destination)
    }

    fn fields(&self) -> Fields {
        fields(&self.packet)
    }
}

fn fields(packet: &Packet) -> Fields {
    let (source, destination) = match Family::of(&packet.source) {
        Family::V4 => (Field::Ip4Source, Field::Ip4Destination),
        Family::V6 => (Field::Ip6Source, Field::Ip6Destination),
    };
    let mut fields = Fields::from([
        (source, Value::Address(packet.source)),
        (destination, Value::Address(packet.destination)),
        (Field::Protocol, Value::Protocol(packet.protocol)),
    ]);
    if let (UDP, Some(port)) = (packet.protocol, packet.destination_port) {
        fields.insert(Field::UdpDestination, Value::Port(port));
    }
    fields
}

fn entry<'p>(plan: &'p NodePlan, key: &Key) -> Option<&'p Entry> {
    plan.entries.get(key).map(|planned| &planned.entry)
}

/// Whether the node itself has the address: as an underlay address, or on one of our links.
fn owns(world: &World, name: &NodeName, plan: &NodePlan, address: &IpAddr) -> bool {
    let underlay = |(node, _): &(Node, NodePlan)| node.addresses.iter().any(|own| own == address);
    let on_link = |key: &Key| matches!(key, Key::Address(_, net) if net.addr() == *address);
    world.nodes.get(name).is_some_and(underlay) || plan.entries.keys().any(on_link)
}

/// The range on one of our links that the address is in.
fn connected(plan: &NodePlan, address: &IpAddr) -> Option<(IpNet, LinkName, Option<Origin>)> {
    plan.entries.iter().find_map(|(key, planned)| match key {
        Key::Address(link, net) if net.contains(address) => {
            Some((net.trunc(), link.clone(), Some(planned.origin.clone())))
        }
        _ => None,
    })
}

/// The longest of our routes that matches.
fn lookup<'p>(plan: &'p NodePlan, address: &IpAddr) -> Option<(&'p Route, Origin)> {
    let host = IpNet::from(*address);
    (0..=host.prefix_len()).rev().find_map(|length| {
        let net = IpNet::new(*address, length).ok()?.trunc();
        let planned = plan.entries.get(&Key::Route(net))?;
        match &planned.entry {
            Entry::Route(route) => Some((route, planned.origin.clone())),
            _ => None,
        }
    })
}

fn vxlan(plan: &NodePlan, link: &LinkName) -> Option<(IpAddr, u32, u16, MacAddr)> {
    match entry(plan, &Key::Link(link.clone())) {
        Some(Entry::Link(Link::Vxlan { local, vni, port, mac, .. })) => {
            Some((*local, vni.value(), port.value(), *mac))
        }
        _ => None,
    }
}

/// The members of the bridge table, which say which address and which Ethernet address is behind which port.
fn guard(plan: &NodePlan) -> impl Iterator<Item = (&LinkName, &Value)> {
    let from = Key::Member(Member { family: TableFamily::Bridge, set: SetName(""), key: [].into() });
    plan.entries.range(from..).map_while(|(key, _)| match key {
        Key::Member(member) if member.family == TableFamily::Bridge => match &*member.key {
            [Value::Link(link), value] => Some((link, value)),
            _ => None,
        },
        _ => None,
    })
}

fn pod_mac(plan: &NodePlan, port: &LinkName) -> Option<MacAddr> {
    guard(plan).find_map(|(link, value)| match value {
        Value::Mac(mac) if link == port => Some(*mac),
        _ => None,
    })
}

fn pod_port(plan: &NodePlan, address: &IpAddr) -> Option<LinkName> {
    guard(plan).find_map(|(link, value)| (*value == Value::Address(*address)).then(|| link.clone()))
}
