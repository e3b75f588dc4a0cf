use serde_json::json;

use super::*;
use crate::terminal::WIDTH;

fn status() -> Status {
    serde_json::from_value(json!({
        "node": "node-1",
        "addresses": ["192.0.2.11", "2001:db8::11"],
        "podRanges": ["10.244.1.0/24", "fd00:10:244:1::/64"],
        "mode": "VXLAN between all nodes, identifier 4096, UDP port 4789; MTU 1430; routes from BGP in AS 64512",
        "nodes": 6, "attachments": 5, "services": 12, "endpoints": 40,
        "entries": {"route": 8, "neighbour": 8, "link": 3},
        "tunnel": {"decapsulated": 8, "held": 0, "refused": 1},
        "problems": [],
        "compared": 990, "started": 280,
        "repairs": {"count": 2, "last": {"at": 670, "what": "route 10.244.2.0/24"}},
        "cluster": {
            "unready": 1, "unreadyNodes": ["node-4"],
            "reached": {"direct": 1, "vxlan": 2, "through node-3": 1},
            "unreached": 1, "unreachedNodes": ["node-6 (no route for IPv6)"],
        },
    }))
    .unwrap()
}

fn bgp() -> BgpStatus {
    let session = |name: &str, state: &str| {
        json!({
            "name": name, "address": "192.0.2.12", "asn": 64512, "routerId": "192.0.2.12", "state": state,
            "since": 1, "established": 1, "holdTime": 90, "stale": false, "prefixes": {},
        })
    };
    serde_json::from_value(json!({
        "speaker": {"asn": 64512, "routerId": "192.0.2.11"}, "problems": [],
        "sessions": [session("node/node-2", "Established"), session("bgppeer/tor", "Active")],
    }))
    .unwrap()
}

fn seen<'a>(status: &'a Status, bgp: &'a BgpStatus) -> Seen<'a> {
    Seen { agent: Some("7"), status: Some(status), bgp: Some(bgp), now: 1000 }
}

#[test]
fn a_node_and_the_cluster_at_a_glance() {
    assert_eq!(
        render(&seen(&status(), &bgp())),
        "\
agent       runs with process id 7, for 12 min 0 s
ready       yes
node        node-1, 192.0.2.11, 2001:db8::11
pod ranges  10.244.1.0/24, fd00:10:244:1::/64; 5 pods attached
mode        VXLAN between all nodes, identifier 4096, UDP port 4789; MTU 1430;
            routes from BGP in AS 64512
kernel      as planned: 19 entries, compared 10 s ago
repairs     2 since the agent started, the last 5 min 30 s ago: route
            10.244.2.0/24
services    12 addresses and ports, 40 endpoints
BGP         1 of 2 sessions up; not: bgppeer/tor (Active)
IP in IP    8 decapsulated, 1 refused
problems    none

cluster     5 of 6 nodes ready; not: node-4
reached     2 by VXLAN, 1 directly, 1 through node-3
no way      to node-6 (no route for IPv6)
"
    );
}

#[test]
fn an_agent_that_is_down_comes_first_and_what_is_in_force_after_it() {
    let (status, bgp) = (status(), BgpStatus::default());
    let text = render(&Seen { agent: None, ..seen(&status, &bgp) });
    assert!(text.starts_with("agent       does not run; what it left in the kernel stays"), "{text}");
    assert!(text.contains("how it was when it ended") && text.contains("10.244.1.0/24"), "{text}");
    assert!(text.contains("BGP         not spoken") && !text.contains("ready       yes"), "{text}");
    let text = render(&Seen::default());
    assert_eq!(
        text,
        "agent       does not run\n\
         status      unknown: no agent has run here since the last boot or cleanup\n"
    );
}

#[test]
fn what_was_wrong_is_remembered_and_much_that_is_wrong_fits() {
    let bgp = bgp();
    let mut status = status();
    status.last_error = Some(Happened { at: 880, what: "Node node-5 has no InternalIP".to_owned() });
    let text = render(&seen(&status, &bgp));
    assert!(text.contains("problems    none now; the last began 2 min 0 s ago: Node node-5 has"), "{text}");
    status.refused = 2;
    status.problems = (0..30).map(|number| format!("Node node-{number} has no InternalIP")).collect();
    status.cluster.unready_nodes = (0..20).map(|number| format!("node-{number}")).collect();
    status.cluster.unready = 300;
    let text = render(&seen(&status, &bgp));
    assert!(text.contains("            and 22 more (cambric status --json)\n"), "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("node-5 and 294 more"), "{text}");
    assert!(words.contains("kernel not as planned: 2 of 19 entries refused"), "{text}");
    assert!(text.lines().count() <= 27, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
}

#[test]
fn times_have_two_units() {
    for (seconds, text) in [(9, "9 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h")] {
        assert_eq!(duration(seconds), text);
    }
}
