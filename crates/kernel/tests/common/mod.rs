//! Network namespaces for tests, looked at from outside with `ip`, `bridge` and `nft`.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod cluster;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

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

    pub fn enter(&self) -> Guard {
        self.ns.enter().unwrap()
    }

    /// Runs a program in the namespace.
    pub fn try_run(&self, command: &str) -> Output {
        let mut words = command.split_whitespace();
        Command::new("ip").args(["netns", "exec", &self.name]).args(words.by_ref()).output().unwrap()
    }

    /// Runs a program in the namespace; its output.
    pub fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        assert!(
            output.status.success(),
            "{command}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        let _ = netns::remove_named(&self.path);
    }
}
