//! What the kernel holds of a services' table, and what makes of it what is wanted.

use std::collections::HashMap;

use model::Family;
use plan::Table;
use plan::services::{Frontend, ServicePlan, Settings};

use super::{all_elements, rendered};
use crate::Result;
use crate::leftovers;
use crate::render::Rendered;
use crate::tables::{self, unreadable};

/// How many things were made, changed and removed.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) made: usize,
    pub(super) changed: usize,
    pub(super) removed: usize,
}

/// The elements of a set that is there, by first and last key: what they hold, and what they say of themselves.
type Elements = HashMap<(nft::Key, Option<nft::Key>), (Option<nft::Data>, Option<nft::Comment>)>;

/// What is there of a table.
pub(super) enum Found {
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
    /// `chains` are those that the table has.
    pub(super) fn read(
        socket: &mut nft::Socket,
        table: &Table,
        wanted: &Rendered,
        chains: Vec<nft::Chain>,
    ) -> Result<Found> {
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
            elements.push(
                found.into_iter().map(|each| ((each.key, each.last), (each.data, each.comment))).collect(),
            );
        }
        let what = || format!("read the chains of {}", wanted.table);
        let rules = socket.rules(&wanted.table).map_err(|source| unreadable(what(), source))?;
        let known = |chain: &nft::Chain| wanted.chains.iter().find(|(wanted, _)| wanted.name == chain.name);
        let (ours, extra): (Vec<nft::Chain>, Vec<nft::Chain>) =
            chains.into_iter().partition(|chain| known(chain).is_some());
        let other_rules = !tables::differing_chains(&ours, &rules, wanted).is_empty();
        let moved = |chain: &nft::Chain| known(chain).is_some_and(|(wanted, _)| wanted.base != chain.base);
        let misplaced = ours.into_iter().filter(moved).map(|chain| chain.name).collect();
        let extra = extra.into_iter().map(|chain| chain.name).collect();
        Ok(Found::Sets { elements, other_rules, misplaced, extra })
    }

    /// Puts into a batch what makes of it what is wanted. Returns the frontends that are no more.
    pub(super) fn mend(
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
                Some((data, comment)) if data == rendered.data && comment == rendered.comment => continue,
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

fn bare((key, last): (nft::Key, Option<nft::Key>)) -> nft::Element {
    nft::Element { last, ..nft::Element::new(key) }
}
