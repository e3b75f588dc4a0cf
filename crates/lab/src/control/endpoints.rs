//! EndpointSlices: the pods behind a service.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::object::{
    Write, has_ended, has_labels, is_deleting, is_true, list, name, namespace, owner_reference, text, uid,
};

/// The label with the service's name.
pub(super) const SERVICE: &str = "kubernetes.io/service-name";
/// The label that tells these slices from those of others.
const MANAGED: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
/// The most endpoints of a slice.
const MOST: usize = 100;

/// Endpoints by the UID of their pods.
type Endpoints = BTreeMap<String, Value>;
/// What endpoints of one slice have in common: the family and the ports, as JSON text.
type Group = (&'static str, String);

/// What the slices of a service need; `pods` and `slices` are those of its namespace. `zone` tells a node's zone, which
/// is `""` if it has none.
pub(super) fn endpoint_slices<'a>(
    service: &Value,
    pods: impl Iterator<Item = &'a Value>,
    slices: impl Iterator<Item = &'a Value>,
    zone: &dyn Fn(&str) -> &'a str,
) -> Vec<Write> {
    let spec = &service["spec"];
    let selects = spec["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    let own = slices.filter(|slice| {
        let labels = &slice["metadata"]["labels"];
        labels[SERVICE] == name(service) && labels[MANAGED.0] == MANAGED.1
    });
    if !selects || spec["type"] == "ExternalName" || is_deleting(service) {
        return own.map(|slice| Write::delete("endpointslices.discovery.k8s.io", slice)).collect();
    }
    let mut wanted = wanted(service, pods, zone);
    let mut writes = Vec::new();
    let mut with_room: Vec<(&Value, Group, Vec<Value>)> = Vec::new();
    for slice in own {
        let family = if slice["addressType"] == "IPv6" { "IPv6" } else { "IPv4" };
        let group = (family, slice["ports"].to_string());
        // Endpoints stay where they are, so that a change of one pod is a change of one slice.
        let stays = |endpoint: &Value| wanted.get_mut(&group)?.remove(text(&endpoint["targetRef"]["uid"]));
        let kept: Vec<Value> = list(&slice["endpoints"]).iter().filter_map(stays).collect();
        with_room.push((slice, group, kept));
    }
    for (slice, group, mut kept) in with_room {
        let rest = wanted.entry(group).or_default();
        while kept.len() < MOST {
            let Some((_, endpoint)) = rest.pop_first() else { break };
            kept.push(endpoint);
        }
        if kept.is_empty() {
            writes.push(Write::delete("endpointslices.discovery.k8s.io", slice));
        } else if kept != list(&slice["endpoints"]) {
            writes.push(Write::patch("endpointslices.discovery.k8s.io", slice, json!({"endpoints": kept})));
        }
    }
    for ((family, ports), rest) in wanted {
        let endpoints: Vec<Value> = rest.into_values().collect();
        for part in endpoints.chunks(MOST) {
            writes.push(Write::Create {
                resource: "endpointslices.discovery.k8s.io",
                namespace: namespace(service).into(),
                object: slice(service, family, &ports, part),
            });
        }
    }
    writes
}

fn slice(service: &Value, family: &str, ports: &str, endpoints: &[Value]) -> Value {
    let mut labels = json!({SERVICE: name(service), MANAGED.0: MANAGED.1});
    if service["spec"]["clusterIP"] == "None" {
        labels["service.kubernetes.io/headless"] = "".into();
    }
    let ports: Value = serde_json::from_str(ports).unwrap_or_default();
    json!({
        "metadata": {
            "generateName": format!("{}-", name(service)),
            "labels": labels,
            "ownerReferences": owner_reference(service, "v1", "Service"),
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}

fn wanted<'a>(
    service: &Value,
    pods: impl Iterator<Item = &'a Value>,
    zone: &dyn Fn(&str) -> &'a str,
) -> BTreeMap<Group, Endpoints> {
    let spec = &service["spec"];
    let mut wanted: BTreeMap<Group, Endpoints> = BTreeMap::new();
    let selected = pods.filter(|pod| has_labels(pod, &spec["selector"]) && !has_ended(pod));
    for pod in selected {
        let ports: Value = list(&spec["ports"]).iter().filter_map(|port| slice_port(port, pod)).collect();
        for family in ["IPv4", "IPv6"] {
            if !list(&spec["ipFamilies"]).iter().any(|one| one == family) {
                continue;
            }
            let mut ips = list(&pod["status"]["podIPs"]).iter().map(|ip| text(&ip["ip"]));
            let Some(ip) = ips.find(|ip| ip.contains(':') == (family == "IPv6")) else { continue };
            let group = wanted.entry((family, ports.to_string())).or_default();
            group.insert(uid(pod).to_owned(), endpoint(service, pod, ip, zone));
        }
    }
    wanted
}

fn endpoint<'a>(service: &Value, pod: &Value, ip: &str, zone: &dyn Fn(&str) -> &'a str) -> Value {
    let serving = is_true(pod, "Ready");
    let terminating = is_deleting(pod);
    let ready = service["spec"]["publishNotReadyAddresses"] == true || (serving && !terminating);
    let mut endpoint = json!({
        "addresses": [ip],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "name": name(pod), "namespace": namespace(pod), "uid": uid(pod)},
    });
    let node = text(&pod["spec"]["nodeName"]);
    if !node.is_empty() {
        endpoint["nodeName"] = node.into();
    }
    let zone = zone(node);
    if !zone.is_empty() {
        endpoint["zone"] = zone.into();
    }
    if let Some(hints) = hints(text(&service["spec"]["trafficDistribution"]), node, zone).filter(|_| ready) {
        endpoint["hints"] = hints;
    }
    let host = text(&pod["spec"]["hostname"]);
    if !host.is_empty() && pod["spec"]["subdomain"] == name(service) {
        endpoint["hostname"] = host.into();
    }
    endpoint
}

/// Which clients the endpoint is for: those of its own zone, or of its own node first.
fn hints(distribution: &str, node: &str, zone: &str) -> Option<Value> {
    let mut hints = json!({});
    if matches!(distribution, "PreferClose" | "PreferSameZone" | "PreferSameNode") && !zone.is_empty() {
        hints["forZones"] = json!([{"name": zone}]);
    }
    if distribution == "PreferSameNode" && !node.is_empty() {
        hints["forNodes"] = json!([{"name": node}]);
    }
    hints.as_object().is_some_and(|hints| !hints.is_empty()).then_some(hints)
}

/// A port of the service as the pod has it; `None` if it names a port that the pod does not have.
fn slice_port(port: &Value, pod: &Value) -> Option<Value> {
    let target = match &port["targetPort"] {
        Value::String(named) => {
            let containers = list(&pod["spec"]["containers"]).iter();
            let mut ports = containers.flat_map(|container| list(&container["ports"]));
            let found = ports.find(|own| own["name"] == *named && own["protocol"] == port["protocol"]);
            found?["containerPort"].clone()
        }
        Value::Number(number) if number.as_u64() != Some(0) => Value::Number(number.clone()),
        _ => port["port"].clone(),
    };
    let mut out = json!({"name": text(&port["name"]), "protocol": port["protocol"], "port": target});
    if port["appProtocol"].is_string() {
        out["appProtocol"] = port["appProtocol"].clone();
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(families: Value) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "s1"},
            "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ipFamilies": families,
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"}]},
        })
    }

    fn pod(number: usize, ready: &str) -> Value {
        json!({
            "metadata": {"name": format!("web-{number}"), "namespace": "shop", "uid": format!("u{number:04}"),
                "labels": {"app": "web"}},
            "spec": {"nodeName": "a", "containers": [
                {"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.244.{}.{}", number / 200, number % 200)},
                {"ip": format!("fd00::{number:x}")}], "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn slices_for<'a>(
        service: &Value,
        pods: impl Iterator<Item = &'a Value>,
        slices: impl Iterator<Item = &'a Value>,
    ) -> Vec<Write> {
        endpoint_slices(service, pods, slices, &|node| if node == "a" { "west" } else { "" })
    }

    /// Applies the writes to the slices.
    fn applied(mut slices: Vec<Value>, writes: Vec<Write>) -> Vec<Value> {
        for write in writes {
            match write {
                Write::Create { mut object, .. } => {
                    object["metadata"]["name"] = format!("slice-{}", slices.len()).into();
                    object["metadata"]["namespace"] = "shop".into();
                    slices.push(object);
                }
                Write::Patch { name: patched, patch, .. } => {
                    let slice = slices.iter_mut().find(|slice| name(slice) == patched).unwrap();
                    slice["endpoints"] = patch["endpoints"].clone();
                }
                Write::Delete { name: gone, .. } => slices.retain(|slice| name(slice) != gone),
                other => panic!("{other:?} is no write of a slice"),
            }
        }
        slices
    }

    #[test]
    fn both_families_named_ports_and_conditions() {
        let service = service(json!(["IPv4", "IPv6"]));
        let mut going = pod(2, "True");
        going["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
        let pods = [pod(1, "False"), going];
        let slices = applied(Vec::new(), slices_for(&service, pods.iter(), [].iter()));
        assert_eq!(slices.len(), 2);
        assert_eq!(slices[0]["addressType"], "IPv4");
        assert_eq!(slices[0]["ports"], json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
        let conditions: Vec<&Value> =
            list(&slices[1]["endpoints"]).iter().map(|endpoint| &endpoint["conditions"]).collect();
        assert_eq!(*conditions[0], json!({"ready": false, "serving": false, "terminating": false}));
        assert_eq!(*conditions[1], json!({"ready": false, "serving": true, "terminating": true}));
        assert_eq!(slices[1]["endpoints"][0]["addresses"], json!(["fd00::1"]));
        assert_eq!(slices_for(&service, pods.iter(), slices.iter()), []);
    }

    #[test]
    fn one_pod_changes_one_slice() {
        let service = service(json!(["IPv4"]));
        let mut pods: Vec<Value> = (0..250).map(|number| pod(number, "True")).collect();
        let slices = applied(Vec::new(), slices_for(&service, pods.iter(), [].iter()));
        assert_eq!(slices.len(), 3);
        pods.remove(0);
        let writes = slices_for(&service, pods.iter(), slices.iter());
        // The slice that loses the pod is filled up from none: the others are in slices of their own.
        assert_eq!(writes.len(), 1);
        let slices = applied(slices, writes);
        pods.push(pod(300, "True"));
        let writes = slices_for(&service, pods.iter(), slices.iter());
        assert!(matches!(writes.as_slice(), [Write::Patch { .. }]), "{writes:?}");
        let slices = applied(slices, writes);
        assert_eq!(
            applied(slices.clone(), slices_for(&service, [].iter(), slices.iter())),
            Vec::<Value>::new()
        );
    }

    #[test]
    fn services_without_selector_are_left_to_others() {
        let mut service = service(json!(["IPv4"]));
        service["spec"]["selector"] = Value::Null;
        let foreign = json!({"metadata": {"name": "x", "labels": {SERVICE: "web"}}});
        assert_eq!(slices_for(&service, [pod(1, "True")].iter(), [foreign].iter()), []);
    }

    #[test]
    fn pods_that_are_not_ready_can_be_published() {
        let mut service = service(json!(["IPv4"]));
        service["spec"]["publishNotReadyAddresses"] = true.into();
        let slices = applied(Vec::new(), slices_for(&service, [pod(1, "False")].iter(), [].iter()));
        let conditions = &slices[0]["endpoints"][0]["conditions"];
        assert_eq!(*conditions, json!({"ready": true, "serving": false, "terminating": false}));
    }

    #[test]
    fn endpoints_say_where_they_are_and_whom_they_are_for() {
        let mut nowhere = pod(2, "True");
        nowhere["spec"]["nodeName"] = "b".into();
        let pods = [pod(1, "True"), nowhere, pod(3, "False")];
        let (zone, node) = (|name: &str| json!([{"name": name}]), |name: &str| json!([{"name": name}]));
        for (distribution, expected) in [
            (Value::Null, [Value::Null, Value::Null]),
            ("PreferClose".into(), [json!({"forZones": zone("west")}), Value::Null]),
            ("PreferSameZone".into(), [json!({"forZones": zone("west")}), Value::Null]),
            (
                "PreferSameNode".into(),
                [json!({"forZones": zone("west"), "forNodes": node("a")}), json!({"forNodes": node("b")})],
            ),
        ] {
            let mut service = service(json!(["IPv4"]));
            service["spec"]["trafficDistribution"] = distribution;
            let slices = applied(Vec::new(), slices_for(&service, pods.iter(), [].iter()));
            let endpoints = &slices[0]["endpoints"];
            assert_eq!([&endpoints[0]["zone"], &endpoints[1]["zone"]], [&json!("west"), &Value::Null]);
            assert_eq!([&endpoints[0]["hints"], &endpoints[1]["hints"]], [&expected[0], &expected[1]]);
            assert_eq!(endpoints[2]["hints"], Value::Null, "an endpoint that is not ready is for nobody");
        }
    }

    #[test]
    fn a_named_port_is_looked_up_in_each_pod() {
        let mut other = pod(2, "True");
        other["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into();
        let mut without = pod(3, "True");
        without["spec"]["containers"][0]["ports"][0]["name"] = "admin".into();
        let mut service = service(json!(["IPv4"]));
        service["spec"]["ports"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "plain", "protocol": "UDP", "port": 53, "targetPort": 5353}));
        let pods = [pod(1, "True"), other, without];
        let slices = applied(Vec::new(), slices_for(&service, pods.iter(), [].iter()));
        let mut ports: Vec<Vec<u64>> = slices
            .iter()
            .map(|slice| list(&slice["ports"]).iter().map(|port| port["port"].as_u64().unwrap()).collect())
            .collect();
        ports.sort();
        assert_eq!(ports, [vec![5353], vec![8080, 5353], vec![9090, 5353]]);
    }
}
