//! What happens in a node's kernel, as the tools tell it.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use super::{Node, START};

/// What `ip monitor` and `nft monitor` tell about one namespace.
pub struct News {
    listeners: Vec<Child>,
    namespace: String,
}

impl News {
    pub fn listen(node: &Node) -> News {
        let listeners = ["ip -o monitor link address route neigh", "nft monitor"].map(|command| {
            let mut run = Command::new("ip");
            run.args(["netns", "exec", &node.namespace]).args(command.split(' '));
            run.stdout(Stdio::piped()).spawn().unwrap()
        });
        let news = News { listeners: listeners.into(), namespace: node.namespace.clone() };
        // They listen once they have opened their sockets; /proc/net/netlink of the namespace tells when.
        let pids: Vec<u32> = news.listeners.iter().map(Child::id).collect();
        node.eventually(START, "the monitors listen", || pids.iter().all(|pid| listens(*pid)));
        news
    }

    /// All lines up to now. A fence, made last, shows that nothing is under way any more.
    pub fn heard(mut self, fence: &str) -> Vec<String> {
        for command in [
            format!("ip -n {} link add {fence} type bridge", self.namespace),
            format!("ip netns exec {} nft add table ip {fence}", self.namespace),
        ] {
            let mut words = command.split(' ');
            assert!(Command::new(words.next().unwrap()).args(words).status().unwrap().success());
        }
        let mut lines = Vec::new();
        for listener in &mut self.listeners {
            let mut output = listener.stdout.take().unwrap();
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.contains(fence) {
                let read = output.read(&mut buffer).unwrap();
                assert!(read > 0, "the monitor has ended");
                text.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
            lines.extend(text.lines().filter(|line| !line.contains(fence)).map(str::to_owned));
        }
        for command in [
            format!("-n {} link del {fence}", self.namespace),
            format!("netns exec {} nft delete table ip {fence}", self.namespace),
        ] {
            assert!(Command::new("ip").args(command.split(' ')).status().unwrap().success());
        }
        lines.retain(|line| concerns_us(line));
        lines
    }
}

impl Drop for News {
    fn drop(&mut self) {
        for listener in &mut self.listeners {
            let _ = listener.kill();
            let _ = listener.wait();
        }
    }
}

/// Whether a process has a netlink socket that belongs to a multicast group (column Groups of /proc/net/netlink).
fn listens(pid: u32) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap_or_default();
    table.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.get(2) == Some(&pid.to_string().as_str())
            && columns.get(3).is_some_and(|groups| *groups != "00000000")
    })
}

/// Whether a line of a monitor tells of a change, and not of a generation or of neighbour resolution.
fn concerns_us(line: &str) -> bool {
    let noise = ["# new generation", "STALE", "DELAY", "PROBE", "REACHABLE", "INCOMPLETE", "FAILED"];
    !line.trim().is_empty() && !noise.iter().any(|word| line.contains(word))
}

/// Two states of the kernel are the same; what is different is shown.
pub fn same(before: &str, now: &str) {
    let without = |one: &str, other: &str| -> Vec<String> {
        let other: Vec<&str> = other.lines().collect();
        one.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect()
    };
    let (gone, new) = (without(before, now), without(now, before));
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
}

/// Every line names one of the texts, and there are some.
pub fn only_about(lines: &[String], texts: &[&str]) {
    assert!(!lines.is_empty());
    for line in lines {
        assert!(texts.iter().any(|text| line.contains(text)), "{line}\nin\n{}", lines.join("\n"));
    }
}
