//! A pod's status as the kubelet reports it. Pure: the pod and its record go in, the status comes out.

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use serde_json::{Map, Value, json};

use super::record::{ContainerRecord, ContainerState, Ended, Record};

/// The condition types that are the kubelet's.
const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Whether a container that ended with the code is started again.
pub(super) fn restarts(pod: &Pod, code: i32) -> bool {
    match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

/// Whether the pod has ended for good, by what is written about its containers.
pub(super) fn is_over(pod: &Pod, record: &Record) -> bool {
    matches!(phase(pod, record), "Succeeded" | "Failed")
}

/// What an init container that counts as an ordinary one is known by (`restartPolicy: Always`).
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| &spec.containers)
}

fn init_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten())
}

fn phase(pod: &Pod, record: &Record) -> &'static str {
    let failed = |container: &Container| {
        matches!(record.container(&container.name).state, ContainerState::Ended(Ended { code: 1.., .. }))
    };
    if init_containers(pod).any(failed) {
        return "Failed";
    }
    let mut records = containers(pod).map(|container| record.container(&container.name)).peekable();
    if records.peek().is_none() {
        return "Pending";
    }
    let records: Vec<ContainerRecord> = records.collect();
    let ended = |one: &ContainerRecord| matches!(one.state, ContainerState::Ended(_));
    let waiting =
        |one: &ContainerRecord| matches!(one.state, ContainerState::Waiting { .. }) && one.last.is_none();
    if records.iter().all(ended) {
        return if containers(pod).any(failed) { "Failed" } else { "Succeeded" };
    }
    if records.iter().any(waiting) { "Pending" } else { "Running" }
}

/// The status, as a JSON merge patch (RFC 7386) of the pod's `status`. `now` is the time in RFC 3339.
pub(super) fn status(pod: &Pod, record: &Record, host_ips: &[String], now: &str) -> Value {
    let phase = phase(pod, record);
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let attached = record.sandbox.as_ref().is_some_and(|sandbox| sandbox.result.is_some());
    let pod_ips = match &record.sandbox {
        Some(sandbox) => sandbox.addresses(),
        None if host_network => host_ips.to_vec(),
        None => Vec::new(),
    };
    let over = matches!(phase, "Succeeded" | "Failed");
    let initialized = init_containers(pod).all(|container| {
        let record = record.container(&container.name);
        match record.state {
            ContainerState::Ended(Ended { code, .. }) => code == 0,
            ContainerState::Running { .. } => is_sidecar(container),
            ContainerState::Waiting { .. } => false,
        }
    });
    let unready: Vec<&str> = containers(pod)
        .filter(|container| !is_ready(&record.container(&container.name)))
        .map(|container| container.name.as_str())
        .collect();
    let containers_ready = unready.is_empty() && !over;
    let gates_open = gates(pod).all(|gate| condition(pod, gate).is_some_and(|c| c.status == "True"));
    let not_ready = || match over {
        true => ("PodCompleted", String::new()),
        false => ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
    };
    let gate_closed = || match containers_ready {
        true => ("ReadinessGatesNotReady", "not all readiness gates are True".to_owned()),
        false => not_ready(),
    };
    let sandboxed = || ("SandboxNotReady", String::new());
    let conditions = [
        ("PodReadyToStartContainers", (!attached && !host_network).then(sandboxed)),
        ("Initialized", (!initialized).then(|| ("ContainersNotInitialized", String::new()))),
        ("Ready", (!(containers_ready && gates_open)).then(gate_closed)),
        ("ContainersReady", (!containers_ready).then(not_ready)),
        ("PodScheduled", None),
    ];
    let conditions = conditions.map(|(kind, fault)| condition_value(pod, kind, fault, now));
    let others = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let others = others.filter(|condition| !OWN.contains(&condition.type_.as_str()));
    let others = others.filter_map(|condition| serde_json::to_value(condition).ok());
    let conditions: Vec<Value> = others.chain(conditions).collect();

    let mut status = json!({
        "phase": phase,
        "startTime": record.start_time,
        "conditions": conditions,
        "hostIP": host_ips.first(),
        "hostIPs": addresses(host_ips),
        "containerStatuses": containers(pod).map(|c| container_status(pod, c, record, false)).collect::<Vec<_>>(),
    });
    if init_containers(pod).next().is_some() {
        status["initContainerStatuses"] =
            init_containers(pod).map(|c| container_status(pod, c, record, true)).collect();
    }
    if !pod_ips.is_empty() {
        status["podIP"] = json!(pod_ips.first());
        status["podIPs"] = addresses(&pod_ips);
    }
    status
}

fn addresses(ips: &[String]) -> Value {
    ips.iter().map(|ip| json!({"ip": ip})).collect()
}

fn gates(pod: &Pod) -> impl Iterator<Item = &str> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.readiness_gates.iter().flatten()).map(|gate| gate.condition_type.as_str())
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// A condition: `True` without a fault. Its time is that of the last change of its status.
fn condition_value(pod: &Pod, kind: &str, fault: Option<(&str, String)>, now: &str) -> Value {
    let status = if fault.is_some() { "False" } else { "True" };
    let before = condition(pod, kind).filter(|before| before.status == status);
    let since = before.and_then(|before| before.last_transition_time.as_ref());
    let since = since.and_then(|since| serde_json::to_value(since).ok()).unwrap_or_else(|| now.into());
    let mut value =
        json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since});
    if let Some((reason, message)) = fault {
        value["reason"] = reason.into();
        if !message.is_empty() {
            value["message"] = message.into();
        }
    }
    value
}

fn is_ready(record: &ContainerRecord) -> bool {
    record.ready && matches!(record.state, ContainerState::Running { .. })
}

fn container_status(pod: &Pod, container: &Container, record: &Record, init: bool) -> Value {
    let one = record.container(&container.name);
    let image = container.image.clone().unwrap_or_default();
    let uid = &record.uid;
    let started = matches!(one.state, ContainerState::Running { .. });
    let done = matches!(one.state, ContainerState::Ended(Ended { code: 0, .. }));
    let ready = if init && !is_sidecar(container) { done } else { is_ready(&one) };
    let mut status = json!({
        "name": container.name,
        "image": image,
        "imageID": "",
        "ready": ready,
        "started": started,
        "restartCount": one.restarts,
        "state": state(&one.state, uid),
        "lastState": one.last.as_ref().map_or_else(|| json!({}), |last| ended(last, uid)),
    });
    if let ContainerState::Running { process, .. } = &one.state {
        status["containerID"] = format!("cambric://{uid}/{}/{}", container.name, process.pid).into();
    }
    if init && !started && one == ContainerRecord::default() && phase(pod, record) == "Pending" {
        status["state"] = json!({"waiting": {"reason": "PodInitializing"}});
    }
    status
}

fn state(state: &ContainerState, uid: &str) -> Value {
    match state {
        ContainerState::Waiting { reason, message } if message.is_empty() => {
            json!({"waiting": {"reason": reason}})
        }
        ContainerState::Waiting { reason, message } => {
            json!({"waiting": {"reason": reason, "message": message}})
        }
        ContainerState::Running { since, .. } => json!({"running": {"startedAt": since}}),
        ContainerState::Ended(end) => ended(end, uid),
    }
}

fn ended(end: &Ended, uid: &str) -> Value {
    let reason = if end.code == 0 { "Completed" } else { "Error" };
    let mut terminated = Map::new();
    terminated.insert("exitCode".into(), end.code.into());
    terminated.insert("reason".into(), reason.into());
    terminated.insert("startedAt".into(), end.started.clone().into());
    terminated.insert("finishedAt".into(), end.finished.clone().into());
    terminated.insert("containerID".into(), format!("cambric://{uid}").into());
    json!({"terminated": terminated})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::process::ProcessId;

    const NOW: &str = "2030-01-01T00:00:00Z";

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"nodeName": "a", "containers": [{"name": "one"}, {"name": "two"}]},
        }))
        .unwrap()
    }

    fn record(states: [ContainerState; 2]) -> Record {
        let [one, two] = states.map(|state| ContainerRecord { state, ready: true, ..Default::default() });
        Record {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u1".into(),
            start_time: NOW.into(),
            sandbox: None,
            containers: BTreeMap::from([("one".into(), one), ("two".into(), two)]),
        }
    }

    fn running() -> ContainerState {
        ContainerState::Running { process: ProcessId { pid: 7, started: 1 }, since: NOW.into() }
    }

    fn over(code: i32) -> ContainerState {
        ContainerState::Ended(Ended { code, started: NOW.into(), finished: NOW.into() })
    }

    fn of(status: &Value, kind: &str) -> String {
        let conditions = status["conditions"].as_array().unwrap();
        let condition = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
        condition["status"].as_str().unwrap().to_owned()
    }

    #[test]
    fn phases_and_readiness() {
        for (states, phase, ready) in [
            ([ContainerState::default(), running()], "Pending", "False"),
            ([running(), running()], "Running", "True"),
            ([running(), over(0)], "Running", "False"),
            ([over(0), over(0)], "Succeeded", "False"),
            ([over(0), over(3)], "Failed", "False"),
        ] {
            let record = record(states);
            let status = status(&pod(), &record, &["192.0.2.1".into()], NOW);
            assert_eq!(status["phase"], phase, "{record:?}");
            assert_eq!(of(&status, "Ready"), ready, "{record:?}");
            assert_eq!(of(&status, "ContainersReady"), ready, "{record:?}");
            assert_eq!(of(&status, "PodScheduled"), "True");
            assert_eq!(is_over(&pod(), &record), phase == "Succeeded" || phase == "Failed");
        }
    }

    #[test]
    fn a_container_between_two_lives_counts_as_running() {
        let mut record = record([running(), ContainerState::default()]);
        let two = record.containers.get_mut("two").unwrap();
        two.last = Some(Ended { code: 1, started: NOW.into(), finished: NOW.into() });
        assert_eq!(status(&pod(), &record, &[], NOW)["phase"], "Running");
    }

    #[test]
    fn host_network_pods_have_the_nodes_addresses() {
        let mut pod = pod();
        pod.spec.as_mut().unwrap().host_network = Some(true);
        let hosts = ["192.0.2.1".to_owned(), "2001:db8::1".to_owned()];
        let status = status(&pod, &record([running(), running()]), &hosts, NOW);
        assert_eq!(status["podIPs"], json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]));
        assert_eq!(status["hostIPs"], status["podIPs"]);
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let mut pod = pod();
        let record = record([running(), running()]);
        let before = status(&pod, &record, &[], "2029-01-01T00:00:00Z");
        pod.status = Some(serde_json::from_value(before).unwrap());
        let mut after = status(&pod, &record, &[], NOW);
        let times = |status: &Value| -> Vec<Value> {
            status["conditions"].as_array().unwrap().iter().map(|c| c["lastTransitionTime"].clone()).collect()
        };
        // PodReadyToStartContainers is False for want of a sandbox, before and after.
        assert!(times(&after).iter().all(|time| time == "2029-01-01T00:00:00Z"));
        let mut changed = record;
        changed.containers.get_mut("one").unwrap().ready = false;
        after = status(&pod, &changed, &[], NOW);
        assert_eq!(times(&after)[2], NOW);
        assert_eq!(times(&after)[1], "2029-01-01T00:00:00Z");
    }

    #[test]
    fn restart_policies() {
        for (policy, code, expected) in
            [("Always", 0, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
        {
            let mut pod = pod();
            pod.spec.as_mut().unwrap().restart_policy = Some(policy.into());
            assert_eq!(restarts(&pod, code), expected, "{policy} {code}");
        }
    }
}
