//! What nodes and services are given as they are written: pod ranges, cluster addresses and node ports.

mod give;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use apiserver::ApiError;
use apiserver::admission::{Admission, Operation, Request};
use ipnet::IpNet;
use serde_json::json;

use self::give::{Taken, give};
use super::object::{list, name, text};
use super::ranges::{Pool, node_ranges};

/// Gives nodes their pod ranges when they are made.
pub(super) struct NodeRanges {
    pub(super) cluster: Vec<IpNet>,
}

impl Admission for NodeRanges {
    fn admit(&self, request: &mut Request<'_, '_>) -> Result<(), ApiError> {
        let is_new_node = request.operation == Operation::Create && request.kind.kind == "Node";
        if !is_new_node || !list(&request.object["spec"]["podCIDRs"]).is_empty() {
            return Ok(());
        }
        let mut taken = HashSet::new();
        request.for_each("", "nodes", |node| {
            taken.extend(
                list(&node["spec"]["podCIDRs"]).iter().filter_map(|one| text(one).parse::<IpNet>().ok()),
            );
        })?;
        let mut ranges = Vec::new();
        for (range, part) in self.cluster.iter().zip(node_ranges(&self.cluster, &taken)) {
            let part = part.ok_or_else(|| {
                let why =
                    format!("the pod range {range} of the ClusterNetwork has no part left for another node");
                ApiError::forbidden(request.kind, name(request.object), &why)
            })?;
            ranges.push(part.to_string());
        }
        let first = ranges.first().cloned();
        request.object["spec"]["podCIDR"] = json!(first);
        request.object["spec"]["podCIDRs"] = json!(ranges);
        Ok(())
    }
}

/// Gives services their cluster addresses and ports of the nodes, and takes them back.
pub(super) struct Services {
    state: Mutex<Given>,
}

#[derive(Debug)]
struct Given {
    /// One for each family, the cluster's first family first.
    pools: Vec<Pool>,
    /// What services have; read from the store at first, and again when something seems to be taken.
    taken: Option<Taken>,
}

impl Services {
    /// Gives addresses of the ranges, of which the first of each family counts.
    pub(super) fn new(ranges: &[IpNet]) -> Self {
        let mut pools: Vec<Pool> = Vec::new();
        for range in ranges {
            if !pools.iter().any(|pool| pool.range().addr().is_ipv4() == range.addr().is_ipv4()) {
                pools.push(Pool::new(*range));
            }
        }
        Self { state: Mutex::new(Given { pools, taken: None }) }
    }
}

impl Admission for Services {
    fn admit(&self, request: &mut Request<'_, '_>) -> Result<(), ApiError> {
        if request.kind.kind != "Service" || !request.kind.group.is_empty() {
            return Ok(());
        }
        let mut given = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Given { pools, taken } = &mut *given;
        if request.operation == Operation::Delete {
            if let Some(taken) = taken.as_mut().filter(|_| !request.dry_run) {
                taken.remove(request.object);
            }
            return Ok(());
        }
        let mut known = match taken.take() {
            Some(taken) => taken,
            None => stored(request)?,
        };
        let mut result = give(request.object, request.old, pools, &mut known);
        if result.is_err() {
            // What seems to be taken may have been asked for by a write that was refused.
            known = stored(request)?;
            result = give(request.object, request.old, pools, &mut known);
        }
        if result.is_ok() && !request.dry_run {
            // What it had before stays taken until the store is read again: the write may yet be refused.
            known.add(request.object);
        }
        *taken = Some(known);
        result.map_err(|cause| ApiError::invalid(request.kind, name(request.object), vec![cause]))
    }
}

fn stored(request: &Request<'_, '_>) -> Result<Taken, ApiError> {
    let mut taken = Taken::default();
    request.for_each("", "services", |service| taken.add(&service))?;
    Ok(taken)
}

#[cfg(test)]
mod tests;
