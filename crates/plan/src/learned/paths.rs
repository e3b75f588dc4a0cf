//! What is known, by prefix and by next hop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{LearnedPath, Refusal};

/// The paths of a prefix, the best first. Prefixes that are told alike share them.
pub(crate) type Paths = Arc<[LearnedPath]>;

/// The prefixes that are known from peers.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    prefixes: BTreeMap<IpNet, Paths>,
    /// The prefixes that share the same paths.
    groups: BTreeMap<Paths, BTreeSet<IpNet>>,
    /// The paths that have a next hop.
    by_hop: BTreeMap<IpAddr, BTreeSet<Paths>>,
    /// Which prefixes are not planned as they were told, and why.
    refused: BTreeMap<Refusal, BTreeSet<IpNet>>,
    /// Whether every peer has told all that it has.
    pub(crate) converged: bool,
}

impl Learned {
    /// Takes in the paths of a prefix; none if it is gone.
    pub(crate) fn set(&mut self, prefix: IpNet, paths: Vec<LearnedPath>) {
        self.forget(&prefix);
        if paths.is_empty() {
            return;
        }
        let paths: Paths = match self.groups.get_key_value(paths.as_slice()) {
            Some((known, _)) => known.clone(),
            None => {
                let new = Paths::from(paths);
                for path in new.iter() {
                    self.by_hop.entry(path.next_hop).or_default().insert(new.clone());
                }
                new
            }
        };
        self.groups.entry(paths.clone()).or_default().insert(prefix);
        self.prefixes.insert(prefix, paths);
    }

    fn forget(&mut self, prefix: &IpNet) {
        let Some(paths) = self.prefixes.remove(prefix) else { return };
        let Some(group) = self.groups.get_mut(&paths) else { return };
        group.remove(prefix);
        if !group.is_empty() {
            return;
        }
        self.groups.remove(&paths);
        for path in paths.iter() {
            if let Some(all) = self.by_hop.get_mut(&path.next_hop) {
                all.remove(&paths);
                if all.is_empty() {
                    self.by_hop.remove(&path.next_hop);
                }
            }
        }
    }

    pub(crate) fn paths(&self, prefix: &IpNet) -> Option<&Paths> {
        self.prefixes.get(prefix)
    }

    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.prefixes.keys()
    }

    /// The prefixes with a path by an address.
    pub(crate) fn by_hop(&self, next_hop: &IpAddr) -> impl Iterator<Item = &IpNet> {
        let all = self.by_hop.get(next_hop).into_iter().flatten();
        all.filter_map(|paths| self.groups.get(paths)).flatten()
    }

    /// The prefixes that are another or lie in it.
    pub(crate) fn within(&self, net: &IpNet) -> impl Iterator<Item = &IpNet> {
        // Prefixes are in the order of their addresses, and then of their lengths.
        let last = IpNet::from(net.broadcast());
        self.prefixes.range(*net..=last).map(|(prefix, _)| prefix)
    }

    /// Takes note of what is wrong with a prefix now.
    pub(crate) fn refuse(&mut self, prefix: &IpNet, refusals: Vec<Refusal>) {
        self.refused.retain(|refusal, prefixes| {
            if !refusals.contains(refusal) {
                prefixes.remove(prefix);
            }
            !prefixes.is_empty()
        });
        for refusal in refusals {
            self.refused.entry(refusal).or_default().insert(*prefix);
        }
    }

    /// What is not planned as it was told, with one of its prefixes and how many there are.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&Refusal, IpNet, usize)> {
        self.refused
            .iter()
            .filter_map(|(refusal, prefixes)| Some((refusal, *prefixes.first()?, prefixes.len())))
    }
}
