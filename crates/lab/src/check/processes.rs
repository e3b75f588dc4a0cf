//! The processes of a pod's containers, and the network namespaces that they are in.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::view::{Container, Pod};

/// The variable that each process of a pod has in its environment, with the pod's UID.
const MARK: &str = "CAMBRIC_POD_UID";

/// The inode of each container's network namespace by the container's name, for those that have a process.
///
/// The process' number comes from the container's status (`containerID`), its namespace from the kernel.
pub(super) fn namespaces(pod: &Pod) -> Vec<(String, u64)> {
    let inode = |container: &Container| Some((container.name.clone(), inode(container.pid?, &pod.uid).ok()?));
    pod.containers.iter().filter_map(inode).collect()
}

fn inode(pid: i32, uid: &str) -> io::Result<u64> {
    // A number may have gone to another process.
    let mark = format!("{MARK}={uid}");
    let environment = fs::read(format!("/proc/{pid}/environ"))?;
    if !environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use model::{NodeName, PerFamily};

    use super::*;

    #[test]
    fn a_process_counts_only_with_the_mark_of_its_pod() {
        // It says a word once it runs: right after exec its environment is not there yet.
        let mut command = Command::new("sh");
        command.args(["-c", "echo here; read end"]).env(MARK, "u1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let container =
            Container { name: "c".to_owned(), ports: Vec::new(), pid: i32::try_from(child.id()).ok() };
        let mut pod = Pod {
            namespace: "default".to_owned(),
            name: "p".to_owned(),
            uid: "u1".to_owned(),
            node: NodeName::new("a").unwrap(),
            addresses: PerFamily::default(),
            containers: vec![container.clone(), Container { pid: None, ..container }],
            netns: Default::default(),
        };
        let found = namespaces(&pod);
        pod.uid = "u2".to_owned();
        let others = namespaces(&pod);
        child.kill().unwrap();
        child.wait().unwrap();
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(found, [("c".to_owned(), own)]);
        assert_eq!(others, []);
    }
}
