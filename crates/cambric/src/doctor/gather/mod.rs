//! Looks at the node and its files, and sends a few packets. What cannot be looked at is written down as such, and the
//! rest is looked at all the same.

mod api;
mod drift;
mod probes;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cni::ipam::Store;
use kernel::{Kernel, counters};
use model::{Attachment, Node, NodeName};
use plan::Input;

use self::drift::Compared;
use super::DoctorOptions;
use super::check::settings_of_interest;
use super::finding::{Check, Remark};
use super::observation::{AgentSeen, Observation};
use crate::agent::{Core, Status, last_known};
use crate::files::read_json;
use crate::lock::AgentLock;
use crate::paths::{self, RunDir};

/// What is not as planned now and is after this time was not just on its way: the agent writes down what it knows of the
/// cluster a second after a change.
const SETTLING: Duration = Duration::from_millis(1500);

/// Looks at everything.
///
/// # Errors
/// If there is nothing to go by: no agent has run since the last boot, or the kernel cannot be read.
pub(super) fn observe(options: &DoctorOptions) -> Result<Observation> {
    let run_dir = RunDir(options.run_dir.clone());
    let (agent, node) = agent(&run_dir)?;
    let mut kernel = Kernel::open().context("cannot open the kernel; the doctor needs CAP_NET_ADMIN")?;
    if is_in_use(&run_dir.pins()) {
        kernel.pin_in(&run_dir.pins());
    }
    let store = Store::new(&options.cni_data_dir, paths::NETWORK);
    let Look { core, attachments, compared, drift_error } = look(&run_dir, &node, &store, &mut kernel)?;
    let Compared { mut drift, routes } = compared;
    let mut remarks = Vec::new();
    if core.has_sites() {
        drift.clear();
        let text = "not compared where nodes are in sites: whom it has heard through NAT gateways only the agent knows";
        remarks.push(Remark::new(Check::Drift, text));
    }
    if !drift.is_empty() {
        thread::sleep(SETTLING);
        let again = look(&run_dir, &node, &store, &mut kernel)?;
        drift.retain(|deviation| again.compared.drift.contains(deviation));
    }
    let (Some(network), Some(local)) = (core.network_in_force().cloned(), core.local_node().cloned()) else {
        bail!("{} has no network or not this node; see cambric status", run_dir.state().display());
    };
    let links: Vec<_> = kernel.links()?.iter().cloned().collect();
    let mut seen = Observation {
        settings: BTreeMap::new(),
        underlay: core.underlay().clone(),
        addresses: kernel.addresses()?,
        ways: Vec::new(),
        chains: Vec::new(),
        legacy_tables: Vec::new(),
        tracking: None,
        arrivals: Vec::new(),
        cni_files: Vec::new(),
        cni_conf_dir: options.cni_conf_dir.display().to_string(),
        store: store.directory().display().to_string(),
        nodes: core.nodes().clone(),
        clock_ahead: None,
        certificate_error: None,
        paths: Vec::new(),
        letters: Vec::new(),
        unchecked: drift_error.map(|error| Remark::new(Check::Drift, error)).into_iter().collect(),
        remarks,
        network,
        local,
        agent,
        links,
        attachments,
        drift,
    };
    for path in settings_of_interest(seen.links.iter().map(|link| &link.name)) {
        match kernel::setting(&path) {
            Ok(value) => seen.settings.extend(value.map(|value| (path, value))),
            Err(error) => seen.leave_out(Check::Forwarding, &error),
        }
    }
    ways(&mut seen, &mut kernel)?;
    match kernel.chains().and_then(|chains| Ok((chains, counters::legacy_tables()?))) {
        Ok((chains, legacy)) => (seen.chains, seen.legacy_tables) = (chains, legacy),
        Err(error) => seen.leave_out(Check::KubeProxy, &error),
    }
    match counters::tracking() {
        Ok(tracking) => seen.tracking = tracking,
        Err(error) => seen.leave_out(Check::ConnectionTracking, &error),
    }
    match counters::arrivals() {
        Ok(arrivals) => seen.arrivals = arrivals,
        Err(error) => seen.leave_out(Check::Checksums, &error),
    }
    match files(&options.cni_conf_dir) {
        Ok(files) => seen.cni_files = files,
        Err(error) => seen.leave_out(Check::CniConfiguration, &format!("{}: {error}", seen.cni_conf_dir)),
    }
    match api::ask(options.kubeconfig.as_deref()) {
        api::Answer::Clock(ahead) => seen.clock_ahead = Some(ahead),
        api::Answer::Certificate(error) => seen.certificate_error = Some(error),
        api::Answer::None(error) => seen.leave_out(Check::Clock, &error),
    }
    if !options.no_probe {
        probes::send(&mut seen, &routes);
    }
    Ok(seen)
}

impl Observation {
    fn leave_out(&mut self, check: Check, why: &dyn std::fmt::Display) {
        self.unchecked.push(Remark::new(check, why.to_string()));
    }
}

/// What the agent has left, and the name that it gives the node.
fn agent(run_dir: &RunDir) -> Result<(AgentSeen, NodeName)> {
    let status: Option<Status> = read_json(&run_dir.status())?;
    let Some(status) = status else {
        bail!(
            "there is no {}, so nothing is known of the cluster: no agent has run here since the last boot or cleanup, or \
             its run directory is another (--run-dir)",
            run_dir.status().display()
        );
    };
    let node = NodeName::new(status.node.clone()).context("the agent's status names no node")?;
    let pid = AgentLock::holder(&run_dir.lock());
    let bgp = read_json(&run_dir.bgp())?;
    Ok((AgentSeen { pid, status: Some(status), bgp }, node))
}

/// Whether the agent has programs pinned in a directory: only then nothing is made there by looking.
fn is_in_use(pins: &Path) -> bool {
    fs::read_dir(pins).is_ok_and(|mut entries| entries.next().is_some())
}

struct Look {
    core: Core,
    attachments: Vec<Attachment>,
    compared: Compared,
    drift_error: Option<String>,
}

/// Plans anew what the agent has planned, and compares. The CNI plugin changes its files and the kernel under the lock of
/// its addresses, which is held meanwhile.
fn look(run_dir: &RunDir, node: &NodeName, store: &Store, kernel: &mut Kernel) -> Result<Look> {
    let Some(mut core) = last_known(run_dir, node)? else {
        bail!(
            "{} is not there or of an earlier boot, so nothing is known of the cluster; see cambric status",
            run_dir.state().display()
        );
    };
    let own = core.local_node().map(|node| node.addresses.clone()).unwrap_or_default();
    let around = kernel.surroundings(&own)?;
    let complete = own.iter().count() == around.underlay.iter().count();
    core.observe(Input::Underlay(around.underlay));
    core.observe(Input::Addresses(around.addresses));
    // The lock is made by whoever gives the first address.
    let used = store.directory().join("lock").exists();
    let locked = used.then(|| store.lock()).transpose()?;
    let attachments = locked.as_ref().map(|locked| locked.attachments()).transpose()?.unwrap_or_default();
    core.observe(Input::Attachments(attachments.clone()));
    // Before it has heard all peers an agent goes by the Node objects, where routes come from BGP.
    core.observe(Input::Converged);
    let (compared, drift_error) = match complete {
        // The agent goes on by the link that had the address.
        false => (Compared::default(), Some("an InternalIP of this node is on no link".to_owned())),
        true => match drift::compare(&core, kernel) {
            Ok(compared) => (compared, None),
            Err(error) => (Compared::default(), Some(error.to_string())),
        },
    };
    drop(locked);
    Ok(Look { core, attachments, compared, drift_error })
}

/// By which links other nodes are reached.
fn ways(seen: &mut Observation, kernel: &mut Kernel) -> Result<()> {
    for node in others(&seen.local, &seen.nodes) {
        for address in common_addresses(&seen.local, node) {
            seen.ways.push((node.name.clone(), address, kernel.link_to(address)?));
        }
    }
    Ok(())
}

/// The other nodes that are reached by their InternalIP: those of the same site.
fn others<'a>(local: &'a Node, nodes: &'a BTreeMap<NodeName, Node>) -> impl Iterator<Item = &'a Node> {
    nodes.values().filter(move |node| node.name != local.name && node.site == local.site)
}

/// The addresses of a node in the families that this one has as well.
fn common_addresses(local: &Node, node: &Node) -> Vec<std::net::IpAddr> {
    let common = |address: &&std::net::IpAddr| local.addresses.of(model::Family::of(address)).is_some();
    node.addresses.iter().filter(common).copied().collect()
}

/// The names of all files in a directory, sorted.
fn files(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
