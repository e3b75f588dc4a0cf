//! A fresh network namespace per test, and `nft` to look at it from outside.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails them")]

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs a test on a thread of its own in a new network namespace, which goes away with the thread.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let result = std::thread::spawn(|| {
        // SAFETY: the call takes no pointers; only this thread changes namespace.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
        test();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program in the calling thread's namespace; returns its output.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The rule set as `nft` writes it, after a check that `nft` would load it again into an empty namespace. (Where maps
/// with a `typeof` of `th dport` exist, nft 1.0.6 does not load them again, not even its own.)
pub(crate) fn listing() -> String {
    let text = run("nft list ruleset");
    let mut nft = Command::new("unshare")
        .args(["--net", "nft", "--check", "--file", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft does not load its own listing:\n{text}");
    text
}

/// The rule set as JSON.
pub(crate) fn json() -> serde_json::Value {
    serde_json::from_str(&run("nft -j list ruleset")).unwrap()
}
