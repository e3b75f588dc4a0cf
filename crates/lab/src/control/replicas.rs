//! ReplicaSets and DaemonSets: as many pods as wanted, where they are wanted.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::object::{
    Write, controller, count, has_labels, is_active, is_deleting, is_true, list, pod_of, template_hash, text,
    uid,
};
use super::schedule::tolerates;

/// The label with the hash of a DaemonSet's template.
const REVISION: &str = "controller-revision-hash";

/// What a ReplicaSet needs; `pods` are those of its namespace.
pub(super) fn replica_set<'a>(set: &Value, pods: impl Iterator<Item = &'a Value>) -> Vec<Write> {
    let own: Vec<&Value> = pods.filter(|pod| controller(pod) == uid(set) && is_active(pod)).collect();
    let wanted = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or_default();
    let mut writes = Vec::new();
    if !is_deleting(set) {
        for _ in own.len()..wanted {
            let object = pod_of(&set["spec"]["template"], set, "ReplicaSet");
            let namespace = text(&set["metadata"]["namespace"]).to_owned();
            writes.push(Write::Create { resource: "pods", namespace, object });
        }
        let victims = victims(&own).into_iter().take(own.len().saturating_sub(wanted));
        writes.extend(victims.map(|pod| Write::delete("pods", pod)));
    }
    let ready = own.iter().filter(|pod| is_true(pod, "Ready")).count();
    let status = json!({
        "replicas": own.len(),
        "fullyLabeledReplicas": own.len(),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "observedGeneration": set["metadata"]["generation"],
    });
    writes.extend(Write::status("replicasets.apps", set, status));
    writes
}

/// The pods in the order in which they are given up: those that do the least, then those of the fullest node, then
/// the youngest.
fn victims<'a>(pods: &[&'a Value]) -> Vec<&'a Value> {
    let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        *per_node.entry(text(&pod["spec"]["nodeName"])).or_default() += 1;
    }
    let mut ranked = Vec::new();
    let mut rank_on_node: BTreeMap<&str, usize> = BTreeMap::new();
    let mut oldest_first: Vec<&Value> = pods.to_vec();
    oldest_first.sort_by_key(|pod| text(&pod["metadata"]["creationTimestamp"]).to_owned());
    for pod in oldest_first {
        let node = text(&pod["spec"]["nodeName"]);
        // The more pods a node keeps before this one, the sooner this one goes: what stays is spread.
        let rank = rank_on_node.entry(node).or_default();
        *rank += 1;
        ranked.push(((!node.is_empty(), is_true(pod, "Ready"), Reverse(*rank)), pod));
    }
    ranked.sort_by_key(|(key, _)| *key);
    ranked.into_iter().map(|(_, pod)| pod).collect()
}

/// What a DaemonSet needs; `pods` are those of its namespace.
pub(super) fn daemon_set<'a>(
    set: &Value,
    nodes: &[&Value],
    pods: impl Iterator<Item = &'a Value>,
) -> Vec<Write> {
    let hash = template_hash(&set["spec"]["template"]);
    let own: Vec<&Value> = pods.filter(|pod| controller(pod) == uid(set)).collect();
    let spec = &set["spec"]["template"]["spec"];
    let runs_on = |node: &Value| {
        has_labels(node, &spec["nodeSelector"])
            && list(&node["spec"]["taints"]).iter().all(|taint| {
                let own = text(&taint["key"]).starts_with("node.kubernetes.io/");
                own || tolerates(spec, taint)
            })
    };
    let wanted: Vec<&str> =
        nodes.iter().filter(|node| runs_on(node)).map(|node| super::object::name(node)).collect();
    let is_new = |pod: &Value| pod["metadata"]["labels"][REVISION] == hash.as_str();
    let (mut current, mut ready, mut updated, mut unavailable) = (0, 0, 0, 0);
    let mut writes = Vec::new();
    let mut outdated = Vec::new();
    for node in &wanted {
        let here: Vec<&Value> =
            own.iter().filter(|pod| pod["spec"]["nodeName"] == *node && is_active(pod)).copied().collect();
        let good = here.iter().any(|pod| is_true(pod, "Ready"));
        current += usize::from(!here.is_empty());
        ready += usize::from(good);
        unavailable += usize::from(!good);
        updated += usize::from(here.iter().any(|pod| is_new(pod)));
        // A pod that is still going away keeps its ports: its successor waits.
        let leaving = own.iter().any(|pod| pod["spec"]["nodeName"] == *node && is_deleting(pod));
        if here.is_empty() && !leaving && !is_deleting(set) {
            let mut object = pod_of(&set["spec"]["template"], set, "DaemonSet");
            object["metadata"]["labels"][REVISION] = hash.clone().into();
            object["spec"]["nodeName"] = (*node).into();
            let namespace = text(&set["metadata"]["namespace"]).to_owned();
            writes.push(Write::Create { resource: "pods", namespace, object });
        }
        outdated.extend(here.iter().filter(|pod| !is_new(pod)).map(|pod| (good, *pod)));
        writes.extend(here.iter().skip(1).map(|pod| Write::delete("pods", pod)));
    }
    let misplaced: Vec<&&Value> = own
        .iter()
        .filter(|pod| is_active(pod) && !wanted.contains(&text(&pod["spec"]["nodeName"])))
        .collect();
    writes.extend(misplaced.iter().map(|pod| Write::delete("pods", pod)));
    if set["spec"]["updateStrategy"]["type"] != "OnDelete" {
        // Those that do not work cost nothing; of the others one at a time.
        outdated.sort_by_key(|(good, _)| *good);
        let broken = outdated.iter().filter(|(good, _)| !good).count();
        let next = broken + usize::from(unavailable == 0);
        writes.extend(outdated.into_iter().take(next).map(|(_, pod)| Write::delete("pods", pod)));
    }
    let status = json!({
        "currentNumberScheduled": current,
        "desiredNumberScheduled": wanted.len(),
        "numberAvailable": ready,
        "numberMisscheduled": misplaced.len(),
        "numberReady": ready,
        "numberUnavailable": unavailable,
        "updatedNumberScheduled": updated,
        "observedGeneration": count(&set["metadata"]["generation"]),
    });
    writes.extend(Write::status("daemonsets.apps", set, status));
    writes
}
