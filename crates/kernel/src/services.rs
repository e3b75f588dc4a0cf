//! The services' tables: what is in them is remembered, so that a change costs what changed.
//!
//! The kernel lists a big map in time that grows with the square of its size. So the tables are listed when nobody knows
//! what is in them (at the start, after a commit that failed, and when somebody else has changed them), and compared
//! with what was committed last in all other cases.

use std::collections::{BTreeSet, HashMap};

use model::Family;
use plan::Table;
use plan::services::{
    self, Balancer, Datum, Delta, Element, Frontend, Leftovers, Picker, ServiceChange, ServicePlan, Settings,
    picker_chain,
};

use crate::conntrack::Conntrack;
use crate::leftovers;
use crate::render::{self, Rendered};
use crate::report::{Report, Verb};
use crate::tables::{self, unreadable};
use crate::{Error, Result};

/// The services' tables of both families, as our last commit has left them.
#[derive(Debug)]
pub(crate) struct Services {
    conntrack: Conntrack,
    /// `None` if it is not known what is there.
    committed: Option<ServicePlan>,
    /// The chains of pickers that are there. Those without use stay: a service that goes from ten endpoints to nine and
    /// back would make and remove two each time, and there are no more than the biggest service has had endpoints.
    chains: BTreeSet<(Family, Picker)>,
    /// What commits have left behind and has not been cleared away yet.
    leftovers: Leftovers,
}

impl Services {
    /// Opens what is needed in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Services> {
        Ok(Services {
            conntrack: Conntrack::open()?,
            committed: None,
            chains: BTreeSet::new(),
            leftovers: Leftovers::default(),
        })
    }

    /// Forgets what is there: somebody else has changed it.
    pub(crate) fn doubt(&mut self) {
        self.committed = None;
    }

    /// Carries out a change, if it is known what is there.
    pub(crate) fn apply(&mut self, socket: &mut nft::Socket, change: &ServiceChange, report: &mut Report) {
        if change.is_empty() {
            return;
        }
        let Some(ServicePlan { settings: Some(settings), frontends, .. }) = &self.committed else {
            report.reconcile_needed = true;
            return;
        };
        if change.settings {
            report.reconcile_needed = true;
            return;
        }
        let mut work = Work::default();
        for (frontend, after) in &change.frontends {
            work.frontend(
                frontend,
                frontends.get(frontend).map(|before| (before, settings)),
                after.as_ref().map(|after| (after, settings)),
            );
        }
        for (address, there) in &change.hairpins {
            let before = self.committed.as_ref().is_some_and(|plan| plan.hairpins.contains(address));
            work.hairpin(address, before, *there);
        }
        if !self.commit(socket, work, report) {
            return;
        }
        let Some(committed) = &mut self.committed else { return };
        for (frontend, after) in &change.frontends {
            match after {
                Some(after) => committed.frontends.insert(*frontend, after.clone()),
                None => committed.frontends.remove(frontend),
            };
        }
        for (address, there) in &change.hairpins {
            if *there {
                committed.hairpins.insert(*address);
            } else {
                committed.hairpins.remove(address);
            }
        }
        self.clear(socket, report);
    }

    /// Makes the tables hold what the plan says.
    ///
    /// # Errors
    /// If the tables cannot be read. What cannot be written is in the report.
    pub(crate) fn reconcile(
        &mut self,
        socket: &mut nft::Socket,
        plan: &ServicePlan,
        report: &mut Report,
    ) -> Result<()> {
        let done = match (&self.committed, &plan.settings) {
            (Some(before), Some(settings)) if before.settings.as_ref() == Some(settings) => {
                let work = Work::between(before, plan, settings);
                self.commit(socket, work, report)
            }
            _ => self.rebuild(socket, plan, report)?,
        };
        if done {
            self.committed = Some(plan.clone());
            self.clear(socket, report);
        }
        Ok(())
    }

    /// Removes the tables, whatever is in them.
    ///
    /// # Errors
    /// If the tables cannot be listed. What cannot be removed is in the report.
    pub(crate) fn remove_all(&mut self, socket: &mut nft::Socket, report: &mut Report) -> Result<()> {
        self.rebuild(socket, &ServicePlan::default(), report).map(drop)
    }

    /// Commits what leads from one known state to the next.
    fn commit(&mut self, socket: &mut nft::Socket, work: Work, report: &mut Report) -> bool {
        let mut batch = nft::Batch::new();
        let mut fresh = Vec::new();
        for picker in work.pickers.difference(&self.chains) {
            add_picker(&mut batch, picker);
            fresh.push(*picker);
        }
        for (family, delta) in Family::BOTH.into_iter().zip(&work.deltas) {
            let table = render::named(services::TABLE, family.into());
            delta_into(&mut batch, &table, family, delta);
        }
        let (gone, new) = work.counts();
        if batch.is_empty() {
            // An endpoint that has terminated may leave flows behind and no element.
            self.leftovers.extend(work.leftovers);
            return true;
        }
        match socket.commit(batch) {
            Ok(()) => {
                report.done_for_services(Verb::Removed, gone);
                report.done_for_services(Verb::Made, new);
                self.leftovers.extend(work.leftovers);
                self.chains.extend(fresh);
                true
            }
            Err(source) => {
                self.refused(source, report);
                false
            }
        }
    }

    /// Clears away what commits have left behind. Only after the commit is it certain that no more of it is made.
    fn clear(&mut self, socket: &mut nft::Socket, report: &mut Report) {
        let Some(plan) = &self.committed else { return };
        match leftovers::clear(socket, &mut self.conntrack, plan, &self.leftovers) {
            Ok(cleared) => {
                report.done_for_services(Verb::Removed, cleared.affinities);
                report.done_with_flows(cleared.flows);
                self.leftovers = Leftovers::default();
            }
            Err(error) => report.services = Some(error),
        }
    }

    /// Looks at what is there and makes of it what the plan says, in one transaction.
    fn rebuild(&mut self, socket: &mut nft::Socket, plan: &ServicePlan, report: &mut Report) -> Result<bool> {
        self.committed = None;
        // What was left behind by whoever made what is there is not known.
        self.leftovers.extend(Leftovers::of(plan));
        let mut batch = nft::Batch::new();
        let (mut counts, mut chains) = (Counts::default(), BTreeSet::new());
        let there = socket.tables().map_err(|source| unreadable("list the nftables tables", source))?;
        for family in Family::BOTH {
            let name = render::named(services::TABLE, family.into());
            let exists = there.contains(&name);
            match &plan.settings {
                None if exists => {
                    batch.destroy_table(&name);
                    counts.removed += 1;
                }
                None => {}
                Some(settings) => {
                    let mut pickers: BTreeSet<Picker> = plan
                        .pickers
                        .keys()
                        .filter(|(of, _)| *of == family)
                        .map(|(_, picker)| *picker)
                        .collect();
                    if exists {
                        pickers.extend(pickers_there(socket, &name)?);
                    }
                    chains.extend(pickers.iter().map(|picker| (family, *picker)));
                    let table = services::table(settings, family, pickers.into_iter());
                    let rendered = render::render(&table);
                    let found = if exists { Found::read(socket, &table, &rendered)? } else { Found::Nothing };
                    let gone = found.mend(&mut batch, &rendered, (plan, settings, family), &mut counts);
                    gone.into_iter().for_each(|frontend| self.leftovers.note_gone(frontend));
                }
            }
        }
        self.chains = chains;
        if batch.is_empty() {
            return Ok(true);
        }
        match socket.commit(batch) {
            Ok(()) => {
                report.done_for_services(Verb::Made, counts.made);
                report.done_for_services(Verb::Changed, counts.changed);
                report.done_for_services(Verb::Removed, counts.removed);
                Ok(true)
            }
            Err(source) => {
                self.refused(source, report);
                Ok(false)
            }
        }
    }

    fn refused(&mut self, source: nft::Error, report: &mut Report) {
        // Nothing of it is in force, but why it was refused may be that the tables are not as we think.
        self.committed = None;
        report.services = Some(Error::Tables { what: "program the services".to_owned(), source });
    }
}

/// What is to be done in both families, in the order of [`Family::BOTH`].
#[derive(Default)]
struct Work {
    deltas: [Delta; 2],
    pickers: BTreeSet<(Family, Picker)>,
    leftovers: Leftovers,
}

impl Work {
    /// What leads from one plan to another, both with the same settings.
    fn between(before: &ServicePlan, after: &ServicePlan, settings: &Settings) -> Work {
        let mut work = Work::default();
        for (frontend, balancer) in &after.frontends {
            let old = before.frontends.get(frontend);
            if old != Some(balancer) {
                work.frontend(frontend, old.map(|old| (old, settings)), Some((balancer, settings)));
            }
        }
        for (frontend, balancer) in &before.frontends {
            if !after.frontends.contains_key(frontend) {
                work.frontend(frontend, Some((balancer, settings)), None);
            }
        }
        for address in before.hairpins.symmetric_difference(&after.hairpins) {
            work.hairpin(address, before.hairpins.contains(address), after.hairpins.contains(address));
        }
        work
    }

    fn frontend(
        &mut self,
        frontend: &Frontend,
        before: Option<(&Balancer, &Settings)>,
        after: Option<(&Balancer, &Settings)>,
    ) {
        let family = frontend.family();
        let elements = |state: Option<(&Balancer, &Settings)>| {
            state.map_or_else(Vec::new, |(balancer, settings)| {
                services::elements(frontend, balancer, settings)
            })
        };
        self.delta(family).extend(Delta::between(elements(before), elements(after)));
        let [old, new] = [before, after].map(|state| state.map(|(balancer, _)| balancer));
        self.leftovers.note(frontend, old, new);
        if let Some((balancer, _)) = after {
            self.pickers.extend(services::pickers(balancer).map(|picker| (family, picker)));
        }
    }

    fn hairpin(&mut self, address: &std::net::IpAddr, before: bool, after: bool) {
        let element = |there: bool| if there { vec![services::hairpin(*address)] } else { Vec::new() };
        self.delta(Family::of(address)).extend(Delta::between(element(before), element(after)));
    }

    fn delta(&mut self, family: Family) -> &mut Delta {
        let [v4, v6] = &mut self.deltas;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// How many elements go and come.
    fn counts(&self) -> (usize, usize) {
        let sum = |of: fn(&Delta) -> usize| self.deltas.iter().map(of).sum();
        (sum(|delta| delta.gone.len()), sum(|delta| delta.new.len()))
    }
}

#[derive(Default)]
struct Counts {
    made: usize,
    changed: usize,
    removed: usize,
}

/// The elements of a set that is there, by first and last key.
type Elements = HashMap<(nft::Key, Option<nft::Key>), Option<nft::Data>>;

/// What is there of a table.
enum Found {
    /// No table.
    Nothing,
    /// A table whose sets are not as they should be.
    OtherSets,
    /// A table with the right sets.
    Sets {
        /// Their elements, in the order of the plan's sets.
        elements: Vec<Elements>,
        /// Whether chains or rules are not as they should be.
        other_rules: bool,
        /// Chains that the table should have, but attached elsewhere; nothing leads to these.
        misplaced: Vec<String>,
        /// Chains that the table should not have.
        extra: Vec<String>,
    },
}

impl Found {
    fn read(socket: &mut nft::Socket, table: &Table, wanted: &Rendered) -> Result<Found> {
        if tables::differing_set(socket, wanted)?.is_some() {
            return Ok(Found::OtherSets);
        }
        let mut elements = Vec::new();
        for (planned, set) in table.sets.iter().zip(&wanted.sets) {
            if planned.learned {
                elements.push(Elements::new());
                continue;
            }
            let what = || format!("read {set}");
            let found = socket.elements(set).map_err(|source| unreadable(what(), source))?;
            elements.push(found.into_iter().map(|each| ((each.key, each.last), each.data)).collect());
        }
        let what = || format!("read the chains of {}", wanted.table);
        let chains = socket.chains(&wanted.table).map_err(|source| unreadable(what(), source))?;
        let (mut misplaced, mut extra) = (Vec::new(), Vec::new());
        for found in chains {
            match wanted.chains.iter().find(|(chain, _)| chain.name == found.name) {
                None => extra.push(found.name),
                Some((chain, _)) if chain.base != found.base => misplaced.push(found.name),
                Some(_) => {}
            }
        }
        let other_rules = tables::differing_chain(socket, wanted)?.is_some();
        Ok(Found::Sets { elements, other_rules, misplaced, extra })
    }

    /// Puts into a batch what makes of it what is wanted. Returns the frontends that are no more.
    fn mend(
        self,
        batch: &mut nft::Batch,
        wanted: &Rendered,
        (plan, settings, family): (&ServicePlan, &Settings, Family),
        counts: &mut Counts,
    ) -> Vec<Frontend> {
        let (mut found, extra) = match self {
            Found::Nothing => {
                tables::add(wanted, batch);
                counts.made += 1;
                (None, Vec::new())
            }
            Found::OtherSets => {
                batch.destroy_table(&wanted.table);
                tables::add(wanted, batch);
                counts.changed += 1;
                (None, Vec::new())
            }
            Found::Sets { elements, other_rules, misplaced, extra } => {
                if other_rules {
                    batch.flush_table(&wanted.table);
                    misplaced.iter().for_each(|chain| batch.delete_chain(&wanted.table, chain));
                    tables::add_chains(wanted, batch);
                    counts.changed += 1;
                }
                (Some(elements), extra)
            }
        };
        let mut gone: Vec<Vec<nft::Element>> = vec![Vec::new(); wanted.sets.len()];
        let mut new: Vec<Vec<nft::Element>> = vec![Vec::new(); wanted.sets.len()];
        for element in all_elements(plan, settings, family) {
            let Some(at) = wanted.sets.iter().position(|set| set.name == element.set.0) else { continue };
            let rendered = rendered(&element);
            let key = (rendered.key.clone(), rendered.last.clone());
            let there = found.as_mut().and_then(|sets| sets.get_mut(at)?.remove(&key));
            match there {
                Some(data) if data == rendered.data => continue,
                Some(_) => gone[at].push(bare(key)),
                None => {}
            }
            new[at].push(rendered);
        }
        let mut frontends = Vec::new();
        for (at, left) in found.into_iter().flatten().enumerate() {
            frontends.extend(left.keys().filter_map(|(key, _)| leftovers::frontend(&wanted.sets[at], key)));
            gone[at].extend(left.into_keys().map(bare));
        }
        for (set, elements) in wanted.sets.iter().zip(&gone).filter(|(_, elements)| !elements.is_empty()) {
            batch.delete_elements(set, elements);
            counts.removed += elements.len();
        }
        for (set, elements) in wanted.sets.iter().zip(&new).filter(|(_, elements)| !elements.is_empty()) {
            batch.add_elements(set, elements);
            counts.made += elements.len();
        }
        // Last, because elements that went may have led there.
        for chain in extra {
            batch.delete_chain(&wanted.table, &chain);
            counts.removed += 1;
        }
        frontends
    }
}

/// All elements of one family, a few at a time.
pub(crate) fn all_elements<'a>(
    plan: &'a ServicePlan,
    settings: &'a Settings,
    family: Family,
) -> impl Iterator<Item = Element> + 'a {
    let frontends = plan.frontends.iter().filter(move |(frontend, _)| frontend.family() == family);
    let elements =
        frontends.flat_map(|(frontend, balancer)| services::elements(frontend, balancer, settings));
    let hairpins = plan.hairpins.iter().filter(move |address| Family::of(address) == family);
    services::ranges(settings, family)
        .chain(elements)
        .chain(hairpins.map(|address| services::hairpin(*address)))
}

/// Puts the changes of elements into a batch: what goes first, so that what changes can come back.
fn delta_into(batch: &mut nft::Batch, table: &nft::Table, family: Family, delta: &Delta) {
    let sets: Vec<nft::Set> = services::sets(family).iter().map(|set| render::set(table, set)).collect();
    let of = |set: &nft::Set, elements: &[Element]| {
        elements.iter().filter(|element| element.set.0 == set.name).map(rendered).collect::<Vec<_>>()
    };
    for set in &sets {
        let gone = of(set, &delta.gone);
        if !gone.is_empty() {
            batch.delete_elements(set, gone);
        }
    }
    for set in &sets {
        let new = of(set, &delta.new);
        if !new.is_empty() {
            batch.add_elements(set, new);
        }
    }
}

/// The chains of pickers that a table has, of use or not.
fn pickers_there(socket: &mut nft::Socket, table: &nft::Table) -> Result<Vec<Picker>> {
    let what = || format!("read the chains of {table}");
    let chains = socket.chains(table).map_err(|source| unreadable(what(), source))?;
    Ok(chains.iter().filter_map(|chain| services::picker_of(&chain.name)).collect())
}

fn add_picker(batch: &mut nft::Batch, (family, picker): &(Family, Picker)) {
    let table = render::named(services::TABLE, (*family).into());
    let planned = services::picker_rules(*family, *picker);
    let chain = nft::Chain::new(&table, &*picker_chain(*picker).0);
    batch.add_chain(&chain);
    for rule in &planned.rules {
        batch.add_rule(&render::rule(&chain, rule));
    }
}

fn bare((key, last): (nft::Key, Option<nft::Key>)) -> nft::Element {
    nft::Element { last, ..nft::Element::new(key) }
}

/// An element as nftables has it.
pub(crate) fn rendered(element: &Element) -> nft::Element {
    let rendered = render::keyed(&element.key);
    let rendered = match &element.data {
        None => rendered,
        Some(Datum::Goto(chain)) => rendered.data(nft::Verdict::goto(&*chain.0)),
        Some(Datum::Backend(backend)) => {
            rendered.data([nft::Value::from(backend.address), nft::Value::port(backend.port)])
        }
    };
    match &element.service {
        Some(service) => rendered.comment(service.to_string()),
        None => rendered,
    }
}
