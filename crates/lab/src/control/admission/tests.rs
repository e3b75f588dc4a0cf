//! What services are given.

use serde_json::Value;

use super::give::*;
use super::*;

fn pools() -> Vec<Pool> {
    Services::new(&["10.96.0.0/24".parse().unwrap(), "fd00:96::/112".parse().unwrap()])
        .state
        .into_inner()
        .unwrap()
        .pools
}

fn given(spec: Value, old: Option<&Value>, taken: &mut Taken) -> Result<Value, String> {
    let mut service = json!({"metadata": {"name": "web"}, "spec": spec});
    give(&mut service, old, &mut pools(), taken)
        .map_err(|cause| format!("{}: {}", cause.field, cause.message))?;
    Ok(service)
}

#[test]
fn family_policies() {
    for (spec, ips, families) in [
        (json!({}), json!(["10.96.0.1"]), json!(["IPv4"])),
        (json!({"ipFamilies": ["IPv6"]}), json!(["fd00:96::1"]), json!(["IPv6"])),
        (
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            json!(["10.96.0.1", "fd00:96::1"]),
            json!(["IPv4", "IPv6"]),
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
            json!(["fd00:96::1", "10.96.0.1"]),
            json!(["IPv6", "IPv4"]),
        ),
        (json!({"clusterIP": "10.96.0.9"}), json!(["10.96.0.9"]), json!(["IPv4"])),
        (json!({"clusterIP": "None", "selector": {"app": "web"}}), json!(["None"]), json!(["IPv4"])),
        (json!({"clusterIP": "fd00:96::7"}), json!(["fd00:96::7"]), json!(["IPv6"])),
    ] {
        let service = given(spec.clone(), None, &mut Taken::default()).unwrap();
        assert_eq!(service["spec"]["clusterIPs"], ips, "{spec}");
        assert_eq!(service["spec"]["clusterIP"], ips[0], "{spec}");
        assert_eq!(service["spec"]["ipFamilies"], families, "{spec}");
    }
    // Endpoints that somebody else writes can be of any family.
    let free = given(json!({"clusterIP": "None"}), None, &mut Taken::default()).unwrap();
    assert_eq!(free["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let service =
        given(json!({"type": "ExternalName", "clusterIP": "x"}), None, &mut Taken::default()).unwrap();
    assert!(service["spec"].get("clusterIP").is_none());
}

#[test]
fn what_cannot_be_given_is_named() {
    let mut taken = Taken::default();
    taken.add(
        &json!({"spec": {"clusterIPs": ["10.96.0.9"], "ports": [{"nodePort": 30080, "protocol": "TCP"}]}}),
    );
    let node_port =
        |port: u16| json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": port}]});
    for (spec, expected) in [
        (json!({"clusterIP": "10.96.0.9"}), "another service has it"),
        (json!({"clusterIP": "10.97.0.9"}), "not in the service range 10.96.0.0/24"),
        (node_port(30080), "already allocated"),
        (node_port(80), "30000-32767"),
    ] {
        let error = given(spec, None, &mut taken).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert!(given(json!({}), None, &mut taken).unwrap()["spec"]["clusterIP"] != "10.96.0.9");
}

#[test]
fn node_ports_are_shared_kept_and_taken_back() {
    let mut taken = Taken::default();
    let ports = json!([{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}, {"port": 80, "protocol": "TCP"}]);
    let service = given(json!({"type": "NodePort", "ports": ports}), None, &mut taken).unwrap();
    let numbers: Vec<u64> =
        list(&service["spec"]["ports"]).iter().map(|port| port["nodePort"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [30_000, 30_000, 30_001]);
    taken.add(&service);
    let again = given(json!({"type": "NodePort", "ports": ports}), Some(&service), &mut taken).unwrap();
    assert_eq!(again["spec"], service["spec"]);
    let mut plain = service["spec"].clone();
    plain["type"] = "ClusterIP".into();
    let plain = given(plain, Some(&service), &mut taken).unwrap();
    assert!(list(&plain["spec"]["ports"]).iter().all(|port| port.get("nodePort").is_none()));
    assert_eq!(plain["spec"]["clusterIP"], service["spec"]["clusterIP"]);
    taken.remove(&service);
    assert!(taken.ports.is_empty() && taken.addresses.is_empty());
}

#[test]
fn a_service_goes_from_one_family_to_two_and_back() {
    let mut taken = Taken::default();
    let single = given(json!({}), None, &mut taken).unwrap();
    taken.add(&single);
    let mut spec = single["spec"].clone();
    spec["ipFamilyPolicy"] = "PreferDualStack".into();
    let dual = given(spec, Some(&single), &mut taken).unwrap();
    assert_eq!(dual["spec"]["clusterIPs"], json!(["10.96.0.1", "fd00:96::1"]));
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    taken.add(&dual);
    // A replacement that says nothing of addresses keeps what there was.
    let kept = given(json!({"selector": {"app": "web"}}), Some(&dual), &mut taken).unwrap();
    assert_eq!(kept["spec"]["clusterIPs"], dual["spec"]["clusterIPs"]);
    assert_eq!(kept["spec"]["ipFamilyPolicy"], "PreferDualStack");
    let mut spec = dual["spec"].clone();
    spec["ipFamilyPolicy"] = "SingleStack".into();
    let back = given(spec, Some(&dual), &mut taken).unwrap();
    assert_eq!(back["spec"]["clusterIPs"], json!(["10.96.0.1"]));
    assert_eq!(back["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[test]
fn ports_that_are_asked_for_are_given_to_none_other() {
    let ports = json!([{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP", "nodePort": 30_000}]);
    let service = given(json!({"type": "NodePort", "ports": ports}), None, &mut Taken::default()).unwrap();
    let numbers: Vec<&Value> = list(&service["spec"]["ports"]).iter().map(|port| &port["nodePort"]).collect();
    assert_eq!(numbers, [30_001, 30_000]);
}

#[test]
fn local_load_balancers_have_a_health_port() {
    let mut taken = Taken::default();
    let spec = |policy: &str| {
        json!({"type": "LoadBalancer", "externalTrafficPolicy": policy,
        "ports": [{"port": 80, "protocol": "TCP"}]})
    };
    let cluster = given(spec("Cluster"), None, &mut taken).unwrap();
    assert!(cluster["spec"].get("healthCheckNodePort").is_none());
    let local = given(spec("Local"), Some(&cluster), &mut taken).unwrap();
    let health = local["spec"]["healthCheckNodePort"].as_u64().unwrap();
    assert!((30_000..=32_767).contains(&health) && local["spec"]["ports"][0]["nodePort"] != health);
    taken.add(&local);
    let again = given(spec("Local"), Some(&local), &mut taken).unwrap();
    assert_eq!(again["spec"]["healthCheckNodePort"], health);
    let asked = |port: u64| {
        let mut spec = spec("Local");
        spec["healthCheckNodePort"] = port.into();
        spec
    };
    assert!(given(asked(health), None, &mut taken).unwrap_err().contains("already allocated"));
    assert!(given(asked(80), None, &mut taken).unwrap_err().contains("30000-32767"));
    assert_eq!(given(asked(31_000), None, &mut taken).unwrap()["spec"]["healthCheckNodePort"], 31_000);
}
