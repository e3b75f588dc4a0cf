//! What the status sums up: repairs, and how the other nodes are reached.

use std::collections::BTreeMap;

use kernel::{Step, Steps};
use plan::Reach;
use serde::{Deserialize, Serialize};

use super::core::Core;
use super::words::entry;
use crate::clock::unix_now;

/// How many nodes are called by their names; all are counted.
const NAMED: usize = 20;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Happened {
    /// In seconds since 1970.
    pub(crate) at: u64,
    pub(crate) what: String,
}

/// What was not as planned, and was put right, since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Repairs {
    /// How many entries.
    pub(crate) count: usize,
    /// The last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<Happened>,
}

impl Repairs {
    /// Takes note of repairs, if any were made.
    pub(super) fn note(&mut self, done: &Steps) {
        let count: usize = done.counts.values().sum();
        if count == 0 {
            return;
        }
        self.count += count;
        let what = match done.first.last() {
            Some(Step { key, .. }) => format!("{} {}", key.kind(), entry(key)),
            None => done.to_string(),
        };
        self.last = Some(Happened { at: unix_now().as_secs(), what });
    }
}

/// The other nodes, as this one sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterStatus {
    /// How many kubelets say that their node is not ready, this node's included, and the first of these nodes.
    pub(crate) unready: usize,
    pub(crate) unready_nodes: Vec<String>,
    /// How many nodes are reached in which way: `direct`, `vxlan`, `ipip`, or `through NODE`.
    pub(crate) reached: BTreeMap<String, usize>,
    /// How many are not, and the first of these, each with the reason.
    pub(crate) unreached: usize,
    pub(crate) unreached_nodes: Vec<String>,
}

impl ClusterStatus {
    pub(super) fn of(core: &Core) -> ClusterStatus {
        let mut status = ClusterStatus {
            unready: core.unready().count(),
            unready_nodes: core.unready().take(NAMED).map(ToString::to_string).collect(),
            ..ClusterStatus::default()
        };
        // Without a plan nobody is reached, which is no news of each node.
        if !core.has_plan() {
            return status;
        }
        for (name, reach) in core.reach() {
            match way(&reach) {
                Ok(way) => *status.reached.entry(way).or_default() += 1,
                Err(why) => {
                    status.unreached += 1;
                    if status.unreached_nodes.len() < NAMED {
                        status.unreached_nodes.push(format!("{name} ({why})"));
                    }
                }
            }
        }
        status
    }
}

/// How a node is reached, or why it is not.
fn way(reach: &Reach) -> Result<String, String> {
    match reach {
        Reach::Direct => Ok("direct".to_owned()),
        Reach::Vxlan => Ok("vxlan".to_owned()),
        Reach::Ipip => Ok("ipip".to_owned()),
        Reach::Through(node) => Ok(format!("through {node}")),
        Reach::NoWay(family) => Err(format!("no route for {family}")),
        Reach::NoRange => Err("no pod range".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use kernel::Verb;
    use plan::Key;

    use super::*;

    #[test]
    fn repairs_are_counted_and_the_last_is_named() {
        let mut repairs = Repairs::default();
        repairs.note(&Steps::default());
        assert_eq!(repairs, Repairs::default());
        let route = Key::Route("10.244.2.0/24".parse().unwrap());
        let step = Step { verb: Verb::Made, key: route, origin: None };
        let done = Steps { counts: [(("route", Verb::Made), 3)].into(), first: vec![step] };
        repairs.note(&done);
        repairs.note(&done);
        assert_eq!(repairs.count, 6);
        assert_eq!(repairs.last.unwrap().what, "route 10.244.2.0/24");
    }
}
