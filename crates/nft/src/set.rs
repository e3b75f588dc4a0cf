//! Sets, maps, and their elements.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::comment::Comment;
use crate::table::Table;
use crate::value::{Key, Type, Value, key_size};
use crate::verdict::Verdict;

/// What the elements of a map hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MapData {
    /// A verdict.
    Verdict,
    /// One value, or several concatenated.
    Values(Vec<Type>),
}

/// A named set or map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// The table that holds it.
    pub table: Table,
    /// The name, unique in the table; 1 to 255 bytes.
    pub name: String,
    /// The fields of the key, at most 5.
    pub key: Vec<Type>,
    /// What elements hold; `None` for a set.
    pub data: Option<MapData>,
    /// Whether elements may be ranges.
    pub interval: bool,
    /// Whether rules add elements ([`crate::Rule::update`]).
    pub dynamic: bool,
    /// Whether elements may have a time limit.
    pub timeouts: bool,
    /// The time limit of elements that have none of their own; milliseconds count, which the kernel rounds to ticks of
    /// its clock.
    pub default_timeout: Option<Duration>,
    /// The most elements it takes.
    pub size: Option<u32>,
    /// A comment for readers of `nft list`. Set when the set is created, not changed later.
    pub comment: Option<Comment>,
}

impl Set {
    /// A set whose key has these fields.
    pub fn new(table: &Table, name: impl Into<String>, key: impl Into<Vec<Type>>) -> Set {
        Set {
            table: table.clone(),
            name: name.into(),
            key: key.into(),
            data: None,
            interval: false,
            dynamic: false,
            timeouts: false,
            default_timeout: None,
            size: None,
            comment: None,
        }
    }

    /// A map from a key with these fields to values with those.
    pub fn map(
        table: &Table,
        name: impl Into<String>,
        key: impl Into<Vec<Type>>,
        data: impl Into<Vec<Type>>,
    ) -> Set {
        Set { data: Some(MapData::Values(data.into())), ..Set::new(table, name, key) }
    }

    /// A map from a key with these fields to verdicts.
    pub fn verdict_map(table: &Table, name: impl Into<String>, key: impl Into<Vec<Type>>) -> Set {
        Set { data: Some(MapData::Verdict), ..Set::new(table, name, key) }
    }

    /// Lets elements be ranges.
    pub fn interval(self) -> Set {
        Set { interval: true, ..self }
    }

    /// Lets rules add elements.
    pub fn dynamic(self) -> Set {
        Set { dynamic: true, ..self }
    }

    /// Lets elements have a time limit each.
    pub fn timeouts(self) -> Set {
        Set { timeouts: true, ..self }
    }

    /// Gives elements a time limit unless they have their own.
    pub fn default_timeout(self, timeout: Duration) -> Set {
        Set { timeouts: true, default_timeout: Some(timeout), ..self }
    }

    /// Limits the number of elements.
    pub fn size(self, size: u32) -> Set {
        Set { size: Some(size), ..self }
    }

    /// Sets the comment.
    pub fn comment(self, comment: impl Into<Comment>) -> Set {
        Set { comment: Some(comment.into()), ..self }
    }

    /// `set` or `map`.
    pub fn kind(&self) -> &'static str {
        if self.data.is_some() { "map" } else { "set" }
    }

    /// Whether elements are ranges of one field, which the kernel stores as a start and an end, rather than of
    /// several, which it stores as one element with two keys.
    pub(crate) fn has_flat_intervals(&self) -> bool {
        self.interval && self.key.len() == 1
    }

    /// Why this element's key cannot be in this set.
    pub(crate) fn refuses_key(&self, element: &Element) -> Option<String> {
        let size = key_size(&self.key);
        let key = || element.key.display(&self.key);
        for part in std::iter::once(&element.key).chain(&element.last) {
            let has = part.as_bytes().len();
            if has != size {
                let kind = self.kind();
                return Some(format!(
                    "element {} has a key of {has} bytes, those of the {kind} have {size}",
                    key()
                ));
            }
        }
        if element.last.is_some() && !self.interval {
            return Some(format!(
                "element {} is a range, but the {} is not declared as interval",
                key(),
                self.kind()
            ));
        }
        if element.last.as_ref().is_some_and(|last| self.key.len() == 1 && *last < element.key) {
            return Some(format!("element {} is a range that ends before it starts", key()));
        }
        None
    }

    /// Why this element cannot be in this set.
    pub(crate) fn refuses(&self, element: &Element) -> Option<String> {
        if let Some(refusal) = self.refuses_key(element) {
            return Some(refusal);
        }
        let key = || element.key.display(&self.key);
        if element.timeout.is_some() && !self.timeouts {
            return Some(format!(
                "element {} has a timeout, but the {} is declared without",
                key(),
                self.kind()
            ));
        }
        match (&self.data, &element.data) {
            (None, None) | (Some(MapData::Verdict), Some(Data::Verdict(_))) => None,
            (Some(MapData::Values(types)), Some(Data::Value(value)))
                if value.as_bytes().len() == key_size(types) =>
            {
                None
            }
            (None, Some(_)) => Some(format!("element {} holds data, which only maps do", key())),
            (Some(_), None) => Some(format!("element {} holds nothing, but those of a map must", key())),
            (Some(wanted), Some(data)) => {
                Some(format!("element {} holds {data:?}, the map {wanted:?}", key()))
            }
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {}", self.kind(), self.name, self.table)
    }
}

/// What an element of a map holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Data {
    /// A verdict.
    Verdict(Verdict),
    /// A value, or several concatenated.
    Value(Key),
}

impl From<Verdict> for Data {
    fn from(verdict: Verdict) -> Data {
        Data::Verdict(verdict)
    }
}

impl<K: Into<Key>> From<K> for Data {
    fn from(value: K) -> Data {
        Data::Value(value.into())
    }
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// The key; the first one, of a range.
    pub key: Key,
    /// The last key of a range, itself part of it. In a concatenation each field has its own range.
    pub last: Option<Key>,
    /// What it holds, in a map.
    pub data: Option<Data>,
    /// Its own time limit; milliseconds count, which the kernel rounds to ticks of its clock.
    pub timeout: Option<Duration>,
    /// A comment for readers of `nft list`.
    pub comment: Option<Comment>,
}

impl Element {
    /// An element with one key.
    pub fn new(key: impl Into<Key>) -> Element {
        Element { key: key.into(), last: None, data: None, timeout: None, comment: None }
    }

    /// All keys from the first to the last.
    pub fn range(first: impl Into<Key>, last: impl Into<Key>) -> Element {
        let (key, last) = (first.into(), last.into());
        let last = (last != key).then_some(last);
        Element { last, ..Element::new(key) }
    }

    /// All addresses of a prefix. Bits of `address` beyond `length` do not count; lengths beyond the address's size
    /// count as full.
    pub fn prefix(address: IpAddr, length: u8) -> Element {
        let (first, last) = prefix_range(address, length);
        Element::range(Value::from(first), Value::from(last))
    }

    /// Sets what the element holds.
    pub fn data(self, data: impl Into<Data>) -> Element {
        Element { data: Some(data.into()), ..self }
    }

    /// The verdict that it holds.
    pub fn verdict(&self) -> Option<&Verdict> {
        match &self.data {
            Some(Data::Verdict(verdict)) => Some(verdict),
            _ => None,
        }
    }

    /// The value that it holds.
    pub fn value(&self) -> Option<&Key> {
        match &self.data {
            Some(Data::Value(value)) => Some(value),
            _ => None,
        }
    }

    /// Sets the time limit.
    pub fn timeout(self, timeout: Duration) -> Element {
        Element { timeout: Some(timeout), ..self }
    }

    /// Sets the comment.
    pub fn comment(self, comment: impl Into<Comment>) -> Element {
        Element { comment: Some(comment.into()), ..self }
    }
}

/// First and last address of a prefix.
fn prefix_range(address: IpAddr, length: u8) -> (IpAddr, IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            let bits = u32::from(address);
            (IpAddr::V4((bits & !host).into()), IpAddr::V4((bits | host).into()))
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            let bits = u128::from(address);
            (IpAddr::V6((bits & !host).into()), IpAddr::V6((bits | host).into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Family;

    #[test]
    fn prefixes_cover_first_to_last_in_both_families() {
        let range = |text: &str, length| {
            let (first, last) = prefix_range(text.parse().unwrap(), length);
            format!("{first}-{last}")
        };
        assert_eq!(range("10.1.2.3", 24), "10.1.2.0-10.1.2.255");
        assert_eq!(range("10.1.2.3", 0), "0.0.0.0-255.255.255.255");
        assert_eq!(range("10.1.2.3", 32), "10.1.2.3-10.1.2.3");
        assert_eq!(range("fd00:1::7", 64), "fd00:1::-fd00:1::ffff:ffff:ffff:ffff");
        assert_eq!(range("::1", 128), "::1-::1");
        assert_eq!(Element::prefix("10.1.2.3".parse().unwrap(), 32).last, None);
    }

    #[test]
    fn an_element_that_does_not_fit_is_refused_with_the_reason() {
        let table = Table::new(Family::Ip, "t");
        let set = Set::new(&table, "s", [Type::InetService]);
        let port = Element::new(Value::port(80));
        assert_eq!(set.refuses(&port), None);
        let refusal = |set: &Set, element: Element| set.refuses(&element).unwrap();
        assert!(refusal(&set, Element::new(Value::mark(1))).contains("4 bytes"));
        assert!(refusal(&set, port.clone().data(Verdict::Accept)).contains("only maps"));
        assert!(refusal(&set, port.clone().timeout(Duration::from_secs(1))).contains("timeout"));
        assert!(refusal(&set, Element::range(Value::port(1), Value::port(2))).contains("interval"));
        let backwards = Element::range(Value::port(2), Value::port(1));
        assert!(refusal(&set.interval(), backwards).contains("before"));
        let map = Set::verdict_map(&table, "m", [Type::InetService]);
        assert!(refusal(&map, port).contains("must"));
    }
}
