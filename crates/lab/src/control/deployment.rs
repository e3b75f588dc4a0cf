//! Deployments: ReplicaSets for their templates, and the way from the old ones to the new one.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::object::{
    Write, controller, count, is_deleting, list, name, namespace, owner_reference, template_hash, text, uid,
};

/// The label with the hash of the template.
const HASH: &str = "pod-template-hash";
/// The annotation by which `kubectl rollout` knows the history.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// What a Deployment needs; `sets` are the ReplicaSets of its namespace. `now` is the time in RFC 3339.
pub(super) fn deployment<'a>(
    deployment: &Value,
    sets: impl Iterator<Item = &'a Value>,
    now: &str,
) -> Vec<Write> {
    let own: Vec<&Value> =
        sets.filter(|set| controller(set) == uid(deployment) && !is_deleting(set)).collect();
    let new_name = format!("{}-{}", name(deployment), template_hash(&deployment["spec"]["template"]));
    let new = own.iter().find(|set| name(set) == new_name).copied();
    let mut old: Vec<&Value> = own.iter().filter(|set| name(set) != new_name).copied().collect();
    old.sort_by_key(|set| revision(set));
    let mut writes = Vec::new();
    if !is_deleting(deployment) {
        let plan = Rollout::of(deployment, new, &old);
        writes.extend(plan.new_set(deployment, new, &old, new_name));
        for (set, replicas) in old.iter().zip(&plan.old) {
            writes.extend(scaled(set, *replicas));
        }
        if plan.old.iter().all(|replicas| *replicas == 0) {
            writes.extend(forgotten(deployment, &old));
        }
    }
    writes.extend(status(deployment, new, &old, now));
    writes
}

/// How many replicas each ReplicaSet is to have.
#[derive(Debug, PartialEq, Eq)]
struct Rollout {
    /// `None`: it need not exist yet.
    new: Option<i64>,
    /// In the order of the old sets.
    old: Vec<i64>,
}

impl Rollout {
    fn of(deployment: &Value, new: Option<&Value>, old: &[&Value]) -> Self {
        let spec = &deployment["spec"];
        let wanted = spec["replicas"].as_i64().unwrap_or(1);
        let present = new.map(|set| count(&set["spec"]["replicas"]));
        let mut olds: Vec<i64> = old.iter().map(|set| count(&set["spec"]["replicas"])).collect();
        let old_total: i64 = olds.iter().sum();
        if spec["paused"] == true {
            return Self { new: present.map(|_| (wanted - old_total).max(0)), old: olds };
        }
        if spec["strategy"]["type"] == "Recreate" {
            let gone = old.iter().all(|set| count(&set["status"]["replicas"]) == 0) && old_total == 0;
            return Self { new: if gone { Some(wanted) } else { present }, old: vec![0; old.len()] };
        }
        let rolling = &spec["strategy"]["rollingUpdate"];
        let surge = share(&rolling["maxSurge"], wanted, true);
        let mut unavailable = share(&rolling["maxUnavailable"], wanted, false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        let current = present.unwrap_or(0);
        let room = (wanted + surge - current - old_total).max(0);
        let next = if current > wanted { wanted } else { wanted.min(current + room) };

        let available = |set: &Value| count(&set["status"]["availableReplicas"]);
        let new_unavailable = (current - new.map_or(0, available)).max(0);
        let least = wanted - unavailable;
        let mut spare = (current + old_total - least - new_unavailable).max(0);
        // First the replicas that do not work anyway.
        for (replicas, set) in olds.iter_mut().zip(old) {
            let broken = (*replicas - available(set)).clamp(0, spare);
            *replicas -= broken;
            spare -= broken;
        }
        let old_available: i64 = old.iter().map(|set| available(set)).sum();
        let mut spare = (new.map_or(0, available) + old_available - least).clamp(0, spare);
        for replicas in &mut olds {
            let given_up = (*replicas).min(spare);
            *replicas -= given_up;
            spare -= given_up;
        }
        Self { new: Some(next), old: olds }
    }

    /// Makes or scales the ReplicaSet of the present template.
    fn new_set(
        &self,
        deployment: &Value,
        new: Option<&Value>,
        old: &[&Value],
        new_name: String,
    ) -> Vec<Write> {
        let Some(replicas) = self.new else { return Vec::new() };
        let next = old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1;
        let newest = new.map_or(next, |set| revision(set).max(next));
        let mut writes = Vec::new();
        match new {
            None => writes.push(Write::Create {
                resource: "replicasets.apps",
                namespace: namespace(deployment).into(),
                object: set_of(deployment, new_name, replicas, newest),
            }),
            Some(set) => {
                writes.extend(scaled(set, replicas));
                if revision(set) != newest {
                    writes.push(Write::patch("replicasets.apps", set, revised(newest)));
                }
            }
        }
        if revision(deployment) != newest {
            writes.push(Write::patch("deployments.apps", deployment, revised(newest)));
        }
        writes
    }
}

fn revised(revision: i64) -> Value {
    json!({"metadata": {"annotations": {REVISION: revision.to_string()}}})
}

fn scaled(set: &Value, replicas: i64) -> Option<Write> {
    let differs = count(&set["spec"]["replicas"]) != replicas;
    differs.then(|| Write::patch("replicasets.apps", set, json!({"spec": {"replicas": replicas}})))
}

fn set_of(deployment: &Value, new_name: String, replicas: i64, revision: i64) -> Value {
    let mut template = deployment["spec"]["template"].clone();
    let hash = new_name.rsplit('-').next().unwrap_or_default();
    template["metadata"]["labels"][HASH] = hash.into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = hash.into();
    json!({
        "metadata": {
            "name": new_name,
            "labels": template["metadata"]["labels"],
            "annotations": {REVISION: revision.to_string()},
            "ownerReferences": owner_reference(deployment, "apps/v1", "Deployment"),
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    })
}

fn revision(object: &Value) -> i64 {
    text(&object["metadata"]["annotations"][REVISION]).parse().unwrap_or(0)
}

/// Old ReplicaSets that are beyond the history that is kept.
fn forgotten(deployment: &Value, old: &[&Value]) -> Vec<Write> {
    let keep = deployment["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10);
    let mut idle: Vec<&&Value> = old.iter().filter(|set| count(&set["status"]["replicas"]) == 0).collect();
    idle.sort_by_key(|set| Reverse(revision(set)));
    let beyond = idle.into_iter().skip(usize::try_from(keep).unwrap_or(usize::MAX));
    beyond.map(|set| Write::delete("replicasets.apps", set)).collect()
}

/// A number, or a percentage of the replicas, rounded up or down.
fn share(value: &Value, replicas: i64, up: bool) -> i64 {
    match value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok()) {
        Some(percent) if up => (replicas * percent + 99) / 100,
        Some(percent) => replicas * percent / 100,
        None => count(value),
    }
}

fn status(deployment: &Value, new: Option<&Value>, old: &[&Value], now: &str) -> Option<Write> {
    let total = |field: &str| -> i64 {
        let sets = old.iter().copied().chain(new);
        sets.map(|set| count(&set["status"][field])).sum()
    };
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let (replicas, available) = (total("replicas"), total("availableReplicas"));
    let updated = new.map_or(0, |set| count(&set["status"]["replicas"]));
    let unavailable =
        share(&deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], wanted, false);
    let enough = available >= wanted - unavailable;
    let complete = updated == wanted && replicas == wanted && available == wanted;
    let set_name = new.map_or("", name);
    let conditions = [
        match enough {
            true => (
                "Available",
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.".into(),
            ),
            false => (
                "Available",
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.".to_owned(),
            ),
        },
        match complete {
            true => (
                "Progressing",
                "True",
                "NewReplicaSetAvailable",
                format!("ReplicaSet \"{set_name}\" has successfully progressed."),
            ),
            false => (
                "Progressing",
                "True",
                "ReplicaSetUpdated",
                format!("ReplicaSet \"{set_name}\" is progressing."),
            ),
        },
    ];
    let conditions = conditions.map(|(kind, status, reason, message)| {
        let before = list(&deployment["status"]["conditions"]).iter().find(|one| one["type"] == kind);
        let same = before.filter(|one| one["status"] == status);
        let unchanged = same.filter(|one| one["reason"] == reason && one["message"] == message.as_str());
        let since = same.map_or_else(|| now.into(), |one| one["lastTransitionTime"].clone());
        let updated = unchanged.map_or_else(|| now.into(), |one| one["lastUpdateTime"].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since, "lastUpdateTime": updated})
    });
    let status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": (wanted.max(replicas) - available).max(0),
        "conditions": conditions,
    });
    Write::status("deployments.apps", deployment, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployed(replicas: i64, surge: Value, unavailable: Value) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "d1", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}},
        })
    }

    fn set(replicas: i64, available: i64) -> Value {
        json!({
            "metadata": {"name": "web-old", "namespace": "shop", "uid": "r1",
                "ownerReferences": [{"uid": "d1", "controller": true}]},
            "spec": {"replicas": replicas},
            "status": {"replicas": replicas, "availableReplicas": available},
        })
    }

    #[test]
    fn rollouts_keep_within_surge_and_unavailability() {
        let quarter = || (json!("25%"), json!("25%"));
        // wanted, (surge, unavailable), new (replicas, available), old (replicas, available) -> new, old
        for (wanted, (surge, down), new, old, expected) in [
            (4, quarter(), None, (0, 0), (4, 0)),
            (4, quarter(), None, (4, 4), (1, 3)),
            (4, quarter(), Some((1, 0)), (3, 3), (2, 3)),
            (4, quarter(), Some((2, 0)), (3, 3), (2, 3)),
            (4, quarter(), Some((2, 1)), (3, 3), (2, 2)),
            (4, quarter(), Some((4, 4)), (1, 1), (4, 0)),
            (4, (json!(1), json!(0)), None, (4, 4), (1, 4)),
            (4, (json!(1), json!(0)), Some((1, 1)), (4, 4), (1, 3)),
            (1, (json!(0), json!(0)), None, (1, 1), (0, 0)),
            (2, quarter(), Some((5, 5)), (0, 0), (2, 0)),
            // Old replicas that do not work go first, and at once.
            (4, quarter(), Some((1, 1)), (4, 2), (1, 2)),
        ] {
            let deployment = deployed(wanted, surge, down);
            let new = new.map(|(replicas, available)| set(replicas, available));
            let old = set(old.0, old.1);
            let rollout = Rollout::of(&deployment, new.as_ref(), &[&old]);
            assert_eq!(
                rollout,
                Rollout { new: Some(expected.0), old: vec![expected.1] },
                "{wanted} {new:?} {old}"
            );
        }
    }

    #[test]
    fn recreate_waits_for_the_old_pods() {
        let mut deployment = deployed(3, json!(0), json!(0));
        deployment["spec"]["strategy"] = json!({"type": "Recreate"});
        assert_eq!(Rollout::of(&deployment, None, &[&set(3, 3)]), Rollout { new: None, old: vec![0] });
        let mut going = set(0, 0);
        going["status"]["replicas"] = 1.into();
        assert_eq!(Rollout::of(&deployment, None, &[&going]).new, None);
        assert_eq!(Rollout::of(&deployment, None, &[&set(0, 0)]).new, Some(3));
    }

    #[test]
    fn a_new_deployment_gets_a_set_and_settles() {
        let deployment_value = deployed(2, json!("25%"), json!("25%"));
        let writes = deployment(&deployment_value, [].iter(), "T");
        let Write::Create { object, .. } = &writes[0] else { panic!("{writes:?}") };
        let hash = template_hash(&deployment_value["spec"]["template"]);
        assert_eq!(object["metadata"]["name"], format!("web-{hash}"));
        assert_eq!(object["spec"]["template"]["metadata"]["labels"][HASH], hash);
        assert_eq!(object["spec"]["selector"]["matchLabels"], json!({"app": "web", HASH: hash}));

        let mut settled = deployment_value;
        let mut set = object.clone();
        set["metadata"]["namespace"] = "shop".into();
        set["status"] = json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 2});
        for _ in 0..2 {
            for write in deployment(&settled.clone(), [set.clone()].iter(), "T") {
                match write {
                    Write::Status { patch, .. } => settled["status"] = patch["status"].clone(),
                    Write::Patch { patch, .. } => {
                        settled["metadata"]["annotations"] = patch["metadata"]["annotations"].clone();
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(settled["status"]["conditions"][1]["reason"], "NewReplicaSetAvailable");
        assert_eq!(deployment(&settled, [set].iter(), "later"), []);
    }
}
