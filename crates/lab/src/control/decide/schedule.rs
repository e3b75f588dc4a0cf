//! A node for every pod: one that is ready and suits it, and has the fewest pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::object::{condition, has_labels, is, is_active, is_leaving, list, name, namespace, text};
use super::{Action, Objects};

pub(super) fn schedule(objects: &Objects, now: &str) -> Vec<Action> {
    let mut load: BTreeMap<&str, usize> =
        objects.nodes.iter().filter(|node| takes_pods(node)).map(|node| (name(node), 0)).collect();
    for pod in objects.pods.iter().filter(|pod| is_active(pod)) {
        if let Some(count) = load.get_mut(text(pod, "/spec/nodeName")) {
            *count += 1;
        }
    }
    let waiting = objects.pods.iter().filter(|pod| text(pod, "/spec/nodeName").is_empty() && !is_leaving(pod));
    let mut actions = Vec::new();
    for pod in waiting {
        let suits = |node: &&Value| has_labels(node, pod.pointer("/spec/nodeSelector"));
        let candidates = objects.nodes.iter().filter(suits).map(name);
        let least = candidates.filter_map(|name| Some((*load.get(name)?, name))).min();
        match least {
            Some((_, node)) => {
                *load.entry(node).or_default() += 1;
                actions.push(Action::Patch {
                    resource: "pods",
                    namespace: namespace(pod).to_owned(),
                    name: name(pod).to_owned(),
                    patch: json!({"spec": {"nodeName": node}}),
                });
            }
            None => actions.extend(unschedulable(objects, pod, now)),
        }
    }
    actions
}

fn takes_pods(node: &Value) -> bool {
    is(node, "Ready") && node.pointer("/spec/unschedulable") != Some(&json!(true))
}

/// Says in the pod's status why it waits, once.
fn unschedulable(objects: &Objects, pod: &Value, now: &str) -> Option<Action> {
    let ready = objects.nodes.iter().filter(|node| takes_pods(node)).count();
    let message =
        format!("0/{} nodes are available: {ready} are ready, none has the labels of nodeSelector", objects.nodes.len());
    let told = condition(pod, "PodScheduled");
    if told.is_some_and(|told| text(told, "/message") == message) {
        return None;
    }
    let others = list(pod, "/status/conditions").iter().filter(|each| text(each, "/type") != "PodScheduled");
    let mut conditions: Vec<Value> = others.cloned().collect();
    conditions.push(json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastTransitionTime": now,
    }));
    Some(Action::Status {
        resource: "pods",
        namespace: namespace(pod).to_owned(),
        name: name(pod).to_owned(),
        status: json!({"phase": "Pending", "conditions": conditions}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": name, "labels": {"disk": name}},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn pod(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
    }

    #[test]
    fn pods_are_spread_over_ready_nodes_that_suit() {
        let objects = Objects {
            nodes: vec![node("a", "True"), node("b", "True"), node("c", "False")],
            pods: vec![
                pod("there", json!({"nodeName": "a"})),
                pod("one", json!({})),
                pod("two", json!({})),
                pod("picky", json!({"nodeSelector": {"disk": "a"}})),
                pod("hopeless", json!({"nodeSelector": {"disk": "c"}})),
            ],
            ..Objects::default()
        };
        let actions = schedule(&objects, "now");
        let nodes: Vec<_> = actions
            .iter()
            .map(|action| match action {
                Action::Patch { name, patch, .. } => (name.as_str(), text(patch, "/spec/nodeName")),
                Action::Status { name, status, .. } => (name.as_str(), text(status, "/conditions/0/reason")),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(nodes, [("one", "b"), ("two", "a"), ("picky", "a"), ("hopeless", "Unschedulable")]);
    }
}
