//! The table in the maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use model::{Family, PerFamily};
use plan::ipip::{Route, Table};

use super::Counters;
use super::layout::{self, AddressBytes, Heard, Prefix};
use super::object::{Entries, Object, longest};
use crate::Result;
use crate::bpf::failed;
use crate::clock::monotonic;

/// Keys of entries that make no sense.
#[derive(Debug, Default)]
pub(super) struct Stale {
    routes4: Vec<Prefix<4>>,
    routes6: Vec<Prefix<16>>,
    nodes: Vec<AddressBytes>,
    locals: Vec<AddressBytes>,
}

impl Object {
    pub(super) fn clear(&mut self, stale: &Stale) -> Result<()> {
        stale.routes4.iter().try_for_each(|key| self.routes4.take(key))?;
        stale.routes6.iter().try_for_each(|key| self.routes6.take(key))?;
        stale.nodes.iter().try_for_each(|key| self.nodes.take(key))?;
        stale.locals.iter().try_for_each(|key| self.locals.take(key))
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

    pub(super) fn route(&self, destination: IpNet) -> Result<Option<Route>> {
        let found = match destination {
            IpNet::V4(net) => longest(&self.routes4, layout::prefix4(net)),
            IpNet::V6(net) => longest(&self.routes6, layout::prefix6(net)),
        };
        Ok(found?.and_then(|route| layout::read_route(&route)))
    }

    /// What is in the maps, but for the uplinks.
    pub(super) fn table(&self) -> Result<(Table, Stale)> {
        let (mut table, mut stale) = (Table::default(), Stale::default());
        for (key, value) in self.routes4.all()? {
            match layout::read_prefix4(key).zip(layout::read_route(&value)) {
                Some((destination, route)) => drop(table.routes.insert(destination, route)),
                None => stale.routes4.push(key),
            }
        }
        for (key, value) in self.routes6.all()? {
            match layout::read_prefix6(key).zip(layout::read_route(&value)) {
                Some((destination, route)) => drop(table.routes.insert(destination, route)),
                None => stale.routes6.push(key),
            }
        }
        for key in self.nodes.all()?.into_keys() {
            match layout::read_address(&key) {
                Some(node) => drop(table.nodes.insert(node)),
                None => stale.nodes.push(key),
            }
        }
        for key in self.locals.all()?.into_keys() {
            match layout::read_address(&key) {
                Some(local) => drop(table.locals.insert(local)),
                None => stale.locals.push(key),
            }
        }
        Ok((table, stale))
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
