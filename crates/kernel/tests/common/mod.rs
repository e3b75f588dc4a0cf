//! Network namespaces for tests, looked at from outside with `ip`, `bridge` and `nft`.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod cluster;
pub mod fast;
pub mod load;
pub mod pods;
pub mod sctp;
pub mod services;
pub mod sites;
pub mod state;
pub mod transfer;
pub mod wire;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kernel::netns::{self, Guard, NetNs};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A fresh namespace, gone when it is dropped.
pub struct TestNs {
    pub name: String,
    pub ns: NetNs,
    path: PathBuf,
}

impl TestNs {
    pub fn new(kind: &str) -> TestNs {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("krn-{}-{count}-{kind}", std::process::id());
        let path = PathBuf::from(netns::NAMED).join(&name);
        let ns = netns::create_named(&path).unwrap();
        TestNs { name, ns, path }
    }

    /// A namespace with an underlay link `eth0` that has the addresses of node 0 and a wire to nowhere.
    pub fn underlay(kind: &str) -> TestNs {
        let test = TestNs::new(kind);
        test.run("ip link set lo up");
        test.add_underlay();
        test
    }

    /// Makes the link of [`TestNs::underlay`].
    pub fn add_underlay(&self) {
        for command in [
            "ip link add eth0 type veth peer name wire",
            "ip addr add 172.16.0.1/16 dev eth0",
            "ip addr add 2001:db8::1/64 dev eth0 nodad",
            "ip link set eth0 up",
            "ip link set wire up",
        ] {
            self.run(command);
        }
    }

    pub fn enter(&self) -> Guard {
        self.ns.enter().unwrap()
    }

    /// Runs a program in the namespace.
    pub fn try_run(&self, words: &[&str]) -> Output {
        Command::new("ip").args(["netns", "exec", &self.name]).args(words).output().unwrap()
    }

    /// Runs a program in the namespace; its output.
    #[track_caller]
    pub fn run_words(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{words:?}: {}{}", shown(&output.stdout), shown(&output.stderr));
        shown(&output.stdout)
    }

    /// Runs a command line of plain words in the namespace; its output.
    #[track_caller]
    pub fn run(&self, command: &str) -> String {
        self.run_words(&command.split_whitespace().collect::<Vec<_>>())
    }
}

/// Reconciles the namespace of the calling thread, which must work without failures.
#[track_caller]
pub fn reconcile(plan: &plan::Entries) -> kernel::Report {
    let report = kernel::Kernel::open().unwrap().reconcile(plan).unwrap();
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty() && report.blocked == 0, "{report}: {failures:#?}");
    report
}

/// Waits until what is to be seen is as it should be, for some seconds.
#[track_caller]
pub fn until<T: std::fmt::Debug>(look: impl Fn() -> T, is_so: impl Fn(&T) -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let seen = look();
        if is_so(&seen) {
            return;
        }
        assert!(Instant::now() < end, "{seen:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        let _ = netns::remove_named(&self.path);
    }
}
