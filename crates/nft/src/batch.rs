//! Batches: changes that come into force together or not at all.

use std::borrow::Borrow;

use crate::attr::{Messages, Writer};
use crate::encode::{self, Place};
use crate::error::Error;
use crate::rule::Rule;
use crate::set::{Element, MapData, Set};
use crate::table::{Chain, Table};
use crate::uapi::*;
use crate::value::{Type, key_size};
use crate::verdict::Verdict;

/// Changes in order, to be put into force by [`crate::Socket::commit`].
///
/// Adding what is there already is no error if it is the same; deleting what is not there is one.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) messages: Writer,
    pub(crate) count: u32,
    sets: u32,
    /// The sets whose elements change, to name an element that the kernel refuses.
    changed: Vec<ChangedSet>,
    fault: Option<Error>,
}

#[derive(Debug)]
pub(crate) struct ChangedSet {
    table: Table,
    name: String,
    pub(crate) kind: &'static str,
    pub(crate) key: Vec<Type>,
}

impl Batch {
    /// A batch without changes.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.fault.is_none()
    }

    /// The number of bytes that go to the kernel.
    pub fn byte_len(&self) -> usize {
        self.messages.buf.len()
    }

    /// Adds a table, unless it is there.
    pub fn add_table(&mut self, table: &Table) {
        self.check_table(table);
        self.push(|w| encode::table(w, NFT_MSG_NEWTABLE, NLM_F_CREATE, table));
    }

    /// Adds a table, which must not be there.
    pub fn create_table(&mut self, table: &Table) {
        self.check_table(table);
        self.push(|w| encode::table(w, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, table));
    }

    /// Deletes a table and all in it.
    pub fn delete_table(&mut self, table: &Table) {
        self.push(|w| encode::table(w, NFT_MSG_DELTABLE, 0, table));
    }

    /// Deletes a table and all in it, if it is there.
    pub fn destroy_table(&mut self, table: &Table) {
        self.add_table(table);
        self.delete_table(table);
    }

    /// Adds a chain, unless it is there; sets the policy of a base chain in either case.
    pub fn add_chain(&mut self, chain: &Chain) {
        self.check_name(&chain.name, || chain.to_string());
        self.push(|w| encode::chain(w, chain));
    }

    /// Deletes a chain with its rules. No rule or element may lead to it.
    pub fn delete_chain(&mut self, table: &Table, chain: &str) {
        self.push(|w| encode::chain_name(w, NFT_MSG_DELCHAIN, table, chain));
    }

    /// Deletes a chain with its rules, if it is there. No rule or element may lead to it.
    pub fn destroy_chain(&mut self, table: &Table, chain: &str) {
        self.add_chain(&Chain::new(table, chain));
        self.delete_chain(table, chain);
    }

    /// Deletes the rules of a chain.
    pub fn flush_chain(&mut self, table: &Table, chain: &str) {
        self.push(|w| encode::delete_rules(w, table, Some(chain), None));
    }

    /// Deletes all rules of a table; its chains and sets stay.
    pub fn flush_table(&mut self, table: &Table) {
        self.push(|w| encode::delete_rules(w, table, None, None));
    }

    /// Adds a rule at the end of its chain.
    pub fn add_rule(&mut self, rule: &Rule) {
        self.rule(rule, &Place::End);
    }

    /// Adds a rule at the start of its chain.
    pub fn insert_rule(&mut self, rule: &Rule) {
        self.rule(rule, &Place::Start);
    }

    /// Adds a rule behind the one with this handle.
    pub fn add_rule_after(&mut self, rule: &Rule, handle: u64) {
        self.rule(rule, &Place::After(handle));
    }

    /// Puts a rule in the place of the one with this handle.
    pub fn replace_rule(&mut self, rule: &Rule, handle: u64) {
        self.rule(rule, &Place::InsteadOf(handle));
    }

    /// Deletes the rule with this handle.
    pub fn delete_rule(&mut self, table: &Table, chain: &str, handle: u64) {
        self.push(|w| encode::delete_rules(w, table, Some(chain), Some(handle)));
    }

    /// Adds a set or map, unless it is there; its fields and flags must then be the same.
    pub fn add_set(&mut self, set: &Set) {
        self.set(set, 0);
    }

    /// Adds a set or map, which must not be there.
    pub fn create_set(&mut self, set: &Set) {
        self.set(set, NLM_F_EXCL);
    }

    /// Deletes a set or map with its elements. No rule may use it.
    pub fn delete_set(&mut self, table: &Table, name: &str) {
        self.push(|w| encode::delete_set(w, table, name));
    }

    /// Deletes a set or map with its elements, if it is there. No rule may use it.
    pub fn destroy_set(&mut self, set: &Set) {
        self.add_set(set);
        self.delete_set(&set.table, &set.name);
    }

    /// Deletes the elements of a set or map.
    pub fn flush_set(&mut self, table: &Table, name: &str) {
        self.push(|w| encode::flush_set(w, table, name));
    }

    /// Adds elements, as many as you like. One that is there already is left as it is if it holds the same, and fails
    /// the batch if it holds something else: to change what an element holds, delete it and add it in one batch.
    pub fn add_elements(&mut self, set: &Set, elements: impl IntoIterator<Item = impl Borrow<Element>>) {
        self.elements(NFT_MSG_NEWSETELEM, set, elements);
    }

    /// Deletes elements, by their keys (and range ends) alone.
    pub fn delete_elements(&mut self, set: &Set, elements: impl IntoIterator<Item = impl Borrow<Element>>) {
        self.elements(NFT_MSG_DELSETELEM, set, elements);
    }

    /// Deletes one element, by its key (and range end) alone.
    pub fn delete_element(&mut self, set: &Set, element: &Element) {
        self.delete_elements(set, [element]);
    }

    fn rule(&mut self, rule: &Rule, place: &Place) {
        let object = || format!("rule in chain {} in {}", rule.chain, rule.table);
        if let Some(fault) = &rule.fault {
            self.fail(object, fault.clone());
        }
        if rule.exprs.len() > NFT_RULE_MAXEXPRS {
            let reason = format!("it has {} expressions, at most {NFT_RULE_MAXEXPRS} fit", rule.exprs.len());
            self.fail(object, reason);
            return;
        }
        self.push(|w| encode::rule(w, rule, place));
    }

    fn set(&mut self, set: &Set, flags: u16) {
        let object = || set.to_string();
        self.check_name(&set.name, object);
        self.check_types(&set.key, "key", object);
        if let Some(MapData::Values(types)) = &set.data {
            self.check_types(types, "data", object);
        }
        if let Some(ty) = set.key.iter().find(|ty| set.has_flat_intervals() && ty.byte_order_is_host()) {
            let reason =
                format!("{ty:?} is kept in host byte order and cannot be the key of an interval set");
            self.fail(object, reason);
        }
        self.sets += 1;
        let id = self.sets;
        self.push(|w| encode::set(w, set, flags, id));
    }

    fn elements(&mut self, message: u8, set: &Set, elements: impl IntoIterator<Item = impl Borrow<Element>>) {
        if !self.changed.iter().any(|changed| changed.table == set.table && changed.name == set.name) {
            let (table, name, key) = (set.table.clone(), set.name.clone(), set.key.clone());
            self.changed.push(ChangedSet { table, name, kind: set.kind(), key });
        }
        let deleting = message == NFT_MSG_DELSETELEM;
        let mut refusal = None;
        let elements = elements.into_iter().take_while(|element| {
            let element: &Element = element.borrow();
            refusal = if deleting { set.refuses_key(element) } else { set.refuses(element) };
            if let Some(Verdict::Jump(chain) | Verdict::Goto(chain)) = element.verdict()
                && chain.len() >= NFT_NAME_MAXLEN
            {
                refusal = Some(format!("chain name {chain:?} is longer than 255 bytes"));
            }
            refusal.is_none()
        });
        self.count += encode::elements(&mut self.messages, message, set, elements);
        if let Some(reason) = refusal {
            self.fail(|| set.to_string(), reason);
        }
    }

    fn check_table(&mut self, table: &Table) {
        self.check_name(&table.name, || table.to_string());
    }

    fn check_name(&mut self, name: &str, object: impl FnOnce() -> String) {
        if name.is_empty() || name.len() >= NFT_NAME_MAXLEN || name.contains('\0') {
            self.fail(object, "the name must have 1 to 255 bytes, none of them NUL".into());
        }
    }

    fn check_types(&mut self, types: &[Type], part: &str, object: impl FnOnce() -> String) {
        // nft's number for a concatenation has room for five fields.
        if types.is_empty() || types.len() > 5 {
            self.fail(object, format!("its {part} has {} fields, it must have 1 to 5", types.len()));
        } else if types.iter().any(|ty| matches!(ty, Type::Raw(_))) {
            self.fail(object, format!("its {part} has a field of unknown type"));
        } else if key_size(types) > 64 {
            self.fail(object, format!("its {part} has {} bytes, at most 64 fit", key_size(types)));
        }
    }

    fn fail(&mut self, object: impl FnOnce() -> String, reason: String) {
        self.fault.get_or_insert_with(|| Error::invalid(object(), reason));
    }

    fn push(&mut self, encode: impl FnOnce(&mut Writer)) {
        encode(&mut self.messages);
        self.count += 1;
    }

    /// Gives the messages their sequence numbers, from `first` on, and asks for an answer to the last, without which
    /// success could not be told.
    pub(crate) fn seal(&mut self, first: u32) -> Result<(), Error> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let offsets: Vec<usize> = Messages::new(&self.messages.buf)
            .map(|message| message.map(|message| message.offset))
            .collect::<Result<_, _>>()?;
        for (position, &offset) in offsets.iter().enumerate() {
            let seq = first.wrapping_add(position as u32);
            self.messages.buf[offset + 8..offset + 12].copy_from_slice(&seq.to_ne_bytes());
        }
        if let Some(&last) = offsets.last() {
            self.messages.buf[last + 6] |= NLM_F_ACK.to_ne_bytes()[0];
            self.messages.buf[last + 7] |= NLM_F_ACK.to_ne_bytes()[1];
        }
        Ok(())
    }

    /// The message at a position.
    pub(crate) fn message(&self, position: u32) -> Option<&[u8]> {
        let mut messages = Messages::new(&self.messages.buf).flatten();
        let message = messages.nth(position as usize)?;
        Some(&self.messages.buf[message.offset..message.offset + NLMSG_HDRLEN + message.payload.len()])
    }

    /// What is known of a set whose elements the batch changes.
    pub(crate) fn changed_set(&self, family: u8, table: &str, name: &str) -> Option<&ChangedSet> {
        let of_table = |of: &Table| of.family as u8 == family && of.name == table;
        self.changed.iter().find(|changed| of_table(&changed.table) && changed.name == name)
    }
}
