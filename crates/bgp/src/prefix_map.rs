//! A map by prefix.

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, VacantEntry};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Values by prefix, in the order of prefixes: IPv4 first, then by address, then by length. Host bits do not count.
///
/// The keys are numbers. Those of `ipnet` are compared octet by octet, which was most of the cost of a table.
#[derive(Debug)]
pub(crate) struct PrefixMap<T> {
    /// By address and length.
    v4: BTreeMap<u64, T>,
    v6: BTreeMap<(u128, u8), T>,
}

/// A place in a [`PrefixMap`].
#[derive(Debug)]
pub(crate) enum Slot<'a, T> {
    Taken(&'a mut T),
    Free(Free<'a, T>),
}

/// A place for a value.
#[derive(Debug)]
pub(crate) enum Free<'a, T> {
    V4(VacantEntry<'a, u64, T>),
    V6(VacantEntry<'a, (u128, u8), T>),
}

impl<'a, T> Free<'a, T> {
    pub(crate) fn fill(self, value: T) -> &'a mut T {
        match self {
            Free::V4(free) => free.insert(value),
            Free::V6(free) => free.insert(value),
        }
    }
}

impl<T> Default for PrefixMap<T> {
    fn default() -> PrefixMap<T> {
        PrefixMap { v4: BTreeMap::new(), v6: BTreeMap::new() }
    }
}

impl<T> PrefixMap<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub(crate) fn contains(&self, prefix: &IpNet) -> bool {
        self.get(prefix).is_some()
    }

    pub(crate) fn get(&self, prefix: &IpNet) -> Option<&T> {
        match prefix {
            IpNet::V4(net) => self.v4.get(&v4_key(net)),
            IpNet::V6(net) => self.v6.get(&v6_key(net)),
        }
    }

    pub(crate) fn get_mut(&mut self, prefix: &IpNet) -> Option<&mut T> {
        match prefix {
            IpNet::V4(net) => self.v4.get_mut(&v4_key(net)),
            IpNet::V6(net) => self.v6.get_mut(&v6_key(net)),
        }
    }

    /// Where the value of a prefix is, or would be.
    pub(crate) fn slot(&mut self, prefix: &IpNet) -> Slot<'_, T> {
        match prefix {
            IpNet::V4(net) => match self.v4.entry(v4_key(net)) {
                Entry::Occupied(there) => Slot::Taken(there.into_mut()),
                Entry::Vacant(free) => Slot::Free(Free::V4(free)),
            },
            IpNet::V6(net) => match self.v6.entry(v6_key(net)) {
                Entry::Occupied(there) => Slot::Taken(there.into_mut()),
                Entry::Vacant(free) => Slot::Free(Free::V6(free)),
            },
        }
    }

    pub(crate) fn get_or_insert(&mut self, prefix: &IpNet, value: T) -> &mut T {
        match self.slot(prefix) {
            Slot::Taken(there) => there,
            Slot::Free(free) => free.fill(value),
        }
    }

    /// Puts a value in the place of the one that was there.
    pub(crate) fn insert(&mut self, prefix: &IpNet, value: T) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self.v4.insert(v4_key(net), value),
            IpNet::V6(net) => self.v6.insert(v6_key(net), value),
        }
    }

    pub(crate) fn remove(&mut self, prefix: &IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self.v4.remove(&v4_key(net)),
            IpNet::V6(net) => self.v6.remove(&v6_key(net)),
        }
    }

    pub(crate) fn pop_first(&mut self) -> Option<(IpNet, T)> {
        let v4 = self.v4.pop_first().map(|(key, value)| (v4_net(key), value));
        v4.or_else(|| self.v6.pop_first().map(|(key, value)| (v6_net(key), value)))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = IpNet> {
        self.iter().map(|(prefix, _)| prefix)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let v4 = self.v4.iter().map(|(key, value)| (v4_net(*key), value));
        v4.chain(self.v6.iter().map(|(key, value)| (v6_net(*key), value)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (IpNet, &mut T)> {
        let v4 = self.v4.iter_mut().map(|(key, value)| (v4_net(*key), value));
        v4.chain(self.v6.iter_mut().map(|(key, value)| (v6_net(*key), value)))
    }
}

fn v4_key(net: &Ipv4Net) -> u64 {
    u64::from(u32::from(net.network())) << 8 | u64::from(net.prefix_len())
}

/// The length is that of a prefix, so there is one.
fn v4_net(key: u64) -> IpNet {
    Ipv4Net::new(((key >> 8) as u32).into(), key as u8).unwrap_or_default().into()
}

fn v6_key(net: &Ipv6Net) -> (u128, u8) {
    (net.network().into(), net.prefix_len())
}

/// The length is that of a prefix, so there is one.
fn v6_net((address, length): (u128, u8)) -> IpNet {
    Ipv6Net::new(address.into(), length).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few bits, so that prefixes meet again and contain each other.
        let v4 = (0..4_u32, 0..=32_u8).prop_map(|(bits, length)| {
            IpNet::V4(Ipv4Net::new((bits << 30 | bits).into(), length).unwrap().trunc())
        });
        let v6 = (0..4_u128, 0..=128_u8).prop_map(|(bits, length)| {
            IpNet::V6(Ipv6Net::new((bits << 126 | bits).into(), length).unwrap().trunc())
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn is_as_a_map_of_nets(steps in prop::collection::vec((prefix(), 0..4_u8, any::<u8>()), 0..200)) {
            let (mut map, mut model) = (PrefixMap::default(), BTreeMap::new());
            for (prefix, kind, value) in steps {
                match kind {
                    0 => prop_assert_eq!(map.insert(&prefix, value), model.insert(prefix, value)),
                    1 => prop_assert_eq!(map.remove(&prefix), model.remove(&prefix)),
                    2 => prop_assert_eq!(
                        *map.get_or_insert(&prefix, value),
                        *model.entry(prefix).or_insert(value)
                    ),
                    _ => prop_assert_eq!(map.get_mut(&prefix), model.get_mut(&prefix)),
                }
                prop_assert_eq!(map.get(&prefix), model.get(&prefix));
                prop_assert_eq!(map.contains(&prefix), model.contains_key(&prefix));
            }
            prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            prop_assert!(map.keys().eq(model.keys().copied()));
            prop_assert!(map.iter().eq(model.iter().map(|(prefix, value)| (*prefix, value))));
            prop_assert!(map.iter_mut().map(|(prefix, value)| (prefix, *value)).eq(model.clone()));
            while let Some(first) = model.pop_first() {
                prop_assert_eq!(map.pop_first(), Some(first));
            }
            prop_assert_eq!(map.pop_first(), None);
        }
    }
}
