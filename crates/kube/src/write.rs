//! The little that is written to the API: that this node's network is up, and what a `ClusterNetwork` amounts to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::jiff::{Timestamp, Unit};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use model::NodeName;
use serde_json::json;

use crate::error::WriteError;
use crate::objects::{ClusterNetworkLite, NodeLite};
use crate::track::Unjudged;

/// The reason under which we declare a node's network to be up.
pub(crate) const NETWORK_READY_REASON: &str = "CambricReady";

/// The longest time that an agent waits before it writes a `ClusterNetwork`'s status.
const SPREAD: Duration = Duration::from_secs(2);

/// Sets the condition `NetworkUnavailable` of a node to `False`, so that the scheduler lets pods onto it.
///
/// # Errors
/// [`WriteError`] if the API refuses it or does not answer.
pub async fn set_network_available(client: &Client, node: &NodeName) -> Result<(), WriteError> {
    let nodes: Api<NodeLite> = Api::all(client.clone());
    let now = now();
    // The type is the merge key of the list, so the other conditions stay as they are.
    let patch = json!({"status": {"conditions": [{
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": NETWORK_READY_REASON,
        "message": "Cambric has set up the pod network on this node",
        "lastTransitionTime": now,
        "lastHeartbeatTime": now,
    }]}});
    nodes
        .patch_status(node.as_str(), &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map(drop)
        .map_err(|source| WriteError { object: format!("Node {node}"), source: Box::new(source) })
}

/// Writes the verdict on a `ClusterNetwork` into its status, unless the object has changed meanwhile.
pub(crate) async fn write_verdict(
    client: &Client,
    name: &str,
    unjudged: &Unjudged,
) -> Result<(), WriteError> {
    let networks: Api<ClusterNetworkLite> = Api::all(client.clone());
    // With the resource version the API refuses the write if another agent was faster; the watch then brings its
    // status, and there is nothing left to do.
    let patch = json!({
        "metadata": {"resourceVersion": unjudged.resource_version},
        "status": unjudged.verdict.status(unjudged.generation, now()),
    });
    match networks.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(()),
        Err(source) => Err(WriteError { object: format!("ClusterNetwork {name}"), source: Box::new(source) }),
    }
}

/// How long this node waits before it writes a `ClusterNetwork`'s status: between 0 and 2 seconds, by its name.
///
/// The status follows from the spec, so any agent may write it, and none needs to be elected. The one whose time is
/// up first writes, the watch tells the others, and they need not: of 5,000 agents those write whose time is up
/// within the one round trip that the news takes, a handful, and the resource version lets one of them through.
pub(crate) fn delay(node: &NodeName) -> Duration {
    let mut hasher = DefaultHasher::new();
    node.as_str().hash(&mut hasher);
    let part = u32::try_from(hasher.finish() % 1000).unwrap_or_default();
    SPREAD * part / 1000
}

/// The time as the API has it: RFC 3339, whole seconds.
fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_spread_over_two_seconds() {
        let delays: Vec<Duration> =
            (0..5000).map(|i| delay(&NodeName::new(format!("node-{i}")).unwrap())).collect();
        assert!(delays.iter().all(|delay| *delay < SPREAD));
        let early = delays.iter().filter(|delay| **delay < SPREAD / 100).count();
        assert!((10..200).contains(&early), "{early} of 5000 in the first hundredth");
    }

    #[test]
    fn times_are_whole_seconds_of_rfc_3339() {
        let now = now();
        assert_eq!(now.len(), "2030-01-01T00:00:00Z".len(), "{now}");
    }
}
