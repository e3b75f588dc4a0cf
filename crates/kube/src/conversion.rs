//! From a `ClusterNetwork` to the network's configuration.

use model::{
    Asn, BgpSettings, Encapsulation, HoldTime, Mtu, NetworkConfig, NetworkError, Sending, ServiceAddresses,
    Vni, VxlanPort, VxlanSettings,
};
use serde::de::DeserializeOwned;

use crate::cluster_network::{
    AddressKind, BgpSpec, ClusterNetworkSpec, EncapsulationSpec, MtuSpec, Protocol, RouteSource, When,
};
use crate::error::SpecError;
use crate::peer_conversion::{timers, timers_spec};

impl TryFrom<&ClusterNetworkSpec> for NetworkConfig {
    type Error = NetworkError;

    fn try_from(spec: &ClusterNetworkSpec) -> Result<Self, Self::Error> {
        let encapsulation = Encapsulation::try_from(&spec.encapsulation)?;
        let mtu = match &spec.mtu {
            MtuSpec::Bytes(bytes) => bytes.to_string(),
            MtuSpec::Text(text) => text.clone(),
        };
        let network = NetworkConfig::parse(&spec.pod_ranges, &spec.service_ranges, encapsulation, &mtu)?
            .with_node_port_addresses(&spec.node_port_addresses)?;
        let route_source = spec.route_source.into();
        let bgp = BgpSettings::try_from(&spec.bgp)?;
        Ok(NetworkConfig { route_source, bgp, fast_path: spec.fast_path, ..network })
    }
}

impl From<&NetworkConfig> for ClusterNetworkSpec {
    fn from(network: &NetworkConfig) -> Self {
        let Encapsulation { sending, vxlan } = network.encapsulation;
        let (protocol, when) = match sending {
            Sending::Vxlan(when) => (Protocol::Vxlan, when.into()),
            Sending::Ipip(when) => (Protocol::Ipip, when.into()),
            Sending::Plain => (Protocol::None, When::Always),
        };
        ClusterNetworkSpec {
            pod_ranges: network.pod_ranges.iter().map(ToString::to_string).collect(),
            service_ranges: network.service_ranges.iter().map(ToString::to_string).collect(),
            node_port_addresses: network.node_port_addresses.iter().map(ToString::to_string).collect(),
            encapsulation: EncapsulationSpec {
                protocol,
                when,
                vni: Some(vxlan.vni.value()),
                port: Some(vxlan.port.value().into()),
            },
            mtu: match network.mtu {
                Mtu::Auto => MtuSpec::default(),
                Mtu::Fixed(bytes) => MtuSpec::Bytes(bytes),
            },
            route_source: match network.route_source {
                model::RouteSource::Kubernetes => RouteSource::Kubernetes,
                model::RouteSource::Bgp => RouteSource::Bgp,
            },
            bgp: BgpSpec::from(&network.bgp),
            fast_path: network.fast_path,
        }
    }
}

impl From<RouteSource> for model::RouteSource {
    fn from(source: RouteSource) -> Self {
        match source {
            RouteSource::Kubernetes => model::RouteSource::Kubernetes,
            RouteSource::Bgp => model::RouteSource::Bgp,
        }
    }
}

impl TryFrom<&BgpSpec> for BgpSettings {
    type Error = NetworkError;

    fn try_from(spec: &BgpSpec) -> Result<Self, Self::Error> {
        let defaults = BgpSettings::default();
        let kind = |kind| spec.announce.contains(&kind);
        Ok(BgpSettings {
            asn: spec.asn.map_or(Ok(defaults.asn), Asn::new)?,
            announce: ServiceAddresses {
                cluster: kind(AddressKind::Cluster),
                external: kind(AddressKind::External),
                balancer: kind(AddressKind::Balancer),
            },
            hold_time: spec.hold_time_seconds.map_or(Ok(defaults.hold_time), HoldTime::new)?,
            bfd: spec.bfd.map(timers).transpose()?,
        })
    }
}

impl From<&BgpSettings> for BgpSpec {
    fn from(settings: &BgpSettings) -> Self {
        let ServiceAddresses { cluster, external, balancer } = settings.announce;
        let kinds = [
            (AddressKind::Cluster, cluster),
            (AddressKind::External, external),
            (AddressKind::Balancer, balancer),
        ];
        BgpSpec {
            asn: Some(settings.asn.value().into()),
            announce: kinds.into_iter().filter(|(_, wanted)| *wanted).map(|(kind, _)| kind).collect(),
            hold_time_seconds: Some(settings.hold_time.seconds().into()),
            bfd: settings.bfd.map(timers_spec),
        }
    }
}

impl From<model::When> for When {
    fn from(when: model::When) -> When {
        match when {
            model::When::Always => When::Always,
            model::When::CrossSubnet => When::CrossSubnet,
        }
    }
}

impl From<When> for model::When {
    fn from(when: When) -> model::When {
        match when {
            When::Always => model::When::Always,
            When::CrossSubnet => model::When::CrossSubnet,
        }
    }
}

impl TryFrom<&EncapsulationSpec> for Encapsulation {
    type Error = NetworkError;

    fn try_from(spec: &EncapsulationSpec) -> Result<Self, Self::Error> {
        let sending = match (spec.protocol, spec.when) {
            (Protocol::Vxlan, when) => Sending::Vxlan(when.into()),
            (Protocol::Ipip, when) => Sending::Ipip(when.into()),
            // That is also what is left out.
            (Protocol::None, When::Always) => Sending::Plain,
            (Protocol::None, When::CrossSubnet) => return Err(NetworkError::NothingToEncapsulate),
        };
        let mut vxlan = VxlanSettings::default();
        if let Some(vni) = spec.vni {
            vxlan.vni = Vni::new(vni.into())?;
        }
        if let Some(port) = spec.port {
            vxlan.port = VxlanPort::new(port.into())?;
        }
        Ok(Encapsulation { sending, vxlan })
    }
}

/// Reads a spec that came over the API.
///
/// An object can get past the schema: by an older definition of the resource, or by an API server that does not
/// check. So it is read from JSON here, where an error is about this object and not about the whole watch.
///
/// # Errors
/// [`SpecError`] naming the field, its value and what would be right.
pub(crate) fn read_spec(spec: &serde_json::Value) -> Result<NetworkConfig, SpecError> {
    let spec: ClusterNetworkSpec = read(spec)?;
    Ok(NetworkConfig::try_from(&spec)?)
}

/// Reads a spec of any kind; an error names the field.
pub(crate) fn read<T: DeserializeOwned>(spec: &serde_json::Value) -> Result<T, SpecError> {
    serde_path_to_error::deserialize(spec).map_err(|error| SpecError::Shape {
        path: match error.path().to_string().as_str() {
            "." => "spec".to_owned(),
            path => format!("spec.{path}"),
        },
        reason: error.into_inner().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_short_object_gets_the_defaults() {
        let network = read_spec(&json!({"podRanges": ["10.244.0.0/16", "fd00:10:244::/56"]})).unwrap();
        assert_eq!(network.mtu, Mtu::Auto);
        assert_eq!(network.encapsulation, Encapsulation::default());
        assert_eq!(network.pod_ranges.len(), 2);
        assert_eq!(read_spec(&json!({"podRanges": ["10.244.0.0/16"], "mtu": null})).unwrap().mtu, Mtu::Auto);
    }

    #[test]
    fn a_configuration_survives_the_way_through_an_object() {
        for spec in [
            json!({"podRanges": ["10.244.0.0/16", "fd00:10:244::/56"], "serviceRanges": ["10.96.0.0/12"]}),
            json!({"podRanges": ["10.244.0.0/16"], "encapsulation": {"vni": 7, "port": 8472}, "mtu": 1400}),
            json!({"podRanges": ["10.244.0.0/16"], "encapsulation": {"when": "crossSubnet"}}),
            json!({"podRanges": ["10.244.0.0/16"], "encapsulation": {"protocol": "none", "vni": 7}}),
            json!({"podRanges": ["10.244.0.0/16"], "encapsulation": {"protocol": "ipip"}}),
            json!({"podRanges": ["10.244.0.0/16"], "encapsulation": {"protocol": "ipip", "when": "crossSubnet"}}),
            json!({"podRanges": ["10.244.0.0/16"], "nodePortAddresses": ["192.0.2.0/24", "2001:db8::/64"]}),
            json!({"podRanges": ["10.244.0.0/16"], "routeSource": "bgp", "bgp": {
                "asn": 4_200_000_000_u32, "announce": ["LoadBalancerIP", "ClusterIP"], "holdTimeSeconds": 0,
                "bfd": {"intervalMilliseconds": 100, "multiplier": 4},
            }}),
        ] {
            let network = read_spec(&spec).unwrap();
            assert_eq!(NetworkConfig::try_from(&ClusterNetworkSpec::from(&network)), Ok(network));
        }
    }

    #[test]
    fn everything_is_taken_over() {
        let network = read_spec(&json!({
            "podRanges": ["10.244.0.0/16"],
            "serviceRanges": ["10.96.0.0/12"],
            "nodePortAddresses": ["192.0.2.7/24", "::/0"],
            "encapsulation": {"protocol": "vxlan", "when": "always", "vni": 7, "port": 8472},
            "mtu": 1400,
            "routeSource": "bgp",
            "bgp": {"asn": 65000, "announce": ["ExternalIP"], "holdTimeSeconds": 9, "bfd": {}},
        }))
        .unwrap();
        assert_eq!(network.route_source, model::RouteSource::Bgp);
        assert_eq!((network.bgp.asn.value(), network.bgp.hold_time.seconds()), (65000, 9));
        assert_eq!(network.bgp.announce, ServiceAddresses { external: true, ..Default::default() });
        assert_eq!(network.bgp.bfd, Some(model::BfdTimers::default()));
        assert_eq!(network.mtu, Mtu::Fixed(1400));
        let Encapsulation { sending, vxlan } = network.encapsulation;
        assert_eq!(sending, Sending::Vxlan(model::When::Always));
        assert_eq!((vxlan.vni.value(), vxlan.port.value()), (7, 8472));
        assert_eq!(network.service_ranges, ["10.96.0.0/12".parse().unwrap()]);
        assert_eq!(network.node_port_addresses, ["192.0.2.0/24".parse().unwrap(), "::/0".parse().unwrap()]);
    }

    #[test]
    fn errors_name_field_value_and_what_would_be_right() {
        for (spec, expected) in [
            (json!({"podRanges": []}), "spec.podRanges is empty; name at least one range"),
            (json!({}), "spec: missing field `podRanges`"),
            (json!({"podRanges": "10.244.0.0/16"}), "spec.podRanges: invalid type: string"),
            (json!({"podRanges": ["10.244.0.0/33"]}), "spec.podRanges[0]: pod range \"10.244.0.0/33\""),
            (
                json!({"podRanges": ["10.0.0.0/8"], "encapsulation": {"protocol": "geneve"}}),
                "spec.encapsulation.protocol: unknown variant `geneve`, expected one of `vxlan`, `ipip`, `none`",
            ),
            (
                json!({"podRanges": ["10.0.0.0/8"], "encapsulation": {"when": "never"}}),
                "spec.encapsulation.when: unknown variant `never`, expected `always` or `crossSubnet`",
            ),
            (
                json!({"podRanges": ["10.0.0.0/8"], "encapsulation": {"protocol": "none", "when": "crossSubnet"}}),
                "spec.encapsulation.when: \"crossSubnet\" makes no sense with protocol none",
            ),
            (
                json!({"podRanges": ["10.0.0.0/8"], "encapsulation": {"vni": 0}}),
                "spec.encapsulation.vni: 0 is out of range",
            ),
            (
                json!({"podRanges": ["10.0.0.0/8"], "encapsulation": {"port": 65536}}),
                "spec.encapsulation.port: 65536 is out of range",
            ),
            (
                json!({"podRanges": ["10.0.0.0/8"], "nodePortAddresses": ["192.0.2.1"]}),
                "spec.nodePortAddresses[0]: \"192.0.2.1\" is not an address prefix",
            ),
            (json!({"podRanges": ["fd00::/48"], "mtu": 1000}), "spec.mtu: \"1000\" cannot be used"),
            (json!({"podRanges": ["fd00::/48"], "mtu": "big"}), "spec.mtu: \"big\" cannot be used"),
            (
                json!({"podRanges": ["fd00::/48"], "routeSource": "ospf"}),
                "spec.routeSource: unknown variant `ospf`, expected `kubernetes` or `bgp`",
            ),
            (
                json!({"podRanges": ["fd00::/48"], "bgp": {"asn": 23456}}),
                "spec.bgp.asn: 23456 is the number of no autonomous system; use 1",
            ),
            (
                json!({"podRanges": ["fd00::/48"], "bgp": {"announce": ["NodePort"]}}),
                "spec.bgp.announce[0]: unknown variant `NodePort`, expected one of `ClusterIP`",
            ),
            (
                json!({"podRanges": ["fd00::/48"], "bgp": {"holdTimeSeconds": 1}}),
                "spec.bgp.holdTimeSeconds: 1 is no hold time",
            ),
            (
                json!({"podRanges": ["fd00::/48"], "bgp": {"bfd": {"multiplier": 300}}}),
                "spec.bgp.bfd.multiplier: 300 is out of range",
            ),
        ] {
            let error = read_spec(&spec).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
