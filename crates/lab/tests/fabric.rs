//! The fabric in the kernel: who reaches whom, and that nothing leads out.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kernel::netns::{self, NetNs};
use lab::fabric;
use lab::paths::LabName;
use lab::topology::{self, Topology};
use serde_json::Value;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A fabric that is removed when the test ends, however it ends.
struct Fabric {
    name: LabName,
    topology: Topology,
    made: Vec<String>,
}

impl Fabric {
    fn new(topology: &str) -> Fabric {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = LabName::new(format!("f{}-{count}", std::process::id())).unwrap();
        let topology = topology::parse(topology).unwrap();
        let mut fabric = Fabric { made: Vec::new(), name, topology };
        fabric::build(&fabric.name, &fabric.topology, |namespace| {
            fabric.made.push(namespace.to_owned());
            Ok(())
        })
        .unwrap();
        fabric
    }

    fn namespace(&self, machine: &str) -> NetNs {
        NetNs::open(fabric::namespace_path(&self.name.namespace(machine))).unwrap()
    }

    fn run(&self, machine: &str, command: &[&str]) -> Output {
        let output = || Command::new(command[0]).args(&command[1..]).output().unwrap();
        netns::run_in(&self.namespace(machine), output).unwrap()
    }

    /// What a command prints in a machine.
    fn text(&self, machine: &str, command: &[&str]) -> String {
        let output = self.run(machine, command);
        assert!(
            output.status.success(),
            "{machine}: {command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, machine: &str, command: &[&str]) -> Vec<Value> {
        serde_json::from_str(&self.text(machine, command)).unwrap()
    }

    fn addresses(&self, machine: &str) -> Vec<IpAddr> {
        self.topology.machine(machine).unwrap().addresses().iter().copied().collect()
    }

    /// Opens a TCP connection and returns whom the server sees.
    fn connect(&self, client: &str, server: &str, address: IpAddr) -> std::io::Result<IpAddr> {
        self.connect_within(client, server, address, Duration::from_secs(10))
    }

    /// Whether a TCP connection cannot be opened within a second.
    fn is_cut_off(&self, client: &str, server: &str, address: IpAddr) -> bool {
        self.connect_within(client, server, address, Duration::from_secs(1)).is_err()
    }

    fn connect_within(
        &self,
        client: &str,
        server: &str,
        address: IpAddr,
        limit: Duration,
    ) -> std::io::Result<IpAddr> {
        let listen = || TcpListener::bind((address, 0)).unwrap();
        let listener = netns::run_in(&self.namespace(server), listen).unwrap();
        let to: SocketAddr = listener.local_addr().unwrap();
        let dial = || TcpStream::connect_timeout(&to, limit);
        let _client = netns::run_in(&self.namespace(client), dial).unwrap()?;
        Ok(listener.accept()?.1.ip())
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for namespace in &self.made {
            let _ = netns::remove_named(fabric::namespace_path(namespace));
        }
    }
}

const TWO_SUBNETS: &str = include_str!("../../../examples/labs/two-subnets.yaml");

const BEHIND_NAT: &str = "\
network: {podRanges: [10.244.0.0/16, \"fd00:10:244::/56\"]}
subnets:
  - {name: home, prefixes: [203.0.113.0/24, \"2001:db8:3::/64\"]}
  - {name: world, prefixes: [198.51.100.0/24, \"2001:db8:2::/64\"]}
natGateways:
  - {name: gw, inside: home, outside: world}
nodes:
  - {name: inner, subnet: home}
  - {name: outer, subnet: world}
";

#[test]
fn machines_reach_each_other_in_a_subnet_and_across_the_router() {
    let fabric = Fabric::new(TWO_SUBNETS);
    for (from, to) in [("a-1", "a-2"), ("a-1", "b-2"), ("b-1", "a-2"), ("client", "b-1"), ("a-1", "client")] {
        for (own, address) in fabric.addresses(from).into_iter().zip(fabric.addresses(to)) {
            assert_eq!(fabric.connect(from, to, address).unwrap(), own, "{from} to {to}");
        }
    }
}

#[test]
fn a_nat_gateway_hides_the_inside() {
    let fabric = Fabric::new(BEHIND_NAT);
    let outside: Vec<IpAddr> =
        fabric.topology.machine("gw").unwrap().interfaces[1].addresses.iter().map(|net| net.addr()).collect();
    for (address, outside) in fabric.addresses("outer").into_iter().zip(&outside) {
        assert_eq!(fabric.connect("inner", "outer", address).unwrap(), *outside);
    }
    for (address, outside) in fabric.addresses("inner").into_iter().zip(&outside) {
        assert!(fabric.is_cut_off("outer", "inner", address), "{address} is reached from outside");
        // Not even by a route that somebody adds there.
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let (to, via) = (address.to_string(), outside.to_string());
        fabric.text("outer", &["ip", family, "route", "add", &to, "via", &via]);
        assert!(fabric.is_cut_off("outer", "inner", address), "{address} is reached through the gateway");
    }
}

/// A gateway that forgets, or gets another address, breaks what went through it.
#[test]
fn a_nat_gateway_forgets_flows_and_changes_its_address() {
    let fabric = Fabric::new(&BEHIND_NAT.replace("outside: world}", "outside: world, genericTimeout: 7}"));
    let timeout = fabric.text("gw", &["cat", "/proc/sys/net/netfilter/nf_conntrack_generic_timeout"]);
    assert_eq!(timeout.trim(), "7");
    let gateway = fabric.topology.machine("gw").unwrap();
    let flows = || fabric.text("gw", &["conntrack", "-L"]).lines().count();
    for address in fabric.addresses("outer") {
        fabric.connect("inner", "outer", address).unwrap();
        assert!(flows() > 0);
        fabric::flush(&fabric.name, gateway).unwrap();
        assert_eq!(flows(), 0);
    }
    for new in ["198.51.100.77/24", "2001:db8:2::77/64", "198.51.100.78/24"] {
        let new: ipnet::IpNet = new.parse().unwrap();
        fabric::readdress(&fabric.name, gateway, new).unwrap();
        assert_eq!(flows(), 0);
        let outer =
            fabric.addresses("outer").into_iter().find(|to| to.is_ipv4() == new.addr().is_ipv4()).unwrap();
        assert_eq!(fabric.connect("inner", "outer", outer).unwrap(), new.addr());
        let family = if outer.is_ipv4() { "-4" } else { "-6" };
        let listed =
            fabric.json("gw", &["ip", family, "-j", "address", "show", "dev", "eth1", "scope", "global"]);
        let infos = listed[0]["addr_info"].as_array().unwrap().iter();
        let held: Vec<&str> = infos.filter_map(|info| info["local"].as_str()).collect();
        assert_eq!(held, [new.addr().to_string()]);
    }
}

#[test]
fn interfaces_are_as_the_topology_says() {
    let fabric = Fabric::new(TWO_SUBNETS);
    for machine in &fabric.topology.machines {
        let name = &machine.name;
        let links = fabric.json(name, &["ip", "-j", "address"]);
        assert_eq!(links.len(), 1 + machine.interfaces.len(), "{name}");
        assert!(links[0]["flags"].as_array().unwrap().contains(&"UP".into()), "{name}: lo");
        for (link, interface) in links[1..].iter().zip(&machine.interfaces) {
            assert_eq!(link["ifname"], interface.link, "{name}");
            assert_eq!(link["mtu"], fabric.topology.subnets[interface.subnet].mtu, "{name}");
            assert_eq!(link["operstate"], "UP", "{name}");
            let addresses = link["addr_info"].as_array().unwrap();
            assert!(addresses.iter().all(|address| address["tentative"].is_null()), "{name}: {link:#}");
            let global = addresses.iter().filter(|address| address["scope"] == "global");
            let global: Vec<String> = global
                .map(|address| format!("{}/{}", address["local"].as_str().unwrap(), address["prefixlen"]))
                .collect();
            let wanted: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(global, wanted, "{name}");
        }
    }
}

#[test]
fn the_switches_have_no_address() {
    let fabric = Fabric::new(TWO_SUBNETS);
    for command in [["ip", "-4", "address"], ["ip", "-6", "address"], ["ip", "-4", "route"]] {
        assert_eq!(fabric.text("fabric", &command), "", "{command:?}");
    }
}

#[test]
fn only_forwarders_forward_and_all_check_sources_loosely() {
    let fabric = Fabric::new(BEHIND_NAT);
    for (machine, forwards) in [("inner", "0"), ("outer", "0"), ("gw", "1")] {
        for (setting, value) in [
            ("ipv4/ip_forward", forwards),
            ("ipv6/conf/all/forwarding", forwards),
            ("ipv4/conf/all/rp_filter", "2"),
        ] {
            let found = fabric.text(machine, &["cat", &format!("/proc/sys/net/{setting}")]);
            assert_eq!(found.trim(), value, "{machine}: {setting}");
        }
    }
}

/// The network of the namespace that the tests are run in.
fn own_network() -> Vec<String> {
    let commands: [&[&str]; 8] = [
        &["ip", "-d", "link"],
        &["ip", "-br", "address"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "-4", "rule"],
        &["ip", "-6", "rule"],
        &["nft", "list", "ruleset"],
        &[
            "sysctl",
            "-a",
            "--pattern",
            r"^net\.(ipv4|ipv6|bridge)\.(ip_forward|conf\..*(forwarding|rp_filter|disable_ipv6|accept_dad)|bridge)",
        ],
    ];
    let text = |command: &&[&str]| {
        let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
        assert!(output.status.success(), "{command:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    commands.iter().map(text).collect()
}

#[test]
fn nothing_is_touched_outside_and_nothing_leads_out() {
    let before = own_network();
    let fabric = Fabric::new(BEHIND_NAT);
    assert_eq!(own_network(), before);
    // Every cable goes from a machine to the port of that name in the fabric, and there are no other links.
    let ports = fabric.json("fabric", &["ip", "-j", "-d", "link"]);
    let mut cables = 0;
    for machine in &fabric.topology.machines {
        let links = fabric.json(&machine.name, &["ip", "-j", "-d", "link"]);
        assert_eq!(links[0]["ifname"], "lo");
        for (position, link) in links[1..].iter().enumerate() {
            let port = ports.iter().find(|port| port["ifindex"] == link["link_index"]).unwrap();
            assert_eq!(port["ifname"], format!("{}.{position}", machine.name));
            assert_eq!(port["link_index"], link["ifindex"]);
            assert!(!port["master"].is_null() && !link["link_netnsid"].is_null(), "{link:#}");
            cables += 1;
        }
    }
    assert_eq!(ports.len(), 1 + fabric.topology.subnets.len() + cables, "{ports:#?}");
    drop(fabric);
    assert_eq!(own_network(), before);
}

#[test]
fn a_namespace_that_is_there_is_left_alone() {
    let topology = topology::parse(BEHIND_NAT).unwrap();
    let name = LabName::new(format!("x{}", std::process::id())).unwrap();
    let path = fabric::namespace_path(&name.fabric_namespace());
    let foreign = netns::create_named(&path).unwrap();
    let error = fabric::build(&name, &topology, |_| Ok(())).unwrap_err();
    let still = NetNs::open(&path).map(|namespace| namespace.id().unwrap());
    netns::remove_named(&path).unwrap();
    assert!(
        error.to_string().contains(&format!("\"{}\" is there already", name.fabric_namespace())),
        "{error}"
    );
    assert_eq!(still.unwrap(), foreign.id().unwrap());
}
