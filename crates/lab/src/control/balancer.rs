//! The addresses of load-balanced services: what a cloud's load balancer would have, from ranges of the topology.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::object::{Write, is_deleting, list, name, namespace, text};
use super::ranges::Pool;

/// What the status of a service needs; `services` are all of the cluster.
///
/// A service whose status somebody else has filled is left alone, and so is one with a load balancer class.
pub(super) fn balance<'a>(
    service: &Value,
    services: impl Iterator<Item = &'a Value>,
    ranges: &[IpNet],
) -> Option<Write> {
    if !is_balanced(service) || is_deleting(service) {
        return None;
    }
    let has: Vec<Option<IpAddr>> = ingress(service).iter().map(|one| text(&one["ip"]).parse().ok()).collect();
    let ours = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
    if !has.iter().all(|address| address.as_ref().is_some_and(ours)) {
        return None;
    }
    let others =
        services.filter(|other| (namespace(other), name(other)) != (namespace(service), name(service)));
    let taken: HashSet<IpAddr> = others.flat_map(addresses).collect();
    let asked = text(&service["spec"]["loadBalancerIP"]).parse::<IpAddr>().ok();
    let mut wanted = Vec::new();
    for family in list(&service["spec"]["ipFamilies"]) {
        let fits = |address: &IpAddr| address.is_ipv4() == (*family == "IPv4");
        let kept = has.iter().flatten().copied().find(fits);
        let asked = asked.filter(|address| fits(address) && ours(address) && !taken.contains(address));
        let next = || {
            let mut pools = ranges.iter().filter(|range| fits(&range.addr())).map(|range| Pool::new(*range));
            pools.find_map(|mut pool| pool.take(&taken))
        };
        wanted.extend(kept.or(asked).or_else(next));
    }
    let wanted: Vec<Value> = wanted.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    if wanted == ingress(service) {
        return None;
    }
    Write::status("services", service, json!({"loadBalancer": {"ingress": wanted}}))
}

/// Whether a service waits for an address from here.
pub(super) fn waits(service: &Value) -> bool {
    is_balanced(service) && ingress(service).len() < list(&service["spec"]["ipFamilies"]).len()
}

fn is_balanced(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && text(&service["spec"]["loadBalancerClass"]).is_empty()
}

fn ingress(service: &Value) -> &[Value] {
    list(&service["status"]["loadBalancer"]["ingress"])
}

fn addresses(service: &Value) -> impl Iterator<Item = IpAddr> {
    ingress(service).iter().filter_map(|one| text(&one["ip"]).parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, families: Value, ingress: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "shop"},
            "spec": {"type": "LoadBalancer", "ipFamilies": families},
            "status": {"loadBalancer": {"ingress": ingress}}})
    }

    fn ranges() -> [IpNet; 2] {
        ["203.0.113.0/30", "2001:db8:ff::/126"].map(|range| range.parse().unwrap())
    }

    /// The addresses that a service is to have; `None` if its status stays.
    fn given(service: &Value, others: &[Value]) -> Option<Vec<String>> {
        let write = balance(service, others.iter().chain([service]), &ranges())?;
        let Write::Status { patch, .. } = write else { panic!("{write:?} is no write of a status") };
        let ingress = list(&patch["status"]["loadBalancer"]["ingress"]).to_vec();
        assert!(ingress.iter().all(|one| one["ipMode"] == "VIP"));
        Some(ingress.iter().map(|one| text(&one["ip"]).to_owned()).collect())
    }

    #[test]
    fn each_family_gets_an_address_that_nobody_has() {
        let both = json!(["IPv6", "IPv4"]);
        let first = service("first", both.clone(), json!([]));
        assert_eq!(given(&first, &[]).unwrap(), ["2001:db8:ff::1", "203.0.113.1"]);
        let other = service("other", json!(["IPv4"]), json!([{"ip": "203.0.113.1", "ipMode": "VIP"}]));
        assert_eq!(given(&first, std::slice::from_ref(&other)).unwrap(), ["2001:db8:ff::1", "203.0.113.2"]);
        assert_eq!(given(&other, &[]), None);
        // A second family is added, and what there was stays.
        let grown =
            service("other", json!(["IPv4", "IPv6"]), json!([{"ip": "203.0.113.2", "ipMode": "VIP"}]));
        assert!(waits(&grown));
        assert_eq!(given(&grown, &[]).unwrap(), ["203.0.113.2", "2001:db8:ff::1"]);
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_if_it_is_free() {
        let mut asking = service("asking", json!(["IPv4"]), json!([]));
        asking["spec"]["loadBalancerIP"] = "203.0.113.2".into();
        assert_eq!(given(&asking, &[]).unwrap(), ["203.0.113.2"]);
        let other = service("other", json!(["IPv4"]), json!([{"ip": "203.0.113.2"}]));
        assert_eq!(given(&asking, &[other]).unwrap(), ["203.0.113.1"]);
    }

    #[test]
    fn what_others_balance_is_left_to_them() {
        for ingress in [json!([{"ip": "198.51.100.7"}]), json!([{"hostname": "lb.example"}])] {
            assert_eq!(given(&service("web", json!(["IPv4"]), ingress), &[]), None);
        }
        let mut classed = service("web", json!(["IPv4"]), json!([]));
        classed["spec"]["loadBalancerClass"] = "example.com/lb".into();
        assert_eq!(given(&classed, &[]), None);
        let plain =
            json!({"metadata": {"name": "web"}, "spec": {"type": "NodePort", "ipFamilies": ["IPv4"]}});
        assert_eq!(given(&plain, &[]), None);
    }

    #[test]
    fn a_range_can_be_used_up() {
        let all = [1, 2].map(|last| {
            service(&format!("s{last}"), json!(["IPv4"]), json!([{"ip": format!("203.0.113.{last}")}]))
        });
        let late = service("late", json!(["IPv4"]), json!([]));
        assert_eq!(given(&late, &all), None);
        assert!(waits(&late));
    }
}
