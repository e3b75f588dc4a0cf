//! Rules, walked: what a table of a plan does with a packet.

use std::collections::BTreeMap;

use plan::{
    Action, Chain, Entry, Field, Hook, Key, Match, Member, NodePlan, Origin, Rule, SetName, Table,
    TableFamily, Value,
};

/// The fields of a packet at a hook.
pub(super) type Fields = BTreeMap<Field, Value>;

/// What a hook did with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// It goes on. The rule that decided, if one did.
    Pass(Option<(&'a Chain, &'a Rule)>),
    /// It is gone.
    Dropped(&'a Chain, &'a Rule),
    /// It goes on with another source address.
    Masqueraded(&'a Chain, &'a Rule),
}

/// Runs a packet through the chain of a hook. A plan without that table lets everything pass.
pub(super) fn run<'a>(plan: &'a NodePlan, family: TableFamily, hook: Hook, fields: &Fields) -> Verdict<'a> {
    let Some(planned) = plan.entries.get(&Key::Table(family)) else { return Verdict::Pass(None) };
    let Entry::Table(table) = &planned.entry else { return Verdict::Pass(None) };
    let Some(chain) = table.chains.iter().find(|chain| chain.hook == Some(hook)) else {
        return Verdict::Pass(None);
    };
    chain_verdict(plan, table, chain, fields).unwrap_or(Verdict::Pass(None))
}

/// The origin of a table's rules.
pub(super) fn origin(plan: &NodePlan, family: TableFamily) -> Option<Origin> {
    plan.entries.get(&Key::Table(family)).map(|planned| planned.origin.clone())
}

/// The verdict of a chain; `None` if the packet falls off its end or returns.
fn chain_verdict<'a>(
    plan: &NodePlan,
    table: &'a Table,
    chain: &'a Chain,
    fields: &Fields,
) -> Option<Verdict<'a>> {
    for rule in &chain.rules {
        if !rule.matches.iter().all(|each| holds(plan, table.family, each, fields)) {
            continue;
        }
        match &rule.action {
            Action::Accept => return Some(Verdict::Pass(Some((chain, rule)))),
            Action::Drop => return Some(Verdict::Dropped(chain, rule)),
            Action::Masquerade => return Some(Verdict::Masqueraded(chain, rule)),
            // From a base chain, "return" is its policy: accept.
            Action::Return if chain.hook.is_some() => return Some(Verdict::Pass(Some((chain, rule)))),
            Action::Return => return None,
            // Only in the services' tables.
            Action::Goto(_)
            | Action::Look(..)
            | Action::DestinationFrom(..)
            | Action::SourceTo(_)
            | Action::Reset
            | Action::Unreachable
            | Action::Learn { .. } => {}
            Action::Jump(name) => {
                let next = table.chains.iter().find(|next| next.name == *name)?;
                if let Some(verdict) = chain_verdict(plan, table, next, fields) {
                    return Some(verdict);
                }
            }
        }
    }
    None
}

fn holds(plan: &NodePlan, family: TableFamily, condition: &Match, fields: &Fields) -> bool {
    let key =
        |wanted: &[Field]| wanted.iter().map(|field| fields.get(field).cloned()).collect::<Option<Vec<_>>>();
    match condition {
        Match::Is(field, value) => fields.get(field).is_some_and(|has| is(has, value)),
        Match::IsNot(field, value) => fields.get(field).is_some_and(|has| !is(has, value)),
        Match::In(wanted, set) => key(wanted).is_some_and(|key| contains(plan, family, *set, &key)),
        Match::New | Match::Translated | Match::SourceIsOwn(_) => false,
        Match::NotIn(wanted, set) => key(wanted).is_some_and(|key| !contains(plan, family, *set, &key)),
    }
}

fn is(has: &Value, wanted: &Value) -> bool {
    match (has, wanted) {
        (Value::Link(name), Value::LinkPrefix(prefix)) => name.as_str().starts_with(prefix),
        (Value::Address(address), Value::Prefix(net)) => net.contains(address),
        _ => has == wanted,
    }
}

fn contains(plan: &NodePlan, family: TableFamily, set: SetName, key: &[Value]) -> bool {
    if plan.entries.contains_key(&Key::Member(Member { family, set, key: key.into() })) {
        return true;
    }
    // Sets of prefixes are few and short: the cluster's ranges.
    let [address @ Value::Address(_)] = key else { return false };
    let from = Key::Member(Member { family, set, key: [].into() });
    plan.entries
        .range(from..)
        .map_while(|(key, _)| match key {
            Key::Member(member) if member.family == family && member.set == set => Some(member),
            _ => None,
        })
        .any(|member| member.key.iter().any(|prefix| is(address, prefix)))
}
