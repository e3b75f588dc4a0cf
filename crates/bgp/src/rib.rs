//! The table: every path that was taken, and which of them are in use.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use model::Family;

use crate::decision::{self, Candidate, Multipath, Origin, SourceKind};
use crate::prefix_map::{PrefixMap, Slot};
use crate::{Attributes, Families};

/// Paths by prefix, in the order of prefixes so that what follows from them comes in the same order every time.
#[derive(Debug)]
pub(crate) struct Rib {
    table: PrefixMap<Entry>,
    sources: Vec<SourceState>,
    multipath: Multipath,
}

/// A peer, or this speaker itself, as the table numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Source(u32);

impl Source {
    /// This speaker itself.
    pub(crate) const LOCAL: Source = Source(0);
}

/// A path of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) attributes: Arc<Attributes>,
    pub(crate) source: Source,
    pub(crate) stale: bool,
}

/// The paths of a prefix.
#[derive(Debug)]
enum Entry {
    /// As of nearly every prefix, so it takes no allocation of its own.
    One(Path),
    Several(Box<Several>),
}

/// The paths in use come first, in their order.
#[derive(Debug)]
struct Several {
    paths: Vec<Path>,
    in_use: usize,
}

#[derive(Debug)]
struct SourceState {
    /// None for a number that is free.
    origin: Option<Origin>,
    counts: [usize; 2],
}

impl Rib {
    pub(crate) fn new(router_id: Ipv4Addr, multipath: Multipath) -> Rib {
        let here = Origin { kind: SourceKind::Local, router_id, address: IpAddr::V4(router_id) };
        let sources = vec![SourceState { origin: Some(here), counts: [0; 2] }];
        Rib { table: PrefixMap::default(), sources, multipath }
    }

    pub(crate) fn add_source(&mut self, origin: Origin) -> Source {
        let state = SourceState { origin: Some(origin), counts: [0; 2] };
        let free = self.sources.iter().position(|source| source.origin.is_none());
        match free {
            Some(index) => {
                self.sources[index] = state;
                Source(index as u32)
            }
            None => {
                self.sources.push(state);
                Source(self.sources.len() as u32 - 1)
            }
        }
    }

    /// Frees a source's number. Its paths must be gone.
    pub(crate) fn remove_source(&mut self, source: Source) {
        self.sources[source.0 as usize].origin = None;
    }

    /// Changes what is known of a source. Its paths are judged anew as they come.
    pub(crate) fn set_origin(&mut self, source: Source, origin: Origin) {
        self.sources[source.0 as usize].origin = Some(origin);
    }

    pub(crate) fn kind(&self, source: Source) -> SourceKind {
        self.origin(source).kind
    }

    pub(crate) fn router_id(&self, source: Source) -> Ipv4Addr {
        self.origin(source).router_id
    }

    fn origin(&self, source: Source) -> &Origin {
        // A path's source is there as long as the path; the local one always.
        let local = self.sources[0].origin.as_ref();
        match self.sources[source.0 as usize].origin.as_ref().or(local) {
            Some(origin) => origin,
            None => unreachable!("the local source is never removed"),
        }
    }

    /// How many prefixes a source has: IPv4, IPv6.
    pub(crate) fn counts(&self, source: Source) -> [usize; 2] {
        self.sources[source.0 as usize].counts
    }

    pub(crate) fn has(&self, prefix: &IpNet, source: Source) -> bool {
        self.table.get(prefix).is_some_and(|entry| entry.paths().iter().any(|path| path.source == source))
    }

    /// The paths in use, the best first.
    pub(crate) fn in_use(&self, prefix: &IpNet) -> &[Path] {
        self.table.get(prefix).map_or(&[], Entry::in_use)
    }

    /// Every prefix with its paths in use.
    pub(crate) fn all_in_use(&self) -> impl Iterator<Item = (IpNet, &[Path])> {
        self.table.iter().map(|(prefix, entry)| (prefix, entry.in_use()))
    }

    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.table.keys()
    }

    /// Puts a path in the place of the one that its source had. Whether other paths are in use now.
    pub(crate) fn insert(&mut self, prefix: IpNet, path: Path) -> bool {
        let source = path.source;
        let entry = match self.table.slot(&prefix) {
            Slot::Taken(entry) => entry,
            Slot::Free(slot) => {
                slot.fill(Entry::One(path));
                self.sources[source.0 as usize].counts[index(&prefix)] += 1;
                return true;
            }
        };
        let before = entry.snapshot();
        match entry.paths_mut().iter_mut().find(|other| other.source == source) {
            Some(same) if same.stale == path.stale && Arc::ptr_eq(&same.attributes, &path.attributes) => {
                return false;
            }
            Some(same) => *same = path,
            None => {
                entry.push(path);
                self.sources[source.0 as usize].counts[index(&prefix)] += 1;
            }
        }
        entry.decide(&self.sources, self.multipath);
        entry.snapshot() != before
    }
    /// Removes the path of a source. Whether other paths are in use now.
    pub(crate) fn remove(&mut self, prefix: &IpNet, source: Source) -> bool {
        let Some(entry) = self.table.get_mut(prefix) else {
            return false;
        };
        let Some(position) = entry.paths().iter().position(|path| path.source == source) else {
            return false;
        };
        self.sources[source.0 as usize].counts[index(prefix)] -= 1;
        let before = entry.snapshot();
        match entry {
            Entry::One(_) => {
                self.table.remove(prefix);
                return true;
            }
            Entry::Several(several) => {
                several.paths.remove(position);
            }
        }
        entry.decide(&self.sources, self.multipath);
        entry.snapshot() != before
    }

    /// Removes those paths of a source of which `gone` says so; the prefixes for which others are in use now.
    pub(crate) fn remove_where(
        &mut self,
        source: Source,
        gone: impl Fn(&IpNet, &Path) -> bool,
    ) -> Vec<IpNet> {
        if self.counts(source) == [0; 2] {
            return Vec::new();
        }
        let prefixes: Vec<IpNet> = self
            .table
            .iter()
            .filter(|(prefix, entry)| {
                entry.paths().iter().any(|path| path.source == source && gone(prefix, path))
            })
            .map(|(prefix, _)| prefix)
            .collect();
        prefixes.into_iter().filter(|prefix| self.remove(prefix, source)).collect()
    }

    /// Marks the paths of a source stale; the prefixes of which one is in use.
    pub(crate) fn mark_stale(&mut self, source: Source, families: Families) -> Vec<IpNet> {
        let mut marked = Vec::new();
        for (prefix, entry) in self.table.iter_mut() {
            let in_use = entry.in_use().len();
            for (position, path) in entry.paths_mut().iter_mut().enumerate() {
                if path.source == source && families.contains(Family::of_net(&prefix)) && !path.stale {
                    path.stale = true;
                    if position < in_use {
                        marked.push(prefix);
                    }
                }
            }
        }
        marked
    }
}

impl Entry {
    fn paths(&self) -> &[Path] {
        match self {
            Entry::One(path) => std::slice::from_ref(path),
            Entry::Several(several) => &several.paths,
        }
    }

    fn paths_mut(&mut self) -> &mut [Path] {
        match self {
            Entry::One(path) => std::slice::from_mut(path),
            Entry::Several(several) => &mut several.paths,
        }
    }

    fn in_use(&self) -> &[Path] {
        match self {
            Entry::One(path) => std::slice::from_ref(path),
            Entry::Several(several) => &several.paths[..several.in_use],
        }
    }

    fn push(&mut self, path: Path) {
        match self {
            Entry::One(first) => {
                let paths = vec![first.clone(), path];
                *self = Entry::Several(Box::new(Several { paths, in_use: 1 }));
            }
            Entry::Several(several) => several.paths.push(path),
        }
    }

    /// What tells the paths in use from others.
    fn snapshot(&self) -> Vec<(Source, *const Attributes, bool)> {
        self.in_use().iter().map(|path| (path.source, Arc::as_ptr(&path.attributes), path.stale)).collect()
    }

    fn decide(&mut self, sources: &[SourceState], multipath: Multipath) {
        let Entry::Several(several) = self else {
            return;
        };
        if let [only] = several.paths.as_slice() {
            *self = Entry::One(only.clone());
            return;
        }
        let candidates: Vec<Candidate<'_>> = several
            .paths
            .iter()
            .filter_map(|path| {
                let origin = sources[path.source.0 as usize].origin.as_ref()?;
                Some(Candidate { attributes: &path.attributes, origin })
            })
            .collect();
        let selected = decision::select(&candidates, multipath);
        several.in_use = selected.len();
        let mut rest: Vec<Option<Path>> = several.paths.drain(..).map(Some).collect();
        several.paths.extend(selected.iter().filter_map(|position| rest[*position].take()));
        several.paths.extend(rest.into_iter().flatten());
        several.paths.shrink_to_fit();
    }
}

/// The place of a prefix's family in a pair of numbers.
pub(crate) fn index(prefix: &IpNet) -> usize {
    match Family::of_net(prefix) {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rib() -> (Rib, Source, Source) {
        let mut rib = Rib::new([10, 0, 0, 1].into(), Multipath { most: 1, across_as: false });
        let peer = |number: u8| Origin {
            kind: SourceKind::External,
            router_id: [10, 0, 0, number].into(),
            address: IpAddr::from([192, 0, 2, number]),
        };
        let (a, b) = (rib.add_source(peer(2)), rib.add_source(peer(3)));
        (rib, a, b)
    }

    fn path(source: Source, hop: u8) -> Path {
        let attributes = Arc::new(Attributes::new(IpAddr::from([192, 0, 2, hop])));
        Path { attributes, source, stale: false }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn tells_of_a_change_only_when_what_is_in_use_changes() {
        let (mut rib, a, b) = rib();
        for prefix in [net("10.1.0.0/16"), net("2001:db8:1::/48")] {
            let first = path(a, 2);
            assert!(rib.insert(prefix, first.clone()));
            assert!(!rib.insert(prefix, first), "the same again");
            assert!(!rib.insert(prefix, path(b, 3)), "a worse one");
            assert!(rib.insert(prefix, path(a, 9)), "another next hop");
            assert_eq!(rib.in_use(&prefix)[0].source, a);
            assert!(rib.remove(&prefix, a));
            assert_eq!(rib.in_use(&prefix)[0].source, b);
            assert!(!rib.remove(&prefix, a), "already gone");
            assert!(rib.remove(&prefix, b));
            assert!(rib.in_use(&prefix).is_empty());
        }
        assert_eq!((rib.counts(a), rib.counts(b), rib.prefixes().count()), ([0; 2], [0; 2], 0));
    }

    #[test]
    fn stale_paths_stay_in_use_until_they_are_swept() {
        let (mut rib, a, b) = rib();
        let (four, six) = (net("10.1.0.0/16"), net("2001:db8:1::/48"));
        for prefix in [four, six] {
            rib.insert(prefix, path(a, 2));
            rib.insert(prefix, path(b, 3));
        }
        assert_eq!(rib.mark_stale(a, Families::only(Family::V4)), [four]);
        assert_eq!((rib.in_use(&four)[0].source, rib.in_use(&four)[0].stale), (a, true));
        assert_eq!(rib.remove_where(a, |_, path| path.stale), [four]);
        assert_eq!((rib.in_use(&four)[0].source, rib.in_use(&six)[0].source), (b, a));
        assert_eq!(rib.counts(a), [0, 1]);
    }
}
