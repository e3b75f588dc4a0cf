//! Nodes in subnets of their own, joined by a router that knows nothing of pods; each with one pod.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{env, fs, io, process, ptr};

use kernel::ipip::{self, Ipip};
use model::{Family, LinkName};
use plan::ipip::{NextHop, Outer, Route, Table};

use super::TestNs;

/// A node with number N has the underlay addresses 172.16.N.1 and 2001:db8:N::1 on `eth0`, and a pod with 10.N.0.2
/// and fd00:N::2.
pub struct Site {
    pub number: usize,
    pub node: TestNs,
    pub pod: TestNs,
}

pub struct Sites {
    pub sites: Vec<Site>,
    /// Its link to node N is called `rN`.
    pub router: TestNs,
    bpffs: Bpffs,
}

impl Sites {
    pub fn new(count: usize) -> Sites {
        let router = TestNs::new("router");
        forward(&router);
        let sites: Vec<Site> = (1..=count).map(|number| Site::new(number, &router)).collect();
        // Links come up and neighbours are found in their own time.
        for site in &sites {
            for family in Family::BOTH {
                heard(&site.pod, gateway(site.number, family));
                heard(&site.node, pod(site.number, family));
                heard(&site.node, self::router(site.number, family));
                heard(&router, node(site.number, family));
            }
        }
        Sites { sites, router, bpffs: Bpffs::mount() }
    }

    /// The programs of a node, with everything open anew as by a process that has just started.
    pub fn open(&self, number: usize) -> Ipip {
        let _guard = self.site(number).node.enter();
        Ipip::open(&self.directory(number)).unwrap()
    }

    pub fn directory(&self, number: usize) -> PathBuf {
        self.bpffs.path.join(format!("node-{number}"))
    }

    /// Everything that is pinned by nodes.
    pub fn pinned(&self) -> BTreeSet<PathBuf> {
        self.bpffs.pinned()
    }

    pub fn site(&self, number: usize) -> &Site {
        &self.sites[number - 1]
    }

    /// What the node with a number goes by if everything goes directly over one family.
    pub fn table(&self, number: usize, outer: Family) -> Table {
        let mut table = Table {
            locals: Family::BOTH.map(|family| node(number, family)).into(),
            uplinks: [LinkName::new("eth0").unwrap()].into(),
            ..Table::default()
        };
        for other in self.sites.iter().filter(|site| site.number != number) {
            table.nodes.extend(Family::BOTH.map(|family| node(other.number, family)));
            for family in Family::BOTH {
                let addresses = Outer::new(node(number, outer), node(other.number, outer)).unwrap();
                table.routes.insert(
                    range(other.number, family),
                    Route { outer: addresses, next_hop: NextHop::Kept, hold: None },
                );
            }
        }
        table
    }

    /// Brings all nodes to their tables, and routes with their MTU. The programs of each node.
    pub fn connect(&self, outer: Family) -> Vec<Ipip> {
        let connect = |site: &Site| {
            let table = self.table(site.number, outer);
            let mut ipip = self.open(site.number);
            let _guard = site.node.enter();
            let changes = ipip.reconcile(&table).unwrap();
            assert_eq!(changes.attached, 1);
            for (destination, route) in &table.routes {
                site.route(&destination.to_string(), 1500 - route.outer.overhead());
            }
            ipip
        };
        self.sites.iter().map(connect).collect()
    }
}

/// What it took to bring programs to a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    pub written: usize,
    pub removed: usize,
    /// Uplinks that got the programs.
    pub attached: usize,
}

/// Makes the kernel hold what a table says.
pub trait Reconcile {
    fn reconcile(&mut self, table: &Table) -> kernel::Result<Changes>;
}

impl Reconcile for Ipip {
    fn reconcile(&mut self, table: &Table) -> kernel::Result<Changes> {
        let found = self.observe()?;
        let mut changes = Changes::default();
        for local in table.locals.difference(&found.locals) {
            self.set_local(*local, true)?;
            changes.written += 1;
        }
        for node in table.nodes.difference(&found.nodes) {
            self.set_node(*node, true)?;
            changes.written += 1;
        }
        for (destination, route) in &table.routes {
            if found.routes.get(destination) != Some(route) {
                self.set_route(*destination, Some(route))?;
                changes.written += 1;
            }
        }
        for uplink in table.uplinks.difference(&found.uplinks) {
            self.set_uplink(uplink, true)?;
            changes.attached += 1;
        }
        for destination in found.routes.keys().filter(|net| !table.routes.contains_key(net)) {
            self.set_route(*destination, None)?;
            changes.removed += 1;
        }
        for node in found.nodes.difference(&table.nodes) {
            self.set_node(*node, false)?;
            changes.removed += 1;
        }
        for local in found.locals.difference(&table.locals) {
            self.set_local(*local, false)?;
            changes.removed += 1;
        }
        self.tidy(&table.uplinks)?;
        Ok(changes)
    }
}

impl Site {
    fn new(number: usize, router: &TestNs) -> Site {
        let (node, pod) = (TestNs::new("node"), TestNs::new("pod"));
        forward(&node);
        forward(&pod);
        let (at_router, at_pod) = (&router.name, &pod.name);
        for command in [
            format!("ip link add eth0 type veth peer name r{number} netns {at_router}"),
            format!("ip link add pod type veth peer name eth0 netns {at_pod}"),
            format!("ip addr add 172.16.{number}.1/24 dev eth0"),
            format!("ip addr add 2001:db8:{number}::1/64 dev eth0 nodad"),
            format!("ip addr add 10.{number}.0.1/24 dev pod"),
            format!("ip addr add fd00:{number}::1/64 dev pod nodad"),
            "ip link set lo up".to_owned(),
            "ip link set eth0 up".to_owned(),
            "ip link set pod mtu 1460 up".to_owned(),
        ] {
            node.run(&command);
        }
        router.run(&format!("ip addr add 172.16.{number}.254/24 dev r{number}"));
        router.run(&format!("ip addr add 2001:db8:{number}::fe/64 dev r{number} nodad"));
        router.run(&format!("ip link set r{number} up"));
        pod.run(&format!("ip addr add 10.{number}.0.2/24 dev eth0"));
        pod.run(&format!("ip addr add fd00:{number}::2/64 dev eth0 nodad"));
        pod.run("ip link set lo up");
        pod.run("ip link set eth0 mtu 1460 up");
        pod.run(&format!("ip route add default via 10.{number}.0.1"));
        pod.run(&format!("ip route add default via fd00:{number}::1"));
        node.run(&format!("ip route add default via 172.16.{number}.254"));
        node.run(&format!("ip route add default via 2001:db8:{number}::fe"));
        Site { number, node, pod }
    }

    /// A route to pods elsewhere.
    pub fn route(&self, destination: &str, mtu: u32) {
        let family = if destination.contains(':') { Family::V6 } else { Family::V4 };
        let via = router(self.number, family);
        self.node.run(&format!("ip route replace {destination} via {via} dev eth0 mtu {mtu}"));
    }

    /// Sends echo requests from the pod and hears all answers.
    #[track_caller]
    pub fn ping(&self, to: IpAddr, options: &str) -> String {
        let output = self.pod.run(&format!("ping -n -W 5 {options} {to}"));
        assert!(output.contains(" 0% packet loss"), "{output}");
        output
    }
}

/// Sends echo requests until one is answered.
#[track_caller]
pub fn heard(from: &TestNs, to: IpAddr) {
    from.run(&format!("ping -n -q -c 1 -w 30 -i 0.02 {to}"));
}

/// A node's underlay address.
pub fn node(number: usize, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => format!("172.16.{number}.1"),
        Family::V6 => format!("2001:db8:{number}::1"),
    };
    text.parse().unwrap()
}

/// The router's address in a node's subnet.
pub fn router(number: usize, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => format!("172.16.{number}.254"),
        Family::V6 => format!("2001:db8:{number}::fe"),
    };
    text.parse().unwrap()
}

/// The node's address to its pod.
pub fn gateway(number: usize, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.{number}.0.1"),
        Family::V6 => format!("fd00:{number}::1"),
    };
    text.parse().unwrap()
}

/// The address of a node's pod.
pub fn pod(number: usize, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.{number}.0.2"),
        Family::V6 => format!("fd00:{number}::2"),
    };
    text.parse().unwrap()
}

/// A node's pod range.
pub fn range(number: usize, family: Family) -> ipnet::IpNet {
    let text = match family {
        Family::V4 => format!("10.{number}.0.0/24"),
        Family::V6 => format!("fd00:{number}::/64"),
    };
    text.parse().unwrap()
}

/// Makes a router of a namespace, whose addresses are good at once.
fn forward(namespace: &TestNs) {
    namespace.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    namespace.run("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
}

/// A BPF file system that only this thread and its children see.
pub struct Bpffs {
    pub path: PathBuf,
}

impl Bpffs {
    pub fn mount() -> Bpffs {
        // SAFETY: unshare takes no pointers, and no other thread's mounts change.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "{}", io::Error::last_os_error());
        // SAFETY: the string is NUL-terminated, and the other pointers may be null for a change of propagation.
        let private = unsafe {
            let flags = libc::MS_REC | libc::MS_SLAVE;
            libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), flags, ptr::null())
        };
        assert_eq!(private, 0, "{}", io::Error::last_os_error());
        let thread = std::thread::current().id();
        let path = env::temp_dir().join(format!("cambric-bpf-{}-{thread:?}", process::id()));
        ipip::mount(&path).unwrap();
        Bpffs { path }
    }

    /// Everything pinned in it, with the directories.
    pub fn pinned(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        walk(&self.path, &mut found);
        // The kernel's own.
        found.retain(|path| !path.ends_with("maps.debug") && !path.ends_with("progs.debug"));
        found
    }
}

fn walk(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        }
        found.insert(path);
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let path = CString::new(self.path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the string is NUL-terminated and lives through the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        let _ = fs::remove_dir(&self.path);
    }
}
