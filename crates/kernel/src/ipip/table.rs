//! The table in the maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use model::{Family, PerFamily};
use plan::ipip::{Route, Table};

use super::layout::{self, AddressBytes, Heard, Prefix};
use super::object::{Entries, Object, failed};
use super::{Changes, Counters};
use crate::{Error, Result};

/// What is in the maps and not in the table.
#[derive(Debug, Default)]
pub(super) struct Stale {
    routes4: Vec<Prefix<4>>,
    routes6: Vec<Prefix<16>>,
    nodes: Vec<AddressBytes>,
    locals: Vec<AddressBytes>,
}

impl Object {
    /// Writes what is in the table and not in the maps. What goes is left to [`Object::clear`]. Senders are accepted
    /// before anything is sent to them.
    pub(super) fn write(&mut self, table: &Table, changes: &mut Changes) -> Result<Stale> {
        let locals = table.locals.iter().map(|local| (layout::address(*local), 1)).collect();
        let nodes = table.nodes.iter().map(|node| (layout::address(*node), [0; 2])).collect();
        let (mut routes4, mut routes6) = (BTreeMap::new(), BTreeMap::new());
        for (destination, route) in &table.routes {
            match destination {
                IpNet::V4(net) => routes4.insert(layout::prefix4(*net), layout::route(route)),
                IpNet::V6(net) => routes6.insert(layout::prefix6(*net), layout::route(route)),
            };
        }
        Ok(Stale {
            locals: write(&mut self.locals, &locals, PartialEq::eq, changes)?,
            // When a node was heard is the program's to say.
            nodes: write(&mut self.nodes, &nodes, |_, _| true, changes)?,
            routes4: write(&mut self.routes4, &routes4, PartialEq::eq, changes)?,
            routes6: write(&mut self.routes6, &routes6, PartialEq::eq, changes)?,
        })
    }

    pub(super) fn clear(&mut self, stale: &Stale, changes: &mut Changes) -> Result<()> {
        clear(&mut self.routes4, &stale.routes4, changes)?;
        clear(&mut self.routes6, &stale.routes6, changes)?;
        clear(&mut self.nodes, &stale.nodes, changes)?;
        clear(&mut self.locals, &stale.locals, changes)
    }

    pub(super) fn set_route(&mut self, destination: IpNet, route: Option<&Route>) -> Result<()> {
        match (destination, route.map(layout::route)) {
            (IpNet::V4(net), Some(value)) => self.routes4.put(&layout::prefix4(net), &value),
            (IpNet::V6(net), Some(value)) => self.routes6.put(&layout::prefix6(net), &value),
            (IpNet::V4(net), None) => self.routes4.take(&layout::prefix4(net)),
            (IpNet::V6(net), None) => self.routes6.take(&layout::prefix6(net)),
        }
    }

    pub(super) fn set_node(&mut self, node: IpAddr, accepted: bool) -> Result<()> {
        let key = layout::address(node);
        // When a node was heard is the program's to say.
        if accepted { self.nodes.add(&key, &[0; 2]) } else { self.nodes.take(&key) }
    }

    pub(super) fn set_local(&mut self, local: IpAddr, accepted: bool) -> Result<()> {
        let key = layout::address(local);
        if accepted { self.locals.add(&key, &1) } else { self.locals.take(&key) }
    }

    pub(super) fn table(&self) -> Result<Table> {
        let routes4 = self.routes4.all()?;
        let routes4 = routes4.into_iter().map(|(key, value)| (layout::read_prefix4(key), value));
        let routes6 = self.routes6.all()?;
        let routes6 = routes6.into_iter().map(|(key, value)| (layout::read_prefix6(key), value));
        let routes = routes4
            .chain(routes6)
            .filter_map(|(destination, route)| Some((destination?, layout::read_route(&route)?)));
        Ok(Table {
            routes: routes.collect(),
            nodes: self.nodes.all()?.keys().filter_map(layout::read_address).collect(),
            locals: self.locals.all()?.keys().filter_map(layout::read_address).collect(),
        })
    }

    pub(super) fn counters(&self) -> Result<Counters> {
        let count = |index: u32| -> Result<u64> {
            let values = self.counters.get(&index, 0).map_err(failed("read the IP in IP counters"))?;
            Ok(values.iter().sum())
        };
        Ok(Counters {
            encapsulated: count(0)?,
            decapsulated: count(1)?,
            keepalives: count(2)?,
            held: count(3)?,
            refused: count(4)?,
            malformed: count(5)?,
            congested: count(6)?,
            failed: count(7)?,
        })
    }

    pub(super) fn last_heard(&self) -> Result<BTreeMap<IpAddr, PerFamily<Duration>>> {
        let heard = self.nodes.all()?;
        let now = monotonic()?;
        let since = |heard: Heard| {
            let mut times = PerFamily::default();
            for (family, at) in Family::BOTH.into_iter().zip(heard) {
                if at != 0 {
                    times.insert(family, Duration::from_nanos(now.saturating_sub(at)));
                }
            }
            times
        };
        Ok(heard.iter().filter_map(|(node, at)| Some((layout::read_address(node)?, since(*at)))).collect())
    }
}

/// Writes what is wanted and is not there, or is there and not right. The keys that are there and not wanted.
fn write<T: Entries>(
    map: &mut T,
    wanted: &BTreeMap<T::Key, T::Value>,
    is_right: fn(&T::Value, &T::Value) -> bool,
    changes: &mut Changes,
) -> Result<Vec<T::Key>> {
    let found = map.all()?;
    for (key, value) in wanted {
        if !found.get(key).is_some_and(|found| is_right(found, value)) {
            map.put(key, value)?;
            changes.written += 1;
        }
    }
    Ok(found.into_keys().filter(|key| !wanted.contains_key(key)).collect())
}

fn clear<T: Entries>(map: &mut T, keys: &[T::Key], changes: &mut Changes) -> Result<()> {
    for key in keys {
        map.take(key)?;
        changes.removed += 1;
    }
    Ok(())
}

/// The clock of `bpf_ktime_get_coarse_ns`, in nanoseconds.
pub(super) fn monotonic() -> Result<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value that lives through the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } < 0 {
        return Err(Error::system("read the monotonic clock"));
    }
    Ok(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}
