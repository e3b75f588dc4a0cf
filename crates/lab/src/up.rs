//! Bringing a lab up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::components::{start, wait_ready};
use crate::error::collected;
use crate::paths::{LabName, LabPaths};
use crate::progress::Progress;
use crate::signals::Interrupts;
use crate::state::{Lab, ProcessRole, private_directory, replace};
use crate::topology::{self, Topology};
use crate::{Error, Result, down, fabric};

/// Where a topology is described.
#[derive(Debug, Clone)]
pub enum Source {
    /// In this executable, under this name.
    BuiltIn(&'static str, &'static str),
    /// In a file.
    File(PathBuf),
}

/// The topology of a lab that is brought up without naming one.
impl Default for Source {
    fn default() -> Source {
        Source::BuiltIn("vxlan.yaml", include_str!("../../../examples/labs/vxlan.yaml"))
    }
}

/// The file name of the CNI plugin beside the executable.
const PLUGIN: &str = "cambric-cni";

/// What lab to bring up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub name: LabName,
    /// Its topology.
    pub topology: Source,
    /// The executable that the lab's processes are run from; this one if there is none.
    pub executable: Option<PathBuf>,
    /// The CNI plugin; `cambric-cni` beside the executable if there is none.
    pub plugin: Option<PathBuf>,
}

/// Brings a lab up: returns when every node is ready. If that fails or is interrupted, nothing of the lab stays.
///
/// # Errors
/// [`Error`] of whatever failed, after everything has been removed again.
pub fn up(options: &Options, interrupts: &Interrupts, progress: &mut Progress) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let begin = Instant::now();
    let (text, topology) = read_topology(&options.topology)?;
    let executable = match &options.executable {
        Some(executable) => executable.clone(),
        None => std::env::current_exe().map_err(|error| Error::system("find this executable", error))?,
    };
    let plugin = plugin(options.plugin.as_deref(), &executable)?;
    let namespaces = fabric::namespaces(&options.name, &topology);
    if let Some(taken) = namespaces.iter().find(|name| fabric::namespace_path(name).exists()) {
        return Err(taken_by(&options.name, taken));
    }
    interrupts.check()?;
    let mut lab = Lab::create(&options.name, &executable)?;
    let result = make(&mut lab, &text, &topology, &plugin, interrupts, progress);
    match result {
        Ok(()) => {
            progress.done(&format!(
                "lab \"{}\" is up: {} nodes ready in {:.1} s",
                options.name,
                topology.nodes().count(),
                begin.elapsed().as_secs_f64()
            ));
            lab.release()
        }
        Err(error) => {
            progress.step("removing what was made");
            if let Error::NamespaceTaken(taken) = &error {
                // It is another's.
                lab.record(|state| state.namespaces.retain(|name| name != taken))?;
            }
            let mut errors = vec![error];
            errors.extend(down::remove(&options.name, lab.state()).err());
            progress.finish();
            collected(errors)
        }
    }
}

/// A lab's own namespace is there only if the lab is, or was removed by hand.
fn taken_by(name: &LabName, namespace: &str) -> Error {
    match name.paths().root().exists() {
        true => Error::Exists(name.clone()),
        false => Error::NamespaceTaken(namespace.to_owned()),
    }
}

fn read_topology(source: &Source) -> Result<(String, Topology)> {
    let (text, file) = match source {
        Source::File(file) => {
            let text =
                fs::read_to_string(file).map_err(|error| Error::io("read the topology", file, error))?;
            (text, file.clone())
        }
        Source::BuiltIn(name, text) => ((*text).to_owned(), PathBuf::from(format!("the built-in {name}"))),
    };
    match topology::parse(&text) {
        Ok(topology) => Ok((text, topology)),
        Err(error) => Err(Error::Topology { file, error }),
    }
}

fn plugin(named: Option<&Path>, executable: &Path) -> Result<PathBuf> {
    let path = named.map_or_else(|| executable.with_file_name(PLUGIN), Path::to_owned);
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => Ok(path),
        _ => Err(Error::NoPlugin(path)),
    }
}

fn make(
    lab: &mut Lab,
    text: &str,
    topology: &Topology,
    plugin: &Path,
    interrupts: &Interrupts,
    progress: &mut Progress,
) -> Result<()> {
    progress.step(&format!(
        "making {} machines in {} subnets",
        topology.machines.len(),
        topology.subnets.len()
    ));
    files(&lab.paths, text, topology, plugin)?;
    let name = lab.name.clone();
    fabric::build(&name, topology, |namespace| {
        interrupts.check()?;
        lab.record(|state| state.namespaces.push(namespace.to_owned()))
    })?;

    progress.step("starting the API server");
    let api = start(lab, &ProcessRole::Api)?;
    let mut others = Vec::new();
    // The API server is ready first: it writes the kubeconfig files of the others.
    wait_ready(vec![api], &others, interrupts, |_| {})?;

    let speakers: Vec<_> = topology.bgp_routers().filter(|(_, bgp)| bgp.speaker).collect();
    if !speakers.is_empty() {
        progress.step("starting the routers' BGP speakers");
        let started =
            speakers.iter().map(|(router, _)| start(lab, &ProcessRole::Speaker(router.name.clone())));
        wait_ready(started.collect::<Result<_>>()?, &others, interrupts, |_| {})?;
    }

    progress.step("starting agents and kubelets");
    let mut kubelets = Vec::new();
    for node in topology.nodes() {
        interrupts.check()?;
        others.push(start(lab, &ProcessRole::Agent(node.name.clone()))?);
        kubelets.push(start(lab, &ProcessRole::Kubelet(node.name.clone()))?);
    }
    wait_ready(kubelets, &others, interrupts, |open| {
        let names: Vec<&str> = open.iter().map(|launched| launched.what.as_str()).collect();
        progress.step(&format!("waiting for the {}", names.join(", ")));
    })?;
    lab.record(|state| state.complete = true)
}

/// Makes the lab's directories and copies the plugin.
fn files(paths: &LabPaths, text: &str, topology: &Topology, plugin: &Path) -> Result<()> {
    replace(&paths.topology(), text.as_bytes(), 0o600)?;
    for directory in [paths.api(), paths.bin(), paths.log()] {
        private_directory(&directory, true)?;
    }
    for node in topology.nodes() {
        let node = paths.node(&node.name);
        for directory in [node.run(), node.cni_conf(), node.cni_data(), node.log()] {
            private_directory(&directory, true)?;
        }
    }
    fs::copy(plugin, paths.plugin()).map_err(|error| Error::io("copy", plugin, error))?;
    Ok(())
}
