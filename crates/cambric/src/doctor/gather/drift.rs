//! What in the kernel is not as planned.

use std::collections::BTreeMap;

use ipnet::IpNet;
use kernel::{Found, Kernel, Op, SeenFrontend, Unplanned, diff};
use model::LinkName;
use plan::services::{Frontend, ServicePlan};
use plan::{Entry, Key};

use crate::agent::{Core, entry_words};
use crate::doctor::observation::Deviation;

/// What comes of a comparison.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) drift: Vec<Deviation>,
    /// Our routes in the kernel, and by which link the first hop of each is reached.
    pub(super) routes: BTreeMap<IpNet, LinkName>,
}

/// Compares the kernel with the plan. What peers have told is not in what the agent has written down, so it is left alone.
pub(super) fn compare(core: &Core, kernel: &mut Kernel) -> kernel::Result<Compared> {
    let observed = kernel.observe(core.entries())?;
    let ops = diff(core.entries(), &observed, Unplanned::Learned);
    let mut found: Vec<Deviation> = ops.iter().filter_map(deviation).collect();
    let seen = kernel.services_seen()?;
    found.extend(
        seen.faults.iter().map(|fault| Deviation { place: "services".to_owned(), what: fault.clone() }),
    );
    found.extend(services(core.services(), &seen.frontends));
    found.sort_unstable();
    found.dedup();
    Ok(Compared { drift: found, routes: observed.entries.values().filter_map(route).collect() })
}

fn route(found: &Found) -> Option<(IpNet, LinkName)> {
    let Found::Entry(Entry::Route(route)) = found else { return None };
    Some((route.destination, route.hops.first()?.link.clone()))
}

fn deviation(op: &Op<'_>) -> Option<Deviation> {
    let unwanted = "is there, and nothing asks for it";
    let (place, what) = match op {
        Op::Make(planned) | Op::Change(planned) if is_left_out(&planned.entry) => return None,
        Op::Make(planned) => {
            (words(&planned.entry.key()), format!("is missing ({} asks for it)", planned.origin))
        }
        Op::Change(planned) | Op::Rebuild(planned) => {
            (words(&planned.entry.key()), format!("is not as planned ({} asks for it)", planned.origin))
        }
        Op::Remove(key) => (words(key), unwanted.to_owned()),
        Op::RemoveRoute(_) | Op::RemoveDouble(_) => {
            ("a route with our protocol number".to_owned(), unwanted.to_owned())
        }
        Op::RemoveLink(link) => (format!("link {}", link.name), unwanted.to_owned()),
        Op::RemoveTable(family) => (words(&Key::Table(*family)), unwanted.to_owned()),
    };
    Some(Deviation { place, what })
}

/// Settings have checks of their own. Whose program is on an uplink only the agent that has put it there can tell.
fn is_left_out(entry: &Entry) -> bool {
    matches!(entry, Entry::Sysctl { .. } | Entry::TunnelUplink(_))
}

fn words(key: &Key) -> String {
    format!("{} {}", key.kind(), entry_words(key))
}

fn services(plan: &ServicePlan, seen: &[SeenFrontend]) -> Vec<Deviation> {
    let mut deviations = Vec::new();
    let found: BTreeMap<&Frontend, &SeenFrontend> = seen.iter().map(|one| (&one.frontend, one)).collect();
    for (frontend, balancer) in &plan.frontends {
        let what = match found.get(frontend) {
            None => format!("is missing (Service {} asks for it)", balancer.service),
            Some(one) if one.target.as_ref() != Some(&balancer.target) || one.outside != balancer.outside => {
                format!("leads elsewhere than Service {} asks for", balancer.service)
            }
            Some(_) => continue,
        };
        deviations.push(Deviation { place: format!("service address {frontend}"), what });
    }
    for frontend in found.keys().filter(|frontend| !plan.frontends.contains_key(frontend)) {
        let what = "is there, and nothing asks for it".to_owned();
        deviations.push(Deviation { place: format!("service address {frontend}"), what });
    }
    deviations
}
