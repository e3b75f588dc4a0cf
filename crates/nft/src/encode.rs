//! Objects as messages to the kernel.

use std::borrow::Borrow;

use crate::attr::Writer;
use crate::rule::Rule;
use crate::set::{Data, Element, MapData, Set};
use crate::table::{Chain, Policy, Table};
use crate::uapi::*;
use crate::udata::{self, UserData};
use crate::value::{Key, Type, key_size};

/// A message about a table: `NFT_MSG_NEWTABLE`, `NFT_MSG_DELTABLE` and so on.
pub(crate) fn table(w: &mut Writer, message: u8, flags: u16, table: &Table) {
    let start = w.begin_message(message, flags, table.family as u8);
    w.put_str(NFTA_TABLE_NAME, &table.name);
    w.end_message(start);
}

/// `NFT_MSG_NEWCHAIN`.
pub(crate) fn chain(w: &mut Writer, chain: &Chain) {
    let start = w.begin_message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, chain.table.family as u8);
    w.put_str(NFTA_CHAIN_TABLE, &chain.table.name);
    w.put_str(NFTA_CHAIN_NAME, &chain.name);
    if let Some(base) = &chain.base {
        w.nest(NFTA_CHAIN_HOOK, |w| {
            w.put_u32(NFTA_HOOK_HOOKNUM, base.hook as u32);
            w.put_u32(NFTA_HOOK_PRIORITY, base.priority as u32);
        });
        let policy = if base.policy == Policy::Drop { NF_DROP } else { NF_ACCEPT };
        w.put_u32(NFTA_CHAIN_POLICY, policy as u32);
        w.put_str(NFTA_CHAIN_TYPE, base.ty.name());
    }
    if let Some(comment) = &chain.comment {
        let mut data = UserData::default();
        data.put_comment(NFTNL_UDATA_CHAIN_COMMENT, Some(comment));
        w.put(NFTA_CHAIN_USERDATA, &data.into_bytes());
    }
    w.end_message(start);
}

/// A message that names a chain: `NFT_MSG_DELCHAIN`.
pub(crate) fn chain_name(w: &mut Writer, message: u8, table: &Table, name: &str) {
    let start = w.begin_message(message, 0, table.family as u8);
    w.put_str(NFTA_CHAIN_TABLE, &table.name);
    w.put_str(NFTA_CHAIN_NAME, name);
    w.end_message(start);
}

/// Where a new rule goes.
pub(crate) enum Place {
    End,
    Start,
    After(u64),
    InsteadOf(u64),
}

/// `NFT_MSG_NEWRULE`.
pub(crate) fn rule(w: &mut Writer, rule: &Rule, place: &Place) {
    let flags = match place {
        Place::End | Place::After(_) => NLM_F_CREATE | NLM_F_APPEND,
        Place::Start => NLM_F_CREATE,
        Place::InsteadOf(_) => NLM_F_REPLACE,
    };
    let start = w.begin_message(NFT_MSG_NEWRULE, flags, rule.table.family as u8);
    w.put_str(NFTA_RULE_TABLE, &rule.table.name);
    w.put_str(NFTA_RULE_CHAIN, &rule.chain);
    match place {
        Place::After(handle) => w.put_u64(NFTA_RULE_POSITION, *handle),
        Place::InsteadOf(handle) => w.put_u64(NFTA_RULE_HANDLE, *handle),
        Place::End | Place::Start => {}
    }
    w.nest(NFTA_RULE_EXPRESSIONS, |w| rule.exprs.iter().for_each(|expr| expr.encode(w)));
    let mut data = UserData::default();
    data.put_comment(NFTNL_UDATA_RULE_COMMENT, rule.comment.as_ref());
    data.put(UDATA_RULE_TAG, &rule.tag().to_be_bytes());
    w.put(NFTA_RULE_USERDATA, &data.into_bytes());
    w.end_message(start);
}

/// `NFT_MSG_DELRULE`: one rule, or all of a chain, or all of a table.
pub(crate) fn delete_rules(w: &mut Writer, table: &Table, chain: Option<&str>, handle: Option<u64>) {
    let start = w.begin_message(NFT_MSG_DELRULE, 0, table.family as u8);
    w.put_str(NFTA_RULE_TABLE, &table.name);
    if let Some(chain) = chain {
        w.put_str(NFTA_RULE_CHAIN, chain);
    }
    if let Some(handle) = handle {
        w.put_u64(NFTA_RULE_HANDLE, handle);
    }
    w.end_message(start);
}

/// `NFT_MSG_NEWSET`. The `id` names the set within the batch.
pub(crate) fn set(w: &mut Writer, set: &Set, flags: u16, id: u32) {
    let start = w.begin_message(NFT_MSG_NEWSET, NLM_F_CREATE | flags, set.table.family as u8);
    w.put_str(NFTA_SET_TABLE, &set.table.name);
    w.put_str(NFTA_SET_NAME, &set.name);
    w.put_u32(NFTA_SET_FLAGS, set_flags(set));
    w.put_u32(NFTA_SET_KEY_TYPE, type_number(&set.key));
    w.put_u32(NFTA_SET_KEY_LEN, key_size(&set.key) as u32);
    match &set.data {
        None => {}
        Some(MapData::Verdict) => {
            w.put_u32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
            w.put_u32(NFTA_SET_DATA_LEN, 0);
        }
        Some(MapData::Values(types)) => {
            w.put_u32(NFTA_SET_DATA_TYPE, type_number(types));
            w.put_u32(NFTA_SET_DATA_LEN, key_size(types) as u32);
        }
    }
    w.put_u32(NFTA_SET_ID, id);
    if let Some(timeout) = set.default_timeout {
        w.put_u64(NFTA_SET_TIMEOUT, timeout.as_millis() as u64);
    }
    let concat_intervals = set.interval && set.key.len() > 1;
    if set.size.is_some() || concat_intervals {
        w.nest(NFTA_SET_DESC, |w| {
            if let Some(size) = set.size {
                w.put_u32(NFTA_SET_DESC_SIZE, size);
            }
            if concat_intervals {
                w.nest(NFTA_SET_DESC_CONCAT, |w| {
                    for ty in &set.key {
                        w.nest(NFTA_LIST_ELEM, |w| w.put_u32(NFTA_SET_FIELD_LEN, ty.size() as u32));
                    }
                });
            }
        });
    }
    w.put(NFTA_SET_USERDATA, &set_user_data(set));
    w.end_message(start);
}

fn set_flags(set: &Set) -> u32 {
    let flags = [
        (set.interval, NFT_SET_INTERVAL),
        (set.interval && set.key.len() > 1, NFT_SET_CONCAT),
        (set.data.is_some(), NFT_SET_MAP),
        (set.timeouts || set.default_timeout.is_some(), NFT_SET_TIMEOUT),
        (set.dynamic, NFT_SET_EVAL),
    ];
    flags.into_iter().filter(|(on, _)| *on).fold(0, |all, (_, flag)| all | flag)
}

/// nft's number for a concatenation: 6 bits for each field.
fn type_number(types: &[Type]) -> u32 {
    types.iter().fold(0, |number, ty| number << 6 | ty.number())
}

fn set_user_data(set: &Set) -> Vec<u8> {
    let mut data = UserData::default();
    data.put_u32(NFTNL_UDATA_SET_KEYBYTEORDER, udata::byte_order(&set.key));
    let value_types = match &set.data {
        Some(MapData::Values(types)) => Some(&types[..]),
        Some(MapData::Verdict) => Some(&[][..]),
        None => None,
    };
    if let Some(types) = value_types {
        data.put_u32(NFTNL_UDATA_SET_DATABYTEORDER, udata::byte_order(types));
    }
    let nameless = set.key.iter().chain(value_types.unwrap_or_default()).any(|&ty| ty == Type::Index);
    if nameless && udata::put_typeof(&mut data, NFTNL_UDATA_SET_KEY_TYPEOF, &set.key) {
        match value_types {
            Some([]) => udata::put_typeof_verdict(&mut data, NFTNL_UDATA_SET_DATA_TYPEOF),
            Some(types) => {
                udata::put_typeof(&mut data, NFTNL_UDATA_SET_DATA_TYPEOF, types);
            }
            None => {}
        }
    }
    data.put_comment(NFTNL_UDATA_SET_COMMENT, set.comment.as_ref());
    data.into_bytes()
}

/// `NFT_MSG_DELSET`.
pub(crate) fn delete_set(w: &mut Writer, table: &Table, name: &str) {
    let start = w.begin_message(NFT_MSG_DELSET, 0, table.family as u8);
    w.put_str(NFTA_SET_TABLE, &table.name);
    w.put_str(NFTA_SET_NAME, name);
    w.end_message(start);
}

/// `NFT_MSG_DELSETELEM` without elements: empties the set.
pub(crate) fn flush_set(w: &mut Writer, table: &Table, name: &str) {
    let start = w.begin_message(NFT_MSG_DELSETELEM, 0, table.family as u8);
    w.put_str(NFTA_SET_ELEM_LIST_TABLE, &table.name);
    w.put_str(NFTA_SET_ELEM_LIST_SET, name);
    w.end_message(start);
}

/// The list of elements in a message is one attribute, hence less than 64 KiB. An element takes less than
/// 1.5 KiB: two keys and a value of 64 bytes each, a chain name of 256, a comment of 128, an end of its own.
const CHUNK_BYTES: usize = 62 * 1024;

/// `NFT_MSG_NEWSETELEM` or `NFT_MSG_DELSETELEM`, in as many messages as the elements need; returns their number.
pub(crate) fn elements(
    w: &mut Writer,
    message: u8,
    set: &Set,
    elements: impl Iterator<Item = impl Borrow<Element>>,
) -> u32 {
    let flags = if message == NFT_MSG_NEWSETELEM { NLM_F_CREATE } else { 0 };
    let mut elements = elements.peekable();
    let mut messages = 0;
    while elements.peek().is_some() {
        let start = w.begin_message(message, flags, set.table.family as u8);
        w.put_str(NFTA_SET_ELEM_LIST_TABLE, &set.table.name);
        w.put_str(NFTA_SET_ELEM_LIST_SET, &set.name);
        let list = w.begin_nest(NFTA_SET_ELEM_LIST_ELEMENTS);
        while w.buf.len() - list < CHUNK_BYTES
            && let Some(each) = elements.next()
        {
            element(w, set, each.borrow(), message == NFT_MSG_NEWSETELEM);
        }
        w.end_nest(list);
        w.end_message(start);
        messages += 1;
    }
    messages
}

/// One element. A range of one field becomes two: its start and, marked as end, the first key after it.
fn element(w: &mut Writer, set: &Set, element: &Element, with_content: bool) {
    let mut last = element.last.as_ref();
    let mut end = None;
    let mut open = false;
    if set.has_flat_intervals() {
        end = last.unwrap_or(&element.key).successor();
        open = end.is_none();
        last = None;
    }
    w.nest(NFTA_LIST_ELEM, |w| {
        put_key(w, NFTA_SET_ELEM_KEY, &element.key);
        if let Some(last) = last {
            put_key(w, NFTA_SET_ELEM_KEY_END, last);
        }
        if with_content {
            put_content(w, element, open);
        }
    });
    if let Some(end) = end {
        w.nest(NFTA_LIST_ELEM, |w| {
            w.put_u32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            put_key(w, NFTA_SET_ELEM_KEY, &end);
        });
    }
}

fn put_content(w: &mut Writer, element: &Element, open: bool) {
    match &element.data {
        None => {}
        Some(Data::Verdict(verdict)) => verdict.encode(w, NFTA_SET_ELEM_DATA),
        Some(Data::Value(value)) => put_key(w, NFTA_SET_ELEM_DATA, value),
    }
    if let Some(timeout) = element.timeout {
        w.put_u64(NFTA_SET_ELEM_TIMEOUT, timeout.as_millis() as u64);
    }
    if element.comment.is_some() || open {
        let mut data = UserData::default();
        data.put_comment(NFTNL_UDATA_SET_ELEM_COMMENT, element.comment.as_ref());
        if open {
            data.put_u32(NFTNL_UDATA_SET_ELEM_FLAGS, NFTNL_SET_ELEM_F_INTERVAL_OPEN);
        }
        w.put(NFTA_SET_ELEM_USERDATA, &data.into_bytes());
    }
}

fn put_key(w: &mut Writer, ty: u16, key: &Key) {
    w.nest(ty, |w| w.put(NFTA_DATA_VALUE, key.as_bytes()));
}
