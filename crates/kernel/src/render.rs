//! Tables of a plan in the terms of nftables.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use model::{LinkName, MacAddr, Protocol};
use nft::{PortChoice, Type, arp, ct, ether, fib, icmp, ip, ip6, meta, numgen, th};
use plan::services::{Backend, Frontend};
use plan::{
    Action, Field, Hook, Match, Member, Origin, Rule, Set, SetData, Table, TableFamily, TableName, Value,
};

/// A table as nftables has it.
pub(crate) struct Rendered {
    pub(crate) table: nft::Table,
    pub(crate) sets: Vec<nft::Set>,
    /// In the order in which they can be made: what is jumped to comes first.
    pub(crate) chains: Vec<(nft::Chain, Vec<nft::Rule>)>,
}

/// The node's own table in a family.
pub(crate) fn table(family: TableFamily) -> nft::Table {
    named(Table::NODE, family)
}

/// A table of ours in a family.
pub(crate) fn named(name: TableName, family: TableFamily) -> nft::Table {
    let family = match family {
        TableFamily::Bridge => nft::Family::Bridge,
        TableFamily::Ip => nft::Family::Ip,
        TableFamily::Ip6 => nft::Family::Ip6,
    };
    nft::Table::new(family, name.0)
}

pub(crate) fn render(planned: &Table) -> Rendered {
    let table = named(planned.name, planned.family);
    let sets = planned.sets.iter().map(|planned| set(&table, planned)).collect();
    let chains = planned
        .chains
        .iter()
        .map(|planned| {
            let chain = chain(&table, &planned.name.0, planned.hook);
            let rules = planned.rules.iter().map(|planned| rule(&chain, planned)).collect();
            (chain, rules)
        })
        .collect();
    Rendered { table, sets, chains }
}

pub(crate) fn set(table: &nft::Table, set: &Set) -> nft::Set {
    let types = |fields: &[Field]| fields.iter().map(|each| field_type(*each)).collect::<Vec<Type>>();
    let key = types(&set.fields);
    let rendered = match &set.data {
        SetData::Nothing => nft::Set::new(table, set.name.0, key),
        SetData::Verdict => nft::Set::verdict_map(table, set.name.0, key),
        SetData::Values(fields) => nft::Set::map(table, set.name.0, key, types(fields)),
    };
    let rendered = if set.prefixes { rendered.interval() } else { rendered };
    let rendered = if set.learned { rendered.dynamic().timeouts() } else { rendered };
    match set.most {
        Some(most) => rendered.size(most),
        None => rendered,
    }
}

fn chain(table: &nft::Table, name: &str, hook: Option<Hook>) -> nft::Chain {
    let base = |kind, hook, priority| nft::Chain::base(table, name, kind, hook, priority);
    match hook {
        None => nft::Chain::new(table, name),
        Some(Hook::BridgePrerouting) => {
            base(nft::ChainType::Filter, nft::Hook::Prerouting, nft::priority::RAW)
        }
        Some(Hook::Input) => base(nft::ChainType::Filter, nft::Hook::Input, nft::priority::RAW),
        Some(Hook::SourceNat) => base(nft::ChainType::Nat, nft::Hook::Postrouting, nft::priority::SRCNAT),
        Some(Hook::ServiceSourceNat) => {
            base(nft::ChainType::Nat, nft::Hook::Postrouting, nft::priority::SRCNAT - 1)
        }
        Some(Hook::TunnelSourceNat) => {
            base(nft::ChainType::Nat, nft::Hook::Postrouting, nft::priority::SRCNAT - 2)
        }
        Some(Hook::DestinationNat) => base(nft::ChainType::Nat, nft::Hook::Prerouting, nft::priority::DSTNAT),
        Some(Hook::OutputNat) => base(nft::ChainType::Nat, nft::Hook::Output, nft::priority::DSTNAT),
        Some(Hook::Forward) => base(nft::ChainType::Filter, nft::Hook::Forward, nft::priority::FILTER),
        Some(Hook::Output) => base(nft::ChainType::Filter, nft::Hook::Output, nft::priority::FILTER),
        Some(Hook::FirstOut) => base(nft::ChainType::Nat, nft::Hook::Postrouting, nft::priority::SRCNAT - 3),
        Some(Hook::FirstIn) => base(nft::ChainType::Nat, nft::Hook::Input, nft::priority::SRCNAT - 3),
    }
}

pub(crate) fn rule(chain: &nft::Chain, rule: &Rule) -> nft::Rule {
    let family = chain.table.family;
    let fields = |all: &[Field]| all.iter().map(|each| field(*each)).collect::<Vec<_>>();
    let start = nft::Rule::new(chain).comment(rule.comment);
    let rendered = rule.matches.iter().fold(start, |rendered, each| rendered.when(condition(each)));
    match &rule.action {
        Action::Accept => rendered.accept(),
        Action::Drop => rendered.counter().drop(),
        Action::Return => rendered.ret(),
        Action::Jump(chain) => rendered.jump(&chain.0),
        Action::Goto(chain) => rendered.goto(&chain.0),
        Action::Look(key, map) => rendered.vmap(fields(key), map.0),
        Action::DestinationFrom(key, map) => {
            rendered.dnat(nft::Nat::map_with_port(family, fields(key), map.0))
        }
        Action::SourceTo(address) => rendered.snat(nft::Nat::to(*address)),
        Action::Reset => rendered.reject(nft::Reject::TcpReset),
        Action::Unreachable => rendered.reject(nft::Reject::PortUnreachable),
        Action::Learn { map, key, data, seconds } => {
            let time = Duration::from_secs((*seconds).into());
            rendered.update_map(map.0, fields(key), fields(data), Some(time))
        }
        Action::Masquerade => rendered.masquerade(PortChoice::FullyRandom),
    }
}

fn condition(condition: &Match) -> nft::Match {
    let fields = |all: &[Field]| all.iter().map(|each| field(*each)).collect::<Vec<_>>();
    match condition {
        Match::Is(of, Value::Prefix(net)) => field(*of).within(net.addr(), net.prefix_len()),
        Match::IsNot(of, Value::Prefix(net)) => field(*of).not_within(net.addr(), net.prefix_len()),
        Match::Is(of, Value::LinkPrefix(prefix)) => field(*of).starts_with(prefix),
        Match::IsNot(of, Value::LinkPrefix(prefix)) => field(*of).starts_not_with(prefix),
        Match::Is(of, fixed) => field(*of).is(value(fixed)),
        Match::IsNot(of, fixed) => field(*of).is_not(value(fixed)),
        Match::In(of, set) => nft::Match::in_set(fields(of), set.0),
        Match::NotIn(of, set) => nft::Match::not_in_set(fields(of), set.0),
        Match::Translated => ct::status().has(ct::DNAT),
        Match::SourceIsOwn(true) => fib::address_type(fib::SADDR).is(fib::LOCAL),
        Match::SourceIsOwn(false) => fib::address_type(fib::SADDR).is_not(fib::LOCAL),
    }
}

fn field(field: Field) -> nft::Field {
    match field {
        Field::InputLink => meta::iifname(),
        Field::OutputLink => meta::oifname(),
        Field::EtherType => ether::kind(),
        Field::EtherSource => ether::saddr(),
        Field::Ip4Source => ip::saddr(),
        Field::Ip4Destination => ip::daddr(),
        Field::Ip6Source => ip6::saddr(),
        Field::Ip6Destination => ip6::daddr(),
        Field::ArpSender => arp::saddr_ip(),
        Field::Protocol => meta::l4proto(),
        Field::UdpDestination | Field::DestinationPort => th::dport(),
        Field::OriginalSource4 => ct::original_saddr(nft::Family::Ip),
        Field::OriginalDestination4 => ct::original_daddr(nft::Family::Ip),
        Field::OriginalSource6 => ct::original_saddr(nft::Family::Ip6),
        Field::OriginalDestination6 => ct::original_daddr(nft::Family::Ip6),
        Field::OriginalPort => ct::original_dport(),
        Field::Random(count) => numgen::random(count),
        Field::Icmp6Type => icmp::kind6(),
        Field::AdvertisedTarget => icmp::target6(),
    }
}

fn field_type(of: Field) -> Type {
    field(of).ty()
}

/// The value of a field, or the first of a range of values.
fn value(value: &Value) -> nft::Value {
    match value {
        Value::Link(name) => link(name.as_str()),
        Value::LinkPrefix(prefix) => link(prefix),
        Value::EtherType(number) => nft::Value::ether_type(*number),
        Value::Mac(mac) => nft::Value::ether(mac.0),
        Value::Address(address) => nft::Value::from(*address),
        Value::Prefix(net) => nft::Value::from(net.network()),
        Value::Protocol(number) => nft::Value::proto(*number),
        Value::Port(port) => nft::Value::port(*port),
        Value::Icmp6Type(number) => icmp::message6(*number),
        Value::Index(index) => nft::Value::index(*index),
    }
}

/// Names of links have passed the same check as those of nftables.
fn link(name: &str) -> nft::Value {
    nft::Value::from_bytes(Type::Ifname, name.as_bytes())
}

/// The set that a member is in. Its type follows from the member's values, as sets hold all of one kind.
pub(crate) fn set_of(member: &Member) -> nft::Set {
    let key: Vec<Type> = member.key.iter().map(|each| value(each).ty()).collect();
    let set = nft::Set::new(&table(member.family), member.set.0, key);
    if matches!(&*member.key, [Value::Prefix(_)]) { set.interval() } else { set }
}

/// The element of a member.
pub(crate) fn element(member: &Member) -> nft::Element {
    keyed(&member.key)
}

/// An element with this key. The last field may be a prefix; then the element reaches from its first address to its last.
pub(crate) fn keyed(key: &[Value]) -> nft::Element {
    let first = nft::Key::new(key.iter().map(value).collect::<Vec<_>>());
    match key {
        [fields @ .., Value::Prefix(net)] => {
            let last = fields.iter().map(value).chain([nft::Value::from(net.broadcast())]);
            nft::Element::range(first, nft::Key::new(last.collect::<Vec<_>>()))
        }
        _ => nft::Element::new(first),
    }
}

/// An element with a comment that says where it comes from.
pub(crate) fn commented(member: &Member, origin: &Origin) -> nft::Element {
    element(member).comment(origin.to_string())
}

/// The member that an element of a set is; `None` if no plan has such members.
pub(crate) fn member(family: TableFamily, set: &Set, element: &nft::Element) -> Option<Member> {
    let types: Vec<Type> = set.fields.iter().map(|each| field_type(*each)).collect();
    let values = element.key.values(&types)?;
    let key = if set.prefixes {
        let (&[first], last) = (values.as_slice(), element.last.as_ref()) else { return None };
        let last = match last {
            Some(last) => *last.values(&types)?.first()?,
            None => first,
        };
        [Value::Prefix(prefix(first.as_ip()?, last.as_ip()?)?)].into()
    } else if element.last.is_some() {
        return None;
    } else {
        values.iter().map(unrender).collect::<Option<Arc<[Value]>>>()?
    };
    Some(Member { family, set: set.name, key })
}

fn unrender(value: &nft::Value) -> Option<Value> {
    if let Some(address) = value.as_ip() {
        return Some(Value::Address(address));
    }
    let bytes = value.as_bytes();
    match value.ty() {
        Type::Ifname => {
            let name = bytes.split(|byte| *byte == 0).next()?;
            Some(Value::Link(LinkName::new(str::from_utf8(name).ok()?).ok()?))
        }
        Type::EtherAddr => Some(Value::Mac(MacAddr(bytes.try_into().ok()?))),
        Type::EtherType => Some(Value::EtherType(value.as_u32()?.try_into().ok()?)),
        Type::InetProto => Some(Value::Protocol(value.as_u32()?.try_into().ok()?)),
        Type::InetService => Some(Value::Port(value.as_u32()?.try_into().ok()?)),
        Type::Icmpv6Type => Some(Value::Icmp6Type(value.as_u32()?.try_into().ok()?)),
        _ => None,
    }
}

/// The prefix that reaches from the first to the last address, if there is one that does.
pub(crate) fn prefix(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let mut nets: Box<dyn Iterator<Item = IpNet>> = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Box::new(Ipv4Subnets::new(first, last, 0).map(IpNet::V4)),
        (IpAddr::V6(first), IpAddr::V6(last)) => Box::new(Ipv6Subnets::new(first, last, 0).map(IpNet::V6)),
        _ => return None,
    };
    let net = nets.next()?;
    nets.next().is_none().then_some(net)
}

/// The frontend that a key of the services' tables begins with.
pub(crate) fn frontend(key: &[nft::Value]) -> Option<Frontend> {
    let [address, protocol, port, ..] = key else { return None };
    Some(Frontend {
        address: address.as_ip()?,
        protocol: Protocol::from_number(protocol.as_u32()?.try_into().ok()?)?,
        port: port.as_u32()?.try_into().ok()?,
    })
}

/// The endpoint that an element of the services' tables holds.
pub(crate) fn backend(data: &[nft::Value]) -> Option<Backend> {
    let [address, port] = data else { return None };
    Some(Backend { address: address.as_ip()?, port: port.as_u32()?.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_prefixes_or_nothing() {
        let net = |first: &str, last: &str| {
            prefix(first.parse().unwrap(), last.parse().unwrap()).map(|net| net.to_string())
        };
        assert_eq!(net("10.0.0.0", "10.0.0.255").as_deref(), Some("10.0.0.0/24"));
        assert_eq!(net("10.0.0.1", "10.0.0.1").as_deref(), Some("10.0.0.1/32"));
        assert_eq!(net("0.0.0.0", "255.255.255.255").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(net("10.0.0.1", "10.0.0.2"), None);
        assert_eq!(net("fd00::", "fd00::ffff:ffff:ffff:ffff").as_deref(), Some("fd00::/64"));
        assert_eq!(net("fd00::", "fd00::2"), None);
        assert_eq!(net("10.0.0.1", "fd00::2"), None);
    }
}
