//! Which node a pod runs on.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::object::{controller, has_ended, has_labels, is_true, list, name, text};

/// How many pods a node has: of one controller, and in all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    alike: usize,
    all: usize,
}

/// The node for a pod that has none: the one that fits with the fewest pods of the same controller, then the fewest
/// pods.
///
/// # Errors
/// Why none fits, in words for the pod's condition.
pub(super) fn node_for<'a>(
    pod: &Value,
    nodes: &[&'a Value],
    pods: impl Iterator<Item = &'a Value>,
) -> Result<&'a str, String> {
    let mut loads: BTreeMap<&str, Load> = BTreeMap::new();
    for other in pods.filter(|other| !has_ended(other)) {
        let load = loads.entry(text(&other["spec"]["nodeName"])).or_default();
        load.all += 1;
        let same = !controller(pod).is_empty() && controller(pod) == controller(other);
        load.alike += usize::from(same);
    }
    let mut refusals: BTreeMap<&str, usize> = BTreeMap::new();
    let mut best = None;
    for node in nodes {
        if let Some(why) = refusal(pod, node) {
            *refusals.entry(why).or_default() += 1;
            continue;
        }
        let key = (loads.get(name(node)).copied().unwrap_or_default(), name(node));
        if best.is_none_or(|best| key < best) {
            best = Some(key);
        }
    }
    best.map(|(_, name)| name).ok_or_else(|| {
        let reasons: Vec<String> = refusals.iter().map(|(why, count)| format!("{count} {why}")).collect();
        match reasons.is_empty() {
            true => "no nodes available to schedule pods".into(),
            false => format!("0/{} nodes are available: {}.", nodes.len(), reasons.join(", ")),
        }
    })
}

/// Why a pod cannot run on a node.
fn refusal(pod: &Value, node: &Value) -> Option<&'static str> {
    if !is_true(node, "Ready") {
        return Some("node(s) were not ready");
    }
    if node["spec"]["unschedulable"] == true {
        return Some("node(s) were unschedulable");
    }
    if !has_labels(node, &pod["spec"]["nodeSelector"]) {
        return Some("node(s) didn't match Pod's node selector");
    }
    let taints = list(&node["spec"]["taints"]).iter();
    let mut hard = taints.filter(|taint| taint["effect"] != "PreferNoSchedule");
    hard.any(|taint| !tolerates(&pod["spec"], taint)).then_some("node(s) had untolerated taints")
}

/// Whether a pod specification tolerates a taint.
pub(super) fn tolerates(spec: &Value, taint: &Value) -> bool {
    list(&spec["tolerations"]).iter().any(|toleration| {
        let effect = text(&toleration["effect"]);
        let key = text(&toleration["key"]);
        let effect_fits = effect.is_empty() || taint["effect"] == effect;
        let exists = toleration["operator"] == "Exists";
        let key_fits = taint["key"] == key || (key.is_empty() && exists);
        effect_fits && key_fits && (exists || text(&taint["value"]) == text(&toleration["value"]))
    })
}

/// The condition of a pod that no node fits.
pub(super) fn unschedulable(why: &str, now: &str) -> Value {
    json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
        "lastProbeTime": null, "lastTransitionTime": now})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str, labels: Value) -> Value {
        json!({"metadata": {"name": name, "labels": labels}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn pod(owner: &str, node: &str) -> Value {
        json!({"metadata": {"ownerReferences": [{"uid": owner, "controller": true}]}, "spec": {"nodeName": node}})
    }

    #[test]
    fn pods_spread_by_controller_and_then_by_number() {
        let (a, b) = (node("a", "True", json!({})), node("b", "True", json!({})));
        let nodes = [&a, &b];
        let pods = [pod("web", "a"), pod("db", "b"), pod("db", "b")];
        assert_eq!(node_for(&pod("web", ""), &nodes, pods.iter()), Ok("b"));
        assert_eq!(node_for(&pod("db", ""), &nodes, pods.iter()), Ok("a"));
        assert_eq!(node_for(&pod("other", ""), &nodes, pods.iter()), Ok("a"));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let down = node("a", "False", json!({}));
        let mut cordoned = node("b", "True", json!({}));
        cordoned["spec"]["unschedulable"] = true.into();
        let mut tainted = node("c", "True", json!({"disk": "fast"}));
        tainted["spec"]["taints"] = json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
        let nodes = [&down, &cordoned, &tainted];
        let mut wanting = pod("web", "");
        let why = node_for(&wanting, &nodes, [].iter()).unwrap_err();
        assert!(
            why.starts_with("0/3 nodes are available: 1 node(s) had untolerated taints, 1 node(s) were"),
            "{why}"
        );
        wanting["spec"]["tolerations"] = json!([{"key": "gpu", "operator": "Exists"}]);
        wanting["spec"]["nodeSelector"] = json!({"disk": "fast"});
        assert_eq!(node_for(&wanting, &nodes, [].iter()), Ok("c"));
        wanting["spec"]["nodeSelector"] = json!({"disk": "slow"});
        assert!(node_for(&wanting, &nodes, [].iter()).is_err());
    }
}
