//! Who is there, and who hears whom through NAT gateways: what the routes to pod ranges say of the nodes that have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Node, NodeName, PodRange};
use plan::site::{self, Contact};

/// What is known from BGP.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    /// By prefix. Whose it is, Node objects say.
    told: BTreeMap<IpNet, Contact>,
    /// What an earlier run was told, and this one has not been yet by the node itself.
    earlier: BTreeMap<IpNet, Contact>,
    /// Changes whenever what was told does.
    pub(crate) revision: u64,
    /// Whether something is another than when the news were last asked for.
    pub(crate) stale: bool,
}

impl Contacts {
    /// Goes by what an earlier run was told, until this one is told better.
    ///
    /// Tunnels outlive the agent, and nodes go on sending by them. One that took everybody to be gone would take a
    /// tunnel of another to be its own turn, and would accept nothing from gateways.
    pub(crate) fn restore(&mut self, told: BTreeMap<IpNet, Contact>) {
        self.earlier = told;
        self.stale = true;
    }

    /// All have told what they have. What nobody has told again is no more.
    pub(crate) fn converged(&mut self) {
        if !std::mem::take(&mut self.earlier).is_empty() {
            self.stale = true;
            self.revision += 1;
        }
    }

    /// What is gone by, by prefix.
    pub(crate) fn known(&self) -> BTreeMap<IpNet, Contact> {
        let all = self.told.iter().chain(&self.earlier);
        all.map(|(prefix, contact)| (*prefix, contact.clone())).collect()
    }

    /// Takes in who tells of a prefix.
    pub(crate) fn hear(&mut self, prefix: IpNet, contact: Option<Contact>) {
        let before = match contact.clone() {
            Some(contact) => self.told.insert(prefix, contact),
            None => self.told.remove(&prefix),
        };
        let is_gone = contact.is_none() && self.earlier.remove(&prefix).is_some();
        if is_gone || before != contact {
            self.stale = true;
            self.revision += 1;
        }
    }

    /// What is another now than `known`.
    pub(crate) fn news(
        &mut self,
        local: Option<&Node>,
        nodes: &BTreeMap<NodeName, Node>,
        known: &site::Contacts,
    ) -> Vec<(NodeName, Option<Contact>)> {
        if !std::mem::take(&mut self.stale) {
            return Vec::new();
        }
        if let Some(local) = local {
            nodes.values().for_each(|node| self.replace_earlier(local, node));
        }
        let names: BTreeSet<&NodeName> = nodes.keys().chain(known.others.keys()).collect();
        let now = |name: &NodeName| nodes.get(name).and_then(|node| self.contact(local?, node));
        names
            .into_iter()
            .map(|name| (name, now(name)))
            .filter(|(name, contact)| known.others.get(*name) != contact.as_ref())
            .map(|(name, contact)| (name.clone(), contact))
            .collect()
    }

    /// What a node has told itself takes the place of what an earlier run knew. What others pass on of it may be there
    /// first, and is no reason to take the node to be gone.
    fn replace_earlier(&mut self, local: &Node, node: &Node) {
        for range in node.pod_ranges.iter().map(PodRange::net) {
            if self.told.get(&range).is_some_and(|contact| counts(local, node, contact)) {
                self.earlier.remove(&range);
            }
        }
    }

    /// A node is there if there is a route to any of its ranges. Each range tells of its own family.
    fn contact(&self, local: &Node, node: &Node) -> Option<Contact> {
        let known = |range: &PodRange| self.earlier.get(&range.net()).or_else(|| self.told.get(&range.net()));
        let told: Vec<&Contact> =
            node.pod_ranges.iter().filter_map(known).filter(|contact| counts(local, node, contact)).collect();
        let seen: IpAddr = told.first()?.seen;
        Some(Contact { seen, heard: told.iter().flat_map(|contact| &contact.heard).copied().collect() })
    }
}

/// What others pass on of a node does not count, if it could be heard itself: they may know no better.
fn counts(local: &Node, node: &Node, contact: &Contact) -> bool {
    let hidden = node.site.is_some() && node.site != local.site;
    hidden || node.addresses.iter().any(|own| *own == contact.seen)
}

#[cfg(test)]
mod tests {
    use plan::site::{Contacts as Known, End};

    use super::*;

    fn node(name: &str, address: &str, range: &str) -> Node {
        let node = Node::parse(NodeName::new(name).unwrap(), [address], [range]).unwrap();
        Node { site: Some("north".into()), ..node }
    }

    fn contact(seen: &str, heard: u32) -> Contact {
        Contact { seen: seen.parse().unwrap(), heard: [(End::from(heard), model::Family::V4)].into() }
    }

    /// After a restart a reflector is often heard before the node of which it tells.
    #[test]
    fn what_others_pass_on_does_not_take_the_place_of_what_an_earlier_run_was_told() {
        let (local, other) = (node("a", "10.0.0.1", "10.244.1.0/24"), node("b", "10.0.0.2", "10.244.2.0/24"));
        let range = other.pod_ranges.iter().next().unwrap().net();
        let nodes = [(local.name.clone(), local.clone()), (other.name.clone(), other.clone())].into();
        let (before, now) = (contact("10.0.0.2", 1), contact("10.0.0.2", 2));
        let passed_on = contact("198.51.100.1", 2);
        let mut contacts = Contacts::default();
        let mut known = Known::default();
        let mut news = |contacts: &mut Contacts| {
            for (name, contact) in contacts.news(Some(&local), &nodes, &known) {
                match contact {
                    Some(contact) => drop(known.others.insert(name, contact)),
                    None => drop(known.others.remove(&name)),
                }
            }
            known.others.get(&other.name).cloned()
        };
        contacts.restore([(range, before.clone())].into());
        assert_eq!(news(&mut contacts), Some(before.clone()));
        contacts.hear(range, Some(passed_on.clone()));
        assert_eq!(news(&mut contacts), Some(before.clone()));
        assert_eq!(contacts.known(), [(range, before.clone())].into(), "and the next run knows it too");
        contacts.hear(range, Some(now.clone()));
        assert_eq!(news(&mut contacts), Some(now.clone()));
        // Once it has been heard it is gone when it is heard no more.
        contacts.hear(range, Some(passed_on.clone()));
        assert_eq!(news(&mut contacts), None);

        // So it is if it was not heard when all have told what they have.
        contacts.restore([(range, before.clone())].into());
        assert_eq!(news(&mut contacts), Some(before.clone()));
        contacts.converged();
        assert_eq!(news(&mut contacts), None);
        // And if nobody tells of it any more.
        contacts.restore([(range, before.clone())].into());
        assert_eq!(news(&mut contacts), Some(before));
        contacts.hear(range, None);
        assert_eq!(news(&mut contacts), None);
    }
}
