//! The kernel's messages as objects.

use std::time::Duration;

use crate::attr::{Attrs, Message, read_str, read_u32, read_u64, table};
use crate::comment::Comment;
use crate::error::Error;
use crate::set::{Data, Element, MapData, Set};
use crate::table::{Base, Chain, ChainType, Family, Hook, Policy, Table};
use crate::uapi::*;
use crate::udata;
use crate::value::{Key, Type, key_size};
use crate::verdict::Verdict;

/// A rule as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRule {
    /// The table that holds it.
    pub table: Table,
    /// The chain that holds it.
    pub chain: String,
    /// The kernel's number for it, unique in the table.
    pub handle: u64,
    /// The comment.
    pub comment: Option<Comment>,
    /// The tag stored with it by this crate (see [`crate::Rule::tag`]); `None` if something else made the rule.
    pub tag: Option<u64>,
    /// What its first counter has counted.
    pub counter: Option<Counter>,
}

/// What a counter has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}

/// Attribute values, at the positions of their types.
type ByType<'a, const N: usize> = [Option<&'a [u8]>; N];

/// The family of a message, and its attributes; `None` if the family is none of [`Family`].
fn object<'a, const N: usize>(message: &Message<'a>) -> Result<Option<(Family, ByType<'a, N>)>, Error> {
    let (family, attrs) = message.nfgen()?;
    match Family::from_number(family) {
        Some(family) => Ok(Some((family, table(attrs)?))),
        None => Ok(None),
    }
}

fn required<T>(value: Option<T>, what: &'static str) -> Result<T, Error> {
    value.ok_or(Error::Malformed { what })
}

/// A table, unless of a family that this crate does not handle.
pub(crate) fn table_object(message: &Message<'_>) -> Result<Option<Table>, Error> {
    let Some((family, [_, name])) = object::<2>(message)? else { return Ok(None) };
    Ok(Some(Table { family, name: required(name.map(read_str), "table without name")? }))
}

/// A chain, unless of a family, type or hook that this crate does not handle.
pub(crate) fn chain(message: &Message<'_>) -> Result<Option<Chain>, Error> {
    const N: usize = NFTA_CHAIN_USERDATA as usize + 1;
    let Some((family, attrs)) = object::<N>(message)? else { return Ok(None) };
    let attr = |ty: u16| attrs[usize::from(ty)];
    let table_name = required(attr(NFTA_CHAIN_TABLE).map(read_str), "chain without table")?;
    let name = required(attr(NFTA_CHAIN_NAME).map(read_str), "chain without name")?;
    let base = match attr(NFTA_CHAIN_HOOK) {
        None => None,
        Some(hook) => {
            let [_, hook, priority] = table::<3>(hook)?;
            let hook = hook.and_then(read_u32).and_then(Hook::from_number);
            let ty = attr(NFTA_CHAIN_TYPE).map(read_str).and_then(|ty| ChainType::from_name(&ty));
            let (Some(hook), Some(ty)) = (hook, ty) else { return Ok(None) };
            let priority = required(priority.and_then(read_u32), "chain without priority")? as i32;
            let policy = match attr(NFTA_CHAIN_POLICY).and_then(read_u32) {
                Some(policy) if policy == NF_DROP as u32 => Policy::Drop,
                _ => Policy::Accept,
            };
            Some(Base { ty, hook, priority, policy })
        }
    };
    let comment = udata::find_comment(attr(NFTA_CHAIN_USERDATA), NFTNL_UDATA_CHAIN_COMMENT);
    Ok(Some(Chain { table: Table { family, name: table_name }, name, base, comment }))
}

/// A rule, unless of a family that this crate does not handle.
pub(crate) fn rule(message: &Message<'_>) -> Result<Option<ListedRule>, Error> {
    const N: usize = NFTA_RULE_USERDATA as usize + 1;
    let Some((family, attrs)) = object::<N>(message)? else { return Ok(None) };
    let attr = |ty: u16| attrs[usize::from(ty)];
    let data = attr(NFTA_RULE_USERDATA);
    Ok(Some(ListedRule {
        table: Table { family, name: required(attr(NFTA_RULE_TABLE).map(read_str), "rule without table")? },
        chain: required(attr(NFTA_RULE_CHAIN).map(read_str), "rule without chain")?,
        handle: required(attr(NFTA_RULE_HANDLE).and_then(read_u64), "rule without handle")?,
        comment: udata::find_comment(data, NFTNL_UDATA_RULE_COMMENT),
        tag: data.and_then(|data| udata::find(data, UDATA_RULE_TAG)).and_then(read_u64),
        counter: attr(NFTA_RULE_EXPRESSIONS).map(counter).transpose()?.flatten(),
    }))
}

/// The first counter among a rule's expressions.
fn counter(expressions: &[u8]) -> Result<Option<Counter>, Error> {
    for expression in Attrs::new(expressions) {
        let [_, name, data] = table::<3>(expression?.1)?;
        if name.is_some_and(|name| name.starts_with(b"counter\0"))
            && let Some(data) = data
        {
            const { assert!(NFTA_COUNTER_BYTES == 1 && NFTA_COUNTER_PACKETS == 2) };
            let [_, bytes, packets] = table::<3>(data)?;
            let number = |value: Option<&[u8]>| required(value.and_then(read_u64), "counter");
            return Ok(Some(Counter { packets: number(packets)?, bytes: number(bytes)? }));
        }
    }
    Ok(None)
}

/// A named set or map, unless of a family that this crate does not handle.
pub(crate) fn set(message: &Message<'_>) -> Result<Option<Set>, Error> {
    const N: usize = NFTA_SET_USERDATA as usize + 1;
    let Some((family, attrs)) = object::<N>(message)? else { return Ok(None) };
    let attr = |ty: u16| attrs[usize::from(ty)];
    let number = |ty: u16| attr(ty).and_then(read_u32);
    let flags = number(NFTA_SET_FLAGS).unwrap_or(0);
    if flags & NFT_SET_ANONYMOUS != 0 {
        return Ok(None);
    }
    let fields = |ty, len| types(number(ty).unwrap_or(0), number(len).unwrap_or(0) as usize);
    let data = match number(NFTA_SET_DATA_TYPE) {
        _ if flags & NFT_SET_MAP == 0 => None,
        Some(NFT_DATA_VERDICT) => Some(MapData::Verdict),
        _ => Some(MapData::Values(fields(NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN))),
    };
    let size = match attr(NFTA_SET_DESC) {
        Some(desc) => table::<2>(desc)?[usize::from(NFTA_SET_DESC_SIZE)].and_then(read_u32),
        None => None,
    };
    Ok(Some(Set {
        table: Table { family, name: required(attr(NFTA_SET_TABLE).map(read_str), "set without table")? },
        name: required(attr(NFTA_SET_NAME).map(read_str), "set without name")?,
        key: fields(NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN),
        data,
        interval: flags & NFT_SET_INTERVAL != 0,
        dynamic: flags & NFT_SET_EVAL != 0,
        timeouts: flags & NFT_SET_TIMEOUT != 0,
        default_timeout: attr(NFTA_SET_TIMEOUT).and_then(read_u64).map(Duration::from_millis),
        size,
        comment: udata::find_comment(attr(NFTA_SET_USERDATA), NFTNL_UDATA_SET_COMMENT),
    }))
}

/// The fields that nft's type number stands for, if they add up to the size; else as many raw bytes.
fn types(number: u32, size: usize) -> Vec<Type> {
    let fields = (0..=5).rev().map(|position| number >> (6 * position) & 0x3f);
    let known: Option<Vec<Type>> = fields.skip_while(|&field| field == 0).map(Type::from_number).collect();
    match known {
        Some(types) if !types.is_empty() && key_size(&types) == size => types,
        _ => (0..size).step_by(16).map(|at| Type::Raw((size - at).min(16) as u8)).collect(),
    }
}

/// An element as the kernel sends it, before the two halves of a range are joined.
pub(crate) struct RawElement {
    end: bool,
    element: Element,
}

/// The elements of one message of a dump.
pub(crate) fn elements(message: &Message<'_>, out: &mut Vec<RawElement>) -> Result<(), Error> {
    let [.., list] = table::<4>(message.nfgen()?.1)?;
    for element in Attrs::new(list.unwrap_or(&[])) {
        out.extend(raw_element(element?.1)?);
    }
    Ok(())
}

/// One element; `None` for the catch-all element, which has no key.
pub(crate) fn raw_element(attrs: &[u8]) -> Result<Option<RawElement>, Error> {
    const N: usize = NFTA_SET_ELEM_KEY_END as usize + 1;
    let attrs = table::<N>(attrs)?;
    let attr = |ty: u16| attrs[usize::from(ty)];
    let flags = attr(NFTA_SET_ELEM_FLAGS).and_then(read_u32).unwrap_or(0);
    if flags & NFT_SET_ELEM_CATCHALL != 0 {
        return Ok(None);
    }
    let key = required(attr(NFTA_SET_ELEM_KEY).map(value).transpose()?.flatten(), "element without key")?;
    let last = attr(NFTA_SET_ELEM_KEY_END).map(value).transpose()?.flatten().filter(|last| *last != key);
    let data = match attr(NFTA_SET_ELEM_DATA) {
        None => None,
        Some(data) => {
            let [_, value, verdict] = table::<3>(data)?;
            match (value, verdict) {
                (Some(value), _) => Some(Data::Value(Key(value.into()))),
                (None, Some(verdict)) => Some(Data::Verdict(Verdict::decode(verdict)?)),
                (None, None) => None,
            }
        }
    };
    let timeout = attr(NFTA_SET_ELEM_TIMEOUT).and_then(read_u64).map(Duration::from_millis);
    let comment = udata::find_comment(attr(NFTA_SET_ELEM_USERDATA), NFTNL_UDATA_SET_ELEM_COMMENT);
    let element = Element { key, last, data, timeout, comment };
    Ok(Some(RawElement { end: flags & NFT_SET_ELEM_INTERVAL_END != 0, element }))
}

fn value(data: &[u8]) -> Result<Option<Key>, Error> {
    Ok(table::<2>(data)?[usize::from(NFTA_DATA_VALUE)].map(|value| Key(value.into())))
}

impl RawElement {
    pub(crate) fn key(&self) -> &Key {
        &self.element.key
    }
}

/// The elements of a set from a complete dump, by key; `None` if the dump has one twice.
///
/// The kernel sends a dump in portions and finds its place again by counting. While it enlarges the hash table of a set
/// that has grown, which it does on its own after the commit, the order changes under the count: some elements come
/// twice, and as many not at all.
pub(crate) fn join(set: &Set, mut raw: Vec<RawElement>) -> Option<Vec<Element>> {
    // Where ranges touch, the end of one has the key of the next one's start, and comes first.
    let order = |raw: &RawElement| (!raw.end, raw.element.last.clone());
    raw.sort_unstable_by(|a, b| a.key().cmp(b.key()).then_with(|| order(a).cmp(&order(b))));
    let same = |a: &RawElement, b: &RawElement| a.key() == b.key() && order(a) == order(b);
    if raw.windows(2).any(|pair| matches!(pair, [a, b] if same(a, b))) {
        return None;
    }
    if set.has_flat_intervals() {
        return Some(join_ranges(raw));
    }
    Some(raw.into_iter().map(|raw| raw.element).collect())
}

/// Joins each start with the end that follows it; one without an end goes on to the last key.
fn join_ranges(raw: Vec<RawElement>) -> Vec<Element> {
    let mut elements: Vec<Element> = Vec::with_capacity(raw.len() / 2);
    let mut open = false;
    for RawElement { end, element } in raw {
        if !end {
            elements.push(element);
        } else if let Some(range) = elements.last_mut().filter(|_| open) {
            range.last = element.key.predecessor().filter(|last| *last != range.key);
        }
        open = !end;
    }
    if open && let Some(range) = elements.last_mut() {
        let last = Key(vec![0xff; range.key.as_bytes().len()].into());
        range.last = (last != range.key).then_some(last);
    }
    elements
}

/// The number of the rule set's generation, from an `NFT_MSG_NEWGEN`.
pub(crate) fn generation(message: &Message<'_>) -> Result<u32, Error> {
    let [_, id] = table::<2>(message.nfgen()?.1)?;
    required(id.and_then(read_u32), "generation without number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::{Messages, Writer};
    use crate::encode;
    use crate::value::Value;
    use std::net::{IpAddr, Ipv4Addr};

    fn round_trip(set: &Set, elements: &[Element]) -> Vec<Element> {
        let mut w = Writer::default();
        encode::elements(&mut w, NFT_MSG_NEWSETELEM, set, elements.iter());
        let mut raw = Vec::new();
        Messages::new(&w.buf).for_each(|message| super::elements(&message.unwrap(), &mut raw).unwrap());
        raw.reverse();
        join(set, raw).unwrap()
    }

    #[test]
    fn ranges_that_touch_and_ranges_to_the_end_read_back() {
        let set = Set::new(&Table::new(Family::Ip, "t"), "s", [Type::Ipv4Addr]).interval();
        let v4 = |text: &str| text.parse::<IpAddr>().unwrap();
        let elements = [
            Element::prefix(v4("0.0.0.0"), 8),
            Element::prefix(v4("10.0.0.0"), 24),
            Element::prefix(v4("10.0.1.0"), 24).comment("touches"),
            Element::new(Value::from(v4("10.0.2.0"))),
            Element::range(Value::from(v4("10.0.2.1")), Value::from(v4("10.0.2.7"))),
            Element::prefix(v4("255.0.0.0"), 8),
        ];
        assert_eq!(round_trip(&set, &elements), elements);
    }

    #[test]
    fn a_dump_with_an_element_twice_is_not_taken() {
        let set = Set::new(&Table::new(Family::Ip, "t"), "s", [Type::InetService]);
        let raw = |port| RawElement { end: false, element: Element::new(Value::port(port)) };
        assert!(join(&set, vec![raw(1), raw(2), raw(1)]).is_none());
        assert_eq!(join(&set, vec![raw(2), raw(1)]).unwrap()[0], Element::new(Value::port(1)));
    }

    #[test]
    fn elements_of_maps_read_back() {
        let table = Table::new(Family::Ip, "t");
        let set = Set::verdict_map(&table, "m", [Type::Ipv4Addr, Type::InetService]).timeouts();
        let element = Element::new([Ipv4Addr::LOCALHOST.into(), Value::port(80)])
            .data(Verdict::goto("x"))
            .comment("c")
            .timeout(Duration::from_millis(1500));
        assert_eq!(round_trip(&set, std::slice::from_ref(&element)), [element]);
    }

    #[test]
    fn sets_and_chains_read_back() {
        let table = Table::new(Family::Ip6, "t");
        let index = [Type::Ipv6Addr, Type::InetProto, Type::InetService, Type::Index];
        let sets = [
            Set::new(&table, "a", [Type::Ifname, Type::Ipv6Addr]).interval().comment("c").size(7),
            Set::map(&table, "b", index, [Type::Ipv6Addr, Type::InetService]),
            Set::verdict_map(&table, "c", [Type::Mark]).default_timeout(Duration::from_secs(3)).dynamic(),
        ];
        for set in sets {
            let mut w = Writer::default();
            encode::set(&mut w, &set, 0, 1);
            let message = Messages::new(&w.buf).next().unwrap().unwrap();
            assert_eq!(super::set(&message).unwrap(), Some(set));
        }
        let base = Chain::base(&table, "pre", ChainType::Nat, Hook::Prerouting, -100).policy(Policy::Drop);
        for chain in [base.comment("why"), Chain::new(&table, "x")] {
            let mut w = Writer::default();
            encode::chain(&mut w, &chain);
            let message = Messages::new(&w.buf).next().unwrap().unwrap();
            assert_eq!(super::chain(&message).unwrap(), Some(chain));
        }
    }

    #[test]
    fn unknown_types_become_raw_bytes() {
        assert_eq!(types(24, 4), [Type::Raw(4)]);
        assert_eq!(types(7 << 6 | 24, 8), [Type::Raw(8)]);
        assert_eq!(types(7, 5), [Type::Raw(5)]);
        assert_eq!(types(0, 36), [Type::Raw(16), Type::Raw(16), Type::Raw(4)]);
        assert_eq!(types(7 << 6 | 13, 8), [Type::Ipv4Addr, Type::InetService]);
    }
}
