//! What a service is completed with, and what it loses when its type changes.

use serde_json::{Map, Value, json};

use super::{absent, each};
use crate::object::{as_map, map_mut};
use crate::validate::service::is_external;

/// The seconds for which a client stays with its endpoint.
const AFFINITY_SECONDS: u32 = 10_800;

/// Fills in what a service leaves out.
pub(super) fn complete(service: &mut Value) {
    absent(map_mut(service, "spec"), "type", "ClusterIP");
    let external = is_external(&service["spec"]);
    let spec = map_mut(service, "spec");
    absent(spec, "sessionAffinity", "None");
    affinity(spec);
    for port in each(spec, "ports") {
        absent(port, "protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            absent(port, "targetPort", number);
        }
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if external {
        absent(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        absent(spec, "allocateLoadBalancerNodePorts", true);
    }
    let balancer = service.get_mut("status").and_then(|status| status.get_mut("loadBalancer"));
    for ingress in each(balancer.map(as_map).unwrap_or(&mut Map::new()), "ingress") {
        if ingress.get("ip").is_some_and(|ip| ip.as_str().is_some_and(|ip| !ip.is_empty())) {
            absent(ingress, "ipMode", "VIP");
        }
    }
}

fn affinity(spec: &mut Map<String, Value>) {
    if spec.get("sessionAffinity").is_none_or(|affinity| affinity != "ClientIP") {
        spec.remove("sessionAffinityConfig");
        return;
    }
    absent(spec, "sessionAffinityConfig", json!({}));
    let config = spec.get_mut("sessionAffinityConfig").map(as_map);
    if let Some(config) = config {
        absent(config, "clientIP", json!({}));
        if let Some(client) = config.get_mut("clientIP").map(as_map) {
            absent(client, "timeoutSeconds", AFFINITY_SECONDS);
        }
    }
}

/// Drops what only another type of service has, unless the same change asks for it.
pub(super) fn drop_stale(old: &Value, new: &mut Value) {
    let external = is_external(&new["spec"]);
    let balanced = new["spec"]["type"] == "LoadBalancer";
    let watched = balanced && new["spec"]["externalTrafficPolicy"] == "Local";
    let spec = map_mut(new, "spec");
    for (field, stays) in [
        ("externalTrafficPolicy", external),
        ("healthCheckNodePort", watched),
        ("allocateLoadBalancerNodePorts", balanced),
        ("loadBalancerClass", balanced),
    ] {
        if !stays && spec.get(field) == old["spec"].get(field) {
            spec.remove(field);
        }
    }
    let status = new.get_mut("status").and_then(Value::as_object_mut);
    if let Some(status) = status.filter(|_| !balanced) {
        status.insert("loadBalancer".into(), json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(mut service: Value) -> Value {
        complete(&mut service);
        let once = service.clone();
        complete(&mut service);
        assert_eq!(service, once);
        service
    }

    #[test]
    fn services_get_protocol_target_port_and_policies() {
        let service = completed(json!({"spec": {"ports": [{"port": 80}], "type": "NodePort"}}));
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(service["spec"]["externalTrafficPolicy"], "Cluster");
        assert_eq!(service["spec"]["internalTrafficPolicy"], "Cluster");
        assert_eq!(service["spec"]["sessionAffinity"], "None");
        let plain = completed(json!({"spec": {"ports": [{"port": 80}]}}));
        assert!(plain["spec"].get("externalTrafficPolicy").is_none());
        let outside = completed(json!({"spec": {"externalIPs": ["198.51.100.9"]}}));
        assert_eq!(outside["spec"]["externalTrafficPolicy"], "Cluster");
    }

    #[test]
    fn affinity_has_a_time_and_no_affinity_has_none() {
        let config = |affinity: &str, config: Value| {
            let spec = json!({"sessionAffinity": affinity, "sessionAffinityConfig": config});
            completed(json!({"spec": spec}))["spec"]["sessionAffinityConfig"].clone()
        };
        for given in [Value::Null, json!({}), json!({"clientIP": {}})] {
            assert_eq!(config("ClientIP", given), json!({"clientIP": {"timeoutSeconds": 10_800}}));
        }
        assert_eq!(config("None", json!({"clientIP": {"timeoutSeconds": 5}})), Value::Null);
    }

    #[test]
    fn addresses_of_load_balancers_are_virtual() {
        let ingress = json!([{"ip": "198.51.100.9"}, {"hostname": "lb.example"}, {"ip": "2001:db8::9", "ipMode": "Proxy"}]);
        let service = completed(json!({"spec": {}, "status": {"loadBalancer": {"ingress": ingress}}}));
        let modes: Vec<&Value> =
            (0..3).map(|index| &service["status"]["loadBalancer"]["ingress"][index]["ipMode"]).collect();
        assert_eq!(modes, [&json!("VIP"), &Value::Null, &json!("Proxy")]);
    }

    #[test]
    fn another_type_drops_what_it_cannot_have() {
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001,
            "allocateLoadBalancerNodePorts": true});
        let old = json!({"spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}}});
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        drop_stale(&old, &mut new);
        assert_eq!(new, json!({"spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {}}}));
        let mut cluster = old.clone();
        cluster["spec"]["externalTrafficPolicy"] = "Cluster".into();
        drop_stale(&old, &mut cluster);
        assert!(cluster["spec"].get("healthCheckNodePort").is_none());
        assert_eq!(cluster["status"], old["status"]);
        // What the same change asks for is not dropped but refused later.
        let mut asked = old.clone();
        asked["spec"]["type"] = "ClusterIP".into();
        asked["spec"]["externalTrafficPolicy"] = "Cluster".into();
        drop_stale(&old, &mut asked);
        assert_eq!(asked["spec"]["externalTrafficPolicy"], "Cluster");
    }
}
