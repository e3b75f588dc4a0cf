//! What services are given.

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
        (json!({"clusterIP": "None"}), json!(["None"]), json!(["IPv4"])),
        (json!({"clusterIP": "fd00:96::7"}), json!(["fd00:96::7"]), json!(["IPv6"])),
    ] {
        let service = given(spec.clone(), None, &mut Taken::default()).unwrap();
        assert_eq!(service["spec"]["clusterIPs"], ips, "{spec}");
        assert_eq!(service["spec"]["clusterIP"], ips[0], "{spec}");
        assert_eq!(service["spec"]["ipFamilies"], families, "{spec}");
    }
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
