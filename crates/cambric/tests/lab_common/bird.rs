//! BIRD 2 in a machine of a lab: an implementation that is not ours, as a witness.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use kernel::netns;
use tempfile::TempDir;

use super::{Lab, succeed, until};

/// A BIRD that runs until it is dropped.
pub struct Bird {
    dir: TempDir,
    process: Child,
}

impl Bird {
    /// Starts BIRD in a machine's namespace.
    pub fn start(lab: &Lab, machine: &str, config: &str) -> Bird {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("bird.conf"), format!("log stderr all;\nprotocol device {{}}\n{config}"))
            .unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let mut command = Command::new("/usr/sbin/bird");
        command
            .arg("-f")
            .arg("-c")
            .arg(path("bird.conf"))
            .arg("-s")
            .arg(path("ctl"))
            .arg("-P")
            .arg(path("pid"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = netns::run_in(&lab.enter(machine), || command.spawn()).unwrap().unwrap();
        let bird = Bird { dir, process };
        until("BIRD answers", || bird.try_to_ask("show status"), |answer| answer.contains("Daemon is up"));
        bird
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("ctl")
    }

    fn try_to_ask(&self, command: &str) -> String {
        let output = Command::new("/usr/sbin/birdc")
            .arg("-s")
            .arg(self.socket())
            .args(command.split(' '))
            .output()
            .unwrap();
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        format!("{}{}{log}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// What it answers.
    pub fn ask(&self, command: &str) -> String {
        succeed(Command::new("/usr/sbin/birdc").arg("-s").arg(self.socket()).args(command.split(' ')))
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        // One that has ended by itself was noticed by who asked it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
