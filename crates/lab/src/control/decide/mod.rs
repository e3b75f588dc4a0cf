//! What the controllers do: pure functions from what the API holds to what is to be changed in it.
//!
//! All of it is decided anew each time; nothing is remembered. A step that fails, or that somebody undoes, is decided
//! again when the API next changes.

mod endpoints;
mod nodes;
pub(super) mod object;
mod pods;
mod replicas;
mod rollout;
mod schedule;

use model::NetworkConfig;
use serde_json::Value;

/// What the API holds, of the kinds that controllers look at.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    pub(super) nodes: Vec<Value>,
    pub(super) pods: Vec<Value>,
    pub(super) replica_sets: Vec<Value>,
    pub(super) daemon_sets: Vec<Value>,
    pub(super) deployments: Vec<Value>,
    pub(super) services: Vec<Value>,
    pub(super) slices: Vec<Value>,
}

/// A change of the API. Resources are named as kubectl names them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Create an object.
    Create { resource: &'static str, namespace: String, object: Value },
    /// Patch an object (RFC 7386).
    Patch { resource: &'static str, namespace: String, name: String, patch: Value },
    /// Patch its status (RFC 7386).
    Status { resource: &'static str, namespace: String, name: String, status: Value },
    /// Delete an object of this UID; at once, or as gracefully as it says.
    Delete { resource: &'static str, namespace: String, name: String, uid: String, at_once: bool },
}

/// All that is to be done now. `now` is the time in the API's form (RFC 3339).
pub(super) fn decide(objects: &Objects, network: &NetworkConfig, now: &str) -> Vec<Action> {
    let mut actions = nodes::ranges(objects, network);
    actions.extend(rollout::deployments(objects, now));
    actions.extend(replicas::replica_sets(objects));
    actions.extend(replicas::daemon_sets(objects));
    actions.extend(schedule::schedule(objects, now));
    actions.extend(pods::orphans(objects));
    actions.extend(endpoints::slices(objects));
    actions
}
