//! The steps of a packet, as the kernel takes them.

use std::collections::BTreeMap;
use std::iter;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;
use model::{Family, LinkName, NodeName};
use plan::ipip::{self, NextHop};
use plan::services::{self, Backend, ServicePortName, Settings};
use plan::{Entry, Field, Hook, Key, NodePlan, Origin, Table, TableFamily, Value};

use super::answer::Connection;
use super::draws::Draws;
use super::elements::Elements;
use super::filter::{self, Fields, Rules, Ruling, Seen, Verdict};
use super::lookup::{connected, entry, ipip, link_address, lookup, owns, pod_mac, pod_port, vxlan};
use super::{End, Hop, Loss, Outcome, Packet, Start, Step, Walk, World};

/// More nodes than a packet can need: the one that it is sent to, the endpoint's, and one more if a pod asks a node for
/// a service; between two sites, those that have the tunnels, and two outside.
const MOST_NODES: usize = 8;

// linux/if_ether.h
const ETHER_IPV4: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;
// IANA protocol number
const UDP: u8 = 17;

/// Walks the first packet of a connection from its start to its end.
///
/// If an endpoint or a next hop is chosen on the way, it is the first of them; [`walk_all`] has all.
pub fn walk(world: &World, start: &Start, packet: Packet) -> Walk {
    Walker::new(world, packet).walk(start)
}

/// Walks the first packet of a connection in all ways that it can take: one for each endpoint that can be chosen at
/// random, and for each next hop of the routes. Clients that stay with an endpoint are taken to have none yet.
pub fn walk_all<'w>(
    world: &'w World,
    start: &Start,
    packet: Packet,
) -> impl Iterator<Item = Outcome> + use<'w> {
    let start = start.clone();
    let mut walker = Walker::new(world, packet);
    let mut more = true;
    iter::from_fn(move || {
        if !more {
            return None;
        }
        walker.packet = packet;
        let walk = walker.walk(&start);
        let one_in = walker.draws.one_in();
        more = walker.draws.advance();
        Some(Outcome { one_in, walk })
    })
}

pub(super) struct Walker<'w> {
    world: &'w World,
    /// The services' tables that were needed so far.
    tables: BTreeMap<(NodeName, Family), Rc<Table>>,
    draws: Draws,
    hops: Vec<Hop>,
    packet: Packet,
    visit: Visit,
    /// How many nodes it has come to.
    nodes: usize,
    /// The connections that nodes know and the packet may be an answer of.
    connections: Vec<Connection>,
}

/// A packet's stay on one node: how it came there and will go, and what connection tracking knows of its connection.
struct Visit {
    came: Came,
    /// The link that it leaves by, once that is known.
    output: Option<LinkName>,
    /// The packet as it came.
    original: Packet,
    translated: bool,
    /// The service that its destination was rewritten for.
    service: Option<Arc<ServicePortName>>,
    /// The connection that it is an answer of.
    answer: Option<Connection>,
}

/// How a packet came to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Came {
    /// From a pod, by a port of the bridge.
    Bridge,
    /// By another link; `None` is the node's own uplink.
    Link(Option<LinkName>),
    /// It is the node's own.
    Own,
}

impl<'w> Walker<'w> {
    pub(super) fn new(world: &'w World, packet: Packet) -> Walker<'w> {
        Walker {
            world,
            tables: BTreeMap::new(),
            draws: Draws::default(),
            hops: Vec::new(),
            packet,
            visit: Visit::new(Came::Own, packet),
            nodes: 0,
            connections: Vec::new(),
        }
    }

    /// A walker for an answer of connections that nodes know.
    pub(super) fn with(self, connections: Vec<Connection>) -> Walker<'w> {
        Walker { connections, ..self }
    }

    pub(super) fn walk(&mut self, start: &Start) -> Walk {
        self.nodes = 0;
        let end = match start {
            Start::Pod(node, link) => self.leave_pod(node, link),
            Start::Node(node) => self.leave_node(node),
            Start::Outside { node } => self.arrive(node, Came::Link(None)),
        };
        let end = end.unwrap_or_else(End::Lost);
        Walk { hops: std::mem::take(&mut self.hops), end, packet: self.packet }
    }

    fn leave_pod(&mut self, node: &NodeName, port: &LinkName) -> Result<End, Loss> {
        let plan = self.plan(node)?;
        let mut fields = fields(&self.packet);
        fields.insert(Field::InputLink, Value::Link(port.clone()));
        let ether_type = match self.family() {
            Family::V4 => ETHER_IPV4,
            Family::V6 => ETHER_IPV6,
        };
        fields.insert(Field::EtherType, Value::EtherType(ether_type));
        if let Some(mac) = pod_mac(plan, port) {
            fields.insert(Field::EtherSource, Value::Mac(mac));
        }
        let seen = Seen { fields, translated: false, source_is_own: false };
        self.run(node, plan, TableFamily::Bridge, Hook::BridgePrerouting, &seen)?;
        self.arrive(node, Came::Bridge)
    }

    fn leave_node(&mut self, node: &NodeName) -> Result<End, Loss> {
        let plan = self.plan(node)?;
        self.visit(node, Came::Own);
        self.hook(node, plan, Hook::OutputNat)?;
        self.route(node)
    }

    /// A packet that comes to a node. What bridges pass on goes by the same hooks as what is routed.
    fn arrive(&mut self, node: &NodeName, came: Came) -> Result<End, Loss> {
        if self.nodes == MOST_NODES {
            return Err(Loss::Loop);
        }
        self.nodes += 1;
        let plan = self.plan(node)?;
        self.visit(node, came);
        self.hook(node, plan, Hook::DestinationNat)?;
        self.route(node)
    }

    /// The packet's stay on a node begins. Of an answer the destination is restored before a way is chosen, and the
    /// source when it leaves.
    fn visit(&mut self, node: &NodeName, came: Came) {
        self.visit = Visit::new(came, self.packet);
        let is_it = |known: &&Connection| known.node == *node && known.answered_by(&self.packet);
        let Some(known) = self.connections.iter().find(is_it).cloned() else { return };
        self.visit.original = known.first;
        self.visit.translated = known.first.destination != known.passed_on.destination;
        if known.first.source != known.passed_on.source {
            self.packet.destination = known.first.source;
            let step = Step::DestinationRestored { destination: known.first.source };
            self.hop(node, step, known.source_origin.clone());
        }
        self.visit.answer = Some(known);
    }

    /// An answer leaves the tables of a node.
    fn restore_source(&mut self, node: &NodeName) {
        let Some(Connection { first, passed_on, destination_origin, .. }) = self.visit.answer.take() else {
            return;
        };
        let rewritten = |packet: &Packet| (packet.destination, packet.destination_port);
        if rewritten(&first) != rewritten(&passed_on) {
            self.packet.source = first.destination;
            self.hop(node, Step::SourceRestored { source: first.destination }, destination_origin);
        }
    }

    /// A packet that a node has to bring on its way.
    fn route(&mut self, node: &NodeName) -> Result<End, Loss> {
        let destination = self.packet.destination;
        let plan = self.plan(node)?;
        if owns(self.world, node, plan, &destination) {
            if self.visit.came == Came::Own {
                self.leave(node, plan, Some(&LinkName::loopback()))?;
            }
            self.hook(node, plan, Hook::Input)?;
            self.restore_source(node);
            return Ok(End::Node(node.clone()));
        }
        if let Some((net, link, origin)) = connected(plan, &destination) {
            let step = if self.visit.came == Came::Bridge {
                Step::Bridged { bridge: link.clone() }
            } else {
                Step::Routed { destination: net, via: None, link: Some(link.clone()) }
            };
            self.hop(node, step, origin);
            self.leave(node, plan, Some(&link))?;
            return match pod_port(plan, &destination) {
                Some(port) => Ok(End::Pod(node.clone(), port)),
                None => Err(Loss::NoSuchPod(destination)),
            };
        }
        let found = lookup(plan, &destination);
        match found.and_then(|(route, origin)| Some((route, self.choose(&route.hops)?, origin))) {
            Some((plan::Route { destination, mtu, .. }, plan::Hop { via, link }, origin)) => {
                let destination = *destination;
                let step = Step::Routed { destination, via: Some(*via), link: Some(link.clone()) };
                let told = matches!(origin, Origin::Learned(_));
                self.hop(node, step, Some(origin));
                self.leave(node, plan, Some(link))?;
                if is_tunnel(link) {
                    return self.tunnel(node, plan, link, *via);
                }
                match ipip(plan, &self.packet.destination) {
                    Some(tunnel) => self.ipip(node, plan, (via, link, mtu), tunnel),
                    // A router, which knows what it does.
                    None if told && self.owner(node, via).is_none() => self.go_outside(node),
                    None => self.hand_over(node, via),
                }
            }
            None => {
                let everywhere = match self.family() {
                    Family::V4 => IpNet::new_assert([0, 0, 0, 0].into(), 0),
                    Family::V6 => IpNet::new_assert([0u16; 8].into(), 0),
                };
                self.hop(node, Step::Routed { destination: everywhere, via: None, link: None }, None);
                self.leave(node, plan, None)?;
                self.go_outside(node)
            }
        }
    }

    /// A packet that is left to others. They bring it to a node if it is for the node itself.
    fn go_outside(&mut self, from: &NodeName) -> Result<End, Loss> {
        let destination = self.packet.destination;
        match self.owner(from, &destination) {
            Some(_) => self.hand_over(from, &destination),
            None => Ok(End::Outside),
        }
    }

    /// The kernel takes one hop for each flow; which, depends on the flow.
    fn choose<'h>(&mut self, hops: &'h [plan::Hop]) -> Option<&'h plan::Hop> {
        match hops {
            [only] => Some(only),
            _ => hops.get(self.draws.draw(hops.len() as u32) as usize),
        }
    }

    /// A packet that goes to a node as it is, by the underlay.
    fn hand_over(&mut self, from: &NodeName, address: &IpAddr) -> Result<End, Loss> {
        let (owner, _) = self.owner(from, address).ok_or(Loss::NoSuchNode(*address))?;
        self.arrive(owner, Came::Link(None))
    }

    /// The node that has an underlay address.
    fn owner(&self, from: &NodeName, address: &IpAddr) -> Option<(&'w NodeName, &'w NodePlan)> {
        let name = self.world.owner(from, address)?;
        self.world.nodes.get(name).map(|(_, plan)| (name, plan))
    }

    fn tunnel(
        &mut self,
        node: &NodeName,
        plan: &'w NodePlan,
        link: &LinkName,
        via: IpAddr,
    ) -> Result<End, Loss> {
        let Some(Entry::Neighbour { mac, .. }) = entry(plan, &Key::Neighbour(link.clone(), via)) else {
            return Err(Loss::NoNeighbour(via));
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

        let (name, plan) = self.owner(node, remote).ok_or(Loss::NoSuchNode(*remote))?;
        let outer =
            Packet { source: local, destination: *remote, protocol: UDP, destination_port: Some(port) };
        let seen = Seen { fields: fields(&outer), translated: false, source_is_own: false };
        self.run(name, plan, Family::of(remote).into(), Hook::Input, &seen)?;
        // The device takes what is addressed to it by identifier, port and Ethernet address.
        if vxlan(plan, link) != Some((*remote, vni, port, *mac)) {
            return Err(Loss::TunnelMismatch(link.clone()));
        }
        self.hop(name, Step::Decapsulated { link: link.clone() }, None);
        self.arrive(name, Came::Link(Some(link.clone())))
    }

    /// A packet that the program on an uplink wraps.
    fn ipip(
        &mut self,
        node: &NodeName,
        plan: &'w NodePlan,
        (via, link, mtu): (&IpAddr, &LinkName, &Option<u32>),
        (tunnel, origin): (&ipip::Route, Origin),
    ) -> Result<End, Loss> {
        let (source, destination) = (tunnel.outer.source(), tunnel.outer.destination());
        if !plan.entries.contains_key(&Key::TunnelUplink(link.clone())) {
            return Err(Loss::TunnelMismatch(link.clone()));
        }
        let next = match tunnel.next_hop {
            NextHop::Kept => *via,
            NextHop::Asked if entry(plan, &Key::Neighbour(link.clone(), *via)).is_none() => {
                return Err(Loss::NoNeighbour(*via));
            }
            NextHop::Asked => destination,
        };
        let step = Step::Wrapped { link: link.clone(), source, destination, mtu: *mtu };
        self.hop(node, step, Some(origin));
        let far = self.world.cross(node, (source, destination), self.family())?;
        // A next hop that is a node is the one that it is meant for.
        if self.owner(node, &next).is_some_and(|(name, _)| name != far.node) {
            return Err(Loss::NoSuchNode(next));
        }
        let (name, source, destination) = (far.node, far.source, far.destination);
        if let Some(site) = far.site {
            self.hop(node, Step::Translated { site: site.into(), source, destination }, None);
        }
        let plan = self.plan(name)?;
        if !plan.entries.contains_key(&Key::TunnelLocal(destination)) {
            return Err(Loss::NoSuchNode(destination));
        }
        if !plan.entries.contains_key(&Key::TunnelNode(source)) {
            return Err(Loss::Stranger(source));
        }
        self.hop(name, Step::Unwrapped, None);
        self.arrive(name, Came::Link(None))
    }

    /// The hooks between the choice of the way and the link; `None` is the node's own uplink.
    fn leave(&mut self, node: &NodeName, plan: &'w NodePlan, link: Option<&LinkName>) -> Result<(), Loss> {
        self.visit.output = link.cloned().or_else(uplink);
        let passed_on = self.visit.came != Came::Own;
        self.hook(node, plan, if passed_on { Hook::Forward } else { Hook::Output })?;
        self.hook(node, plan, Hook::FirstOut)?;
        // Of the chains that translate sources the first that does so has decided for the connection.
        for hook in [Hook::TunnelSourceNat, Hook::ServiceSourceNat, Hook::SourceNat] {
            if self.hook(node, plan, hook)? {
                break;
            }
        }
        self.restore_source(node);
        Ok(())
    }

    /// Runs a hook of the packet's family; true if it translates.
    fn hook(&mut self, node: &NodeName, plan: &'w NodePlan, hook: Hook) -> Result<bool, Loss> {
        // Only the first packet of a connection comes to what translates addresses.
        let for_all = matches!(hook, Hook::BridgePrerouting | Hook::Input | Hook::Forward | Hook::Output);
        if self.visit.answer.is_some() && !for_all {
            return Ok(true);
        }
        let seen = self.seen(node, plan);
        let Some((rewrite, origin)) = self.run(node, plan, self.family().into(), hook, &seen)? else {
            return Ok(false);
        };
        let step = match rewrite {
            Rewrite::Destination(backend) => {
                let before = (self.packet.destination, self.packet.destination_port);
                let after = (backend.address, Some(backend.port));
                (self.packet.destination, self.packet.destination_port) = after;
                self.visit.translated = before != after;
                if let Origin::Service(service) = &origin {
                    self.visit.service = Some(service.clone());
                }
                Step::Rewritten { destination: backend.address, port: backend.port }
            }
            Rewrite::Source(source) => {
                self.packet.source = source;
                Step::SourceRewritten { source }
            }
            Rewrite::Masquerade => {
                let Some(source) = self.own_address(node, plan) else { return Ok(true) };
                self.packet.source = source;
                Step::Masqueraded { source }
            }
        };
        self.hop(node, step, Some(origin));
        Ok(true)
    }

    /// Runs the chains of a hook, those of the node's own table first.
    fn run(
        &mut self,
        node: &NodeName,
        plan: &'w NodePlan,
        family: TableFamily,
        hook: Hook,
        seen: &Seen,
    ) -> Result<Option<(Rewrite, Origin)>, Loss> {
        if let Some(planned) = plan.entries.get(&Key::Table(family))
            && let Entry::Table(table) = &planned.entry
        {
            let rules = Rules { table, elements: Elements::Node(plan, family) };
            if let Some(rewrite) = self.decide(node, rules, hook, seen, &planned.origin)? {
                return Ok(Some(rewrite));
            }
        }
        let family = match family {
            TableFamily::Bridge => return Ok(None),
            TableFamily::Ip => Family::V4,
            TableFamily::Ip6 => Family::V6,
        };
        let Some(settings) = &plan.services.settings else { return Ok(None) };
        let table = self.services(node, plan, settings, family);
        let rules = Rules { table: &table, elements: Elements::Services(&plan.services, settings, family) };
        let origin = self.visit.service.clone().map_or(Origin::ClusterNetwork, Origin::Service);
        self.decide(node, rules, hook, seen, &origin)
    }

    /// Runs one table. What its rules find of a service comes from that, all else from `origin`.
    fn decide(
        &mut self,
        node: &NodeName,
        rules: Rules<'_>,
        hook: Hook,
        seen: &Seen,
        origin: &Origin,
    ) -> Result<Option<(Rewrite, Origin)>, Loss> {
        let ran = filter::run(rules, hook, seen, &mut self.draws);
        let mut say = |ruling: Ruling| {
            let origin = ruling.service.map_or_else(|| origin.clone(), Origin::Service);
            let step = Step::Rule { chain: ruling.chain, comment: ruling.comment, element: ruling.element };
            self.hop(node, step, Some(origin.clone()));
            origin
        };
        ran.led.into_iter().for_each(|ruling| drop(say(ruling)));
        Ok(match ran.verdict {
            Verdict::Pass(ruling) => {
                ruling.map(say);
                None
            }
            Verdict::Dropped(Ruling { chain, comment, .. }) => return Err(Loss::Dropped { chain, comment }),
            Verdict::Refused(Ruling { chain, comment, .. }) => return Err(Loss::Refused { chain, comment }),
            Verdict::Astray(chain) => return Err(Loss::NoSuchChain(chain)),
            Verdict::Masqueraded(ruling) => Some((Rewrite::Masquerade, say(ruling))),
            Verdict::SourceTo(ruling, source) => Some((Rewrite::Source(source), say(ruling))),
            Verdict::DestinationTo(ruling, backend) => Some((Rewrite::Destination(backend), say(ruling))),
        })
    }

    /// The services' table of a node and family.
    fn services(
        &mut self,
        node: &NodeName,
        plan: &NodePlan,
        settings: &Settings,
        family: Family,
    ) -> Rc<Table> {
        let pickers = plan.services.pickers.keys().filter(|(of, _)| *of == family).map(|(_, picker)| *picker);
        let table = || Rc::new(services::table(settings, family, pickers));
        self.tables.entry((node.clone(), family)).or_insert_with(table).clone()
    }

    /// The packet as rules see it on its way through a node.
    fn seen(&self, node: &NodeName, plan: &NodePlan) -> Seen {
        let Visit { came, output, original, translated, .. } = &self.visit;
        let mut fields = fields(&self.packet);
        let input = match came {
            // Not the port: the packet's own hooks see the bridge.
            Came::Bridge => Some(LinkName::bridge()),
            Came::Link(link) => link.clone().or_else(uplink),
            Came::Own => None,
        };
        fields.extend(input.map(|link| (Field::InputLink, Value::Link(link))));
        fields.extend(output.clone().map(|link| (Field::OutputLink, Value::Link(link))));
        let (source, destination) = match self.family() {
            Family::V4 => (Field::OriginalSource4, Field::OriginalDestination4),
            Family::V6 => (Field::OriginalSource6, Field::OriginalDestination6),
        };
        fields.insert(source, Value::Address(original.source));
        fields.insert(destination, Value::Address(original.destination));
        fields.extend(original.destination_port.map(|port| (Field::OriginalPort, Value::Port(port))));
        let source_is_own = owns(self.world, node, plan, &self.packet.source);
        Seen { fields, translated: *translated, source_is_own }
    }

    /// The address that the kernel takes for what leaves by a link: one of the link, or else the node's, or else one of
    /// any link.
    fn own_address(&self, node: &NodeName, plan: &NodePlan) -> Option<IpAddr> {
        let family = self.family();
        let of_link = self.visit.output.as_ref().and_then(|link| link_address(plan, link, family));
        of_link
            .or_else(|| self.world.nodes.get(node)?.0.addresses.of(family).copied())
            .or_else(|| link_address(plan, &LinkName::bridge(), family))
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
}

/// What a rule makes of a packet's addresses.
enum Rewrite {
    Destination(Backend),
    Source(IpAddr),
    Masquerade,
}

impl Visit {
    fn new(came: Came, packet: Packet) -> Visit {
        Visit { came, output: None, original: packet, translated: false, service: None, answer: None }
    }
}

fn is_tunnel(link: &LinkName) -> bool {
    [LinkName::vxlan_v4(), LinkName::vxlan_v6()].contains(link)
}

/// The name of the uplink is not in the plan, and no rule asks for it: it is just none of ours.
fn uplink() -> Option<LinkName> {
    LinkName::new("uplink").ok()
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
    if let Some(port) = packet.destination_port {
        fields.insert(Field::DestinationPort, Value::Port(port));
        if packet.protocol == UDP {
            fields.insert(Field::UdpDestination, Value::Port(port));
        }
    }
    fields
}
