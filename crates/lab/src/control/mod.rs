//! The control plane of a lab in one process: the API server, on the loopback of the root namespace and of every node,
//! and the controllers.

mod admission;
mod balancer;
mod controllers;
mod deployment;
mod endpoints;
mod object;
mod ranges;
mod register;
mod replicas;
mod schedule;
mod world;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use apiserver::{Config, Server};
use kernel::netns::{self, NetNs};
use tokio::signal::unix::{SignalKind, signal};

use self::admission::{NodeRanges, Services};
use crate::fabric::namespace_path;
use crate::paths::{LabName, LabPaths, NODE_API_PORT};
use crate::state::{private_directory, replace};
use crate::topology::{self, Topology};
use crate::{Error, Result};

/// Serves a lab's API and runs its controllers, until SIGTERM. State is kept in the lab's directory: a later start
/// goes on
/// with the same objects, credentials and ports.
///
/// # Errors
/// [`Error`] if the topology cannot be read, a port is taken, or the state cannot be opened.
pub fn serve(lab: &LabName) -> Result<()> {
    crate::signals::let_through()?;
    let paths = lab.paths();
    let topology = topology::load(&paths.topology())?;
    private_directory(&paths.api(), true)?;
    let mut listeners = vec![root_listener(&paths)?];
    let root_port =
        listeners.first().and_then(|listener| listener.local_addr().ok()).map_or(0, |own| own.port());
    for node in topology.nodes() {
        listeners.push(node_listener(lab, &node.name)?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Error::system("start the event loop", error))?;
    let failed = |error: apiserver::ServerError| Error::Other(format!("API server: {error}"));
    runtime.block_on(async {
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|e| Error::system("wait for SIGTERM", e))?;
        let server = Server::open(config(&paths, &topology)).map_err(failed)?;
        register::register(server.api(), &topology)?;
        write_kubeconfigs(&server, &paths, &topology, root_port)?;
        // The sockets are open, so whoever is told now can connect.
        crate::process::ready();
        tracing::info!(port = root_port, nodes = topology.nodes().count(), "serving");
        let balanced = topology.network.load_balancer_ranges.clone();
        let until = async {
            tokio::select! {
                _ = terminate.recv() => {}
                () = controllers::run(server.api().clone(), balanced) => {}
            }
        };
        server.serve(listeners, until).await.map_err(failed)
    })
}

fn config(paths: &LabPaths, topology: &Topology) -> Config {
    let network = &topology.network.config;
    let mut config = Config::new(paths.api());
    config.admission.push(Box::new(NodeRanges {
        cluster: network.pod_ranges.iter().map(model::PodRange::net).collect(),
    }));
    config.admission.push(Box::new(Services::new(&network.service_ranges)));
    config
}

/// The socket in the root namespace, on the port that it had before, if it had one.
fn root_listener(paths: &LabPaths) -> Result<TcpListener> {
    let file = paths.api_port();
    let known = match fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io("read", &file, error)),
    };
    let port: u16 = known.unwrap_or(0);
    let failed = |error| Error::system(format!("listen on 127.0.0.1:{port}"), error);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    replace(&file, format!("{port}\n").as_bytes(), 0o600)?;
    Ok(listener)
}

/// The socket in a node's namespace.
fn node_listener(lab: &LabName, node: &str) -> Result<TcpListener> {
    let namespace = NetNs::open(namespace_path(&lab.namespace(node))).map_err(Error::kernel(node))?;
    let listener = netns::run_in(&namespace, || TcpListener::bind((Ipv4Addr::LOCALHOST, NODE_API_PORT)));
    let listener = listener.map_err(Error::kernel(node))?;
    listener
        .map_err(|error| Error::system(format!("listen on 127.0.0.1:{NODE_API_PORT} of node {node}"), error))
}

fn write_kubeconfigs(server: &Server, paths: &LabPaths, topology: &Topology, root_port: u16) -> Result<()> {
    let at = |port: u16| server.kubeconfig(&format!("https://127.0.0.1:{port}"));
    replace(&paths.kubeconfig(), at(root_port).as_bytes(), 0o600)?;
    for node in topology.nodes() {
        let paths = paths.node(&node.name);
        private_directory(paths.root(), true)?;
        replace(&paths.kubeconfig(), at(NODE_API_PORT).as_bytes(), 0o600)?;
    }
    Ok(())
}
