//! Deployments: a ReplicaSet per version of the pod template, and the way from the old ones to the new one.

use serde_json::{Value, json};

use super::object::{
    condition, controller, is_controlled_by, is_leaving, name, namespace, number, status, text, uid,
};
use super::{Action, Objects};

/// The label that tells the pods of one version from those of another.
const HASH: &str = "pod-template-hash";

pub(super) fn deployments(objects: &Objects, now: &str) -> Vec<Action> {
    objects.deployments.iter().filter(|each| !is_leaving(each)).flat_map(|each| deployment(objects, each, now)).collect()
}

fn deployment(objects: &Objects, deployment: &Value, now: &str) -> Vec<Action> {
    let sets: Vec<&Value> =
        objects.replica_sets.iter().filter(|set| is_controlled_by(set, uid(deployment)) && !is_leaving(set)).collect();
    let hash = template_hash(&deployment["spec"]["template"]);
    let (new, old): (Vec<&Value>, Vec<&Value>) =
        sets.into_iter().partition(|set| set["metadata"]["labels"][HASH] == json!(hash));
    let Some(new) = new.first().copied() else { return vec![create(deployment, &old, &hash)] };
    let mut actions = scale(deployment, new, &old);
    actions.extend(report(deployment, new, &old, now));
    actions
}

/// FNV-1a over the template's text, whose fields are in the order of their names.
fn template_hash(template: &Value) -> String {
    let text = template.to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{:010x}", hash & 0xff_ffff_ffff)
}

/// The ReplicaSet of the present version. It begins with what may be there beside the old ones.
fn create(deployment: &Value, old: &[&Value], hash: &str) -> Action {
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = json!(hash);
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = json!(hash);
    let labels = template["metadata"]["labels"].clone();
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)),
            "labels": labels,
            "ownerReferences": controller(deployment, "apps/v1", "Deployment"),
        },
        "spec": {"replicas": room(deployment, 0, old), "selector": selector, "template": template},
    });
    Action::Create { resource: "replicasets.apps", namespace: namespace(deployment).to_owned(), object: set }
}

/// How many pods of the present version may be there now.
fn room(deployment: &Value, present: i64, old: &[&Value]) -> i64 {
    let wanted = number(deployment, "/spec/replicas");
    let others: i64 = old.iter().map(|set| number(set, "/spec/replicas")).sum();
    if text(deployment, "/spec/strategy/type") == "Recreate" {
        let pods: i64 = old.iter().map(|set| number(set, "/status/replicas")).sum();
        return if others + pods > 0 { 0 } else { wanted };
    }
    let (surge, _) = bounds(deployment);
    wanted.min((wanted + surge - others).max(present))
}

/// The next step from the old ReplicaSets to the new one.
fn scale(deployment: &Value, new: &Value, old: &[&Value]) -> Vec<Action> {
    let wanted = number(deployment, "/spec/replicas");
    let present = number(new, "/spec/replicas");
    let mut actions = Vec::new();
    let target = room(deployment, present, old);
    if target != present {
        actions.push(resize(new, target));
    }
    // As many old ones may go as leave enough that are available.
    let (_, unavailable) = bounds(deployment);
    let least = if text(deployment, "/spec/strategy/type") == "Recreate" { 0 } else { wanted - unavailable };
    let available = number(new, "/status/availableReplicas").min(present);
    let mut spare = available + old.iter().map(|set| number(set, "/status/availableReplicas")).sum::<i64>() - least;
    for set in old.iter().filter(|set| number(set, "/spec/replicas") > 0) {
        let size = number(set, "/spec/replicas");
        let broken = (size - number(set, "/status/availableReplicas")).max(0);
        // Those that are not available anyway are no loss.
        let go = (broken + spare.max(0)).min(size);
        spare -= go - broken.min(go);
        if go > 0 {
            actions.push(resize(set, size - go));
        }
    }
    actions
}

fn resize(set: &Value, replicas: i64) -> Action {
    Action::Patch {
        resource: "replicasets.apps",
        namespace: namespace(set).to_owned(),
        name: name(set).to_owned(),
        patch: json!({"spec": {"replicas": replicas}}),
    }
}

/// `maxSurge` and `maxUnavailable` in pods. Not both can be 0, or nothing would ever move.
fn bounds(deployment: &Value) -> (i64, i64) {
    let wanted = number(deployment, "/spec/replicas");
    let bound = |field: &str, up: bool| {
        let value = deployment.pointer(&format!("/spec/strategy/rollingUpdate/{field}"));
        match value {
            Some(Value::Number(number)) => number.as_i64().unwrap_or_default(),
            other => {
                let percent = other.and_then(Value::as_str).and_then(|text| text.strip_suffix('%')?.parse().ok());
                let hundredths: i64 = wanted * percent.unwrap_or(25);
                if up { (hundredths + 99) / 100 } else { hundredths / 100 }
            }
        }
    };
    match (bound("maxSurge", true), bound("maxUnavailable", false)) {
        (0, 0) => (0, 1),
        bounds => bounds,
    }
}

fn report(deployment: &Value, new: &Value, old: &[&Value], now: &str) -> Option<Action> {
    let wanted = number(deployment, "/spec/replicas");
    let sum = |field: &str| old.iter().chain([&new]).map(|set| number(set, &format!("/status/{field}"))).sum::<i64>();
    let (replicas, ready) = (sum("replicas"), sum("readyReplicas"));
    let updated = number(new, "/status/replicas");
    let (_, unavailable) = bounds(deployment);
    let done = updated == wanted && replicas == wanted && ready == wanted;
    let mut conditions = Vec::new();
    let mut tell = |kind: &str, so: bool, reason: &str, message: String| {
        let so = if so { "True" } else { "False" };
        let before = condition(deployment, kind).filter(|before| text(before, "/status") == so);
        let same = before.filter(|before| text(before, "/reason") == reason);
        let at = |field: &str, from: Option<&Value>| from.map_or(now, |from| text(from, field)).to_owned();
        conditions.push(json!({
            "type": kind, "status": so, "reason": reason, "message": message,
            "lastTransitionTime": at("/lastTransitionTime", before), "lastUpdateTime": at("/lastUpdateTime", same),
        }));
    };
    match ready >= wanted - unavailable {
        true => tell("Available", true, "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned()),
        false => {
            tell("Available", false, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned());
        }
    }
    match done {
        true => tell(
            "Progressing",
            true,
            "NewReplicaSetAvailable",
            format!("ReplicaSet \"{}\" has successfully progressed.", name(new)),
        ),
        false => {
            tell("Progressing", true, "ReplicaSetUpdated", format!("ReplicaSet \"{}\" is progressing.", name(new)));
        }
    }
    let counts = json!({
        "observedGeneration": number(deployment, "/metadata/generation"),
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": (wanted - ready).max(0),
        "conditions": conditions,
    });
    status("deployments.apps", deployment, counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: i64, image: &str) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": image}]}},
            },
        })
    }

    /// Carries out what is decided for the ReplicaSets of a deployment; the pods of the new one are available as soon
    /// as `healthy` says so.
    fn step(deployment: &Value, sets: &mut Vec<Value>, healthy: bool) -> bool {
        let objects = Objects {
            deployments: vec![deployment.clone()],
            replica_sets: sets.clone(),
            ..Objects::default()
        };
        let hash = template_hash(&deployment["spec"]["template"]);
        let mut moved = false;
        for action in deployments(&objects, "now") {
            match action {
                Action::Create { mut object, .. } => {
                    object["metadata"]["namespace"] = json!("default");
                    sets.push(object);
                    moved = true;
                }
                Action::Patch { name: which, patch, .. } => {
                    let set = sets.iter_mut().find(|set| name(set) == which).unwrap();
                    set["spec"]["replicas"] = patch["spec"]["replicas"].clone();
                    moved = true;
                }
                Action::Status { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        for set in sets {
            let replicas = number(set, "/spec/replicas");
            let new = set["metadata"]["labels"][HASH] == json!(hash);
            let available = if healthy || !new { replicas } else { 0 };
            set["status"] = json!({"replicas": replicas, "readyReplicas": available, "availableReplicas": available});
        }
        moved
    }

    fn sizes(sets: &[Value]) -> Vec<i64> {
        sets.iter().map(|set| number(set, "/spec/replicas")).collect()
    }

    #[test]
    fn an_update_moves_within_its_bounds_and_ends() {
        for replicas in [1, 4, 10] {
            let mut sets = Vec::new();
            while step(&deployment(replicas, "one"), &mut sets, true) {}
            assert_eq!(sizes(&sets), [replicas]);
            let next = deployment(replicas, "two");
            let (surge, unavailable) = bounds(&next);
            while step(&next, &mut sets, true) {
                let total: i64 = sizes(&sets).iter().sum();
                assert!((replicas - unavailable..=replicas + surge).contains(&total), "{:?}", sizes(&sets));
            }
            assert_eq!(sizes(&sets), [0, replicas]);
        }
    }

    #[test]
    fn an_update_that_does_not_come_up_leaves_enough_of_the_old() {
        let mut sets = Vec::new();
        while step(&deployment(4, "good"), &mut sets, true) {}
        while step(&deployment(4, "bad"), &mut sets, false) {}
        assert_eq!(sizes(&sets), [3, 2]);
        // Going back needs no new ReplicaSet.
        while step(&deployment(4, "good"), &mut sets, true) {}
        assert_eq!(sizes(&sets), [4, 0]);
    }

    #[test]
    fn scaling_to_nothing_and_back() {
        let mut sets = Vec::new();
        for replicas in [3, 0, 60, 0] {
            while step(&deployment(replicas, "one"), &mut sets, true) {}
            assert_eq!(sizes(&sets), [replicas]);
        }
    }

    #[test]
    fn recreate_waits_until_the_old_pods_are_gone() {
        let mut sets = Vec::new();
        let with = |image| {
            let mut deployment = deployment(2, image);
            deployment["spec"]["strategy"] = json!({"type": "Recreate"});
            deployment
        };
        while step(&with("one"), &mut sets, true) {}
        step(&with("two"), &mut sets, true);
        assert_eq!(sizes(&sets), [2, 0], "the new one is there, and empty");
        step(&with("two"), &mut sets, true);
        assert_eq!(sizes(&sets), [0, 0]);
        while step(&with("two"), &mut sets, true) {}
        assert_eq!(sizes(&sets), [0, 2]);
    }
}
