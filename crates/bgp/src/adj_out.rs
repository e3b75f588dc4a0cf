//! What a peer has been told, and what it is still to be told.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use model::Family;

use crate::export::{self, From, Told, Towards};
use crate::intern::Interner;
use crate::prefix_map::PrefixMap;
use crate::rib::{self, Path, Rib, Source};
use crate::{Attributes, Families, wire};

/// So many prefixes are looked at before what follows from them is written out.
const BATCH: usize = 16 * 1024;

/// The routes towards one peer. What is still to be told is kept as a set of prefixes: a peer that is slow to listen
/// is told the last state of each and not every step to it.
#[derive(Debug, Default)]
pub(crate) struct AdjOut {
    told: PrefixMap<Arc<Attributes>>,
    /// True for prefixes to be told even if the peer knows them.
    due: PrefixMap<bool>,
    counts: [usize; 2],
    /// Not told for want of a next hop.
    without_next_hop: PrefixMap<()>,
    /// Families whose end is to be told once nothing is due.
    end_owed: Families,
    /// Families whose refresh is to be ended once nothing is due (RFC 7313).
    refresh_owed: Families,
}

/// [`Told`], with the attributes shared.
#[derive(Debug, Clone)]
enum Form {
    Nothing,
    NoNextHop,
    Route(Arc<Attributes>),
}

impl AdjOut {
    pub(crate) fn new(end_owed: Families) -> AdjOut {
        AdjOut { end_owed, ..AdjOut::default() }
    }

    /// Notes that the paths in use of a prefix are others. `source` is the peer itself.
    pub(crate) fn changed(
        &mut self,
        prefix: IpNet,
        in_use: &[Path],
        rib: &Rib,
        source: Source,
        towards: Towards<'_>,
    ) {
        let passes = in_use.first().is_some_and(|best| {
            best.source != source
                && export::passes(rib.kind(best.source), towards)
                && export::accepts(towards, &prefix)
        });
        if passes || self.told.contains(&prefix) || self.without_next_hop.contains(&prefix) {
            self.due.get_or_insert(&prefix, false);
        }
    }

    /// Notes that all is to be considered again, and told again if `forced`.
    pub(crate) fn all_changed(&mut self, families: Families, forced: bool, rib: &Rib) {
        let known = rib.prefixes().chain(self.told.keys());
        for prefix in known.filter(|prefix| families.contains(Family::of_net(prefix))) {
            *self.due.get_or_insert(&prefix, false) |= forced;
        }
    }

    pub(crate) fn owe_refresh_end(&mut self, family: Family) {
        self.refresh_owed.insert(family);
    }

    pub(crate) fn counts(&self) -> [usize; 2] {
        self.counts
    }

    pub(crate) fn without_next_hop(&self) -> usize {
        self.without_next_hop.len()
    }

    /// Whether there is something to write. The end of a family is held back while `hold_ends`.
    pub(crate) fn is_due(&self, hold_ends: bool) -> bool {
        !self.due.is_empty() || !self.refresh_owed.is_empty() || (!self.end_owed.is_empty() && !hold_ends)
    }

    /// The next messages; none if there are none.
    pub(crate) fn write(
        &mut self,
        rib: &Rib,
        interner: &mut Interner,
        source: Source,
        towards: Towards<'_>,
        four_octet_as: bool,
        hold_ends: bool,
    ) -> Bytes {
        let mut out = BytesMut::new();
        let mut gone = [Vec::new(), Vec::new()];
        let mut groups: Vec<(Arc<Attributes>, Vec<IpNet>)> = Vec::new();
        let mut group_of: HashMap<(*const Attributes, usize), usize> = HashMap::new();
        let mut seen: HashMap<(*const Attributes, Source, usize), Form> = HashMap::new();
        for _ in 0..BATCH {
            let Some((prefix, forced)) = self.due.pop_first() else {
                break;
            };
            let family = rib::index(&prefix);
            let new = match rib.in_use(&prefix).first() {
                Some(best) if best.source != source && export::accepts(towards, &prefix) => seen
                    .entry((Arc::as_ptr(&best.attributes), best.source, family))
                    .or_insert_with(|| {
                        let from =
                            From { kind: rib.kind(best.source), router_id: rib.router_id(best.source) };
                        match export::told(&best.attributes, from, Family::of_net(&prefix), towards) {
                            Told::Route(attributes) => Form::Route(interner.intern(*attributes)),
                            Told::Nothing => Form::Nothing,
                            Told::NoNextHop => Form::NoNextHop,
                        }
                    })
                    .clone(),
                _ => Form::Nothing,
            };
            if matches!(new, Form::NoNextHop) {
                self.without_next_hop.insert(&prefix, ());
            } else {
                self.without_next_hop.remove(&prefix);
            }
            match new {
                Form::Route(attributes) => {
                    let known = self.told.insert(&prefix, Arc::clone(&attributes));
                    self.counts[family] += usize::from(known.is_none());
                    if forced || known.is_none_or(|known| known != attributes) {
                        let group =
                            *group_of.entry((Arc::as_ptr(&attributes), family)).or_insert_with(|| {
                                groups.push((attributes, Vec::new()));
                                groups.len() - 1
                            });
                        groups[group].1.push(prefix);
                    }
                }
                _ if self.told.remove(&prefix).is_some() => {
                    self.counts[family] -= 1;
                    gone[family].push(prefix);
                }
                _ => {}
            }
        }
        for (family, gone) in Family::BOTH.into_iter().zip(&gone) {
            wire::withdraw(family, gone, &mut out);
        }
        for (attributes, prefixes) in &groups {
            let family = Family::of_net(&prefixes[0]);
            if !wire::announce(attributes, family, prefixes, four_octet_as, &mut out) {
                self.untellable(family, prefixes, &mut out);
            }
        }
        if self.due.is_empty() {
            self.write_ends(hold_ends, &mut out);
        }
        out.freeze()
    }

    /// The attributes fit in no message: the peer must not go on with what it knew of these prefixes.
    fn untellable(&mut self, family: Family, prefixes: &[IpNet], out: &mut BytesMut) {
        for prefix in prefixes {
            if self.told.remove(prefix).is_some() {
                self.counts[rib::index(prefix)] -= 1;
            }
        }
        wire::withdraw(family, prefixes, out);
    }

    fn write_ends(&mut self, hold_ends: bool, out: &mut BytesMut) {
        for family in std::mem::take(&mut self.refresh_owed).iter() {
            wire::refresh_end(family, out);
        }
        if !hold_ends {
            for family in std::mem::take(&mut self.end_owed).iter() {
                wire::end_of_rib(family, out);
            }
        }
    }
}

/// The next hop of a route that names none, until it is told to a peer.
pub(crate) fn self_next_hop(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    }
}
