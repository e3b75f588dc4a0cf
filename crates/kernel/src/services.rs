//! The services' tables: what is in them is remembered, so that a change costs what changed.
//!
//! The kernel lists a big map in time that grows with the square of its size. So the tables are listed when nobody knows
//! what is in them (at the start, after a commit that failed, and when somebody else has changed them), and compared
//! with what was committed last in all other cases.

mod found;

use std::collections::BTreeSet;

use model::Family;
use plan::services::{
    self, Balancer, Datum, Delta, Element, Frontend, Leftovers, Picker, ServiceChange, ServicePlan, Settings,
    picker_chain,
};

use self::found::{Counts, Found};
use crate::conntrack::Conntrack;
use crate::leftovers;
use crate::monitor::Hush;
use crate::render;
use crate::report::{Report, Verb};
use crate::tables::unreadable;
use crate::{Error, Result};

/// With more new elements than this nobody listens to a commit.
const LOUD: usize = 1_000;

/// The services' tables of both families, as our last commit has left them.
#[derive(Debug)]
pub(crate) struct Services {
    conntrack: Conntrack,
    /// `None` if it is not known what is there.
    committed: Option<ServicePlan>,
    /// The chains of pickers that are there. Those without use stay: a service that goes from ten endpoints to nine and
    /// back would make and remove two each time. There are four at most for each number of endpoints that a service has had.
    chains: BTreeSet<(Family, Picker)>,
    /// What commits have left behind and has not been cleared away yet.
    leftovers: Leftovers,
    /// Who is not to listen while much is committed.
    hush: Option<Hush>,
}

impl Services {
    /// Opens what is needed in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Services> {
        Ok(Services {
            conntrack: Conntrack::open()?,
            committed: None,
            chains: BTreeSet::new(),
            leftovers: Leftovers::default(),
            hush: None,
        })
    }

    /// Has somebody not listen while much is committed.
    pub(crate) fn hush(&mut self, hush: Hush) {
        self.hush = Some(hush);
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
        if report.reconcile_needed {
            // Somebody has changed something while nobody listened.
            self.committed = None;
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
                    let listed = if exists { list_chains(socket, &name)? } else { Vec::new() };
                    pickers.extend(pickers_there(&listed));
                    chains.extend(pickers.iter().map(|picker| (family, *picker)));
                    let table = services::table(settings, family, pickers.into_iter());
                    let rendered = render::render(&table);
                    let found =
                        if exists { Found::read(socket, &table, &rendered, listed)? } else { Found::Nothing };
                    let gone = found.mend(&mut batch, &rendered, (plan, settings, family), &mut counts);
                    gone.into_iter().for_each(|frontend| self.leftovers.note_gone(frontend));
                }
            }
        }
        self.chains = chains;
        if batch.is_empty() {
            return Ok(true);
        }
        match self.commit_much(socket, batch, counts.made, report) {
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

    /// Commits a batch that may be so big that nobody should listen to it.
    fn commit_much(
        &mut self,
        socket: &mut nft::Socket,
        batch: nft::Batch,
        elements: usize,
        report: &mut Report,
    ) -> Result<(), nft::Error> {
        let Some(hush) = self.hush.as_ref().filter(|_| elements > LOUD) else { return socket.commit(batch) };
        let before = socket.generation()?;
        if hush.begin().is_err() {
            return socket.commit(batch);
        }
        let done = socket.commit(batch);
        let listens = hush.end().is_ok();
        // The number of the generation grows by one with each commit, whoever makes it.
        let ours = before.wrapping_add(u32::from(done.is_ok()));
        report.reconcile_needed |= !listens || socket.generation()? != ours;
        done
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

fn list_chains(socket: &mut nft::Socket, table: &nft::Table) -> Result<Vec<nft::Chain>> {
    socket.chains(table).map_err(|source| unreadable(format!("read the chains of {table}"), source))
}

/// The chains of pickers that a table has, of use or not.
fn pickers_there(chains: &[nft::Chain]) -> impl Iterator<Item = Picker> {
    let pickers = chains.iter().filter_map(|chain| services::picker_of(&chain.name));
    // Of numbers of endpoints there are not many, but a time limit can be anything.
    pickers.filter(|picker| !matches!(picker, Picker::Learn(_)))
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
