//! EndpointSlices: which pods are behind a service.

use serde_json::{Value, json};

use super::object::{controller, has_labels, is, is_leaving, list, name, namespace, text, uid};
use super::{Action, Objects};

const SLICES: &str = "endpointslices.discovery.k8s.io";
/// Marks the slices that are made here (`endpointslice.kubernetes.io/managed-by`).
const MANAGER: &str = "cambric-lab";

pub(super) fn slices(objects: &Objects) -> Vec<Action> {
    let mut actions = Vec::new();
    for service in objects.services.iter().filter(|service| !is_leaving(service)) {
        let Some(selector) = service.pointer("/spec/selector").filter(|selector| selector.is_object()) else { continue };
        let own = |pod: &&Value| namespace(pod) == namespace(service) && has_labels(pod, Some(selector));
        let pods: Vec<&Value> = objects.pods.iter().filter(own).collect();
        for family in list(service, "/spec/ipFamilies").iter().filter_map(Value::as_str) {
            let wanted = slice(service, &pods, family);
            let there = objects
                .slices
                .iter()
                .find(|each| namespace(each) == namespace(service) && name(each) == text(&wanted, "/metadata/name"));
            match there {
                None => actions.push(Action::Create {
                    resource: SLICES,
                    namespace: namespace(service).to_owned(),
                    object: wanted,
                }),
                Some(there) if there["endpoints"] != wanted["endpoints"] || there["ports"] != wanted["ports"] => {
                    actions.push(Action::Patch {
                        resource: SLICES,
                        namespace: namespace(service).to_owned(),
                        name: name(there).to_owned(),
                        patch: json!({"endpoints": wanted["endpoints"], "ports": wanted["ports"]}),
                    });
                }
                Some(_) => {}
            }
        }
    }
    actions
}

fn slice(service: &Value, pods: &[&Value], family: &str) -> Value {
    let every = service.pointer("/spec/publishNotReadyAddresses") == Some(&json!(true));
    let mut endpoints: Vec<Value> = pods.iter().filter_map(|pod| endpoint(pod, family, every)).collect();
    endpoints.sort_by(|one, other| text(one, "/addresses/0").cmp(text(other, "/addresses/0")));
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{}", name(service), family.to_lowercase()),
            "labels": {
                "kubernetes.io/service-name": name(service),
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
            "ownerReferences": controller(service, "v1", "Service"),
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": list(service, "/spec/ports").iter().map(|port| target(port, pods)).collect::<Vec<_>>(),
    })
}

/// A pod with its address of a family; `None` if it has none, or is over.
fn endpoint(pod: &Value, family: &str, every: bool) -> Option<Value> {
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return None;
    }
    let addresses = list(pod, "/status/podIPs").iter().map(|address| text(address, "/ip"));
    let address = addresses.into_iter().find(|address| address.contains(':') == (family == "IPv6"))?;
    let serving = is(pod, "Ready");
    Some(json!({
        "addresses": [address],
        "conditions": {
            "ready": every || serving && !is_leaving(pod),
            "serving": serving,
            "terminating": is_leaving(pod),
        },
        "nodeName": text(pod, "/spec/nodeName"),
        "targetRef": {"kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod)},
    }))
}

/// A port of the pods: the target port, by number, or by the name that it has in a container.
fn target(port: &Value, pods: &[&Value]) -> Value {
    let wanted = &port["targetPort"];
    let by_name = |wanted: &str| {
        let containers = pods.iter().flat_map(|pod| list(pod, "/spec/containers"));
        let mut ports = containers.flat_map(|container| list(container, "/ports"));
        ports.find(|each| text(each, "/name") == wanted).map(|each| each["containerPort"].clone())
    };
    let number = match wanted {
        Value::String(name) => by_name(name).unwrap_or(Value::Null),
        Value::Null => port["port"].clone(),
        number => number.clone(),
    };
    let protocol = match text(port, "/protocol") {
        "" => "TCP",
        protocol => protocol,
    };
    json!({"name": text(port, "/name"), "protocol": protocol, "port": number})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_listed_by_family_with_their_conditions() {
        let pod = |name: &str, last: u8, ready: &str| {
            json!({
                "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
                "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {
                    "podIPs": [{"ip": format!("10.0.0.{last}")}, {"ip": format!("fd00::{last}")}],
                    "conditions": [{"type": "Ready", "status": ready}],
                },
            })
        };
        let service = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "s"},
            "spec": {
                "selector": {"app": "web"}, "ipFamilies": ["IPv4", "IPv6"],
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
            },
        });
        let mut leaving = pod("b", 2, "True");
        leaving["metadata"]["deletionTimestamp"] = json!("now");
        let mut objects = Objects {
            services: vec![service],
            pods: vec![leaving, pod("a", 1, "True"), pod("c", 3, "False")],
            ..Objects::default()
        };
        let actions = slices(&objects);
        let made: Vec<&Value> = actions
            .iter()
            .map(|action| match action {
                Action::Create { object, .. } => object,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(made.len(), 2);
        assert_eq!(made[1]["endpoints"][0]["addresses"], json!(["fd00::1"]));
        assert_eq!(made[0]["ports"], json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
        let ready: Vec<&Value> = list(made[0], "/endpoints").iter().map(|each| &each["conditions"]["ready"]).collect();
        assert_eq!(ready, [true, false, false]);
        assert_eq!(made[0]["endpoints"][1]["conditions"]["serving"], true);

        objects.slices = made
            .into_iter()
            .map(|slice| {
                let mut slice = slice.clone();
                slice["metadata"]["namespace"] = json!("default");
                slice
            })
            .collect();
        assert_eq!(slices(&objects), [], "what is right is not written again");
    }
}
