//! nftables tables in our own terms: few enough to be rendered in one place and walked in another.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{LinkName, MacAddr};

use crate::Member;

/// The family of a table (`NFPROTO_*`, linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableFamily {
    /// Frames that a bridge forwards.
    Bridge,
    /// IPv4 packets.
    Ip,
    /// IPv6 packets.
    Ip6,
}

impl From<model::Family> for TableFamily {
    fn from(family: model::Family) -> Self {
        match family {
            model::Family::V4 => TableFamily::Ip,
            model::Family::V6 => TableFamily::Ip6,
        }
    }
}

/// The name of a table of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName(pub &'static str);

/// A table of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    /// The name, the same in every family.
    pub name: TableName,
    /// The family.
    pub family: TableFamily,
    /// The sets.
    pub sets: Vec<Set>,
    /// The chains. A chain is jumped to only by chains after it.
    pub chains: Vec<Chain>,
}

impl Table {
    /// The name of the node's own tables, one in each family.
    pub const NODE: TableName = TableName("cambric");
}

/// The name of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName(pub &'static str);

/// The name of a chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(pub Cow<'static, str>);

impl ChainName {
    /// A name that does not depend on anything.
    pub const fn fixed(name: &'static str) -> ChainName {
        ChainName(Cow::Borrowed(name))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Set {
    /// Its name.
    pub name: SetName,
    /// What its elements are made of.
    pub fields: Vec<Field>,
    /// Whether the last field of the elements, an address, is a prefix.
    pub prefixes: bool,
    /// What elements hold.
    pub data: SetData,
    /// Whether rules add the elements ([`Action::Learn`]), and not the plan.
    pub learned: bool,
    /// The most elements that it takes, if it is learned.
    pub most: Option<u32>,
}

/// What the elements of a set hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SetData {
    /// Nothing: it is no map.
    Nothing,
    /// What to do.
    Verdict,
    /// Values of these fields.
    Values(Vec<Field>),
}

impl Set {
    /// A set of single values.
    pub fn plain(name: SetName, fields: Vec<Field>) -> Set {
        Set { name, fields, prefixes: false, data: SetData::Nothing, learned: false, most: None }
    }
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Its name.
    pub name: ChainName,
    /// Where packets enter it; `None` for one that is only jumped to.
    pub hook: Option<Hook>,
    /// The rules, in order. Packets that fall off the end are accepted.
    pub rules: Vec<Rule>,
}

/// Where a chain is entered, with the priority of the kernel's enumerations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Frames from a port of a bridge, before anything looks at them (`NF_BR_PRE_ROUTING`, priority -300).
    BridgePrerouting,
    /// Packets to this node, before connection tracking confirms them (`NF_INET_LOCAL_IN`, priority -300).
    Input,
    /// Packets that leave this node, source address translation (`NF_INET_POST_ROUTING`, priority 100).
    SourceNat,
    /// Packets that arrive, destination address translation (`NF_INET_PRE_ROUTING`, priority -100).
    DestinationNat,
    /// Packets of this node, destination address translation (`NF_INET_LOCAL_OUT`, priority -100).
    OutputNat,
    /// Packets that are passed on (`NF_INET_FORWARD`, priority 0).
    Forward,
    /// Packets of this node, after destination address translation (`NF_INET_LOCAL_OUT`, priority 0).
    Output,
    /// The first packet of each connection that leaves this node (`NF_INET_POST_ROUTING`, source address translation,
    /// priority 97). A chain of another type would see all packets of a connection that nobody answers.
    FirstOut,
    /// The first packet of each connection to this node itself (`NF_INET_LOCAL_IN`, source address translation, priority
    /// 97).
    FirstIn,
    /// Packets that leave this node, source address translation before [`Hook::ServiceSourceNat`] (priority 98): of the
    /// three the first that translates a connection is the one that does.
    TunnelSourceNat,
    /// Packets that leave this node, source address translation before [`Hook::SourceNat`] (priority 99).
    ServiceSourceNat,
}

/// A rule: if all of `matches` hold, the action is taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What a reader of `nft list table` is told.
    pub comment: &'static str,
    /// All must hold.
    pub matches: Vec<Match>,
    /// What is done then.
    pub action: Action,
}

/// A condition on a packet. A condition on a field that the packet does not have never holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Match {
    /// The field has this value (or is in this prefix, or begins so).
    Is(Field, Value),
    /// The field has another value.
    IsNot(Field, Value),
    /// The fields are an element of the set.
    In(Vec<Field>, SetName),
    /// The fields are no element of the set.
    NotIn(Vec<Field>, SetName),
    /// The destination of the packet's connection was rewritten.
    Translated,
    /// Whether the source is an address of this node.
    SourceIsOwn(bool),
}

/// A field of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// The link that the packet came in by; on a bridge the port.
    InputLink,
    /// The link that it leaves by.
    OutputLink,
    /// The Ethernet type.
    EtherType,
    /// The Ethernet source address.
    EtherSource,
    /// The IPv4 source address.
    Ip4Source,
    /// The IPv4 destination address.
    Ip4Destination,
    /// The IPv6 source address.
    Ip6Source,
    /// The IPv6 destination address.
    Ip6Destination,
    /// The sender's protocol address in an ARP packet (RFC 826).
    ArpSender,
    /// The transport protocol, past any IPv6 extension headers.
    Protocol,
    /// The UDP destination port.
    UdpDestination,
    /// The destination port, of any protocol that has ports.
    DestinationPort,
    /// The IPv4 source address of the connection's first packet, before translation.
    OriginalSource4,
    /// The IPv4 destination address of the connection's first packet, before translation.
    OriginalDestination4,
    /// The IPv6 source address of the connection's first packet, before translation.
    OriginalSource6,
    /// The IPv6 destination address of the connection's first packet, before translation.
    OriginalDestination6,
    /// The destination port of the connection's first packet, before translation.
    OriginalPort,
    /// A number drawn at random, from 0 up, of so many.
    Random(u32),
    /// The ICMPv6 type (RFC 4443).
    Icmp6Type,
    /// The target address of a neighbour advertisement (RFC 4861, section 4.4).
    AdvertisedTarget,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// A link.
    Link(LinkName),
    /// All links whose names begin so.
    LinkPrefix(&'static str),
    /// An Ethernet type, host byte order.
    EtherType(u16),
    /// An Ethernet address.
    Mac(MacAddr),
    /// An address.
    Address(IpAddr),
    /// A prefix.
    Prefix(IpNet),
    /// A transport protocol (IANA protocol numbers).
    Protocol(u8),
    /// A port, host byte order.
    Port(u16),
    /// An ICMPv6 type.
    Icmp6Type(u8),
    /// A number that could be drawn.
    Index(u32),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Link(name) => name.fmt(f),
            Value::LinkPrefix(prefix) => write!(f, "{prefix}*"),
            Value::EtherType(value) => write!(f, "{value:#06x}"),
            Value::Mac(mac) => mac.fmt(f),
            Value::Address(address) => address.fmt(f),
            Value::Prefix(net) => net.fmt(f),
            Value::Protocol(value) | Value::Icmp6Type(value) => value.fmt(f),
            Value::Port(port) => port.fmt(f),
            Value::Index(index) => index.fmt(f),
        }
    }
}

impl Member {
    /// The element as `nft list` shows it.
    pub fn key_text(&self) -> String {
        self.key.iter().map(Value::to_string).collect::<Vec<_>>().join(" . ")
    }
}

/// What a rule does with a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// No more rules of this chain.
    Accept,
    /// The packet is counted and gone.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On with the rules of another chain, and back here from its end.
    Jump(ChainName),
    /// On with the rules of another chain, and not back here.
    Goto(ChainName),
    /// What the map says of the fields; on with the next rule if it says nothing.
    Look(Vec<Field>, SetName),
    /// The destination becomes what the map has for the fields; on with the next rule if it has nothing.
    DestinationFrom(Vec<Field>, SetName),
    /// The source address becomes this one.
    SourceTo(IpAddr),
    /// The packet is gone, and the sender gets a TCP reset.
    Reset,
    /// The packet is gone, and the sender is told that the port cannot be reached (ICMP, ICMPv6).
    Unreachable,
    /// The map has this for this key from now on, for so many seconds.
    Learn {
        /// The map.
        map: SetName,
        /// The fields of the key.
        key: Vec<Field>,
        /// The fields of what it holds.
        data: Vec<Field>,
        /// For how long.
        seconds: u32,
    },
    /// The source address becomes one of the outgoing link, the port a random one.
    Masquerade,
}
