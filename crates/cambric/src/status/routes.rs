//! `cambric status routes`: where this node sends packets to pods and to what BGP peers tell, and why.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::table::{INDENT, aligned, wrapped};
use super::view::View;
use crate::agent::RouteStatus;
use crate::files::read_json;
use crate::terminal::WIDTH;

/// Show this node's routes.
///
/// Shows every route that the agent plans, but not those of others: where it leads, in which tunnel, which object asks
/// for it, and why it is as it is. A change is shown a second later. The exit code is 0 if the agent runs, and 1 if not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cambric status routes
  cambric status routes --json")]
pub(crate) struct RoutesOptions {
    #[command(flatten)]
    view: View,
}

pub(super) fn run(options: &RoutesOptions) -> Result<ExitCode> {
    let runs = options.view.agent().is_some();
    let routes: Option<Vec<RouteStatus>> = read_json(&options.view.run_dir().routes())?;
    if options.view.json {
        crate::print(&format!("{:#}\n", serde_json::json!({"agentRuns": runs, "routes": routes})))?;
    } else {
        crate::print(&render(runs, routes.as_deref()))?;
    }
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(runs: bool, routes: Option<&[RouteStatus]>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |words: &str| {
        let _ = writeln!(text, "{words}");
    };
    if !runs {
        line("the agent does not run; this is what it planned last and left in the kernel:");
    }
    match routes {
        None => line("unknown: no agent has run here since the last boot or cleanup"),
        Some([]) => line("no routes: there is no other node with pod ranges, and no BGP peer has told any"),
        Some(routes) => table(routes).iter().for_each(|words| line(words)),
    }
    text
}

/// A line for each next hop, and the reason below; if lines would be too long, next hops are below too.
fn table(routes: &[RouteStatus]) -> Vec<String> {
    let wide = aligned(&rows(routes, true));
    let by_hop = wide.iter().all(|line| line.chars().count() <= WIDTH);
    let lines = if by_hop { wide } else { aligned(&rows(routes, false)) };
    let mut lines = lines.into_iter();
    let mut all: Vec<String> = lines.next().into_iter().collect();
    for route in routes {
        let hops = if by_hop { route.hops.len().max(1) } else { 1 };
        all.extend(lines.by_ref().take(hops));
        if !by_hop {
            let hops = route.hops.iter().map(|hop| format!("via {} dev {}", hop.via, hop.link));
            all.extend(hops.flat_map(|hop| wrapped(&hop, INDENT)));
        }
        let mtu = route.mtu.map(|mtu| format!(", MTU {mtu}")).unwrap_or_default();
        all.extend(wrapped(&format!("{}{mtu}", route.why), INDENT));
    }
    all
}

fn rows(routes: &[RouteStatus], by_hop: bool) -> Vec<Vec<String>> {
    let row = |cells: [&str; 5]| -> Vec<String> {
        let keep =
            |(index, cell): (usize, &str)| (by_hop || !(1..3).contains(&index)).then(|| cell.to_owned());
        cells.into_iter().enumerate().filter_map(keep).collect()
    };
    let mut rows = vec![row(["DESTINATION", "NEXT HOP", "LINK", "TUNNEL", "FROM"])];
    for route in routes {
        let (destination, tunnel) = (route.destination.to_string(), route.tunnel.to_string());
        let Some((first, more)) = route.hops.split_first() else { continue };
        let via = |hop: &crate::agent::HopStatus| hop.via.to_string();
        rows.push(row([&destination, &via(first), &first.link, &tunnel, &route.source]));
        if by_hop {
            rows.extend(more.iter().map(|hop| row(["", &via(hop), &hop.link, "", ""])));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn routes(value: serde_json::Value) -> Vec<RouteStatus> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_route_is_a_line_for_each_next_hop_with_its_reason() {
        let all = routes(json!([
            {
                "destination": "10.244.2.0/24", "source": "Node b", "tunnel": "none", "why": "same subnet",
                "hops": [{"via": "192.0.2.2", "link": "eth0"}],
            },
            {
                "destination": "10.9.0.0/16", "source": "BGP", "peers": ["node/b", "bgppeer/tor"], "mtu": 1480,
                "tunnel": "vxlan", "why": "learned from node/b and bgppeer/tor, always encapsulated by VXLAN",
                "hops": [{"via": "10.244.2.1", "link": "vxlan.cambric"}, {"via": "192.0.2.9", "link": "eth0"}],
            },
        ]));
        assert_eq!(
            render(true, Some(&all)),
            "DESTINATION    NEXT HOP    LINK           TUNNEL  FROM\n\
             10.244.2.0/24  192.0.2.2   eth0           none    Node b\n\
             \x20 same subnet\n\
             10.9.0.0/16    10.244.2.1  vxlan.cambric  vxlan   BGP\n\
             \x20              192.0.2.9   eth0\n\
             \x20 learned from node/b and bgppeer/tor, always encapsulated by VXLAN, MTU 1480\n"
        );
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let all = routes(json!([{
            "destination": "2001:db8:ffff:ffff::/64", "source": "Node ip-10-0-0-1", "tunnel": "ipip",
            "why": "other subnet, encapsulated in IP",
            "hops": [{"via": "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "link": "vxlan6.cambric"}],
        }]));
        let text = render(false, Some(&all));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(
            text.contains("\n  via 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff dev vxlan6.cambric\n"),
            "{text}"
        );
        assert!(text.contains("2001:db8:ffff:ffff::/64  ipip    Node ip-10-0-0-1\n"), "{text}");
    }

    #[test]
    fn nothing_is_explained() {
        assert!(render(true, Some(&[])).contains("no other node with pod ranges"));
        assert!(render(true, None).contains("no agent has run here"));
        assert!(render(false, None).contains("does not run"));
    }
}
