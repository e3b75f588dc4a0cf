//! Columns of pods and of what makes pods.

use serde_json::Value;

use super::{Heading, age, joined, labels, number, or_none, since, text, wide};
use crate::object::{array, at, is_deleting, meta, text as field};

pub(super) const POD: &[Heading] = &[
    text("Name"),
    text("Ready"),
    text("Status"),
    text("Restarts"),
    text("Age"),
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(super) fn pod(object: &Value, now: i64) -> Vec<Value> {
    let statuses = array(object, &["status", "containerStatuses"]);
    let ready = statuses.iter().filter(|s| s["ready"] == true).count();
    let total = array(object, &["spec", "containers"]).len();
    let ip = match field(object, &["status", "podIP"]) {
        "" => array(object, &["status", "podIPs"]).first().map_or("", |ip| field(ip, &["ip"])),
        ip => ip,
    };
    vec![
        meta(object, "name").into(),
        format!("{ready}/{total}").into(),
        pod_status(object).into(),
        restarts(statuses, now).into(),
        age(object, now),
        or_none(ip),
        or_none(field(object, &["spec", "nodeName"])),
        or_none(field(object, &["status", "nominatedNodeName"])),
        "<none>".into(),
    ]
}

/// What `kubectl` shows as a pod's status: its phase, or what keeps it from running.
fn pod_status(object: &Value) -> String {
    if is_deleting(object) {
        return "Terminating".into();
    }
    let init = array(object, &["status", "initContainerStatuses"]);
    let unfinished = init.iter().position(|s| s["state"]["terminated"]["exitCode"] != 0);
    if let Some(at) = unfinished {
        let total = array(object, &["spec", "initContainers"]).len();
        return match state_reason(&init[at]["state"]) {
            Some(reason) if reason != "PodInitializing" && reason != "Completed" => format!("Init:{reason}"),
            _ => format!("Init:{at}/{total}"),
        };
    }
    let statuses = array(object, &["status", "containerStatuses"]);
    let running = statuses.iter().any(|s| s["ready"] == true && !s["state"]["running"].is_null());
    let stuck = statuses.iter().rev().filter_map(|s| state_reason(&s["state"])).next_back();
    match (stuck, field(object, &["status", "reason"]), field(object, &["status", "phase"])) {
        (Some(reason), _, _) if reason == "Completed" && running => "Running".into(),
        (Some(reason), _, _) => reason,
        (None, "", "") => "Unknown".into(),
        (None, "", phase) => phase.into(),
        (None, reason, _) => reason.into(),
    }
}

/// Why a container is not running.
fn state_reason(state: &Value) -> Option<String> {
    let waiting = field(state, &["waiting", "reason"]);
    if !waiting.is_empty() {
        return Some(waiting.into());
    }
    let ended = state.get("terminated").filter(|ended| !ended.is_null())?;
    match (field(ended, &["reason"]), ended["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => Some(format!("ExitCode:{}", ended["exitCode"])),
        ("", signal) => Some(format!("Signal:{signal}")),
        (reason, _) => Some(reason.into()),
    }
}

fn restarts(statuses: &[Value], now: i64) -> String {
    let count: i64 = statuses.iter().filter_map(|s| s["restartCount"].as_i64()).sum();
    let last = statuses.iter().map(|s| field(s, &["lastState", "terminated", "finishedAt"])).max();
    match last {
        Some(at) if count > 0 && !at.is_empty() => format!("{count} ({} ago)", since(at, now)),
        _ => count.to_string(),
    }
}

fn replicas(object: &Value, path: &[&str]) -> Value {
    at(object, path).and_then(Value::as_i64).unwrap_or(0).into()
}

/// Names of containers, images, and the selector.
fn pod_columns(object: &Value) -> [Value; 3] {
    let containers = array(object, &["spec", "template", "spec", "containers"]);
    let of = |name: &str| joined(containers.iter().map(|c| field(c, &[name]).to_owned())).into();
    [of("name"), of("image"), labels(at(object, &["spec", "selector", "matchLabels"])).into()]
}

pub(super) const DEPLOYMENT: &[Heading] = &[
    text("Name"),
    text("Ready"),
    number("Up-to-date"),
    number("Available"),
    text("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(super) fn deployment(object: &Value, now: i64) -> Vec<Value> {
    let ready = replicas(object, &["status", "readyReplicas"]);
    let mut cells = vec![
        meta(object, "name").into(),
        format!("{ready}/{}", replicas(object, &["spec", "replicas"])).into(),
        replicas(object, &["status", "updatedReplicas"]),
        replicas(object, &["status", "availableReplicas"]),
        age(object, now),
    ];
    cells.extend(pod_columns(object));
    cells
}

pub(super) const REPLICA_SET: &[Heading] = &[
    text("Name"),
    number("Desired"),
    number("Current"),
    number("Ready"),
    text("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(super) fn replica_set(object: &Value, now: i64) -> Vec<Value> {
    let mut cells = vec![
        meta(object, "name").into(),
        replicas(object, &["spec", "replicas"]),
        replicas(object, &["status", "replicas"]),
        replicas(object, &["status", "readyReplicas"]),
        age(object, now),
    ];
    cells.extend(pod_columns(object));
    cells
}

pub(super) const DAEMON_SET: &[Heading] = &[
    text("Name"),
    number("Desired"),
    number("Current"),
    number("Ready"),
    number("Up-to-date"),
    number("Available"),
    text("Node Selector"),
    text("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(super) fn daemon_set(object: &Value, now: i64) -> Vec<Value> {
    let mut cells = vec![
        meta(object, "name").into(),
        replicas(object, &["status", "desiredNumberScheduled"]),
        replicas(object, &["status", "currentNumberScheduled"]),
        replicas(object, &["status", "numberReady"]),
        replicas(object, &["status", "updatedNumberScheduled"]),
        replicas(object, &["status", "numberAvailable"]),
        labels(at(object, &["spec", "template", "spec", "nodeSelector"])).into(),
        age(object, now),
    ];
    cells.extend(pod_columns(object));
    cells
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pod_status_by_table() {
        for (object, shown) in [
            (json!({"status": {"phase": "Running"}}), "Running"),
            (json!({"status": {"phase": "Running"}, "metadata": {"deletionTimestamp": "x"}}), "Terminating"),
            (
                json!({"status": {"phase": "Pending",
                    "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}}),
                "ContainerCreating",
            ),
            (
                json!({"status": {"phase": "Failed",
                    "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}}),
                "ExitCode:3",
            ),
            (
                json!({"spec": {"initContainers": [{}, {}]}, "status": {"phase": "Pending",
                    "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}}, {"state": {"running": {}}}]}}),
                "Init:1/2",
            ),
            (json!({}), "Unknown"),
        ] {
            assert_eq!(pod_status(&object), shown, "{object}");
        }
    }
}
