//! `cambric status bgp`: with whom this node speaks BGP.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::table::{INDENT, aligned, wrapped};
use super::view::View;
use crate::agent::{BgpStatus, SessionStatus};
use crate::clock::unix_now;
use crate::files::read_json;
use crate::terminal::WIDTH;

/// Show this node's BGP sessions.
///
/// Shows every session that there should be: whom with, in which state and since when, how many prefixes of a family
/// were taken from the peer and told to it, and what BFD says. The exit code is 0 if all sessions are established, and 1
/// if not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cambric status bgp
  cambric status bgp --json")]
pub(crate) struct BgpOptions {
    #[command(flatten)]
    view: View,
}

pub(super) fn run(options: &BgpOptions) -> Result<ExitCode> {
    let runs = options.view.agent().is_some();
    let status: Option<BgpStatus> = read_json(&options.view.run_dir().bgp())?;
    if options.view.json {
        crate::print(&format!("{:#}\n", serde_json::json!({"agentRuns": runs, "bgp": status})))?;
    } else {
        let now = unix_now().as_secs();
        crate::print(&render(runs, status.as_ref(), now))?;
    }
    let all_up = status.is_some_and(|status| status.sessions.iter().all(SessionStatus::is_up));
    Ok(if runs && all_up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `now` is in seconds since 1970.
fn render(runs: bool, status: Option<&BgpStatus>, now: u64) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |words: &str| {
        let _ = writeln!(text, "{words}");
    };
    if !runs {
        line("the agent does not run, so no BGP is spoken; this is how it was when it ended");
    }
    let Some(status) = status else {
        line("unknown: no agent has run here since the last boot or cleanup");
        return text;
    };
    match &status.speaker {
        Some(speaker) => {
            let cluster = speaker.cluster_id.map(|id| format!(", cluster id {id}")).unwrap_or_default();
            line(&format!("AS {}, router id {}{cluster}", speaker.asn, speaker.router_id));
        }
        None => line("no BGP: routes come from Kubernetes, and no BgpPeer chooses this node"),
    }
    for problem in &status.problems {
        wrapped(&format!("problem: {problem}"), "").iter().for_each(|words| line(words));
    }
    if !status.sessions.is_empty() {
        line("");
        table(&status.sessions, now).iter().for_each(|words| line(words));
    }
    text
}

/// One line for each session, and more about it below. Addresses are in the line if all lines are short enough.
fn table(sessions: &[SessionStatus], now: u64) -> Vec<String> {
    let rows = |with_address: bool| -> Vec<Vec<String>> {
        let head = ["PEER", "ADDRESS", "AS", "STATE", "FOR", "IPV4 IN/OUT", "IPV6 IN/OUT", "BFD"];
        let all = std::iter::once(head.map(str::to_owned)).chain(sessions.iter().map(|one| cells(one, now)));
        let keep = |(index, cell): (usize, String)| (with_address || index != 1).then_some(cell);
        all.map(|cells| cells.into_iter().enumerate().filter_map(keep).collect()).collect()
    };
    let (wide, with_address) = (aligned(&rows(true)), true);
    let (lines, with_address) = match wide.iter().all(|line| line.chars().count() <= WIDTH) {
        true => (wide, with_address),
        false => (aligned(&rows(false)), false),
    };
    let mut lines = lines.into_iter();
    let mut all: Vec<String> = lines.next().into_iter().collect();
    for (session, line) in sessions.iter().zip(lines) {
        all.push(line);
        for detail in details(session, with_address) {
            all.extend(wrapped(&detail, INDENT));
        }
    }
    all
}

fn cells(session: &SessionStatus, now: u64) -> [String; 8] {
    let prefixes = |family: &str| match session.prefixes.get(family) {
        Some(prefixes) => format!("{}/{}", prefixes.received, prefixes.advertised),
        None => "-".to_owned(),
    };
    [
        session.name.clone(),
        session.address.to_string(),
        session.asn.to_string(),
        session.state.to_string(),
        duration(now.saturating_sub(session.since)),
        prefixes("IPv4"),
        prefixes("IPv6"),
        session.bfd.map_or("-".to_owned(), |bfd| format!("{bfd:?}")),
    ]
}

fn details(session: &SessionStatus, address_is_shown: bool) -> Vec<String> {
    let mut place = Vec::new();
    if !address_is_shown {
        place.push(session.address.to_string());
    }
    place.extend(session.remote.map(|remote| format!("seen at {remote}")));
    if session.stale {
        place.push("its routes are kept until it is back".to_owned());
    }
    if session.without_next_hop > 0 {
        place.push(format!("{} prefixes could not be told for want of a next hop", session.without_next_hop));
    }
    let mut all: Vec<String> = Vec::new();
    if !place.is_empty() {
        all.push(place.join(", "));
    }
    all.extend(session.translated.map(|from| {
        format!(
            "it connects from {from}, so a NAT gateway is before it: the node needs the label {}",
            model::SITE_LABEL
        )
    }));
    all.extend(session.last_error.as_ref().map(|error| format!("last error: {error}")));
    all
}

/// As birdc and gobgp have it: hours, minutes and seconds, and days before them.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days > 0 { format!("{days}d {clock}") } else { clock }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session(name: &str, address: &str) -> serde_json::Value {
        json!({
            "name": name, "address": address, "asn": 64512, "routerId": "192.0.2.12", "state": "Established",
            "since": 1000, "established": 1, "holdTime": 90, "stale": false, "bfd": "Up",
            "prefixes": {"IPv4": {"received": 1, "advertised": 2}, "IPv6": {"received": 3, "advertised": 4}},
        })
    }

    fn status(sessions: &[serde_json::Value]) -> BgpStatus {
        serde_json::from_value(json!({
            "speaker": {"asn": 64512, "routerId": "192.0.2.11"}, "problems": [], "sessions": sessions,
        }))
        .unwrap()
    }

    #[test]
    fn a_session_is_a_line() {
        let mut down = session("bgppeer/tor", "192.0.2.200");
        down["state"] = "Active".into();
        down["prefixes"] = json!({});
        down["bfd"] = serde_json::Value::Null;
        down["lastError"] = "connection refused".into();
        let text = render(true, Some(&status(&[session("node/b", "192.0.2.12"), down])), 1000 + 90_061);
        assert_eq!(
            text,
            "AS 64512, router id 192.0.2.11\n\
             \n\
             PEER         AS     STATE        FOR          IPV4 IN/OUT  IPV6 IN/OUT  BFD\n\
             node/b       64512  Established  1d 01:01:01  1/2          3/4          Up\n\
             \x20 192.0.2.12\n\
             bgppeer/tor  64512  Active       1d 01:01:01  -            -            -\n\
             \x20 192.0.2.200\n\
             \x20 last error: connection refused\n"
        );
        let text = render(true, Some(&status(&[session("node/b", "192.0.2.12")])), 1001);
        assert!(text.contains("node/b  192.0.2.12  64512  Established  00:00:01  1/2 "), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let mut far = session("node/ip-10-0-0-1", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff");
        far["remote"] = "198.51.100.1".into();
        far["stale"] = true.into();
        far["lastError"] = "the peer has sent a notification that says more ".repeat(4).into();
        let text = render(true, Some(&status(&[far])), 2000);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("  2001:db8:ffff:ffff:ffff:ffff:ffff:ffff, seen at 198.51.100.1"), "{text}");
    }

    #[test]
    fn silence_is_explained() {
        assert!(render(true, Some(&BgpStatus::default()), 0).contains("no BgpPeer chooses this node"));
        assert!(render(false, None, 0).contains("does not run"));
    }
}
