//! From a Service object to the service that connections are balanced by.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use model::{ObjectName, Protocol, Service, ServiceError, ServicePort, TrafficPolicy};

use crate::objects::{ServiceLite, ServicePortLite, ServiceSpecLite};

/// How long a client stays with an endpoint if the object does not say, in seconds
/// (`DefaultClientIPServiceAffinitySeconds`, k8s.io/api/core/v1).
const AFFINITY: i64 = 10_800;
/// The longest time, in seconds (`MaxClientIPServiceAffinitySeconds`).
const LONGEST_AFFINITY: i64 = 86_400;

/// Reads a Service; `None` if it has no address of its own: it is headless, of type `ExternalName`, or has not been
/// given one yet (`ShouldSkipService` in kube-proxy's pkg/proxy/util).
///
/// # Errors
/// [`ServiceError`] for the first field that cannot be used.
pub(crate) fn read_service(name: &ObjectName, object: &ServiceLite) -> Result<Option<Service>, ServiceError> {
    let spec = &object.spec;
    let kind = text(&spec.kind).unwrap_or("ClusterIP");
    let first = text(&spec.cluster_ip).or(spec.cluster_ips.first().map(String::as_str));
    if kind == "ExternalName" || first.is_none_or(|first| first == "None" || first.is_empty()) {
        return Ok(None);
    }
    let reader = Reader { name };
    let cluster_addresses = match &spec.cluster_ips[..] {
        [] => reader.addresses("spec.clusterIP", first.into_iter())?,
        list => reader.addresses("spec.clusterIPs", list.iter().map(String::as_str))?,
    };
    let balanced = kind == "LoadBalancer";
    let external_policy = reader.policy("spec.externalTrafficPolicy", &spec.external_traffic_policy)?;
    let checked = balanced && external_policy == TrafficPolicy::Local;
    let ingress = object.status.load_balancer.ingress.iter();
    let own = ingress.filter(|ingress| text(&ingress.ip_mode).is_none_or(|mode| mode == "VIP"));
    Ok(Some(Service {
        name: name.clone(),
        cluster_addresses,
        external_addresses: reader
            .addresses("spec.externalIPs", spec.external_ips.iter().map(String::as_str))?,
        balancer_addresses: reader
            .addresses("status.loadBalancer.ingress.ip", own.filter_map(|ingress| text(&ingress.ip)))?,
        balancer_sources: if balanced {
            reader.sources(&spec.load_balancer_source_ranges)?
        } else {
            Vec::new()
        },
        ports: spec.ports.iter().map(|port| reader.port(port)).collect::<Result<_, _>>()?,
        internal_policy: reader.policy("spec.internalTrafficPolicy", &spec.internal_traffic_policy)?,
        external_policy,
        affinity: reader.affinity(spec)?,
        health_check_port: match spec.health_check_node_port {
            Some(port) if checked && port != 0 => Some(reader.port_number("spec.healthCheckNodePort", port)?),
            _ => None,
        },
    }))
}

/// A field that is empty says as much as one that is not there.
fn text(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// Reads the fields of one object.
struct Reader<'a> {
    name: &'a ObjectName,
}

impl Reader<'_> {
    fn addresses<'t>(
        &self,
        field: &'static str,
        texts: impl Iterator<Item = &'t str>,
    ) -> Result<Vec<IpAddr>, ServiceError> {
        texts.map(|text| self.address(field, text)).collect()
    }

    /// Addresses of loopback, and what is no unicast address, would take over traffic that was never for a service.
    fn address(&self, field: &'static str, text: &str) -> Result<IpAddr, ServiceError> {
        let service = || self.name.clone();
        let Ok(address) = text.parse::<IpAddr>() else {
            return Err(ServiceError::Address { service: service(), field, value: text.to_owned() });
        };
        let address = address.to_canonical();
        let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        if broadcast || address.is_multicast() || address.is_unspecified() || address.is_loopback() {
            return Err(ServiceError::NotUnicast { service: service(), field, value: address });
        }
        Ok(address)
    }

    fn sources(&self, texts: &[String]) -> Result<Vec<IpNet>, ServiceError> {
        let read = |text: &String| {
            // The API lets white space pass.
            let range = text.trim().parse::<IpNet>().map(|net| net.trunc());
            range.map_err(|_| ServiceError::Range { service: self.name.clone(), value: text.clone() })
        };
        texts.iter().map(read).collect()
    }

    fn port(&self, port: &ServicePortLite) -> Result<ServicePort, ServiceError> {
        let node_port = match port.node_port {
            None | Some(0) => None,
            Some(number) => Some(self.port_number("spec.ports.nodePort", number)?),
        };
        Ok(ServicePort {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: read_protocol(port.protocol.as_deref())
                .map_err(|value| ServiceError::Protocol { service: self.name.clone(), value })?,
            port: self.port_number("spec.ports.port", port.port)?,
            node_port,
        })
    }

    fn port_number(&self, field: &'static str, value: i64) -> Result<u16, ServiceError> {
        read_port(value).ok_or_else(|| ServiceError::Port { service: self.name.clone(), field, value })
    }

    fn policy(&self, field: &'static str, value: &Option<String>) -> Result<TrafficPolicy, ServiceError> {
        match text(value) {
            None | Some("Cluster") => Ok(TrafficPolicy::Cluster),
            Some("Local") => Ok(TrafficPolicy::Local),
            Some(value) => {
                Err(ServiceError::Policy { service: self.name.clone(), field, value: value.to_owned() })
            }
        }
    }

    fn affinity(&self, spec: &ServiceSpecLite) -> Result<Option<Duration>, ServiceError> {
        let service = || self.name.clone();
        match text(&spec.session_affinity) {
            None | Some("None") => Ok(None),
            Some("ClientIP") => {
                let config = spec.session_affinity_config.as_ref();
                let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
                match seconds.unwrap_or(AFFINITY) {
                    seconds @ 1..=LONGEST_AFFINITY => Ok(Some(Duration::from_secs(seconds.unsigned_abs()))),
                    value => Err(ServiceError::AffinityTime { service: service(), value }),
                }
            }
            Some(value) => Err(ServiceError::Affinity { service: service(), value: value.to_owned() }),
        }
    }
}

/// A protocol by its name; TCP if there is none. The error is what stands there.
pub(crate) fn read_protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(other.to_owned()),
    }
}

/// A port from 1 to 65535.
pub(crate) fn read_port(value: i64) -> Option<u16> {
    u16::try_from(value).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value, status: Value) -> Result<Option<Service>, ServiceError> {
        let object =
            json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec, "status": status});
        read_service(&ObjectName::new("shop", "web"), &serde_json::from_value(object).unwrap())
    }

    fn service(spec: Value) -> Service {
        read(spec, json!({})).unwrap().unwrap()
    }

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_balanced_dual_stack_service_is_read_whole() {
        let spec = json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"],
            "externalIPs": ["198.51.100.7", "2001:db8:1::7"],
            "loadBalancerSourceRanges": [" 203.0.113.9/24 ", "2001:db8:2::/48"],
            "ports": [
                {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080, "appProtocol": "x"},
                {"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 0},
            ],
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
            "sessionAffinity": "ClientIP", "selector": {"app": "web"}, "allocateLoadBalancerNodePorts": true,
        });
        let status = json!({"loadBalancer": {"ingress": [
            {"ip": "198.51.100.8"}, {"ip": "2001:db8:1::8", "ipMode": "VIP"}, {"ip": "198.51.100.9", "ipMode": "Proxy"},
            {"hostname": "lb.example.org"},
        ]}});
        let read = read(spec, status).unwrap().unwrap();
        let port = |name: &str, protocol, port, node_port| ServicePort {
            name: name.into(),
            protocol,
            port,
            node_port,
        };
        assert_eq!(
            read,
            Service {
                name: ObjectName::new("shop", "web"),
                cluster_addresses: addresses(&["10.96.0.7", "fd00:96::7"]),
                external_addresses: addresses(&["198.51.100.7", "2001:db8:1::7"]),
                balancer_addresses: addresses(&["198.51.100.8", "2001:db8:1::8"]),
                balancer_sources: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:2::/48".parse().unwrap()],
                ports: vec![
                    port("http", Protocol::Tcp, 80, Some(30080)),
                    port("dns", Protocol::Udp, 53, None)
                ],
                internal_policy: TrafficPolicy::Local,
                external_policy: TrafficPolicy::Local,
                affinity: Some(Duration::from_secs(10_800)),
                health_check_port: Some(31000),
            }
        );
    }

    #[test]
    fn a_short_object_gets_the_defaults() {
        let service =
            service(json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}], "externalIPs": null}));
        assert_eq!(service.cluster_addresses, addresses(&["10.96.0.7"]));
        assert_eq!(service.ports[0].protocol, Protocol::Tcp);
        assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
        assert_eq!(service.external_policy, TrafficPolicy::Cluster);
        assert_eq!((service.affinity, service.health_check_port), (None, None));
    }

    #[test]
    fn what_only_balancers_have_is_left_out_of_others() {
        let mut spec = json!({
            "type": "NodePort", "clusterIP": "fd00:96::7", "ports": [{"port": 80, "nodePort": 30080}],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
            "loadBalancerSourceRanges": ["not read"],
        });
        let node_port = service(spec.clone());
        assert_eq!((node_port.health_check_port, node_port.balancer_sources), (None, Vec::new()));
        spec["type"] = "LoadBalancer".into();
        spec["loadBalancerSourceRanges"] = json!([]);
        assert_eq!(service(spec.clone()).health_check_port, Some(31000));
        spec["externalTrafficPolicy"] = "Cluster".into();
        assert_eq!(service(spec).health_check_port, None);
    }

    #[test]
    fn services_without_an_address_are_none_of_ours() {
        for spec in [
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": ""}),
            json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": "10.96.0.7"}),
            json!({"ports": [{"port": 80}]}),
        ] {
            assert_eq!(read(spec.clone(), json!({})), Ok(None), "{spec}");
        }
    }

    #[test]
    fn errors_name_service_field_value_and_what_would_be_right() {
        let with = |field: &str, value: Value| {
            let mut spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.7", "ports": [{"port": 80}]});
            spec[field] = value;
            spec
        };
        let affinity = |seconds: i64| {
            let mut spec = with("sessionAffinity", "ClientIP".into());
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
            spec
        };
        for (spec, expected) in [
            (with("clusterIP", "10.96.0".into()), "spec.clusterIP: \"10.96.0\" is not an IP address"),
            (with("clusterIPs", json!(["10.96.0.7", "x"])), "spec.clusterIPs: \"x\" is not an IP address"),
            (with("externalIPs", json!(["127.0.0.1"])), "spec.externalIPs: 127.0.0.1 is not unicast"),
            (with("externalIPs", json!(["ff02::1"])), "spec.externalIPs: ff02::1 is not unicast"),
            (with("externalIPs", json!(["::ffff:127.0.0.1"])), "spec.externalIPs: 127.0.0.1 is not unicast"),
            (with("externalIPs", json!(["255.255.255.255"])), "255.255.255.255 is not unicast"),
            (with("externalIPs", json!(["::"])), "spec.externalIPs: :: is not unicast"),
            (
                with("loadBalancerSourceRanges", json!(["192.0.2.0"])),
                "spec.loadBalancerSourceRanges: \"192.0.2.0\" is not an address prefix; it would look like",
            ),
            (with("ports", json!([{"port": 0}])), "spec.ports.port: 0 is not a port; use 1 to 65535"),
            (
                with("ports", json!([{"port": 80, "nodePort": 70000}])),
                "spec.ports.nodePort: 70000 is not a port",
            ),
            (with("ports", json!([{"port": 80, "protocol": "tcp"}])), "protocol \"tcp\" is not one of TCP"),
            (
                with("externalTrafficPolicy", "Near".into()),
                "spec.externalTrafficPolicy: \"Near\" is not one of Cluster, Local",
            ),
            (with("internalTrafficPolicy", "Near".into()), "spec.internalTrafficPolicy: \"Near\""),
            (with("sessionAffinity", "Cookie".into()), "\"Cookie\" is not one of None, ClientIP"),
            (affinity(0), "timeoutSeconds: 0 is out of range; use 1 to 86400"),
            (affinity(86_401), "timeoutSeconds: 86401 is out of range"),
        ] {
            let error = read(spec, json!({})).unwrap_err().to_string();
            assert!(error.starts_with("Service shop/web: ") && error.contains(expected), "{error}");
        }
        let status = json!({"loadBalancer": {"ingress": [{"ip": "lb"}]}});
        let error = read(with("type", "LoadBalancer".into()), status).unwrap_err().to_string();
        assert!(error.contains("status.loadBalancer.ingress.ip: \"lb\" is not an IP address"), "{error}");
    }
}
