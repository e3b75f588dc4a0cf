//! Whose flows are shown, and where names come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kernel::netns::NetNs;
use lab::flows::{Place, of_lab};
use model::{Cluster, EndpointSlice, NodeFile, NodeName, Service};
use trace::journey::Scene;

use super::{FlowsOptions, Stage, note};
use crate::agent::{Core, last_known};
use crate::files::read_json;
use crate::journey::chosen_lab;
use crate::paths::RunDir;

pub(super) fn stage(options: &FlowsOptions) -> Result<Stage> {
    if let Some(lab) = chosen_lab(options.lab.as_ref(), options.kubeconfig.as_deref())? {
        let (places, look) = of_lab(&lab, options.node.as_deref())?;
        return Ok(Stage { places, look });
    }
    let run_dir = RunDir(options.run_dir.clone());
    let node = this_node(&run_dir)?;
    if let Some(other) = options.node.as_ref().filter(|other| *other != node.as_str()) {
        bail!(
            "--node {other}: this is node {node}, which knows its own flows only; run cambric flows on {other}"
        );
    }
    let namespace = NetNs::current()?;
    let kubeconfig = options.kubeconfig.clone();
    let mut from_agent = false;
    let place = Place { node: node.clone(), namespace };
    let mut look = move || scene(kubeconfig.as_ref(), &run_dir, &node, &mut from_agent);
    let failed = |error: anyhow::Error| lab::Error::Other(format!("{error:#}"));
    Ok(Stage { places: vec![place], look: Box::new(move || look().map_err(failed)) })
}

/// The node that this is.
fn this_node(run_dir: &RunDir) -> Result<NodeName> {
    let path = run_dir.node_file();
    let Some(file) = read_json::<NodeFile>(&path)? else {
        bail!(
            "this is no node with an agent: there is no {}; run cambric flows on a node, or name a lab with --lab",
            path.display()
        );
    };
    NodeName::new(file.node).with_context(|| format!("{} cannot be used", path.display()))
}

/// The cluster as the API tells it or, where that does not tell, as the agent knows it: without pods. Once that was so, it
/// stays so.
fn scene(
    kubeconfig: Option<&PathBuf>,
    run_dir: &RunDir,
    node: &NodeName,
    from_agent: &mut bool,
) -> Result<Scene> {
    if !*from_agent {
        match from_api(kubeconfig.map(PathBuf::as_path)) {
            Ok(scene) => return Ok(scene),
            Err(error) if kubeconfig.is_some() => return Err(error),
            Err(error) => {
                note(&format!("pods have no names here, as those are in the API only, and: {error}"));
            }
        }
        *from_agent = true;
    }
    let known = last_known(run_dir, node)?;
    let cluster =
        known.as_ref().and_then(cluster).context("the agent of this node does not know the cluster yet")?;
    Ok(Scene::assumed(cluster, Vec::new()))
}

fn cluster(core: &Core) -> Option<Cluster> {
    let service = |service: &Arc<Service>| (service.name.clone(), Service::clone(service));
    let slice = |slice: &Arc<EndpointSlice>| (slice.name.clone(), EndpointSlice::clone(slice));
    Some(Cluster {
        network: core.network_in_force()?.clone(),
        nodes: core.nodes().clone(),
        services: core.known_services().map(service).collect(),
        slices: core.known_slices().map(slice).collect(),
    })
}

fn from_api(kubeconfig: Option<&Path>) -> Result<Scene> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let snapshot = runtime.block_on(async {
        let client = kube_source::client(kubeconfig).await?;
        kube_source::snapshot(&client).await.context("the Kubernetes API")
    })?;
    Ok(Scene::assumed(snapshot.cluster, snapshot.pods))
}
