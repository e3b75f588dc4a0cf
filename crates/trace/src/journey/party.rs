//! The two ends of a trace, from what somebody typed.

use std::fmt;
use std::net::IpAddr;

use model::{Family, NodeName, ObjectName, PerFamily, Pod, Protocol, Service};

use super::Scene;

/// The least likeness (Jaro-Winkler) of a name that is suggested.
const ALIKE: f64 = 0.8;
/// How many names are suggested.
const SUGGESTED: usize = 3;

/// Somebody who sends or receives packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// A pod with addresses of its own.
    Pod(Pod),
    /// A node; with a pod that has the node's network, if it was named.
    Node(NodeName),
    /// A service.
    Service(ObjectName),
    /// An address that nobody in the cluster has.
    Outside(IpAddr),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Pod(pod) => pod.name.fmt(f),
            Party::Node(node) => write!(f, "node {node}"),
            Party::Service(name) => write!(f, "service {name}"),
            Party::Outside(_) => f.write_str("outside"),
        }
    }
}

/// Somebody in the cluster who has an address.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Holder<'a> {
    Pod(&'a Pod),
    Service(&'a ObjectName),
    Node(&'a NodeName),
}

impl Holder<'_> {
    pub(crate) fn party(self) -> Party {
        match self {
            Holder::Pod(pod) => Party::Pod(pod.clone()),
            Holder::Service(name) => Party::Service(name.clone()),
            Holder::Node(name) => Party::Node(name.clone()),
        }
    }
}

/// A party as it was named, with the address and port that were named with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Who.
    pub party: Party,
    /// The address, if one was named and not an object.
    pub address: Option<IpAddr>,
    /// The port or its name.
    pub port: Option<Port>,
}

/// A port as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// By number, host byte order.
    Number(u16),
    /// By the name that a service has for it.
    Name(String),
}

/// Why something that was typed is no party.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartyError {
    /// Nobody has this name.
    #[error("there is no {kind} \"{name}\"{}", suggestion(.near))]
    Unknown {
        /// What was looked for.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Names that are like it, as they can be typed.
        near: Vec<String>,
    },
    /// Several pods have this name.
    #[error("there are several pods \"{name}\"; say which: {}", .known.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// As they can be typed.
        known: Vec<String>,
    },
    /// Not of any form that is known.
    #[error(
        "\"{0}\" names nobody; use pod/NAMESPACE/NAME, node/NAME, service/NAMESPACE/NAME or an IP address (host names are \
         not resolved)"
    )]
    Form(String),
    /// What should be a port.
    #[error("\"{0}\" is no port; use a number from 1 to 65535, or the name of a service's port")]
    Port(String),
    /// A source with a port.
    #[error("the source \"{0}\" has a port; only the destination has one, as the sender's is any")]
    SourcePort(String),
}

fn suggestion(near: &[String]) -> String {
    match near {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

impl Scene {
    /// The source that was typed.
    ///
    /// # Errors
    /// [`PartyError`] if it names nobody.
    pub fn source(&self, text: &str, namespace: &str) -> Result<Named, PartyError> {
        let named = self.party(text, namespace)?;
        match named.port {
            None => Ok(named),
            Some(_) => Err(PartyError::SourcePort(text.to_owned())),
        }
    }

    /// The destination that was typed.
    ///
    /// # Errors
    /// [`PartyError`] if it names nobody.
    pub fn party(&self, text: &str, namespace: &str) -> Result<Named, PartyError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Named { party: self.party_with(address), address: Some(address), port: None });
        }
        let (who, port) = match text.rsplit_once(':') {
            Some((who, port)) => (who, Some(self::port(port)?)),
            None => (text, None),
        };
        let bare = who.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(who);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Named { party: self.party_with(address), address: Some(address), port });
        }
        let parts: Vec<&str> = who.split('/').collect();
        let party = match parts.as_slice() {
            ["pod", of, name] => self.pod(of, name)?,
            ["pod", name] | [name] => self.pod_by_name(name, namespace)?,
            ["node", name] => self.node(name)?,
            ["service" | "svc", of, name] => self.service(of, name)?,
            ["service" | "svc", name] => self.service(namespace, name)?,
            [of, name] => self.pod(of, name)?,
            _ => return Err(PartyError::Form(text.to_owned())),
        };
        Ok(Named { party, address: None, port })
    }

    /// Who has an address.
    pub fn party_with(&self, address: IpAddr) -> Party {
        let mut holders = self.holders();
        let found = holders.find(|(own, _)| *own == address);
        found.map_or(Party::Outside(address), |(_, holder)| holder.party())
    }

    /// All addresses that somebody has, with who it is. Of several who have one the first counts.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (IpAddr, Holder<'_>)> {
        let pods = self.pods.iter().filter(|pod| !pod.host_network);
        let pods = pods.flat_map(|pod| pod.addresses.iter().map(move |own| (*own, Holder::Pod(pod))));
        let services = self.cluster.services.values();
        let services = services
            .flat_map(|service| service.addresses().map(|own| (*own, Holder::Service(&service.name))));
        let all = || self.cluster.nodes.values();
        let nodes = all().flat_map(|node| node.addresses.iter().map(|own| (*own, Holder::Node(&node.name))));
        let gateways = all()
            .flat_map(|node| node.pod_ranges.iter().map(|range| (range.gateway(), Holder::Node(&node.name))));
        pods.chain(services).chain(nodes).chain(gateways)
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Party, PartyError> {
        let wanted = ObjectName::new(namespace, name);
        let pod = self.pods.iter().find(|pod| pod.name == wanted);
        pod.map(of_pod).ok_or_else(|| PartyError::Unknown {
            kind: "pod with an address",
            name: wanted.to_string(),
            near: self.near(&wanted.to_string()),
        })
    }

    fn pod_by_name(&self, name: &str, namespace: &str) -> Result<Party, PartyError> {
        if name.is_empty() {
            return Err(PartyError::Form(name.to_owned()));
        }
        let all: Vec<&Pod> = self.pods.iter().filter(|pod| &*pod.name.name == name).collect();
        let here = all.iter().find(|pod| &*pod.name.namespace == namespace);
        match (here, all.as_slice()) {
            (Some(pod), _) | (None, [pod]) => Ok(of_pod(pod)),
            (None, []) => Err(PartyError::Unknown {
                kind: "pod with an address",
                name: name.to_owned(),
                near: self.near(name),
            }),
            (None, several) => Err(PartyError::Ambiguous {
                name: name.to_owned(),
                known: several.iter().map(|pod| pod.name.to_string()).collect(),
            }),
        }
    }

    fn node(&self, name: &str) -> Result<Party, PartyError> {
        let found = self.cluster.nodes.keys().find(|node| node.as_str() == name);
        found.cloned().map(Party::Node).ok_or_else(|| PartyError::Unknown {
            kind: "node",
            name: name.to_owned(),
            near: self.near(name),
        })
    }

    fn service(&self, namespace: &str, name: &str) -> Result<Party, PartyError> {
        let wanted = ObjectName::new(namespace, name);
        match self.cluster.services.contains_key(&wanted) {
            true => Ok(Party::Service(wanted)),
            false => Err(PartyError::Unknown {
                kind: "service with an address of its own",
                name: wanted.to_string(),
                near: self.near(&wanted.to_string()),
            }),
        }
    }

    /// Names like this one, whatever they are the names of, the likest first.
    fn near(&self, wanted: &str) -> Vec<String> {
        let short = wanted.rsplit('/').next().unwrap_or(wanted);
        let score = |name: &str, full: &str| {
            let alike = strsim::jaro_winkler(short, name).max(strsim::jaro_winkler(wanted, full));
            // Names of pods are those of what they are made by, and more.
            match name.strip_prefix(short) {
                Some("") => 2.0,
                Some(_) => 1.0,
                None => alike,
            }
        };
        let of = |kind: &str, object: &ObjectName| {
            (score(&object.name, &object.to_string()), format!("{kind}/{object}"))
        };
        let pods = self.pods.iter().map(|pod| of("pod", &pod.name));
        let services = self.cluster.services.keys().map(|service| of("service", service));
        let nodes = self
            .cluster
            .nodes
            .keys()
            .map(|node| (score(node.as_str(), node.as_str()), format!("node/{node}")));
        let mut all: Vec<(f64, String)> = pods.chain(services).chain(nodes).collect();
        all.retain(|(alike, _)| *alike >= ALIKE);
        all.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        all.into_iter().take(SUGGESTED).map(|(_, name)| name).collect()
    }

    /// The addresses of a party that packets can be sent to or from, at most one of each family.
    pub(super) fn addresses(&self, party: &Party) -> PerFamily<IpAddr> {
        let mut addresses = PerFamily::default();
        match party {
            Party::Pod(pod) => return pod.addresses.clone(),
            Party::Node(name) => {
                return self.cluster.nodes.get(name).map(|node| node.addresses.clone()).unwrap_or_default();
            }
            Party::Service(name) => {
                for address in
                    self.cluster.services.get(name).into_iter().flat_map(|one| &one.cluster_addresses)
                {
                    addresses.insert(Family::of(address), *address);
                }
            }
            Party::Outside(address) => drop(addresses.insert(Family::of(address), *address)),
        }
        addresses
    }
}

/// A pod that has the network of its node is its node.
fn of_pod(pod: &Pod) -> Party {
    match pod.host_network {
        true => Party::Node(pod.node.clone()),
        false => Party::Pod(pod.clone()),
    }
}

fn port(text: &str) -> Result<Port, PartyError> {
    match text.parse::<u16>() {
        Ok(0) => Err(PartyError::Port(text.to_owned())),
        Ok(number) => Ok(Port::Number(number)),
        // IANA_SVC_NAME has a letter in it.
        Err(_) if text.bytes().any(|byte| byte.is_ascii_alphabetic()) => Ok(Port::Name(text.to_owned())),
        Err(_) => Err(PartyError::Port(text.to_owned())),
    }
}

/// A service's ports in words.
pub(super) fn ports(service: &Service) -> String {
    let one = |port: &model::ServicePort| match &*port.name {
        "" => format!("{}/{}", port.port, port.protocol),
        name => format!("{name} ({}/{})", port.port, port.protocol),
    };
    service.ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A protocol by its number, in words.
pub(crate) fn protocol_name(number: u8) -> String {
    match (number, Protocol::from_number(number)) {
        (1, _) => "ICMP".to_owned(),
        (58, _) => "ICMPv6".to_owned(),
        (_, Some(protocol)) => protocol.to_string(),
        (number, None) => format!("protocol {number}"),
    }
}
