//! The whole cluster from anywhere: a line for each node, from what the API holds.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use kube_source::{NodeOverview, Overview};
use model::{Node, PerFamily};
use serde_json::{Value, json};

use super::table::{INDENT, aligned, wrapped};
use crate::terminal::WIDTH;

pub(super) fn ask(kubeconfig: Option<&Path>) -> Result<Overview> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = kube_source::client(kubeconfig).await?;
        kube_source::overview(&client).await.context("the Kubernetes API")
    })
}

/// Why a node's pods cannot be reached, if the API tells.
fn wrong(node: &NodeOverview) -> Option<String> {
    match &node.node {
        Err(reason) => Some(reason.clone()),
        Ok(_) if !node.set_up => {
            Some("no agent has said yet that the node's network is set up; look at its log there".to_owned())
        }
        Ok(read) if read.pod_ranges.is_empty() => {
            Some("no pod range; let kube-controller-manager allocate node CIDRs".to_owned())
        }
        Ok(_) => None,
    }
}

/// Whether all is well, as far as the API tells.
pub(super) fn is_well(overview: &Overview) -> bool {
    overview.network.as_ref().is_some_and(|network| network.ready)
        && overview.nodes.iter().all(|node| node.ready && wrong(node).is_none())
}

pub(super) fn render(overview: &Overview) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |words: &str| {
        let _ = writeln!(text, "{words}");
    };
    let network = overview.network.as_ref().map(|network| network.message.as_str());
    let network = network.unwrap_or("There is no ClusterNetwork \"default\"; apply one, see README.");
    wrapped(network, "").iter().for_each(|words| line(words));
    let ready = overview.nodes.iter().filter(|node| node.ready).count();
    line(&format!("{ready} of {} nodes ready", overview.nodes.len()));
    line("");
    let wide = aligned(&rows(overview, true));
    let fits = wide.iter().all(|line| line.chars().count() <= WIDTH);
    let lines = if fits { wide } else { aligned(&rows(overview, false)) };
    let mut lines = lines.into_iter();
    lines.next().iter().for_each(|words| line(words));
    for (node, words) in overview.nodes.iter().zip(lines) {
        line(&words);
        if let Some(why) = wrong(node) {
            wrapped(&why, INDENT).iter().for_each(|words| line(words));
        }
    }
    text
}

/// A row for each node. With all addresses only if there is room.
fn rows(overview: &Overview, all: bool) -> Vec<Vec<String>> {
    let head = ["NODE", "READY", "NETWORK", "ADDRESS", "PODS"].map(str::to_owned).to_vec();
    let row = |node: &NodeOverview| {
        let word = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let read = node.node.as_ref().ok();
        let addresses = read.map(|node: &Node| shown(&node.addresses, all)).unwrap_or_default();
        let ranges = read.map(|node: &Node| shown(&node.pod_ranges, all)).unwrap_or_default();
        vec![node.name.clone(), word(node.ready), word(node.set_up && read.is_some()), addresses, ranges]
    };
    std::iter::once(head).chain(overview.nodes.iter().map(row)).collect()
}

fn shown<T: ToString>(of: &PerFamily<T>, all: bool) -> String {
    let texts: Vec<String> = of.iter().map(ToString::to_string).take(if all { 2 } else { 1 }).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(",") }
}

pub(super) fn json(overview: &Overview) -> Value {
    let node = |node: &NodeOverview| {
        let read = node.node.as_ref().ok();
        let texts = |texts: Option<Vec<String>>| texts.unwrap_or_default();
        json!({
            "name": node.name,
            "ready": node.ready,
            "networkSetUp": node.set_up,
            "addresses": texts(read.map(|node| node.addresses.iter().map(ToString::to_string).collect())),
            "podRanges": texts(read.map(|node| node.pod_ranges.iter().map(ToString::to_string).collect())),
            "problem": wrong(node),
        })
    };
    json!({"network": overview.network.as_ref().map(|network| &network.message), "nodes": overview.nodes.iter().map(node).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use kube_source::Verdict;
    use model::NodeName;

    use super::*;

    fn node(name: &str, number: u8, ranges: &[&str]) -> NodeOverview {
        let addresses = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
        let addresses = addresses.iter().map(String::as_str);
        let node = Node::parse(NodeName::new(name).unwrap(), addresses, ranges.iter().copied()).unwrap();
        NodeOverview { name: name.to_owned(), ready: true, set_up: true, node: Ok(node) }
    }

    fn overview() -> Overview {
        let bad = NodeOverview {
            node: Err("Node c: spec.podCIDRs: pod range 10.244.3.0/31 is too small".to_owned()),
            ..node("c", 3, &[])
        };
        let message =
            "In force: pods 10.244.0.0/16; no service ranges; IP in IP between all nodes".to_owned();
        Overview {
            network: Some(Verdict { ready: true, reason: "InForce", message }),
            nodes: vec![
                node("a", 1, &["10.244.1.0/24"]),
                NodeOverview { ready: false, set_up: false, ..node("b", 2, &["10.244.2.0/24"]) },
                bad,
                node("d", 4, &[]),
            ],
        }
    }

    #[test]
    fn a_node_is_a_line_and_what_is_wrong_stands_below() {
        assert_eq!(
            render(&overview()),
            "In force: pods 10.244.0.0/16; no service ranges; IP in IP between all nodes\n\
             3 of 4 nodes ready\n\
             \n\
             NODE  READY  NETWORK  ADDRESS                PODS\n\
             a     yes    yes      192.0.2.1,2001:db8::1  10.244.1.0/24\n\
             b     no     no       192.0.2.2,2001:db8::2  10.244.2.0/24\n\
             \x20 no agent has said yet that the node's network is set up; look at its log there\n\
             c     yes    no\n\
             \x20 Node c: spec.podCIDRs: pod range 10.244.3.0/31 is too small\n\
             d     yes    yes      192.0.2.4,2001:db8::4  -\n\
             \x20 no pod range; let kube-controller-manager allocate node CIDRs\n"
        );
        assert!(!is_well(&overview()));
        assert_eq!(
            json(&overview())["nodes"][2]["problem"],
            "Node c: spec.podCIDRs: pod range 10.244.3.0/31 is too small"
        );
        let well = Overview { nodes: vec![node("a", 1, &["10.244.1.0/24"])], ..overview() };
        assert!(is_well(&well) && json(&well)["nodes"][0]["problem"].is_null());
        assert!(!is_well(&Overview { network: None, ..well }));
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let name = "ip-10-0-0-1.eu-central-1.compute";
        let long =
            Overview { nodes: vec![node(name, 1, &["10.244.1.0/24", "fd00:10:244:1::/64"])], ..overview() };
        let text = render(&long);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("192.0.2.1  10.244.1.0/24\n"), "{text}");
    }
}
