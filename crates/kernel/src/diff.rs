//! The way from what is there to what should be there.

use std::collections::BTreeSet;

use model::{LinkName, RouteSource};
use netlink_packet_route::route::RouteMessage;
use plan::{Entries, Entry, Key, Planned, TableFamily};

use crate::link::LinkState;
use crate::observed::{Found, LinkNeed, Observed};
use crate::tables::Condition;

/// What is left alone of what is ours and in no plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unplanned {
    /// Nothing.
    #[default]
    Nothing,
    /// Routes that are known from BGP peers, with what leads them into a tunnel: peers have told an earlier run of them,
    /// and this one has not heard all yet.
    Learned,
}

/// One step. Carrying out all of them in order leads to the plan.
#[derive(Debug)]
pub enum Op<'a> {
    /// Something is missing.
    Make(&'a Planned),
    /// Something of ours is there and is not as it should be; it is changed in one step, without a gap.
    Change(&'a Planned),
    /// A link or table of ours cannot be changed into what it should be: it goes, and comes back. What stands on it
    /// is made by later steps.
    Rebuild(&'a Planned),
    /// Something of ours is there and nobody wants it.
    Remove(&'a Key),
    /// A route of ours that no key can name.
    RemoveRoute(&'a RouteMessage),
    /// A route of ours beside another to the same destination. It goes before that one is changed: of several the kernel
    /// changes the first, whichever was meant (`fib_table_insert`, net/ipv4/fib_trie.c).
    RemoveDouble(&'a RouteMessage),
    /// A link of ours that nobody wants.
    RemoveLink(&'a LinkState),
    /// A table of ours that nobody wants.
    RemoveTable(TableFamily),
}

/// Says what is to be done, in the order in which it can be done: first what is made and changed, by key; then what
/// goes, in the reverse order. So at no time is something missing that was there before and is wanted after.
///
/// With [`Unplanned::Learned`] routes that are known from BGP peers stay though the plan does not have them.
pub fn diff<'a>(plan: &'a Entries, observed: &'a Observed, unplanned: Unplanned) -> Vec<Op<'a>> {
    let mut ops: Vec<Op<'a>> = observed.doubles.iter().map(Op::RemoveDouble).collect();
    let mut gone = Gone::default();
    for (key, planned) in plan {
        match &planned.entry {
            Entry::Table(table) => match observed.tables.get(&table.family) {
                Some(Condition::Intact) => {}
                Some(Condition::Rules(_)) => ops.push(Op::Change(planned)),
                Some(Condition::Sets(_)) => {
                    gone.tables.insert(table.family);
                    ops.push(Op::Rebuild(planned));
                }
                None => {
                    gone.tables.insert(table.family);
                    ops.push(Op::Make(planned));
                }
            },
            Entry::Link(link) => match observed.way_to(link) {
                LinkNeed::Nothing => {}
                // The error is made where it is reported.
                LinkNeed::Make | LinkNeed::Foreign => {
                    gone.links.insert(link.name());
                    ops.push(Op::Make(planned));
                }
                LinkNeed::Adjust => ops.push(Op::Change(planned)),
                LinkNeed::Anew => {
                    gone.links.insert(link.name());
                    ops.push(Op::Rebuild(planned));
                }
            },
            Entry::TunnelLocal(_)
            | Entry::TunnelNode(_)
            | Entry::TunnelRoute { .. }
            | Entry::TunnelUplink(_)
                if observed.no_tunnel => {}
            // It is no state of the kernel's own path.
            Entry::FastPath => {}
            // Only the CNI plugin makes pods' links.
            Entry::Port { link, .. } if observed.links.named(link).is_none() => {}
            entry => match observed.entries.get(key).filter(|found| gone.spares(key, found)) {
                None => ops.push(Op::Make(planned)),
                Some(Found::Entry(found)) if found == entry => {}
                Some(_) => ops.push(Op::Change(planned)),
            },
        }
    }
    ops.extend(removals(plan, observed, &gone, unplanned));
    ops
}

/// What goes with a link or table that is rebuilt.
#[derive(Default)]
struct Gone<'a> {
    tables: BTreeSet<TableFamily>,
    links: BTreeSet<&'a LinkName>,
}

impl Gone<'_> {
    /// Whether something will still be there after the links and tables are made.
    fn spares(&self, key: &Key, found: &Found) -> bool {
        match (key, found) {
            (Key::Member(member), _) => !self.tables.contains(&member.family),
            (Key::Address(link, _) | Key::Forwarding(link, _) | Key::Neighbour(link, _), _) => {
                !self.links.contains(link)
            }
            (Key::Port(_), Found::Entry(Entry::Port { bridge, .. })) => !self.links.contains(bridge),
            (Key::Route(_), Found::Entry(Entry::Route(route))) => {
                !route.hops.iter().any(|hop| self.links.contains(&hop.link))
            }
            _ => true,
        }
    }
}

fn removals<'a>(
    plan: &Entries,
    observed: &'a Observed,
    gone: &Gone<'_>,
    unplanned: Unplanned,
) -> Vec<Op<'a>> {
    let mut ops: Vec<Op<'a>> = observed.strays.iter().map(Op::RemoveRoute).collect();
    // What stands on a link or in a table that goes as well goes with it.
    let leaves = |link: &LinkState| link.ours && !plan.contains_key(&Key::Link(link.name.clone()));
    let apart = |key: &Key| match key {
        Key::Address(link, _) | Key::Forwarding(link, _) | Key::Neighbour(link, _) => {
            !gone.links.contains(link) && !observed.links.named(link).is_some_and(leaves)
        }
        Key::Member(member) => {
            !gone.tables.contains(&member.family) && plan.contains_key(&Key::Table(member.family))
        }
        // The CNI plugin's, and nobody's.
        Key::Port(_) | Key::Sysctl(_) => false,
        _ => true,
    };
    let stays = |key: &Key| match key {
        Key::Route(destination) | Key::TunnelRoute(destination) if unplanned == Unplanned::Learned => {
            let route = Key::Route(*destination);
            let learned = |found: &Found| matches!(found, Found::Entry(Entry::Route(route)) if route.learned == RouteSource::Bgp);
            !plan.contains_key(&route) && observed.entries.get(&route).is_some_and(learned)
        }
        _ => false,
    };
    let unwanted = observed.entries.iter().rev().filter(|(key, found)| {
        !plan.contains_key(*key) && apart(key) && gone.spares(key, found) && !stays(key)
    });
    ops.extend(unwanted.map(|(key, _)| Op::Remove(key)));
    ops.extend(observed.links.iter().filter(|link| leaves(link)).map(Op::RemoveLink));
    let tables = observed.tables.keys().filter(|family| !plan.contains_key(&Key::Table(**family)));
    ops.extend(tables.map(|family| Op::RemoveTable(*family)));
    ops
}
