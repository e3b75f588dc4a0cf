//! Our nftables tables: what they hold, and how they become what a plan says.

use std::collections::BTreeMap;

use plan::{Entries, Entry, Key, Member, Planned, Table, TableFamily};

use crate::diff::Op;
use crate::observed::{Found, Observed};
use crate::render::{self, Rendered};
use crate::report::{Failure, Report, Verb};
use crate::{Error, Result};

/// How often a refused batch is split before the rest of it is given up.
const SPLITS: usize = 256;

/// What a table that is there is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Its sets, chains and rules are as planned.
    Intact,
    /// Its sets are as planned, its chains and rules are not, in words.
    Rules(String),
    /// Its sets are not as planned, in words.
    Sets(String),
}

/// The way to the nftables of one namespace.
pub(crate) struct Tables {
    pub(crate) socket: nft::Socket,
}

impl Tables {
    pub(crate) fn open() -> Result<Tables> {
        let socket = nft::Socket::open()
            .map_err(|source| Error::Tables { what: "open a netfilter socket".to_owned(), source })?;
        Ok(Tables { socket })
    }

    /// The netlink port that our changes come from.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port_id()
    }

    /// Reads our tables and, where their sets are as planned, the members.
    pub(crate) fn observe(&mut self, plan: &Entries, observed: &mut Observed) -> Result<()> {
        for family in self.families()? {
            let planned = plan.get(&Key::Table(family)).map(|planned| &planned.entry);
            let condition = match planned {
                Some(Entry::Table(table)) => self.condition(table, observed)?,
                _ => Condition::Intact,
            };
            observed.tables.insert(family, condition);
        }
        Ok(())
    }

    /// The families in which we have a table.
    pub(crate) fn families(&mut self) -> Result<Vec<TableFamily>> {
        let tables = self.socket.tables().map_err(|source| unreadable("list the nftables tables", source))?;
        let ours = [TableFamily::Bridge, TableFamily::Ip, TableFamily::Ip6];
        Ok(ours.into_iter().filter(|family| tables.contains(&render::table(*family))).collect())
    }

    fn condition(&mut self, planned: &Table, observed: &mut Observed) -> Result<Condition> {
        let wanted = render::render(planned);
        if let Some(difference) = self.sets(planned, &wanted, observed)? {
            return Ok(Condition::Sets(difference));
        }
        Ok(differing_chain(&mut self.socket, &wanted)?.map_or(Condition::Intact, Condition::Rules))
    }

    /// What is wrong with the sets; if nothing, their members are taken in.
    fn sets(
        &mut self,
        planned: &Table,
        wanted: &Rendered,
        observed: &mut Observed,
    ) -> Result<Option<String>> {
        if let Some(difference) = differing_set(&mut self.socket, wanted)? {
            return Ok(Some(difference));
        }
        let what = || format!("read the sets of {}", wanted.table);
        for (planned_set, set) in planned.sets.iter().zip(&wanted.sets) {
            let elements = self.socket.elements(set).map_err(|source| unreadable(what(), source))?;
            for element in &elements {
                let Some(member) = render::member(planned.family, planned_set, element) else {
                    return Ok(Some(format!("{set} holds {}", element.key.display(&set.key))));
                };
                let key = Key::Member(member.clone());
                observed.entries.insert(key, Found::Entry(Entry::Member(member)));
            }
        }
        Ok(None)
    }

    /// Carries out work, all of it in one transaction if nothing is refused.
    pub(crate) fn apply(&mut self, work: &Work<'_>, report: &mut Report) {
        if self.commit_all(work).is_ok() {
            work.count_into(report);
            return;
        }
        // Something is refused. Tables one by one, then what is left of the elements.
        let mut failed = Vec::new();
        for task in &work.tables {
            let mut batch = nft::Batch::new();
            match self.table(task, &mut batch).and_then(|()| self.commit(batch, || task.describe())) {
                Ok(()) => task.count(report),
                Err(error) => {
                    failed.push(task.family());
                    report.failures.push(Failure {
                        key: Key::Table(task.family()),
                        origin: task.planned().map(|planned| planned.origin.clone()),
                        error,
                    });
                }
            }
        }
        let (blocked, open): (Vec<_>, Vec<_>) =
            work.elements.iter().partition(|element| failed.contains(&element.member().family));
        report.blocked += blocked.len();
        let mut splits = SPLITS;
        self.elements_apart(&open, &mut splits, report);
    }

    fn commit_all(&mut self, work: &Work<'_>) -> Result<()> {
        let mut batch = nft::Batch::new();
        for task in &work.tables {
            self.table(task, &mut batch)?;
        }
        elements(&work.elements.iter().collect::<Vec<_>>(), &mut batch);
        self.commit(batch, || "change the nftables tables".to_owned())
    }

    /// Removes our tables, whatever is in them.
    pub(crate) fn remove_all(&mut self, report: &mut Report) -> Result<()> {
        let tables = self.families()?.into_iter().map(Task::Remove).collect();
        let work = Work { tables, elements: Vec::new() };
        if !work.is_empty() {
            self.apply(&work, report);
        }
        Ok(())
    }

    /// Halves what is refused until only that is left.
    fn elements_apart(&mut self, open: &[&Element<'_>], splits: &mut usize, report: &mut Report) {
        if open.is_empty() {
            return;
        }
        let mut batch = nft::Batch::new();
        elements(open, &mut batch);
        let error = match self.commit(batch, || open.first().map(|one| one.describe()).unwrap_or_default()) {
            Ok(()) => {
                open.iter().for_each(|element| element.count(report));
                return;
            }
            Err(error) => error,
        };
        if let [one] = open {
            one.refused(error, report);
        } else if *splits == 0 {
            // Whatever it is, it is not about single elements.
            let text = error.to_string();
            report.reconcile_needed = true;
            report.blocked += open.len() - 1;
            if let Some(first) = open.first() {
                first.refused(Error::Answer { what: first.describe(), why: text }, report);
            }
        } else {
            *splits -= 1;
            let (left, right) = open.split_at(open.len() / 2);
            self.elements_apart(left, splits, report);
            self.elements_apart(right, splits, report);
        }
    }

    fn commit(&mut self, batch: nft::Batch, what: impl FnOnce() -> String) -> Result<()> {
        self.socket.commit(batch).map_err(|source| Error::Tables { what: what(), source })
    }

    /// Puts what is to be done with a table into a batch.
    fn table(&mut self, task: &Task<'_>, batch: &mut nft::Batch) -> Result<()> {
        match task {
            Task::Make(_, table) => add(&render::render(table), batch),
            Task::Rebuild(_, table) => {
                let rendered = render::render(table);
                batch.destroy_table(&rendered.table);
                add(&rendered, batch);
            }
            Task::Rules(_, table) => {
                let rendered = render::render(table);
                let what = || format!("read the chains of {}", rendered.table);
                let found =
                    self.socket.chains(&rendered.table).map_err(|source| unreadable(what(), source))?;
                batch.flush_table(&rendered.table);
                for chain in found {
                    let wanted = rendered.chains.iter().find(|(wanted, _)| wanted.name == chain.name);
                    if wanted.is_none_or(|(wanted, _)| wanted.base != chain.base) {
                        batch.delete_chain(&rendered.table, &chain.name);
                    }
                }
                add_chains(&rendered, batch);
            }
            Task::Remove(family) => batch.destroy_table(&render::table(*family)),
        }
        Ok(())
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

pub(crate) fn unreadable(what: impl Into<String>, source: nft::Error) -> Error {
    Error::Tables { what: what.into(), source }
}

/// In what the sets of a table differ from those wanted, in words.
pub(crate) fn differing_set(socket: &mut nft::Socket, wanted: &Rendered) -> Result<Option<String>> {
    let what = || format!("read the sets of {}", wanted.table);
    let found = socket.sets(&wanted.table).map_err(|source| unreadable(what(), source))?;
    Ok(differing_sets(&found, wanted).into_iter().next())
}

/// In what sets that are there differ from those wanted, in words.
pub(crate) fn differing_sets(found: &[nft::Set], wanted: &Rendered) -> Vec<String> {
    // Sets without a name belong to rules of others; those rules are noticed as such.
    let mut named: BTreeMap<&str, &nft::Set> =
        found.iter().filter(|set| !set.name.starts_with("__")).map(|set| (set.name.as_str(), set)).collect();
    let mut differences = Vec::new();
    for set in &wanted.sets {
        match named.remove(set.name.as_str()) {
            None => differences.push(format!("{set} is missing")),
            Some(found) if alike(found, set) => {}
            Some(found) => differences.push(format!("{found} has another type")),
        }
    }
    differences.extend(named.values().map(|extra| format!("{extra} is not ours")));
    differences
}

/// In what the chains and rules of a table differ from those wanted, in words.
fn differing_chain(socket: &mut nft::Socket, wanted: &Rendered) -> Result<Option<String>> {
    let what = || format!("read the chains of {}", wanted.table);
    let found = socket.chains(&wanted.table).map_err(|source| unreadable(what(), source))?;
    let rules = socket.rules(&wanted.table).map_err(|source| unreadable(what(), source))?;
    Ok(differing_chains(&found, &rules, wanted).into_iter().next())
}

/// In what chains and rules that are there differ from those wanted, in words.
pub(crate) fn differing_chains(
    found: &[nft::Chain],
    rules: &[nft::ListedRule],
    wanted: &Rendered,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (chain, planned) in &wanted.chains {
        let tags = rules.iter().filter(|rule| rule.chain == chain.name).map(|rule| rule.tag);
        match found.iter().find(|found| found.name == chain.name) {
            None => differences.push(format!("{chain} is missing")),
            Some(found) if found.base != chain.base => {
                differences.push(format!("{chain} is attached elsewhere"));
            }
            Some(_) if tags.eq(planned.iter().map(|rule| Some(rule.tag()))) => {}
            Some(_) => differences.push(format!("{chain} has other rules")),
        }
    }
    let known = |name: &str| wanted.chains.iter().any(|(chain, _)| chain.name == name);
    let extra = found.iter().filter(|found| !known(&found.name));
    differences.extend(extra.map(|chain| format!("{chain} is not ours")));
    differences
}

/// Whether a set that is there can hold what the wanted one holds.
pub(crate) fn alike(found: &nft::Set, wanted: &nft::Set) -> bool {
    found.key == wanted.key
        && found.data == wanted.data
        && found.interval == wanted.interval
        && found.dynamic == wanted.dynamic
        && found.timeouts == wanted.timeouts
}

pub(crate) fn add(rendered: &Rendered, batch: &mut nft::Batch) {
    batch.add_table(&rendered.table);
    for set in &rendered.sets {
        batch.add_set(set);
    }
    add_chains(rendered, batch);
}

pub(crate) fn add_chains(rendered: &Rendered, batch: &mut nft::Batch) {
    for (chain, _) in &rendered.chains {
        batch.add_chain(chain);
    }
    for (_, rules) in &rendered.chains {
        for rule in rules {
            batch.add_rule(rule);
        }
    }
}

/// Elements come in the order of their keys, so those of one set are next to each other.
fn elements(all: &[&Element<'_>], batch: &mut nft::Batch) {
    let same = |one: &&Element<'_>, other: &&Element<'_>| {
        let (left, right) = (one.member(), other.member());
        left.family == right.family && left.set == right.set && one.adds() == other.adds()
    };
    for group in all.chunk_by(same) {
        let Some(first) = group.first() else { continue };
        let set = render::set_of(first.member());
        let rendered = group.iter().map(|element| element.render());
        if first.adds() {
            batch.add_elements(&set, rendered);
        } else {
            batch.delete_elements(&set, rendered);
        }
    }
}

/// What is to be done with tables and their elements.
#[derive(Default)]
pub(crate) struct Work<'a> {
    tables: Vec<Task<'a>>,
    elements: Vec<Element<'a>>,
}

enum Task<'a> {
    Make(&'a Planned, &'a Table),
    Rules(&'a Planned, &'a Table),
    Rebuild(&'a Planned, &'a Table),
    Remove(TableFamily),
}

enum Element<'a> {
    Add(&'a Planned, &'a Member),
    Remove(&'a Key, &'a Member),
}

impl<'a> Work<'a> {
    /// What of some steps makes or changes tables and elements.
    pub(crate) fn additions(ops: &[Op<'a>]) -> Work<'a> {
        let mut work = Work::default();
        for op in ops {
            match op {
                Op::Make(planned) | Op::Change(planned) | Op::Rebuild(planned) => {
                    match (&planned.entry, op) {
                        (Entry::Table(table), Op::Make(_)) => work.tables.push(Task::Make(planned, table)),
                        (Entry::Table(table), Op::Change(_)) => work.tables.push(Task::Rules(planned, table)),
                        (Entry::Table(table), _) => work.tables.push(Task::Rebuild(planned, table)),
                        (Entry::Member(member), _) => work.elements.push(Element::Add(planned, member)),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        work
    }

    /// What of some steps removes them.
    pub(crate) fn removals(ops: &[Op<'a>]) -> Work<'a> {
        let mut work = Work::default();
        for op in ops {
            match op {
                Op::Remove(key @ Key::Member(member)) => work.elements.push(Element::Remove(key, member)),
                Op::RemoveTable(family) => work.tables.push(Task::Remove(*family)),
                _ => {}
            }
        }
        work
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.elements.is_empty()
    }

    fn count_into(&self, report: &mut Report) {
        self.tables.iter().for_each(|task| task.count(report));
        self.elements.iter().for_each(|element| element.count(report));
    }
}

impl<'a> Task<'a> {
    fn family(&self) -> TableFamily {
        match self {
            Task::Make(_, table) | Task::Rules(_, table) | Task::Rebuild(_, table) => table.family,
            Task::Remove(family) => *family,
        }
    }

    fn planned(&self) -> Option<&'a Planned> {
        match self {
            Task::Make(planned, _) | Task::Rules(planned, _) | Task::Rebuild(planned, _) => Some(planned),
            Task::Remove(_) => None,
        }
    }

    fn describe(&self) -> String {
        let table = render::table(self.family());
        match self {
            Task::Make(..) => format!("add {table}"),
            Task::Rules(..) | Task::Rebuild(..) => format!("change {table}"),
            Task::Remove(_) => format!("remove {table}"),
        }
    }

    fn count(&self, report: &mut Report) {
        let verb = match self {
            Task::Make(..) => Verb::Made,
            Task::Rules(..) => Verb::Changed,
            Task::Rebuild(..) => Verb::Rebuilt,
            Task::Remove(_) => Verb::Removed,
        };
        report.done(verb, Key::Table(self.family()), self.planned().map(|planned| &planned.origin));
    }
}

impl Element<'_> {
    fn member(&self) -> &Member {
        match self {
            Element::Add(_, member) | Element::Remove(_, member) => member,
        }
    }

    fn adds(&self) -> bool {
        matches!(self, Element::Add(..))
    }

    fn render(&self) -> nft::Element {
        match self {
            Element::Add(planned, member) => render::commented(member, &planned.origin),
            Element::Remove(_, member) => render::element(member),
        }
    }

    fn describe(&self) -> String {
        let (verb, word) = if self.adds() { ("add", "to") } else { ("remove", "from") };
        let member = self.member();
        format!("{verb} {} {word} set {} of {}", member.key_text(), member.set, render::table(member.family))
    }

    fn count(&self, report: &mut Report) {
        match self {
            Element::Add(planned, _) => {
                report.done(Verb::Made, planned.entry.key(), Some(&planned.origin));
            }
            Element::Remove(key, _) => report.done(Verb::Removed, (*key).clone(), None),
        }
    }

    fn refused(&self, error: Error, report: &mut Report) {
        let gone = error.errno() == Some(libc::ENOENT);
        match self {
            // The set is gone, and perhaps the table.
            Element::Add(planned, _) => {
                report.reconcile_needed |= gone;
                let origin = Some(planned.origin.clone());
                report.failures.push(Failure { key: planned.entry.key(), origin, error });
            }
            Element::Remove(..) if gone => {}
            Element::Remove(key, _) => {
                report.failures.push(Failure { key: (*key).clone(), origin: None, error });
            }
        }
    }
}
