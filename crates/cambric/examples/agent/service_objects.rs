//! Services and endpoint slices as a real API has them: with labels, annotations, owners and the fields that managers
//! claim.

use std::collections::BTreeMap;

use apiserver::Api;
use apiserver::patch::Patch;
use serde_json::{Value, json};

use crate::cluster;

/// So many services share a namespace.
const SERVICES_PER_NAMESPACE: u32 = 100;
pub(crate) const ENDPOINTS: u32 = 10;
/// The nodes that endpoints are on.
const NODES: u32 = 3;
const TIME: &str = "2030-01-01T00:00:00Z";

/// Makes so many services, each with a slice.
pub(crate) fn populate(api: &Api, services: u32) {
    for number in 0..services.div_ceil(SERVICES_PER_NAMESPACE) {
        let name = namespace(number * SERVICES_PER_NAMESPACE);
        api.create("namespaces", "", json!({"metadata": {"name": name}})).unwrap();
    }
    for number in 0..services {
        let service = api.create("services", &namespace(number), service(number)).unwrap();
        let slice = slice(number, &service["metadata"]["uid"]);
        api.create("endpointslices.discovery.k8s.io", &namespace(number), slice).unwrap();
    }
}

/// Has one endpoint of a service go and another come. `round` is how many times that has been done to it, from 1.
pub(crate) fn change(api: &Api, number: u32, round: u32) {
    let endpoint = |index| {
        // One after the other leaves, and comes back in the next turn.
        let turn = (round + ENDPOINTS - 1 - index) / ENDPOINTS;
        endpoint(number, index + ENDPOINTS * (turn % 2))
    };
    let endpoints: Vec<Value> = (0..ENDPOINTS).map(endpoint).collect();
    let patch = Patch::Merge(json!({"endpoints": endpoints}));
    api.patch("endpointslices.discovery.k8s.io", &namespace(number), &slice_name(number), &patch).unwrap();
}

fn namespace(number: u32) -> String {
    format!("team-{}", number / SERVICES_PER_NAMESPACE)
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

fn slice_name(number: u32) -> String {
    format!("{}-{:05x}", name(number), number.wrapping_mul(7919) % 0x10_0000)
}

fn labels(number: u32) -> BTreeMap<&'static str, String> {
    [
        ("app.kubernetes.io/name", name(number)),
        ("app.kubernetes.io/instance", format!("{}-production", name(number))),
        ("app.kubernetes.io/version", "1.27.3".to_owned()),
        ("app.kubernetes.io/component", "backend".to_owned()),
        ("app.kubernetes.io/part-of", namespace(number)),
        ("app.kubernetes.io/managed-by", "Helm".to_owned()),
        ("helm.sh/chart", format!("{}-0.42.1", name(number))),
    ]
    .into()
}

/// Service `number` with TCP port 80.
fn service(number: u32) -> Value {
    let [_, high, middle, low] = (number + 1).to_be_bytes();
    let address = format!("10.{}.{middle}.{low}", 96 + high);
    let fields = json!({
        "f:metadata": {
            "f:annotations": {".": {}, "f:meta.helm.sh/release-name": {}, "f:meta.helm.sh/release-namespace": {}},
            "f:labels": claimed(labels(number).keys()),
        },
        "f:spec": {
            "f:internalTrafficPolicy": {},
            "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {
                ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {},
            }},
            "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
        },
    });
    json!({
        "metadata": {
            "name": name(number),
            "labels": labels(number),
            "annotations": {
                "meta.helm.sh/release-name": format!("{}-production", name(number)),
                "meta.helm.sh/release-namespace": namespace(number),
            },
            "managedFields": [{
                "manager": "helm", "operation": "Update", "apiVersion": "v1", "time": TIME,
                "fieldsType": "FieldsV1", "fieldsV1": fields,
            }],
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
            "selector": {
                "app.kubernetes.io/name": name(number),
                "app.kubernetes.io/instance": format!("{}-production", name(number)),
            },
        },
    })
}

/// The slice of service `number`, as the controller of endpoint slices makes it.
fn slice(number: u32, owner: &Value) -> Value {
    let mut labels = labels(number);
    labels.insert("kubernetes.io/service-name", name(number));
    labels.insert("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io".to_owned());
    let fields = json!({
        "f:addressType": {},
        "f:endpoints": {},
        "f:metadata": {
            "f:annotations": {".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}},
            "f:generateName": {},
            "f:labels": claimed(labels.keys()),
            "f:ownerReferences": {".": {}, format!("k:{{\"uid\":{owner}}}"): {}},
        },
        "f:ports": {},
    });
    json!({
        "metadata": {
            "name": slice_name(number),
            "generateName": format!("{}-", name(number)),
            "labels": labels,
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": TIME},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name(number), "uid": owner,
                "controller": true, "blockOwnerDeletion": true,
            }],
            "managedFields": [{
                "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "discovery.k8s.io/v1",
                "time": TIME, "fieldsType": "FieldsV1", "fieldsV1": fields,
            }],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": (0..ENDPOINTS).map(|index| endpoint(number, index)).collect::<Vec<_>>(),
    })
}

/// One of the endpoints that service `number` may have: of no node's own range, as nothing is sent there.
fn endpoint(number: u32, index: u32) -> Value {
    let id = number * 2 * ENDPOINTS + index;
    let [_, high, middle, low] = (0x0001_0000 + id).to_be_bytes();
    json!({
        "addresses": [format!("10.{}.{middle}.{low}", 128 + high)],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": cluster::name(id % NODES),
        "targetRef": {
            "kind": "Pod", "namespace": namespace(number),
            "name": format!("{}-6d4cf56db6-{id:05x}", name(number)),
            "uid": format!("{id:08x}-41d2-4e9f-8c11-{id:012x}"),
        },
        "zone": format!("region-1{}", ["a", "b", "c"][(id % NODES) as usize]),
    })
}

/// `fieldsV1` of a map with these keys.
fn claimed<'a>(keys: impl Iterator<Item = &'a &'static str>) -> Value {
    let fields = keys.map(|key| (format!("f:{key}"), json!({})));
    Value::Object(std::iter::once((".".to_owned(), json!({}))).chain(fields).collect())
}
