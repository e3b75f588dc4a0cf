//! The operations of a batch in words, read back from their messages, for errors.

use crate::attr::{Attrs, Message, Messages, read_str, read_u64, table};
use crate::batch::Batch;
use crate::decode;
use crate::table::Family;
use crate::uapi::*;
use crate::udata;

/// The operation at a position of a batch, such as `delete set pods in table ip cambric`. `attribute` is the offset in
/// the message of the attribute that the kernel did not like.
pub(crate) fn operation(batch: &Batch, position: u32, attribute: Option<usize>) -> String {
    batch
        .message(position)
        .and_then(|bytes| {
            let message = Messages::new(bytes).next()?.ok()?;
            words(batch, &message, attribute)
        })
        .unwrap_or_else(|| format!("operation {position}"))
}

fn words(batch: &Batch, message: &Message<'_>, attribute: Option<usize>) -> Option<String> {
    let (family_number, attrs) = message.nfgen().ok()?;
    let family = Family::from_number(family_number)?;
    let attrs = table::<8>(attrs).ok()?;
    let name = |ty: u16| attrs[usize::from(ty)].map(read_str);
    // Each kind of message but those about tables has the name of the table in its first attribute.
    let table_name = name(NFTA_TABLE_NAME)?;
    let of_table = format!("table {family} {table_name}");
    Some(match message.nft_type()? {
        NFT_MSG_NEWTABLE => format!("add {of_table}"),
        NFT_MSG_DELTABLE => format!("delete {of_table}"),
        NFT_MSG_NEWCHAIN => format!("add chain {} in {of_table}", name(NFTA_CHAIN_NAME)?),
        NFT_MSG_DELCHAIN => format!("delete chain {} in {of_table}", name(NFTA_CHAIN_NAME)?),
        NFT_MSG_NEWRULE => {
            let comment =
                udata::find_comment(attrs[usize::from(NFTA_RULE_USERDATA)], NFTNL_UDATA_RULE_COMMENT);
            let comment = comment.map(|comment| format!(" \"{comment}\"")).unwrap_or_default();
            let place = match (handle(&attrs, NFTA_RULE_HANDLE), handle(&attrs, NFTA_RULE_POSITION)) {
                (Some(handle), _) => format!(" in place of handle {handle}"),
                (_, Some(handle)) => format!(" after handle {handle}"),
                _ => String::new(),
            };
            format!("add rule{comment}{place} to chain {} in {of_table}", name(NFTA_RULE_CHAIN)?)
        }
        NFT_MSG_DELRULE => match (name(NFTA_RULE_CHAIN), handle(&attrs, NFTA_RULE_HANDLE)) {
            (Some(chain), Some(handle)) => {
                format!("delete rule with handle {handle} in chain {chain} in {of_table}")
            }
            (Some(chain), None) => format!("flush chain {chain} in {of_table}"),
            (None, _) => format!("flush {of_table}"),
        },
        NFT_MSG_NEWSET => {
            let map = attrs[usize::from(NFTA_SET_DATA_TYPE)].is_some();
            format!("add {} {} in {of_table}", if map { "map" } else { "set" }, name(NFTA_SET_NAME)?)
        }
        NFT_MSG_DELSET => format!("delete set {} in {of_table}", name(NFTA_SET_NAME)?),
        kind @ (NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM) => {
            let set = name(NFTA_SET_ELEM_LIST_SET)?;
            let known = batch.changed_set(family_number, &table_name, &set);
            let of_set = format!("{} {set} in {of_table}", known.map_or("set", |known| known.kind));
            let verb = if kind == NFT_MSG_NEWSETELEM { "add" } else { "delete" };
            let Some(list) = attrs[usize::from(NFTA_SET_ELEM_LIST_ELEMENTS)] else {
                return Some(format!("flush {of_set}"));
            };
            match element_at(message, list, attribute).and_then(|attrs| decode::raw_element(attrs).ok()?) {
                Some(element) => {
                    let types = known.map_or(&[][..], |known| &known.key);
                    format!("{verb} element {} of {of_set}", element.key().display(types))
                }
                None => format!("{verb} elements of {of_set}"),
            }
        }
        _ => return None,
    })
}

fn handle(attrs: &[Option<&[u8]>; 8], ty: u16) -> Option<u64> {
    attrs[usize::from(ty)].and_then(read_u64)
}

/// The element whose attribute starts at an offset in the message; the only element if the kernel named none.
fn element_at<'a>(message: &Message<'a>, list: &'a [u8], attribute: Option<usize>) -> Option<&'a [u8]> {
    let list_offset =
        NLMSG_HDRLEN + (list.as_ptr() as usize).checked_sub(message.payload.as_ptr() as usize)?;
    let mut attrs = Attrs::new(list);
    let mut first = None;
    loop {
        let offset = list_offset + list.len() - attrs.remaining();
        let Some(Ok((_, element))) = attrs.next() else {
            return first;
        };
        if attribute == Some(offset) {
            return Some(element);
        }
        if attribute.is_none() && first.is_some() {
            return None;
        }
        first = attribute.is_none().then_some(element);
    }
}
