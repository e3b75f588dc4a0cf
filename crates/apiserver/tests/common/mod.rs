//! A server on loopback for tests to talk to.

#![allow(dead_code, reason = "not every test program needs all of it")]

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use apiserver::{Api, Config, Server};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A server that runs on a thread of its own until it is dropped.
pub(crate) struct Running {
    pub(crate) api: Api,
    pub(crate) address: SocketAddr,
    pub(crate) kubeconfig: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a server with its state in `directory`, on IPv4 and IPv6 loopback.
pub(crate) fn start(directory: &Path, address: &str, adjust: impl FnOnce(&mut Config)) -> Running {
    let mut config = Config::new(directory);
    adjust(&mut config);
    let server = Server::open(config).expect("the server opens");
    let listener = TcpListener::bind(address).expect("loopback can be bound");
    let other = TcpListener::bind("[::1]:0").expect("IPv6 loopback can be bound");
    let address = listener.local_addr().expect("a bound socket has an address");
    let kubeconfig = server.kubeconfig(&format!("https://{address}"));
    let api = server.api().clone();
    let (stop, stopped) = oneshot::channel();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        runtime
            .block_on(server.serve(vec![listener, other], async {
                // A dropped sender stops the server too.
                let _ = stopped.await;
            }))
            .expect("the server serves");
    });
    Running { api, address, kubeconfig, stop: Some(stop), thread: Some(thread) }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The kubectl programs that `scripts/kubectl.sh` finds; the test fails if there is none.
pub(crate) fn kubectls() -> Vec<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kubectl.sh");
    let output = Command::new(&script).output().expect("scripts/kubectl.sh runs");
    assert!(output.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    let paths: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect();
    assert!(!paths.is_empty(), "{} found no kubectl", script.display());
    paths
}

/// One kubectl and a server of its own.
pub(crate) struct Kubectl {
    program: PathBuf,
    home: TempDir,
    pub(crate) server: Running,
}

impl Kubectl {
    pub(crate) fn new(program: PathBuf) -> Self {
        let home = tempfile::tempdir().expect("a directory can be made");
        let server = start(&home.path().join("state"), "127.0.0.1:0", |_| {});
        std::fs::write(home.path().join("kubeconfig"), &server.kubeconfig).expect("a file can be written");
        Self { program, home, server }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl with `input` on its standard input.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(input.as_bytes()).expect("kubectl reads");
        drop(stdin);
        child.wait_with_output().expect("kubectl ends")
    }

    /// What kubectl prints; the test fails if kubectl does.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "")
    }

    pub(crate) fn ok_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {arguments:?}: {stdout}{stderr}", self.program.display());
        stdout.into_owned()
    }

    /// What kubectl complains of; the test fails if kubectl does not.
    pub(crate) fn fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{}: {arguments:?} went well: {stdout}", self.program.display());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts kubectl with its output piped.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).spawn().expect("kubectl starts")
    }

    /// A file for kubectl to read.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("a file can be written");
        path.to_str().expect("the path is UTF-8").to_owned()
    }
}
