//! Rules, walked: what a table of a plan does with a packet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use plan::services::{Backend, Datum, ServicePortName};
use plan::{Action, Chain, ChainName, Field, Hook, Match, Rule, SetName, Table, Value};

use super::MapElement;
use super::draws::Draws;
use super::elements::{Elements, Found, is};

/// The fields of a packet at a hook.
pub(super) type Fields = BTreeMap<Field, Value>;

/// The first packet of a connection, as rules see it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) fields: Fields,
    /// Whether its destination was rewritten on this node.
    pub(super) translated: bool,
    /// Whether its source is an address of this node.
    pub(super) source_is_own: bool,
}

/// A table, and what is in its sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'p> {
    pub(super) table: &'p Table,
    pub(super) elements: Elements<'p>,
}

/// What a hook did with a packet.
#[derive(Debug)]
pub(super) struct Ran {
    /// The rules that led on to another chain, and not back, in order.
    pub(super) led: Vec<Ruling>,
    /// What came of it.
    pub(super) verdict: Verdict,
}

/// A rule that had a say.
#[derive(Debug, Clone)]
pub(super) struct Ruling {
    pub(super) chain: ChainName,
    pub(super) comment: &'static str,
    /// The element of a map that it found.
    pub(super) element: Option<MapElement>,
    /// The service whose element it found.
    pub(super) service: Option<Arc<ServicePortName>>,
}

/// What becomes of a packet.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It goes on. The rule that decided, if one did.
    Pass(Option<Ruling>),
    /// It is gone.
    Dropped(Ruling),
    /// It is gone, and the sender is told.
    Refused(Ruling),
    /// It goes on with an address of the outgoing link as its source.
    Masqueraded(Ruling),
    /// It goes on with another source address.
    SourceTo(Ruling, IpAddr),
    /// It goes on to somebody else.
    DestinationTo(Ruling, Backend),
    /// It was sent on to a chain that is not there.
    Astray(ChainName),
}

/// Runs a packet through the chain of a hook. A table without such a chain lets everything pass.
pub(super) fn run(rules: Rules<'_>, hook: Hook, seen: &Seen, draws: &mut Draws) -> Ran {
    let mut runner = Runner { rules, seen, draws, led: Vec::new() };
    let verdict = match rules.table.chains.iter().find(|chain| chain.hook == Some(hook)) {
        Some(chain) => match runner.chain(chain) {
            Flow::Decided(verdict) => verdict,
            Flow::Back(ruling) => Verdict::Pass(ruling),
        },
        None => Verdict::Pass(None),
    };
    Ran { led: runner.led, verdict }
}

/// How a packet comes out of a chain.
enum Flow {
    /// With a verdict.
    Decided(Verdict),
    /// Back to where it came from; by a rule, or off the end.
    Back(Option<Ruling>),
}

struct Runner<'r> {
    rules: Rules<'r>,
    seen: &'r Seen,
    draws: &'r mut Draws,
    led: Vec<Ruling>,
}

impl<'r> Runner<'r> {
    fn chain(&mut self, chain: &'r Chain) -> Flow {
        for rule in &chain.rules {
            if rule.matches.iter().all(|each| self.holds(each))
                && let Some(flow) = self.act(chain, rule)
            {
                return flow;
            }
        }
        Flow::Back(None)
    }

    /// What an action does; `None` is on with the next rule.
    fn act(&mut self, chain: &Chain, rule: &Rule) -> Option<Flow> {
        let ruling =
            |element, service| Ruling { chain: chain.name.clone(), comment: rule.comment, element, service };
        let plain = || ruling(None, None);
        let verdict = match &rule.action {
            Action::Accept => Verdict::Pass(Some(plain())),
            Action::Drop => Verdict::Dropped(plain()),
            Action::Reset | Action::Unreachable => Verdict::Refused(plain()),
            Action::Masquerade => Verdict::Masqueraded(plain()),
            Action::SourceTo(address) => Verdict::SourceTo(plain(), *address),
            Action::Return => return Some(Flow::Back(Some(plain()))),
            Action::Jump(name) => {
                return match self.follow(name) {
                    Flow::Back(_) => None,
                    decided @ Flow::Decided(_) => Some(decided),
                };
            }
            Action::Goto(name) => {
                self.led.push(plain());
                return Some(self.follow(name));
            }
            Action::Look(key, map) => {
                let (element, Found { datum: Some(Datum::Goto(name)), service }) = self.find(key, *map)?
                else {
                    return None;
                };
                self.led.push(ruling(Some(element), service));
                return Some(self.follow(&name));
            }
            Action::DestinationFrom(key, map) => {
                let (element, Found { datum: Some(Datum::Backend(backend)), service }) =
                    self.find(key, *map)?
                else {
                    return None;
                };
                Verdict::DestinationTo(ruling(Some(element), service), backend)
            }
            // What is learned counts for the connections that come after.
            Action::Learn { .. } => return None,
        };
        Some(Flow::Decided(verdict))
    }

    fn follow(&mut self, name: &ChainName) -> Flow {
        match self.rules.table.chains.iter().find(|chain| chain.name == *name) {
            Some(chain) => self.chain(chain),
            None => Flow::Decided(Verdict::Astray(name.clone())),
        }
    }

    fn holds(&mut self, condition: &Match) -> bool {
        let field = |of: &Field| self.seen.fields.get(of);
        match condition {
            Match::Is(of, value) => field(of).is_some_and(|has| is(has, value)),
            Match::IsNot(of, value) => field(of).is_some_and(|has| !is(has, value)),
            Match::Translated => self.seen.translated,
            Match::SourceIsOwn(own) => self.seen.source_is_own == *own,
            Match::In(key, set) => self.key(key).is_some_and(|key| self.has(*set, &key)),
            Match::NotIn(key, set) => self.key(key).is_some_and(|key| !self.has(*set, &key)),
        }
    }

    fn has(&self, set: SetName, key: &[Value]) -> bool {
        self.rules.elements.find(set, key).is_some()
    }

    fn find(&mut self, key: &[Field], map: SetName) -> Option<(MapElement, Found)> {
        let key = self.key(key)?;
        let found = self.rules.elements.find(map, &key)?;
        Some((MapElement { map, key }, found))
    }

    fn key(&mut self, fields: &[Field]) -> Option<Vec<Value>> {
        let value = |field: &Field| match field {
            Field::Random(of) => Some(Value::Index(self.draws.draw(*of))),
            field => self.seen.fields.get(field).cloned(),
        };
        fields.iter().map(value).collect()
    }
}
