//! The live page of the cluster, as this node's agent serves it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kernel::netns::NetNs;
use kube::Client;
use lab::flows::{self, Place};
use model::NodeName;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use trace::flow::NamedFlow;
use trace::journey::Scene;
use web::picture::Ground;
use web::{Page, Sessions, Source, Token, Verdict, View, accept};

use super::options::AgentOptions;
use crate::files::publish;
use crate::paths::RunDir;

/// How old the view may be: for each, everything is listed.
const VIEW_AGE: Duration = Duration::from_secs(10);

/// Listens, and writes the token down for those who can read it; what is returned answers until it is dropped.
pub(super) async fn open(
    address: SocketAddr,
    node: &NodeName,
    options: &AgentOptions,
    client: Client,
) -> Result<impl Future<Output = ()> + Send + 'static> {
    let listen = || format!("cannot listen on {address} (--ui-listen)");
    let listener = TcpListener::bind(address).await.with_context(listen)?;
    let token = Token::random()?;
    let path = RunDir(options.run_dir.clone()).ui_token();
    publish(&path, token.as_str().as_bytes(), 0o600)?;
    tracing::info!(url = format!("http://{address}/"), token = %path.display(), "serving the live page");
    let cluster = Cluster { node: node.clone(), options: options.clone(), client, handle: Handle::current() };
    let page = Arc::new(Page::new(cluster, token));
    Ok(accept(listener, "the live page", move |request, _| page.clone().answer(request)))
}

/// The cluster, and what this node knows of itself.
struct Cluster {
    node: NodeName,
    options: AgentOptions,
    client: Client,
    handle: Handle,
}

impl Cluster {
    /// The doctor is a process of its own: it looks at the agent from outside.
    fn doctor(&self) -> std::io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["doctor", "--json", "--no-probe"]);
        let directories: [(&str, &PathBuf); 3] = [
            ("--run-dir", &self.options.run_dir),
            ("--cni-conf-dir", &self.options.cni_conf_dir),
            ("--cni-data-dir", &self.options.cni_data_dir),
        ];
        let kubeconfig = self.options.kubeconfig.as_ref().map(|file| ("--kubeconfig", file));
        for (option, value) in directories.into_iter().chain(kubeconfig) {
            command.arg(option).arg(value);
        }
        command.stdin(Stdio::null());
        Ok(command)
    }
}

impl Source for Cluster {
    fn view(&self) -> Result<View, String> {
        let snapshot = self.handle.block_on(kube_source::snapshot(&self.client));
        let snapshot = snapshot.map_err(|error| format!("the Kubernetes API: {error}"))?;
        let scene = Scene::assumed(snapshot.cluster, snapshot.pods);
        let ground = Ground::assumed(format!("cluster, by {}", self.node), &scene);
        Ok(View { scene: Arc::new(scene), ground })
    }

    fn age(&self) -> Duration {
        VIEW_AGE
    }

    fn flows(&self, scene: &Scene) -> Result<Vec<NamedFlow>, String> {
        let here = NetNs::current().map_err(|error| error.to_string())?;
        let places = [Place { node: self.node.clone(), namespace: here }];
        flows::current(&places, scene, &flows::each_once(&places)).map_err(|error| error.to_string())
    }

    fn findings(&self) -> Result<Vec<Verdict>, String> {
        let output = self.doctor().and_then(|mut command| command.output());
        let output = output.map_err(|error| format!("cannot run the doctor: {error}"))?;
        Ok(vec![Verdict::said(self.node.as_str(), &output)])
    }

    fn sessions(&self) -> Result<Vec<Sessions>, String> {
        let path = RunDir(self.options.run_dir.clone()).bgp();
        Ok(Sessions::read(self.node.as_str(), &path)?.into_iter().collect())
    }
}
