//! The services as the kernel holds them, whatever the plan was.

mod decode;
mod maps;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::Family;
use plan::services::{self, Frontend, Target};

use crate::tables::unreadable;
use crate::{Kernel, Result, address, render};

/// What the services' tables of both families say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenServices {
    /// What clients connect to; by service, and IPv4 first.
    pub frontends: Vec<SeenFrontend>,
    /// What is wrong with a table as a whole, or with what belongs to no frontend, in words.
    pub faults: Vec<String>,
}

/// What becomes of connections to a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFrontend {
    /// What clients connect to.
    pub frontend: Frontend,
    /// The service and its port as the elements' comments name them; empty if they do not.
    pub service: String,
    /// What kind of address it is.
    pub kind: AddressKind,
    /// Where connections go; `None` if that cannot be made out, and then the faults say why.
    pub target: Option<Target>,
    /// Where connections from outside of the cluster go, if that is elsewhere.
    pub outside: Option<Target>,
    /// For how many seconds a client stays with an endpoint.
    pub affinity: Option<u32>,
    /// How many clients have an endpoint to stay with now.
    pub clients: usize,
    /// Who may connect; everybody if `None`.
    pub sources: Option<Vec<IpNet>>,
    /// What does not fit together, in words.
    pub faults: Vec<String>,
}

/// The kind of a frontend's address, as far as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressKind {
    /// In a range of cluster addresses.
    Cluster,
    /// One of this node's own: a node port.
    Node,
    /// Neither: an external address or that of a load balancer.
    External,
    /// Not the node's own, and the kernel knows no range of cluster addresses.
    Unknown,
}

impl SeenServices {
    /// Whether all of it fits together.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty() && self.frontends.iter().all(|seen| seen.faults.is_empty())
    }
}

impl Kernel {
    /// Reads what the kernel does with connections to services. Each table is read as it was at one moment. With tens of
    /// thousands of endpoints this takes seconds.
    ///
    /// # Errors
    /// If the kernel cannot be read, or its tables change during each attempt.
    pub fn services_seen(&mut self) -> Result<SeenServices> {
        let addresses = address::dump(&mut self.socket)?;
        let own: BTreeSet<IpAddr> =
            addresses.iter().filter_map(address::parts).map(|(_, net)| net.addr()).collect();
        let mut all = SeenServices::default();
        for family in Family::BOTH {
            let table = render::named(services::TABLE, family.into());
            let snapshot = self.tables.socket.snapshot(&table);
            let snapshot = snapshot.map_err(|source| unreadable(format!("read {table}"), source))?;
            let seen = decode::table(family, &snapshot, &own);
            all.frontends.extend(seen.frontends);
            all.faults.extend(seen.faults);
        }
        all.frontends.sort_by(|one, other| {
            let order = |seen: &SeenFrontend| {
                (seen.frontend.family(), seen.kind, seen.frontend.address, seen.frontend.port)
            };
            one.service.cmp(&other.service).then_with(|| order(one).cmp(&order(other)))
        });
        Ok(all)
    }
}
