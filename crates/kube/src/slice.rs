//! From an EndpointSlice object to the endpoints that connections go to.

use std::net::IpAddr;
use std::sync::Arc;

use model::{Endpoint, EndpointError, EndpointPort, EndpointSlice, Family, NodeName, ObjectName};

use crate::objects::{EndpointLite, EndpointPortLite, EndpointSliceLite, HintLite, SERVICE};
use crate::service::{read_port, read_protocol};

/// Reads an EndpointSlice; `None` if its addresses are names, or no service has it.
///
/// # Errors
/// [`EndpointError`] for the first field that cannot be used.
pub(crate) fn read_slice(
    name: &ObjectName,
    object: &EndpointSliceLite,
) -> Result<Option<EndpointSlice>, EndpointError> {
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return Ok(None),
    };
    let service = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE));
    let Some(service) = service.filter(|service| !service.is_empty()) else { return Ok(None) };
    let ports = object.ports.iter().filter_map(|port| read_endpoint_port(name, port).transpose());
    let endpoints = object.endpoints.iter().enumerate();
    Ok(Some(EndpointSlice {
        name: name.clone(),
        service: service.as_str().into(),
        family,
        ports: ports.collect::<Result<_, _>>()?,
        endpoints: endpoints
            .map(|(index, endpoint)| read_endpoint(name, family, index, endpoint))
            .collect::<Result<_, _>>()?,
    }))
}

/// A port without a number stands for all ports (discovery.k8s.io/v1), which nothing can be balanced to.
fn read_endpoint_port(
    slice: &ObjectName,
    port: &EndpointPortLite,
) -> Result<Option<EndpointPort>, EndpointError> {
    let Some(value) = port.port else { return Ok(None) };
    Ok(Some(EndpointPort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: read_protocol(port.protocol.as_deref())
            .map_err(|value| EndpointError::Protocol { slice: slice.clone(), value })?,
        port: read_port(value).ok_or_else(|| EndpointError::Port { slice: slice.clone(), value })?,
    }))
}

fn read_endpoint(
    slice: &ObjectName,
    family: Family,
    index: usize,
    endpoint: &EndpointLite,
) -> Result<Endpoint, EndpointError> {
    let text =
        endpoint.addresses.first().ok_or_else(|| EndpointError::NoAddress { slice: slice.clone(), index })?;
    let address = text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    let address = address
        .filter(|address| Family::of(address) == family)
        .ok_or_else(|| EndpointError::Address { slice: slice.clone(), index, value: text.clone(), family })?;
    let node = endpoint.node_name.as_deref().filter(|name| !name.is_empty()).map(NodeName::new).transpose();
    let conditions = &endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    let names = |hints: Option<&Vec<HintLite>>| -> Arc<[Box<str>]> {
        hints.into_iter().flatten().map(|hint| hint.name.clone()).collect()
    };
    let hints = endpoint.hints.as_ref();
    Ok(Endpoint {
        address,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: node
            .map_err(|source| EndpointError::Node { slice: slice.clone(), index, source })?
            .map(Arc::new),
        zones: names(hints.map(|hints| &hints.for_zones)),
        nodes: names(hints.map(|hints| &hints.for_nodes)),
    })
}

#[cfg(test)]
mod tests {
    use model::Protocol;
    use serde_json::{Value, json};

    use super::*;

    fn object(family: &str, ports: Value, endpoints: Value) -> Value {
        json!({
            "metadata": {
                "name": "web-1", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "x"},
            },
            "addressType": family, "ports": ports, "endpoints": endpoints,
        })
    }

    fn read(object: Value) -> Result<Option<EndpointSlice>, EndpointError> {
        read_slice(&ObjectName::new("shop", "web-1"), &serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_slice_of_a_real_cluster_is_read() {
        let ports = json!([
            {"name": "http", "protocol": "TCP", "port": 8080, "appProtocol": null},
            {"name": "dns", "protocol": "UDP", "port": 5353},
            {"name": "", "port": null},
        ]);
        let endpoints = json!([
            {
                "addresses": ["10.244.1.2", "10.244.1.3"], "nodeName": "a", "zone": "east",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": "web-x"},
                "hints": {"forZones": [{"name": "east"}], "forNodes": [{"name": "a"}, {"name": "b"}]},
            },
            {"addresses": ["10.244.2.2"], "conditions": {}},
            {"addresses": ["10.244.2.3"], "conditions": {"ready": false}},
            {
                "addresses": ["10.244.2.4"],
                "conditions": {"ready": false, "serving": true, "terminating": true},
                "hints": {"forZones": null},
            },
        ]);
        let slice = read(object("IPv4", ports, endpoints)).unwrap().unwrap();
        assert_eq!((&*slice.service, slice.family), ("web", Family::V4));
        let ports: Vec<_> = slice.ports.iter().map(|port| (&*port.name, port.protocol, port.port)).collect();
        assert_eq!(ports, [("http", Protocol::Tcp, 8080), ("dns", Protocol::Udp, 5353)]);
        let conditions: Vec<_> = slice
            .endpoints
            .iter()
            .map(|each| (each.address.to_string(), each.ready, each.serving, each.terminating))
            .collect();
        assert_eq!(
            conditions,
            [
                ("10.244.1.2".to_owned(), true, true, false),
                ("10.244.2.2".to_owned(), true, true, false),
                ("10.244.2.3".to_owned(), false, false, false),
                ("10.244.2.4".to_owned(), false, true, true),
            ]
        );
        let first = &slice.endpoints[0];
        assert_eq!(first.node.as_ref().map(|node| node.as_str()), Some("a"));
        assert_eq!(first.zones.iter().map(|zone| &**zone).collect::<Vec<_>>(), ["east"]);
        assert_eq!(first.nodes.len(), 2);
        assert!(slice.endpoints[3].zones.is_empty() && slice.endpoints[1].node.is_none());
    }

    #[test]
    fn a_slice_without_anything_is_read() {
        let slice = read(object("IPv6", Value::Null, Value::Null)).unwrap().unwrap();
        assert_eq!(slice.family, Family::V6);
        assert!(slice.ports.is_empty() && slice.endpoints.is_empty());
    }

    #[test]
    fn names_and_slices_without_a_service_are_none_of_ours() {
        let names = object("FQDN", json!([]), json!([{"addresses": ["example.org"]}]));
        assert_eq!(read(names), Ok(None));
        let mut alone = object("IPv4", json!([]), json!([]));
        alone["metadata"]["labels"] = Value::Null;
        assert_eq!(read(alone), Ok(None));
    }

    #[test]
    fn errors_name_slice_field_value_and_what_would_be_right() {
        let with =
            |endpoint: Value| object("IPv4", json!([]), json!([{"addresses": ["10.0.0.1"]}, endpoint]));
        let port = |port: Value| object("IPv6", json!([port]), json!([]));
        for (object, expected) in [
            (with(json!({"addresses": ["fd00::1"]})), "endpoints[1].addresses: \"fd00::1\" is not an IPv4"),
            (with(json!({"addresses": ["web"]})), "endpoints[1].addresses: \"web\" is not an IPv4 address"),
            (with(json!({"addresses": null})), "endpoints[1].addresses is empty"),
            (
                with(json!({"addresses": ["10.0.0.2"], "nodeName": "A"})),
                "endpoints[1].nodeName: node name \"A\" is not a DNS subdomain",
            ),
            (port(json!({"port": 0})), "ports: 0 is not a port; use 1 to 65535"),
            (port(json!({"port": 80, "protocol": "ICMP"})), "protocol \"ICMP\" is not one of TCP, UDP, SCTP"),
        ] {
            let error = read(object).unwrap_err().to_string();
            assert!(error.starts_with("EndpointSlice shop/web-1: ") && error.contains(expected), "{error}");
        }
    }
}
