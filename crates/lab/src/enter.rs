//! Running commands in the namespaces of a lab.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use kernel::netns::NetNs;
use serde::Deserialize;

use crate::fabric::namespace_path;
use crate::paths::LabName;
use crate::state::State;
use crate::topology::{self, Role, Topology};
use crate::{Error, Result};

/// Replaces this process by a command in a namespace. Returns only if that cannot be done.
pub fn exec(lab: &LabName, member: &str, command: &[OsString]) -> Error {
    let Some((program, arguments)) = command.split_first() else {
        return Error::Other("there is no command to run; name it after --".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments);
    replace(lab, member, command)
}

/// Replaces this process by a shell in a namespace. Returns only if that cannot be done.
pub fn shell(lab: &LabName, member: &str) -> Error {
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = Command::new(shell);
    // Read by Debian's /etc/bash.bashrc for the prompt.
    command.env("debian_chroot", format!("{lab}/{member}"));
    replace(lab, member, command)
}

fn replace(lab: &LabName, member: &str, mut command: Command) -> Error {
    let place = match place(lab, member) {
        Ok(place) => place,
        Err(error) => return error,
    };
    if place.node {
        command.env("KUBECONFIG", lab.paths().node(member).kubeconfig());
    }
    let namespace = NetNs::open(namespace_path(&place.namespace));
    let _stay = match namespace.and_then(|namespace| namespace.enter()) {
        Ok(stay) => stay,
        Err(error) => return Error::kernel(member)(error),
    };
    let source = command.exec();
    Error::Run { program: command.get_program().to_string_lossy().into_owned(), source }
}

/// The namespace of a machine or pod: `NAME`, `POD` or `NAMESPACE/POD`.
///
/// # Errors
/// [`Error::NoLab`], or [`Error::NoMember`] with all names that there are.
pub fn namespace(lab: &LabName, member: &str) -> Result<String> {
    place(lab, member).map(|place| place.namespace)
}

/// Opens the namespace of a machine or pod.
///
/// # Errors
/// As [`namespace`], or what the kernel says.
pub(crate) fn open(lab: &LabName, member: &str) -> Result<NetNs> {
    NetNs::open(namespace_path(&namespace(lab, member)?)).map_err(Error::kernel(member))
}

struct Place {
    namespace: String,
    node: bool,
}

fn place(lab: &LabName, member: &str) -> Result<Place> {
    State::read(lab)?;
    let topology = topology::load(&lab.paths().topology())?;
    if let Some(machine) = topology.machine(member) {
        return Ok(Place { namespace: lab.namespace(member), node: machine.role == Role::Node });
    }
    let pods = pods(lab, &topology);
    let full_name = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name);
    let matching: Vec<&Pod> =
        pods.iter().filter(|pod| pod.name == member || full_name(pod) == member).collect();
    match matching.as_slice() {
        [pod] => Ok(Place { namespace: pod.place.clone(), node: false }),
        [] => {
            let machines = topology.machines.iter().map(|machine| machine.name.clone());
            let known = machines.chain(pods.iter().map(full_name)).collect();
            Err(Error::NoMember { lab: lab.clone(), name: member.to_owned(), known })
        }
        several => {
            let known = several.iter().map(|pod| full_name(pod)).collect();
            Err(Error::Ambiguous { name: member.to_owned(), known })
        }
    }
}

/// A pod as its node's kubelet has written it down.
#[derive(Deserialize)]
struct Pod {
    namespace: String,
    name: String,
    uid: String,
    /// The name of its network namespace.
    #[serde(skip)]
    place: String,
}

/// The pods of a lab that have a network namespace of their own.
fn pods(lab: &LabName, topology: &Topology) -> Vec<Pod> {
    let mut pods = Vec::new();
    for node in topology.nodes() {
        let records = fs::read_dir(lab.paths().node(&node.name).pods()).into_iter().flatten().flatten();
        let texts = records.filter_map(|record| fs::read(record.path()).ok());
        for mut pod in texts.filter_map(|text| serde_json::from_slice::<Pod>(&text).ok()) {
            pod.place = format!("{}{}", lab.pod_namespace_prefix(&node.name), pod.uid);
            if namespace_path(&pod.place).exists() {
                pods.push(pod);
            }
        }
    }
    pods.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    pods
}
