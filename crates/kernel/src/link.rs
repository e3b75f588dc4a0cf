//! Links: bridges and VXLAN devices of ours, and what else is there.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use model::{LinkName, MacAddr, Vni, VxlanPort};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use plan::Link;

use crate::pod::ALIAS_PREFIX;
use crate::rtnl::{Request, RouteSocket};
use crate::{Error, Result};

/// The alias (`IFLA_IFALIAS`, shown by `ip link`) that marks a link as ours.
pub const ALIAS: &str = "cambric";

/// What the kernel says of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Its name.
    pub name: LinkName,
    /// Its number in its namespace.
    pub index: u32,
    /// Whether it has [`ALIAS`] for alias.
    pub ours: bool,
    /// Whether it is the node's end of a pod's veth pair ([`crate::pod::ALIAS_PREFIX`]).
    pub pods: bool,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its Ethernet address, if it is of that kind.
    pub mac: Option<MacAddr>,
    /// The index of the bridge that it is a port of.
    pub bridge: Option<u32>,
    /// Whether the bridge may send a frame back by the port that it came in by.
    pub hairpin: bool,
    /// Whether the kernel makes IPv6 addresses for it.
    pub makes_addresses: bool,
    /// What it is.
    pub kind: LinkKind,
}

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// A VXLAN device that learns nothing, and takes packets without a checksum of UDP.
    Vxlan {
        /// Its network identifier.
        vni: u32,
        /// Its UDP destination port, host byte order.
        port: u16,
        /// The underlay address it sends from.
        local: Option<IpAddr>,
    },
    /// A VXLAN device whose network and port say that it is for headroom.
    Headroom {
        /// The underlay address it would send from.
        local: IpAddr,
    },
    /// Anything else; the kernel's name of the kind (`IFLA_INFO_KIND`), empty for hardware.
    Other(String),
}

/// The network and the UDP port, host byte order, of a device that is always down. No other device may have both.
const HEADROOM_VNI: u32 = 0xff_ffff;
const HEADROOM_PORT: u16 = 9;

/// What it takes to make a link what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nothing.
    Nothing,
    /// Its attributes can be set while it is in use.
    InPlace,
    /// Only a new one will do.
    Anew,
}

impl LinkState {
    /// The link as an entry of a plan, if it can be one.
    pub fn link(&self) -> Option<Link> {
        let (name, mac, mtu) = (self.name.clone(), self.mac?, self.mtu);
        match &self.kind {
            LinkKind::Bridge => Some(Link::Bridge { name, mac, mtu }),
            LinkKind::Vxlan { vni, port, local } => Some(Link::Vxlan {
                name,
                vni: Vni::new(u64::from(*vni)).ok()?,
                port: VxlanPort::new(u64::from(*port)).ok()?,
                local: (*local)?,
                mac,
                mtu,
            }),
            LinkKind::Headroom { local } => Some(Link::Headroom { name, local: *local, mac }),
            LinkKind::Other(_) => None,
        }
    }

    pub(crate) fn way_to(&self, wanted: &Link) -> Way {
        match self.link() {
            Some(found) if found == *wanted && self.is_ready(wanted) => Way::Nothing,
            Some(found) if lasting(&found) == lasting(wanted) => Way::InPlace,
            _ => Way::Anew,
        }
    }

    /// Whether the link is as plans take for granted: up, and a tunnel without addresses of its own; or a port, and down.
    pub(crate) fn is_ready(&self, wanted: &Link) -> bool {
        match wanted {
            Link::Bridge { .. } => self.up,
            Link::Vxlan { .. } => self.up && !self.makes_addresses,
            Link::Headroom { .. } => !self.up && self.bridge.is_some(),
        }
    }

    /// What to tell of a link that is in the way.
    pub(crate) fn describe(&self) -> String {
        let kind = match &self.kind {
            LinkKind::Bridge => "bridge",
            LinkKind::Vxlan { .. } | LinkKind::Headroom { .. } => "VXLAN device",
            LinkKind::Other(kind) if kind.is_empty() => "link",
            LinkKind::Other(kind) => kind,
        };
        format!("{kind} {} (index {})", self.name, self.index)
    }

    fn decode(message: &LinkMessage) -> Option<LinkState> {
        let mut state = LinkState {
            name: LinkName::new("unnamed").ok()?,
            index: message.header.index,
            ours: false,
            pods: false,
            up: message.header.flags.contains(LinkFlags::Up),
            mtu: 0,
            mac: None,
            bridge: None,
            hairpin: false,
            makes_addresses: false,
            kind: LinkKind::Other(String::new()),
        };
        let mut named = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => {
                    state.name = LinkName::new(name.clone()).ok()?;
                    named = true;
                }
                LinkAttribute::IfAlias(alias) => {
                    state.ours = alias == ALIAS;
                    state.pods = alias.starts_with(ALIAS_PREFIX);
                }
                LinkAttribute::Mtu(mtu) => state.mtu = *mtu,
                LinkAttribute::Address(bytes) => state.mac = bytes.as_slice().try_into().ok().map(MacAddr),
                LinkAttribute::Controller(index) => state.bridge = Some(*index),
                LinkAttribute::AfSpecUnspec(families) => state.makes_addresses = makes_addresses(families),
                LinkAttribute::LinkInfo(infos) => {
                    state.kind = kind(infos);
                    state.hairpin = is_hairpin(infos);
                }
                _ => {}
            }
        }
        named.then_some(state)
    }
}

/// What of a link cannot be changed while it is there.
#[derive(PartialEq, Eq)]
enum Lasting {
    Bridge,
    Vxlan(Vni, VxlanPort, IpAddr),
    Headroom(IpAddr),
}

fn lasting(link: &Link) -> Lasting {
    match link {
        Link::Bridge { .. } => Lasting::Bridge,
        Link::Vxlan { vni, port, local, .. } => Lasting::Vxlan(*vni, *port, *local),
        Link::Headroom { local, .. } => Lasting::Headroom(*local),
    }
}

fn kind(infos: &[LinkInfo]) -> LinkKind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    match (kind, data) {
        (Some(InfoKind::Bridge), _) => LinkKind::Bridge,
        (Some(InfoKind::Vxlan), Some(data)) => vxlan(data),
        (kind, _) => LinkKind::Other(kind.map(InfoKind::to_string).unwrap_or_default()),
    }
}

fn makes_addresses(families: &[AfSpecUnspec]) -> bool {
    let mode = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet6(settings) => settings.iter().find_map(|setting| match setting {
            AfSpecInet6::AddrGenMode(mode) => Some(*mode),
            _ => None,
        }),
        _ => None,
    });
    mode.is_some_and(|mode| mode != In6AddrGenMode::None)
}

fn is_hairpin(infos: &[LinkInfo]) -> bool {
    infos.iter().any(|info| {
        matches!(info, LinkInfo::PortData(InfoPortData::BridgePort(port))
            if port.contains(&InfoBridgePort::HairpinMode(true)))
    })
}

fn vxlan(data: &[InfoVxlan]) -> LinkKind {
    let (mut identifier, mut udp, mut source, mut plain) = (0, 0, None, true);
    let mut takes_unsummed = false;
    for info in data {
        match info {
            InfoVxlan::Id(id) => identifier = *id,
            InfoVxlan::Port(port) => udp = *port,
            InfoVxlan::Local(address) => source = Some(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => source = Some(IpAddr::V6(*address)),
            InfoVxlan::Learning(true) | InfoVxlan::CollectMetadata(true) => plain = false,
            InfoVxlan::Link(index) => plain &= *index == 0,
            InfoVxlan::Group(_) | InfoVxlan::Group6(_) => plain = false,
            InfoVxlan::UDPZeroCsumRX(takes) => takes_unsummed = *takes,
            _ => {}
        }
    }
    plain &= takes_unsummed || !matches!(source, Some(IpAddr::V6(_)));
    match source {
        _ if !plain => LinkKind::Other("vxlan".to_owned()),
        Some(local) if (identifier, udp) == (HEADROOM_VNI, HEADROOM_PORT) => LinkKind::Headroom { local },
        local => LinkKind::Vxlan { vni: identifier, port: udp, local },
    }
}

/// The links of a namespace.
#[derive(Debug, Clone, Default)]
pub struct Links {
    by_name: BTreeMap<LinkName, LinkState>,
    by_index: HashMap<u32, LinkName>,
}

impl Links {
    pub(crate) fn read(socket: &mut RouteSocket) -> Result<Links> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let mut links = Links::default();
        for message in socket.dump(&RouteNetlinkMessage::GetLink(message), "list the links")? {
            links.take_in(&message);
        }
        Ok(links)
    }

    /// Takes in a link message; the name of the link that it is about.
    pub(crate) fn take_in(&mut self, message: &RouteNetlinkMessage) -> Option<LinkName> {
        match message {
            RouteNetlinkMessage::NewLink(link) => {
                let state = LinkState::decode(link)?;
                let name = state.name.clone();
                self.insert(state);
                Some(name)
            }
            RouteNetlinkMessage::DelLink(link) => self.forget(link.header.index),
            _ => None,
        }
    }

    fn forget(&mut self, index: u32) -> Option<LinkName> {
        let name = self.by_index.remove(&index)?;
        // The name may be another link's by now.
        if self.by_name.get(&name).is_some_and(|state| state.index == index) {
            self.by_name.remove(&name);
        }
        Some(name)
    }

    pub(crate) fn insert(&mut self, state: LinkState) {
        self.forget(state.index);
        self.by_index.insert(state.index, state.name.clone());
        self.by_name.insert(state.name.clone(), state);
    }

    pub(crate) fn remove(&mut self, name: &LinkName) {
        if let Some(state) = self.by_name.remove(name) {
            self.by_index.remove(&state.index);
        }
    }

    /// The link of a name.
    pub fn named(&self, name: &LinkName) -> Option<&LinkState> {
        self.by_name.get(name)
    }

    /// The link of an index.
    pub fn at(&self, index: u32) -> Option<&LinkState> {
        self.by_name.get(self.by_index.get(&index)?)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &LinkState> {
        self.by_name.values()
    }

    /// An index for a new link, which no other link has.
    ///
    /// A link can be made and marked as ours in one go only if its index is known before it is there. The kernel
    /// counts its own up from 1, so a random one from this range is taken by nobody between now and then.
    pub(crate) fn free_index(&self) -> Result<u32> {
        loop {
            let mut bytes = [0u8; 4];
            // SAFETY: the pointer and the length are those of the array.
            if unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } != 4 {
                return Err(Error::system("draw a random number"));
            }
            let index = 100_000 + u32::from_ne_bytes(bytes) % 900_000;
            if !self.by_index.contains_key(&index) {
                return Ok(index);
            }
        }
    }
}

/// What the kernel says of the link of a name. `what` follows "cannot" in errors, as that there is no such link.
pub(crate) fn query(socket: &mut RouteSocket, name: &str, what: &str) -> Result<LinkMessage> {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    match socket.query(&RouteNetlinkMessage::GetLink(message), what)? {
        RouteNetlinkMessage::NewLink(link) => Ok(link),
        other => Err(Error::Answer { what: what.to_owned(), why: format!("{other:?}") }),
    }
}

/// What the kernel says of the link of a name; `None` if there is no such link.
pub(crate) fn find(socket: &mut RouteSocket, name: &LinkName) -> Result<Option<LinkMessage>> {
    match query(socket, name.as_str(), &format!("look at link {name}")) {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        found => found.map(Some),
    }
}

/// Reads one link by its name; `None` if there is no such link.
pub(crate) fn read(socket: &mut RouteSocket, name: &LinkName) -> Result<Option<LinkState>> {
    Ok(find(socket, name)?.as_ref().and_then(LinkState::decode))
}

/// Makes a link, marked as ours and up, or down and a port of the bridge of an index. If anything fails there is no link.
pub(crate) fn create(socket: &mut RouteSocket, link: &Link, index: u32, bridge: Option<u32>) -> Result<()> {
    let what = format!("add {}", describe(link));
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = shape(link);
    message.attributes.push(LinkAttribute::IfName(link.name().to_string()));
    if let Link::Bridge { mtu, .. } = link {
        // A bridge follows the MTU of its ports until its own is changed, which being made with it is not.
        message.attributes.push(LinkAttribute::Mtu(mtu.saturating_sub(1)));
    }
    message.attributes.push(LinkAttribute::LinkInfo(match link {
        Link::Bridge { .. } => vec![LinkInfo::Kind(InfoKind::Bridge)],
        Link::Vxlan { vni, port, local, .. } => device(vni.value(), port.value(), local),
        Link::Headroom { local, .. } => device(HEADROOM_VNI, HEADROOM_PORT, local),
    }));
    let mut requests = vec![
        Request::create(RouteNetlinkMessage::NewLink(message), what.clone()),
        set(index, vec![LinkAttribute::IfAlias(ALIAS.to_owned())], None, &what),
        set(index, vec![address_generation(link)], None, &what),
    ];
    requests.extend(dress(link, index, bridge, &what));
    let mut results = socket.batch(&requests).into_iter();
    results.next().unwrap_or(Ok(()))?;
    if let Some(error) = results.filter_map(unexpected).next() {
        // What is not marked as ours would never be cleaned up. The first error is the one to tell.
        let _ = socket.request(delete(index, link.name()));
        return Err(error);
    }
    Ok(())
}

/// A VXLAN device that learns nothing.
fn device(vni: u32, port: u16, local: &IpAddr) -> Vec<LinkInfo> {
    let mut data = vec![
        InfoVxlan::Id(vni),
        match local {
            IpAddr::V4(address) => InfoVxlan::Local(*address),
            IpAddr::V6(address) => InfoVxlan::Local6(*address),
        },
        InfoVxlan::Port(port),
        InfoVxlan::Learning(false),
    ];
    if local.is_ipv6() {
        // The fast path of other nodes leaves it out, as RFC 6935 allows and IPv4 does without being told.
        data.push(InfoVxlan::UDPZeroCsumRX(true));
    }
    vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]
}

/// Sets what can be set of a link of ours while it is in use. `bridge` is the index of the one that it may have to be on.
pub(crate) fn adjust(socket: &mut RouteSocket, link: &Link, index: u32, bridge: Option<u32>) -> Result<()> {
    let requests = dress(link, index, bridge, &format!("change {}", describe(link)));
    socket.batch(&requests).into_iter().filter_map(unexpected).next().map_or(Ok(()), Err)
}

/// What a link has besides its kind. The mode of addresses comes twice when a link is made, because bringing it up
/// makes addresses, and so does an MTU that was too small for IPv6.
fn dress(link: &Link, index: u32, bridge: Option<u32>, what: &str) -> [Request; 2] {
    let is_up = !matches!(link, Link::Headroom { .. });
    let mut attributes = shape(link);
    attributes.extend(bridge.map(LinkAttribute::Controller));
    [set(index, attributes, Some(is_up), what), set(index, vec![address_generation(link)], None, what)]
}

/// A kernel without IPv6 makes no addresses either.
fn unexpected(result: Result<()>) -> Option<Error> {
    result.err().filter(|error| error.errno() != Some(libc::EAFNOSUPPORT))
}

/// Makes a pod's link a port of a bridge, up and in hairpin mode. The first message must be done before the second.
pub(crate) fn attach(port: &LinkState, bridge: &LinkName, index: u32) -> [Request; 2] {
    let what = format!("attach {} to bridge {bridge}", port.name);
    let mut mode = LinkMessage::default();
    mode.header.index = port.index;
    mode.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
    ])];
    [
        set(port.index, vec![LinkAttribute::Controller(index)], Some(true), &what),
        Request::new(RouteNetlinkMessage::NewLink(mode), what),
    ]
}

/// Removes a link.
pub(crate) fn delete(index: u32, name: &LinkName) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request::new(RouteNetlinkMessage::DelLink(message), format!("remove link {name}"))
}

fn set(index: u32, attributes: Vec<LinkAttribute>, up: Option<bool>, what: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    if let Some(up) = up {
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
    }
    message.attributes = attributes;
    Request::new(RouteNetlinkMessage::SetLink(message), what)
}

fn shape(link: &Link) -> Vec<LinkAttribute> {
    match link {
        Link::Bridge { mac, mtu, .. } | Link::Vxlan { mac, mtu, .. } => {
            vec![LinkAttribute::Address(mac.0.to_vec()), LinkAttribute::Mtu(*mtu)]
        }
        Link::Headroom { mac, .. } => vec![LinkAttribute::Address(mac.0.to_vec())],
    }
}

/// Pods may use the bridge's link-local address; a tunnel has no use for one, and its router solicitations would go
/// nowhere.
fn address_generation(link: &Link) -> LinkAttribute {
    let mode = match link {
        Link::Bridge { .. } => In6AddrGenMode::Eui64,
        Link::Vxlan { .. } | Link::Headroom { .. } => In6AddrGenMode::None,
    };
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])])
}

pub(crate) fn describe(link: &Link) -> String {
    match link {
        Link::Bridge { name, .. } => format!("bridge {name}"),
        Link::Vxlan { name, vni, port, local, .. } => {
            format!("VXLAN device {name} (VNI {}, port {}, local {local})", vni.value(), port.value())
        }
        Link::Headroom { name, .. } => format!("bridge port {name}, which is for headroom"),
    }
}
