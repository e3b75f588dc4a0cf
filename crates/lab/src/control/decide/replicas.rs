//! As many pods as a ReplicaSet or DaemonSet asks for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::object::{
    controller, has_labels, is, is_active, is_controlled_by, is_leaving, name, namespace, number, status, text, uid,
};
use super::{Action, Objects};

pub(super) fn replica_sets(objects: &Objects) -> Vec<Action> {
    let mut actions = Vec::new();
    for set in objects.replica_sets.iter().filter(|set| !is_leaving(set)) {
        let pods: Vec<&Value> =
            objects.pods.iter().filter(|pod| is_controlled_by(pod, uid(set)) && is_active(pod)).collect();
        let wanted = usize::try_from(number(set, "/spec/replicas")).unwrap_or(0);
        for _ in pods.len()..wanted {
            actions.push(create(set, "ReplicaSet", json!({})));
        }
        actions.extend(dispensable(&pods, pods.len().saturating_sub(wanted)).into_iter().map(delete));
        let ready = pods.iter().filter(|pod| is(pod, "Ready")).count();
        let counts = json!({
            "replicas": pods.len(),
            "fullyLabeledReplicas": pods.len(),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "observedGeneration": number(set, "/metadata/generation"),
        });
        actions.extend(status("replicasets.apps", set, counts));
    }
    actions
}

pub(super) fn daemon_sets(objects: &Objects) -> Vec<Action> {
    let mut actions = Vec::new();
    for set in objects.daemon_sets.iter().filter(|set| !is_leaving(set)) {
        let pods: Vec<&Value> =
            objects.pods.iter().filter(|pod| is_controlled_by(pod, uid(set)) && is_active(pod)).collect();
        let suits = |node: &&Value| has_labels(node, set.pointer("/spec/template/spec/nodeSelector"));
        let nodes: Vec<&str> = objects.nodes.iter().filter(suits).map(name).collect();
        let mut covered = BTreeSet::new();
        for pod in &pods {
            let node = text(pod, "/spec/nodeName");
            if !nodes.contains(&node) || !covered.insert(node) {
                actions.push(delete(pod));
            }
        }
        for node in nodes.iter().filter(|node| !covered.contains(**node)) {
            actions.push(create(set, "DaemonSet", json!({"nodeName": node})));
        }
        let ready = pods.iter().filter(|pod| is(pod, "Ready")).count();
        let counts = json!({
            "desiredNumberScheduled": nodes.len(),
            "currentNumberScheduled": covered.len(),
            "updatedNumberScheduled": covered.len(),
            "numberMisscheduled": pods.len() - covered.len(),
            "numberReady": ready,
            "numberAvailable": ready,
            "numberUnavailable": nodes.len().saturating_sub(ready),
            "observedGeneration": number(set, "/metadata/generation"),
        });
        actions.extend(status("daemonsets.apps", set, counts));
    }
    actions
}

/// A pod by the template of its controller.
fn create(set: &Value, kind: &str, more: Value) -> Action {
    let template = &set["spec"]["template"];
    let mut spec = template["spec"].clone();
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{}-", name(set)),
            "labels": template.pointer("/metadata/labels"),
            "annotations": template.pointer("/metadata/annotations"),
            "ownerReferences": controller(set, "apps/v1", kind),
        },
        "spec": spec,
    });
    Action::Create { resource: "pods", namespace: namespace(set).to_owned(), object: pod }
}

fn delete(pod: &Value) -> Action {
    Action::Delete {
        resource: "pods",
        namespace: namespace(pod).to_owned(),
        name: name(pod).to_owned(),
        uid: uid(pod).to_owned(),
        at_once: false,
    }
}

/// The pods that are missed least: those without a node first, then those that are not ready, then those on the node
/// that has the most of them, then the newest.
fn dispensable<'p>(pods: &[&'p Value], count: usize) -> Vec<&'p Value> {
    let mut left = pods.to_vec();
    let mut chosen = Vec::new();
    for _ in 0..count {
        let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in &left {
            *per_node.entry(text(pod, "/spec/nodeName")).or_default() += 1;
        }
        let rank = |pod: &&Value| {
            let node = text(pod, "/spec/nodeName");
            let crowd = per_node.get(node).copied().unwrap_or_default();
            (node.is_empty(), !is(pod, "Ready"), crowd, text(pod, "/metadata/creationTimestamp").to_owned(), name(pod).to_owned())
        };
        let Some(most) = (0..left.len()).max_by_key(|index| rank(&left[*index])) else { break };
        chosen.push(left.swap_remove(most));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: u32) -> Value {
        json!({
            "metadata": {"name": "web-1", "namespace": "default", "uid": "set", "generation": 3},
            "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
        })
    }

    fn pod(name: &str, node: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "default", "uid": name,
                "ownerReferences": [{"uid": "set", "controller": true}]},
            "spec": {"nodeName": node},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    #[test]
    fn missing_pods_are_made_by_the_template() {
        let objects = Objects { replica_sets: vec![set(2)], pods: vec![pod("a", "n", "True")], ..Objects::default() };
        let actions = replica_sets(&objects);
        let [Action::Create { object, .. }, Action::Status { status, .. }] = actions.as_slice() else {
            panic!("{actions:?}")
        };
        assert_eq!(text(object, "/metadata/generateName"), "web-1-");
        assert_eq!(text(object, "/metadata/labels/app"), "web");
        assert!(is_controlled_by(object, "set"));
        assert_eq!((number(status, "/replicas"), number(status, "/readyReplicas")), (1, 1));
    }

    #[test]
    fn the_pods_that_go_first_are_those_that_serve_least() {
        let pods = vec![
            pod("a", "one", "True"),
            pod("b", "one", "True"),
            pod("c", "two", "True"),
            pod("d", "two", "False"),
            pod("e", "", "False"),
        ];
        let objects = Objects { replica_sets: vec![set(2)], pods, ..Objects::default() };
        let deleted: Vec<String> = replica_sets(&objects)
            .into_iter()
            .filter_map(|action| match action {
                Action::Delete { name, .. } => Some(name),
                _ => None,
            })
            .collect();
        assert_eq!(deleted, ["e", "d", "b"]);
    }

    #[test]
    fn a_status_that_is_right_is_not_written_again() {
        let mut set = set(0);
        set["status"] = json!({"replicas": 0, "fullyLabeledReplicas": 0, "readyReplicas": 0, "availableReplicas": 0, "observedGeneration": 3});
        assert_eq!(replica_sets(&Objects { replica_sets: vec![set], ..Objects::default() }), []);
    }

    #[test]
    fn a_daemon_set_has_a_pod_on_each_node() {
        let node = |name: &str| json!({"metadata": {"name": name}});
        let objects = Objects {
            nodes: vec![node("one"), node("two")],
            daemon_sets: vec![set(0)],
            pods: vec![pod("a", "one", "True"), pod("b", "gone", "True")],
            ..Objects::default()
        };
        let actions = daemon_sets(&objects);
        assert!(matches!(&actions[0], Action::Delete { name, .. } if name == "b"), "{actions:?}");
        assert!(
            matches!(&actions[1], Action::Create { object, .. } if text(object, "/spec/nodeName") == "two"),
            "{actions:?}"
        );
    }
}
