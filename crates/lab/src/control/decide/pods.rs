//! Pods whose node is gone: nobody else will end them.

use std::collections::BTreeSet;

use super::object::{name, namespace, text, uid};
use super::{Action, Objects};

pub(super) fn orphans(objects: &Objects) -> Vec<Action> {
    let nodes: BTreeSet<&str> = objects.nodes.iter().map(name).collect();
    let orphans = objects.pods.iter().filter(|pod| {
        let node = text(pod, "/spec/nodeName");
        !node.is_empty() && !nodes.contains(node)
    });
    orphans
        .map(|pod| Action::Delete {
            resource: "pods",
            namespace: namespace(pod).to_owned(),
            name: name(pod).to_owned(),
            uid: uid(pod).to_owned(),
            at_once: true,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_of_nodes_that_are_gone_go() {
        let pod = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node}});
        let objects = Objects {
            nodes: vec![json!({"metadata": {"name": "a"}})],
            pods: vec![pod("kept", "a"), pod("lost", "b"), pod("new", "")],
            ..Objects::default()
        };
        let actions = orphans(&objects);
        assert!(matches!(actions.as_slice(), [Action::Delete { name, at_once: true, .. }] if name == "lost"));
    }
}
