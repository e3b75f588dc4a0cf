//! The pods' network as the topology asks for it.

use ipnet::IpNet;
use kube_source::{ClusterNetworkSpec, EncapsulationSpec, MtuSpec};
use model::{BgpSettings, Encapsulation, NetworkConfig, NetworkError, PodRange, Vni, VxlanPort};

use super::TopologyError;
use super::source::{self, Text};

/// The `network` of a topology: the spec of the lab's `ClusterNetwork`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The spec, as it is put into the `ClusterNetwork`.
    pub spec: ClusterNetworkSpec,
    /// The same, checked.
    pub config: NetworkConfig,
    /// Where load-balanced services get their addresses from; none if they are to get none.
    pub load_balancer_ranges: Vec<IpNet>,
}

pub(super) fn check(file: &serde_saphyr::Spanned<source::Network>) -> Result<Network, TopologyError> {
    let network = &file.value;
    let encapsulation = match &network.encapsulation {
        Some(encapsulation) => encapsulation_of(&encapsulation.value)?,
        None => EncapsulationSpec::default(),
    };
    let checked = Encapsulation::try_from(&encapsulation).map_err(|error| placed(file, &error))?;
    let texts = |list: &[Text]| list.iter().map(|text| text.value.clone()).collect::<Vec<_>>();
    let (pod_ranges, service_ranges) = (texts(&network.pod_ranges), texts(&network.service_ranges));
    let mtu = network.mtu.as_ref().map_or("auto", |mtu| mtu.value.as_str());
    let bgp = network.bgp.as_ref().map(|bgp| bgp.value.clone()).unwrap_or_default();
    let settings = BgpSettings::try_from(&bgp).map_err(|error| placed(file, &error))?;
    let config = NetworkConfig::parse(&pod_ranges, &service_ranges, checked, mtu)
        .map_err(|error| placed(file, &error))?;
    let load_balancer_ranges = load_balancer_ranges(&network.load_balancer_ranges, &config)?;
    let mtu = mtu.parse().map_or_else(|_| MtuSpec::Text(mtu.to_owned()), MtuSpec::Bytes);
    let node_port_addresses = Vec::new();
    let route_source = network.route_source;
    let fast_path = network.fast_path;
    let config = NetworkConfig { route_source: route_source.into(), bgp: settings, fast_path, ..config };
    let spec = ClusterNetworkSpec {
        pod_ranges,
        service_ranges,
        node_port_addresses,
        encapsulation,
        mtu,
        route_source,
        bgp,
        fast_path,
    };
    Ok(Network { spec, config, load_balancer_ranges })
}

fn load_balancer_ranges(list: &[Text], config: &NetworkConfig) -> Result<Vec<IpNet>, TopologyError> {
    let mut ranges: Vec<IpNet> = Vec::new();
    for text in list {
        let fail = |why: String| {
            let message = format!("network.loadBalancerRanges: \"{}\" {why}", text.value);
            Err(TopologyError::at(text, message))
        };
        let Ok(range) = text.value.parse::<IpNet>() else {
            return fail("is no range; it would look like 203.0.113.0/24 or 2001:db8:ff::/112".to_owned());
        };
        let range = range.trunc();
        let pods = config.pod_ranges.iter().map(PodRange::net);
        let mut others = pods.chain(config.service_ranges.iter().copied()).chain(ranges.iter().copied());
        if let Some(other) = others.find(|other| other.contains(&range) || range.contains(other)) {
            return fail(format!("overlaps {other}; use a range that is apart from all others"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

fn encapsulation_of(encapsulation: &source::Encapsulation) -> Result<EncapsulationSpec, TopologyError> {
    let mut spec = EncapsulationSpec {
        protocol: encapsulation.protocol.unwrap_or_default(),
        when: encapsulation.when.as_ref().map(|when| when.value).unwrap_or_default(),
        ..Default::default()
    };
    if let Some(vni) = &encapsulation.vni {
        let vni = Vni::new(vni.value).map_err(|error| TopologyError::at(vni, worded(&error)))?;
        spec.vni = Some(vni.value());
    }
    if let Some(port) = &encapsulation.port {
        let port = VxlanPort::new(port.value).map_err(|error| TopologyError::at(port, worded(&error)))?;
        spec.port = Some(port.value().into());
    }
    Ok(spec)
}

/// Finds the place of what the model does not take.
fn placed(file: &serde_saphyr::Spanned<source::Network>, error: &NetworkError) -> TopologyError {
    let network = &file.value;
    if let NetworkError::NothingToEncapsulate = error
        && let Some(encapsulation) = &network.encapsulation
        && let Some(when) = &encapsulation.value.when
    {
        return TopologyError::at(when, worded(error));
    }
    if let NetworkError::Asn(_) | NetworkError::Timer(_) = error
        && let Some(bgp) = &network.bgp
    {
        return TopologyError::at(bgp, worded(error));
    }
    let text = match error {
        NetworkError::PodRange { index, .. } => network.pod_ranges.get(*index),
        NetworkError::ServiceRange { index, .. } => network.service_ranges.get(*index),
        NetworkError::Overlap { second, .. } => {
            let mut ranges = network.pod_ranges.iter().chain(&network.service_ranges);
            ranges.rfind(|text| range(text) == Some(*second))
        }
        NetworkError::Mtu { .. } => network.mtu.as_ref(),
        NetworkError::NoPodRange
        | NetworkError::Vni(_)
        | NetworkError::Port(_)
        | NetworkError::NothingToEncapsulate
        | NetworkError::Asn(_)
        | NetworkError::Timer(_)
        | NetworkError::NodePortAddresses { .. } => None,
    };
    match text {
        Some(text) => TopologyError::at(text, worded(error)),
        None => TopologyError::at(file, worded(error)),
    }
}

/// A range as the model reads it, pod range or not.
fn range(text: &Text) -> Option<IpNet> {
    let pods = text.value.parse().map(|range: PodRange| range.net());
    pods.ok().or_else(|| text.value.parse().ok().map(|net: IpNet| net.trunc()))
}

/// The model speaks of a `ClusterNetwork`, whose fields are under `network` here.
fn worded(error: &NetworkError) -> String {
    let words = error.to_string();
    match words.strip_prefix("spec") {
        Some(rest) => format!("network{rest}"),
        None => words,
    }
}
