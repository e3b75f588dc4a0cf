//! The fast path of a lab, as the agents of its nodes tell of it.

use serde_json::Value;

use super::{CAMBRIC, Lab, until};

/// More than a few packets that come by once.
const BUSY: u64 = 50;

impl Lab {
    /// Changes the spec of the ClusterNetwork.
    pub fn patch_network(&self, spec: &str) {
        let patch = format!(r#"{{"spec": {spec}}}"#);
        self.run("kubectl", &["--", "patch", "clusternetwork", "default", "--type=merge", "-p", &patch]);
    }

    /// The names of all nodes.
    pub fn nodes(&self) -> Vec<String> {
        let names = self.run("kubectl", &["--", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]);
        names.split_whitespace().map(str::to_owned).collect()
    }

    /// What `cambric status fastpath` shows on a node.
    pub fn fast_path(&self, node: &str) -> Value {
        let words = ["exec", node, "--", CAMBRIC, "status", "fastpath", "--json"];
        let output = self.command(words[0], &words[1..]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Packets that it has sent on each node as of the last comparison; none if it is off on one of them.
    pub fn hits(&self, nodes: &[&str]) -> Option<Vec<u64>> {
        nodes.iter().map(|node| self.fast_path(node)["fastPath"]["hits"].as_u64()).collect()
    }

    /// Puts it in force on nodes, or takes it away, and waits until it is so.
    pub fn set_fast_path(&self, nodes: &[&str], on: bool) {
        self.patch_network(&format!(r#"{{"fastPath": {on}}}"#));
        let all = |seen: &Vec<bool>| seen.iter().all(|is_on| *is_on == on);
        let is_on = |node: &&str| self.hits(&[node]).is_some();
        until("the fast path", || nodes.iter().map(is_on).collect::<Vec<bool>>(), all);
    }

    /// Waits until it has sent more than a few packets on each of these nodes.
    pub fn await_hits(&self, nodes: &[&str]) {
        self.await_count("packets of the fast path", nodes, |fast| fast["hits"].as_u64() > Some(BUSY));
    }

    /// Waits until its programs have looked at packets of new flows on each of these nodes.
    pub fn await_new_flows(&self, nodes: &[&str]) {
        let looked_at = |fast: &Value| fast["misses"]["unknown"].as_u64() > Some(0);
        self.await_count("new flows", nodes, looked_at);
    }

    fn await_count(&self, what: &str, nodes: &[&str], is_so: impl Fn(&Value) -> bool) {
        let mut round = 0;
        let look = || {
            // A link that comes or goes has agents compare, and so count.
            round += 1;
            let change = ["add probe type veth peer name eborp", "del probe"][(round + 1) % 2];
            for node in nodes {
                self.inside(node, &format!("ip link {change}"));
            }
            nodes.iter().map(|node| self.fast_path(node)["fastPath"].take()).collect::<Vec<Value>>()
        };
        until(what, look, |all| all.iter().all(&is_so));
        if round % 2 == 1 {
            for node in nodes {
                self.inside(node, "ip link del probe");
            }
        }
    }
}
