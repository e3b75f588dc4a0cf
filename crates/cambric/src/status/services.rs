//! `cambric status services`: what the kernel does with connections to services.

use std::fmt::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;
use kernel::{AddressKind, Kernel, SeenFrontend, SeenServices};
use model::Protocol;
use plan::services::{Backend, Target};
use serde::Serialize;

use crate::terminal::labelled;

/// Where values begin.
const INDENT: usize = 14;

/// Show what this node's kernel does with connections to services.
///
/// Reads the tables of the kernel and not the agent's plan, so it needs no agent. For each port of a service it shows
/// the addresses, where connections to them go and, if that is elsewhere, where those from outside of the cluster go
/// (externalTrafficPolicy: Local). What does not fit together is marked as wrong; then the exit code is 1.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cambric status services
  cambric status services kube-system/kube-dns
  cambric status services --json")]
pub(crate) struct ServicesOptions {
    /// Only this service
    #[arg(value_name = "NAMESPACE/NAME")]
    service: Option<Wanted>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

/// A service that is asked for.
#[derive(Debug, Clone)]
struct Wanted(String);

impl FromStr for Wanted {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Wanted, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains(['/', ':']) =>
            {
                Ok(Wanted(text.to_owned()))
            }
            _ => Err("not a namespace and a name; it would look like default/web"),
        }
    }
}

impl Wanted {
    /// Whether a port belongs to the service.
    fn has(&self, port: &str) -> bool {
        port.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }
}

pub(crate) fn run(options: &ServicesOptions) -> Result<ExitCode> {
    let open = "cannot open the kernel; reading its tables needs CAP_NET_ADMIN";
    let mut seen = Kernel::open().context(open)?.services_seen()?;
    if let Some(wanted) = &options.service {
        seen.frontends.retain(|each| wanted.has(&each.service));
        if seen.frontends.is_empty() && seen.faults.is_empty() {
            bail!("the kernel has no service {}; without a name all are shown", wanted.0);
        }
    }
    if options.json {
        crate::print(&format!("{}\n", json(&seen)?))?;
    } else {
        crate::print(&text(&seen))?;
    }
    Ok(if seen.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The frontends of each port of a service.
fn ports(seen: &SeenServices) -> impl Iterator<Item = &[SeenFrontend]> {
    let same = |one: &SeenFrontend, other: &SeenFrontend| port(one) == port(other);
    seen.frontends.chunk_by(same)
}

fn port(each: &SeenFrontend) -> (&str, Protocol) {
    (&each.service, each.frontend.protocol)
}

fn text(seen: &SeenServices) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut text, seen);
    text
}

fn write_text(out: &mut String, seen: &SeenServices) -> fmt::Result {
    for (index, frontends) in ports(seen).enumerate() {
        let Some(first) = frontends.first() else { continue };
        let gap = if index == 0 { "" } else { "\n" };
        match port(first) {
            ("", protocol) => writeln!(out, "{gap}of no known service, {protocol}")?,
            (service, protocol) => writeln!(out, "{gap}{service} {protocol}")?,
        }
        for alike in frontends.chunk_by(|one, other| fate(one) == fate(other)) {
            write_alike(out, alike)?;
        }
    }
    if seen.frontends.is_empty() {
        writeln!(out, "The kernel sends no connections to services.")?;
    }
    if !seen.faults.is_empty() {
        writeln!(out)?;
        seen.faults.iter().try_for_each(|fault| line(out, "", "wrong", fault.split(' ')))?;
    }
    Ok(())
}

/// All that addresses must have in common to be shown together.
fn fate(each: &SeenFrontend) -> impl PartialEq + '_ {
    let SeenFrontend { frontend, target, outside, affinity, sources, faults, .. } = each;
    (frontend.family(), target, outside, affinity, sources, faults)
}

fn write_alike(out: &mut String, alike: &[SeenFrontend]) -> fmt::Result {
    let Some(first) = alike.first() else { return Ok(()) };
    for kind in alike.chunk_by(|one, other| one.kind == other.kind) {
        let label = kind.first().map_or("", |each| kind_name(each.kind));
        let sockets = kind.iter().map(|each| socket(each.frontend.address, each.frontend.port));
        line(out, "  ", label, commas(sockets.collect()).iter().map(String::as_str))?;
    }
    if let Some(sources) = &first.sources {
        let nets: Vec<String> = sources.iter().map(ToString::to_string).collect();
        let nets = if nets.is_empty() { vec!["nobody".to_owned()] } else { commas(nets) };
        line(out, "  ", "allowed", nets.iter().map(String::as_str))?;
    }
    let mut fate = target_words(first.target.as_ref());
    if let Some(seconds) = first.affinity {
        let clients: usize = alike.iter().map(|each| each.clients).sum();
        // Writing to a String cannot fail.
        let _ = write!(fate, "; a client stays {seconds} s, {clients} do now");
    }
    write_target(out, "goes to", &fate, first.target.as_ref())?;
    if let Some(outside) = &first.outside {
        write_target(out, "outside", &target_words(Some(outside)), Some(outside))?;
    }
    first.faults.iter().try_for_each(|fault| line(out, "  ", "wrong", fault.split(' ')))
}

fn write_target(out: &mut String, label: &str, words: &str, target: Option<&Target>) -> fmt::Result {
    line(out, "  ", label, words.split(' '))?;
    match target.map(Target::backends) {
        None | Some([]) => Ok(()),
        Some(backends) => {
            let sockets = backends.iter().map(|Backend { address, port }| socket(*address, *port));
            line(out, "  ", "", commas(sockets.collect()).iter().map(String::as_str))
        }
    }
}

fn target_words(target: Option<&Target>) -> String {
    match target {
        Some(Target::Refuse) => "nobody: refused, as there is no endpoint".to_owned(),
        Some(Target::Drop) => "nobody: dropped, as no endpoint is on this node".to_owned(),
        Some(Target::Backends(backends)) if backends.len() == 1 => "the one endpoint".to_owned(),
        Some(Target::Backends(backends)) => format!("one of {} at random", backends.len()),
        None => "nobody knows".to_owned(),
    }
}

fn kind_name(kind: AddressKind) -> &'static str {
    match kind {
        AddressKind::Cluster => "cluster",
        AddressKind::Node => "node",
        AddressKind::External => "external",
        AddressKind::Unknown => "address",
    }
}

fn socket(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// All but the last with a comma.
fn commas(mut items: Vec<String>) -> Vec<String> {
    let last = items.len().saturating_sub(1);
    items.iter_mut().take(last).for_each(|item| item.push(','));
    items
}

/// A label, and words in as many lines as they need.
fn line<'a>(
    out: &mut String,
    margin: &str,
    label: &str,
    words: impl Iterator<Item = &'a str>,
) -> fmt::Result {
    labelled(out, INDENT, &format!("{margin}{label}"), words)
}

fn json(seen: &SeenServices) -> Result<String> {
    let services = ports(seen).filter_map(|frontends| {
        let (service, protocol) = port(frontends.first()?);
        let addresses = frontends.iter().map(|each| Address {
            address: each.frontend.address.to_string(),
            port: each.frontend.port,
            kind: kind_name(each.kind),
            target: each.target.as_ref().map(To::of),
            outside: each.outside.as_ref().map(To::of),
            affinity_seconds: each.affinity,
            clients: each.clients,
            allowed_sources: each.sources.as_ref().map(|nets| nets.iter().map(ToString::to_string).collect()),
            faults: &each.faults,
        });
        Some(Port { service, protocol: protocol.to_string(), addresses: addresses.collect() })
    });
    let shown = Shown { sound: seen.is_sound(), services: services.collect(), faults: &seen.faults };
    serde_json::to_string_pretty(&shown).context("cannot encode the services")
}

/// What `--json` shows. Fields may be added; none changes its meaning.
#[derive(Serialize)]
struct Shown<'a> {
    /// Whether there are no faults at all.
    sound: bool,
    services: Vec<Port<'a>>,
    /// Of the tables as a whole.
    faults: &'a [String],
}

#[derive(Serialize)]
struct Port<'a> {
    /// `namespace/name:port`; empty if the kernel does not know it.
    service: &'a str,
    protocol: String,
    addresses: Vec<Address<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Address<'a> {
    address: String,
    port: u16,
    /// `cluster`, `node`, `external`, or `address` if that is not known.
    kind: &'static str,
    /// Null if it cannot be made out.
    target: Option<To>,
    /// Null if it is the same from everywhere.
    outside: Option<To>,
    affinity_seconds: Option<u32>,
    /// How many clients have an endpoint to stay with.
    clients: usize,
    /// Null if everybody may connect.
    allowed_sources: Option<Vec<String>>,
    faults: &'a [String],
}

#[derive(Serialize)]
struct To {
    /// `random`, `refuse` or `drop`.
    action: &'static str,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize)]
struct Endpoint {
    address: String,
    port: u16,
}

impl To {
    fn of(target: &Target) -> To {
        let action = match target {
            Target::Backends(_) => "random",
            Target::Refuse => "refuse",
            Target::Drop => "drop",
        };
        let endpoint = |each: &Backend| Endpoint { address: each.address.to_string(), port: each.port };
        To { action, endpoints: target.backends().iter().map(endpoint).collect() }
    }
}

#[cfg(test)]
mod tests {
    use plan::services::Frontend;

    use super::*;
    use crate::terminal::WIDTH;

    fn frontend(kind: AddressKind, address: &str, port: u16, target: Target) -> SeenFrontend {
        SeenFrontend {
            frontend: Frontend { address: address.parse().unwrap(), protocol: Protocol::Tcp, port },
            service: "shop/web:http".to_owned(),
            kind,
            target: Some(target),
            outside: None,
            affinity: None,
            clients: 0,
            sources: None,
            faults: Vec::new(),
        }
    }

    fn backends(addresses: &[&str]) -> Target {
        let backend = |text: &&str| Backend { address: text.parse().unwrap(), port: 8080 };
        Target::Backends(addresses.iter().map(backend).collect())
    }

    fn seen() -> SeenServices {
        let many: Vec<String> = (1..=20).map(|number| format!("10.244.1.{number}")).collect();
        let many = backends(&many.iter().map(String::as_str).collect::<Vec<_>>());
        let own = backends(&["10.244.1.1"]);
        let cluster = frontend(AddressKind::Cluster, "10.96.0.1", 80, many.clone());
        let node = SeenFrontend {
            outside: Some(own.clone()),
            ..frontend(AddressKind::Node, "192.0.2.1", 30080, many.clone())
        };
        let external =
            SeenFrontend { outside: Some(own), ..frontend(AddressKind::External, "198.51.100.1", 80, many) };
        let six = SeenFrontend {
            affinity: Some(600),
            clients: 3,
            sources: Some(vec!["2001:db8:c::/48".parse().unwrap()]),
            ..frontend(AddressKind::External, "2001:db8:e::1", 80, backends(&["fd00::1", "fd00::2"]))
        };
        let broken = SeenFrontend {
            service: String::new(),
            target: None,
            faults: vec!["services says accept, which leads to no endpoint".to_owned()],
            ..frontend(AddressKind::Unknown, "fd00:96::9", 53, Target::Refuse)
        };
        let closed = SeenFrontend {
            service: "shop/zero".to_owned(),
            outside: Some(Target::Drop),
            sources: Some(Vec::new()),
            ..frontend(AddressKind::Cluster, "10.96.0.3", 80, Target::Refuse)
        };
        SeenServices {
            frontends: vec![broken, cluster, node, external, six, closed],
            faults: vec!["chain balance in table ip6 cambric-services has other rules".to_owned()],
        }
    }

    #[test]
    fn each_port_is_a_block_of_80_columns() {
        let expected = "\
of no known service, TCP
  address     [fd00:96::9]:53
  goes to     nobody knows
  wrong       services says accept, which leads to no endpoint

shop/web:http TCP
  cluster     10.96.0.1:80
  goes to     one of 20 at random
              10.244.1.1:8080, 10.244.1.2:8080, 10.244.1.3:8080,
              10.244.1.4:8080, 10.244.1.5:8080, 10.244.1.6:8080,
              10.244.1.7:8080, 10.244.1.8:8080, 10.244.1.9:8080,
              10.244.1.10:8080, 10.244.1.11:8080, 10.244.1.12:8080,
              10.244.1.13:8080, 10.244.1.14:8080, 10.244.1.15:8080,
              10.244.1.16:8080, 10.244.1.17:8080, 10.244.1.18:8080,
              10.244.1.19:8080, 10.244.1.20:8080
  node        192.0.2.1:30080
  external    198.51.100.1:80
  goes to     one of 20 at random
              10.244.1.1:8080, 10.244.1.2:8080, 10.244.1.3:8080,
              10.244.1.4:8080, 10.244.1.5:8080, 10.244.1.6:8080,
              10.244.1.7:8080, 10.244.1.8:8080, 10.244.1.9:8080,
              10.244.1.10:8080, 10.244.1.11:8080, 10.244.1.12:8080,
              10.244.1.13:8080, 10.244.1.14:8080, 10.244.1.15:8080,
              10.244.1.16:8080, 10.244.1.17:8080, 10.244.1.18:8080,
              10.244.1.19:8080, 10.244.1.20:8080
  outside     the one endpoint
              10.244.1.1:8080
  external    [2001:db8:e::1]:80
  allowed     2001:db8:c::/48
  goes to     one of 2 at random; a client stays 600 s, 3 do now
              [fd00::1]:8080, [fd00::2]:8080

shop/zero TCP
  cluster     10.96.0.3:80
  allowed     nobody
  goes to     nobody: refused, as there is no endpoint
  outside     nobody: dropped, as no endpoint is on this node

wrong         chain balance in table ip6 cambric-services has other rules
";
        let text = text(&seen());
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
        let nothing = super::text(&SeenServices::default());
        assert_eq!(nothing, "The kernel sends no connections to services.\n");
    }

    #[test]
    fn long_words_of_a_fault_are_broken_between_words() {
        let fault =
            "outside-services says goto pick-outside-1, but outside-backends has only 0 of these endpoints";
        let mut out = String::new();
        line(&mut out, "  ", "wrong", fault.split(' ')).unwrap();
        let expected = "  wrong       outside-services says goto pick-outside-1, but outside-backends\n              has only \
                        0 of these endpoints\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn programs_get_all_of_it() {
        let json: serde_json::Value = serde_json::from_str(&json(&seen()).unwrap()).unwrap();
        assert_eq!(json["sound"], false);
        assert_eq!(json["faults"][0], "chain balance in table ip6 cambric-services has other rules");
        let [broken, web, zero] = [&json["services"][0], &json["services"][1], &json["services"][2]];
        assert_eq!(broken["service"], "");
        assert_eq!(broken["addresses"][0]["target"], serde_json::Value::Null);
        assert_eq!((&web["service"], &web["protocol"]), (&"shop/web:http".into(), &"TCP".into()));
        let expected = serde_json::json!({
            "address": "2001:db8:e::1",
            "port": 80,
            "kind": "external",
            "target": {
                "action": "random",
                "endpoints": [{"address": "fd00::1", "port": 8080}, {"address": "fd00::2", "port": 8080}],
            },
            "outside": null,
            "affinitySeconds": 600,
            "clients": 3,
            "allowedSources": ["2001:db8:c::/48"],
            "faults": [],
        });
        assert_eq!(web["addresses"][3], expected);
        assert_eq!(zero["addresses"][0]["outside"], serde_json::json!({"action": "drop", "endpoints": []}));
    }

    #[test]
    fn a_service_is_asked_for_by_its_whole_name() {
        let web: Wanted = "shop/web".parse().unwrap();
        assert!(web.has("shop/web") && web.has("shop/web:http"));
        assert!(!web.has("shop/web2:http") && !web.has("shop/we") && !web.has(""));
        for other in ["web", "/web", "shop/", "shop/web:http", "a/b/c", ""] {
            assert!(other.parse::<Wanted>().is_err(), "{other}");
        }
    }
}
