//! Running commands in the namespaces of a lab.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use kernel::netns::{self, NetNs};

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

struct Place {
    namespace: String,
    node: bool,
}

/// The namespace of a machine or pod.
fn place(lab: &LabName, member: &str) -> Result<Place> {
    State::read(lab)?;
    let topology = topology::load(&lab.paths().topology())?;
    if let Some(machine) = topology.machine(member) {
        return Ok(Place { namespace: lab.namespace(member), node: machine.role == Role::Node });
    }
    let pods = pods(lab, &topology);
    let matching: Vec<&Pod> = pods.iter().filter(|pod| pod.is_called(member)).collect();
    match matching.as_slice() {
        [pod] => Ok(Place { namespace: pod.namespace.clone(), node: false }),
        _ => {
            let machines = topology.machines.iter().map(|machine| machine.name.clone());
            let known = machines.chain(pods.iter().map(|pod| pod.suffix.clone())).collect();
            Err(Error::NoMember { lab: lab.clone(), name: member.to_owned(), known })
        }
    }
}

struct Pod {
    namespace: String,
    suffix: String,
}

impl Pod {
    fn is_called(&self, member: &str) -> bool {
        self.suffix == member
    }
}

/// The pods of a lab by the names of their namespaces.
fn pods(lab: &LabName, topology: &Topology) -> Vec<Pod> {
    let names = fs::read_dir(netns::NAMED).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut pods: Vec<Pod> = names
        .filter_map(|namespace| {
            let suffix = topology
                .nodes()
                .find_map(|node| namespace.strip_prefix(&lab.pod_namespace_prefix(&node.name)))?
                .to_owned();
            Some(Pod { namespace, suffix })
        })
        .collect();
    pods.sort_by(|one, other| one.suffix.cmp(&other.suffix));
    pods
}
