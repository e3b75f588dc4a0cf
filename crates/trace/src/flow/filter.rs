//! Which flows are wanted.

use std::collections::BTreeSet;

use model::{Family, NodeName};

use super::{NamedFlow, Verdict};
use crate::journey::{EndView, Named, Party, Port};

/// Which flows are wanted. Of each kind of wish one must be met, if there is any.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Pods that are an end.
    pub pods: Vec<Named>,
    /// Services that are asked for.
    pub services: Vec<Named>,
    /// Anybody who is an end.
    pub peers: Vec<Named>,
    /// Ports of the destination, or of who answers. Host byte order.
    pub ports: Vec<u16>,
    /// IANA protocol numbers' names, as [`NamedFlow::protocol`] has them.
    pub protocols: Vec<&'static str>,
    /// What has become of them.
    pub verdicts: Vec<Verdict>,
    /// The family.
    pub family: Option<Family>,
    /// The nodes whose flows are looked at: what is aside there is left out; `None` to have that too.
    pub nodes: Option<BTreeSet<NodeName>>,
}

impl Filter {
    /// Whether a flow is wanted.
    pub fn wants(&self, flow: &NamedFlow) -> bool {
        let concerns = |wanted: &Named| concerns(flow, wanted);
        let port = |port: &u16| {
            [Some(&flow.destination), flow.backend.as_ref()]
                .into_iter()
                .flatten()
                .any(|end| end.port == Some(*port))
        };
        let families = self.family.as_slice();
        one_of(&self.pods, concerns)
            && one_of(&self.services, concerns)
            && one_of(&self.peers, concerns)
            && one_of(&self.ports, port)
            && one_of(&self.protocols, |name| *name == flow.protocol)
            && one_of(&self.verdicts, |verdict| *verdict == flow.verdict)
            && one_of(families, |family| *family == flow.family)
            && !self.nodes.as_ref().is_some_and(|nodes| flow.is_aside(nodes))
    }
}

fn one_of<T>(wishes: &[T], met: impl Fn(&T) -> bool) -> bool {
    wishes.is_empty() || wishes.iter().any(met)
}

fn concerns(flow: &NamedFlow, wanted: &Named) -> bool {
    if let (Party::Service(name), None) = (&wanted.party, wanted.address) {
        let port = |port: &Port| match port {
            Port::Number(number) => flow.destination.port == Some(*number),
            Port::Name(name) => flow.service.as_ref().is_some_and(|service| *service.port == **name),
        };
        let is_it = flow.service.as_ref().is_some_and(|service| service.service == *name);
        return is_it && wanted.port.iter().all(port);
    }
    flow.ends().any(|end| is(end, wanted))
}

fn is(end: &EndView, wanted: &Named) -> bool {
    let port = match &wanted.port {
        Some(Port::Number(number)) => end.port == Some(*number),
        Some(Port::Name(_)) => false,
        None => true,
    };
    let party = match (&wanted.party, wanted.address) {
        (_, Some(address)) => end.address == address,
        (Party::Outside(address), None) => end.address == *address,
        (Party::Pod(pod), None) => end.kind == "pod" && end.name == pod.name.to_string(),
        (Party::Node(node), None) => end.kind == "node" && end.name == node.as_str(),
        (Party::Service(name), None) => end.kind == "service" && end.name == name.to_string(),
    };
    party && port
}
