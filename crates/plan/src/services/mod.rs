//! The services' part of a plan: two maps, and rules that do not depend on how many services there are.
//!
//! A [`Frontend`] is what clients connect to, a [`Balancer`] what becomes of the connection. The nftables table is made
//! from both: [`table`] has its rules, and [`elements`] what a frontend adds to its maps. A cluster has a hundred
//! thousand endpoints and more, so the plan holds them once and compactly, and elements are made when they are needed.

mod announce;
mod balance;
mod choose;
mod elements;
mod health;
mod leftovers;
mod planner;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{Family, ObjectName, PerFamily, Protocol};

pub use elements::{Datum, Delta, Element, elements, hairpin, ranges};
pub use health::HealthCheck;
pub use leftovers::Leftovers;
pub use planner::ServiceChange;
pub(crate) use planner::{ServicePlanner, node_port_addresses, strays};
pub use table::{
    AFFINITY, ALLOWED, BACKENDS, CLUSTER_PODS, DROP, EXPOSED, HAIRPIN, KEEP_SOURCE, MASQUERADE, OUTSIDE,
    OUTSIDE_BACKENDS, Picker, REFUSE, RESTRICTED, SERVICE_RANGES, SERVICES, STICKY, TABLE, picker_chain,
    picker_of, picker_rules, pickers, sets, table,
};

/// What a node's kernel should hold for services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// What does not depend on single services; `None` until the node and the network are known, and then there is no
    /// table.
    pub settings: Option<Settings>,
    /// What clients connect to, and what becomes of it.
    pub frontends: BTreeMap<Frontend, Balancer>,
    /// The pods of this node that a service may send back to themselves.
    pub hairpins: BTreeSet<IpAddr>,
    /// How many balancers of a family use which chain.
    pub pickers: BTreeMap<(Family, Picker), usize>,
    /// What the node answers on the ports on which load balancers ask for its endpoints, host byte order. The kernel
    /// has no part in it.
    pub health_checks: BTreeMap<u16, HealthCheck>,
    /// The addresses of services that the node tells BGP peers, if it speaks with any. The kernel has no part in it.
    pub announced: BTreeSet<IpAddr>,
}

/// What does not depend on single services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The addresses by which this node reaches pods, its own and others'.
    pub gateways: PerFamily<IpAddr>,
    /// The pod ranges of the cluster: sources that are never rewritten.
    pub pods: BTreeSet<IpNet>,
    /// The ranges of cluster addresses.
    pub service_ranges: Vec<IpNet>,
}

/// What clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port, host byte order.
    pub port: u16,
}

impl Frontend {
    /// The family of the address.
    pub fn family(&self) -> Family {
        Family::of(&self.address)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:{} {}", self.port, self.protocol),
            IpAddr::V6(address) => write!(f, "[{address}]:{} {}", self.port, self.protocol),
        }
    }
}

/// An endpoint that connections are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port, host byte order.
    pub port: u16,
}

/// What becomes of connections to a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    /// The service and its port.
    pub service: Arc<ServicePortName>,
    /// Where connections go; with `outside`, those from pods and from this node.
    pub target: Target,
    /// Where connections from outside of the cluster go, if that is elsewhere (`externalTrafficPolicy: Local`). They
    /// keep their source.
    pub outside: Option<Target>,
    /// What kind of address it is.
    pub reach: Reach,
    /// For how many seconds a client stays with an endpoint.
    pub affinity: Option<u32>,
    /// Who may connect; everybody if `None`.
    pub sources: Option<Arc<[IpNet]>>,
    /// Endpoints that get no new connections, but serve those that they have until they end; sorted.
    pub lingering: Arc<[Backend]>,
}

/// What kind of address a frontend has. Of two services that claim one frontend the one with the first kind has it: what
/// somebody writes into `externalIPs` must not take the address of another's service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// A cluster address.
    Cluster,
    /// An address of the node, with a node port.
    Node,
    /// An address of a load balancer.
    Balancer,
    /// One of `externalIPs`.
    External,
}

/// Where connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// There is no endpoint anywhere: the client is told.
    Refuse,
    /// There are endpoints, and none that these clients may use: the client is not told, as somebody else may answer.
    Drop,
    /// To one of these, at random; sorted, at least one.
    Backends(Arc<[Backend]>),
}

impl Target {
    /// The endpoints.
    pub fn backends(&self) -> &[Backend] {
        match self {
            Target::Backends(backends) => backends,
            Target::Refuse | Target::Drop => &[],
        }
    }
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The service.
    pub service: ObjectName,
    /// The name of its port; empty if it has none.
    pub port: Box<str>,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.port {
            "" => self.service.fmt(f),
            port => write!(f, "{}:{port}", self.service),
        }
    }
}

impl ServicePlan {
    /// How many endpoints there are, those that several frontends have counted for each.
    pub fn endpoints(&self) -> usize {
        let of = |(&(_, picker), balancers): (&(Family, Picker), &usize)| match picker {
            Picker::Pick(count)
            | Picker::Stick(count)
            | Picker::PickOutside(count)
            | Picker::StickOutside(count) => count as usize * balancers,
            Picker::Learn(_) => 0,
        };
        self.pickers.iter().map(of).sum()
    }
}
