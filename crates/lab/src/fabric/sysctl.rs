//! Settings of the machines' kernels.

use std::path::Path;

use crate::topology::Role;
use crate::{Error, Result};

/// The fabric only switches frames: it has no addresses, and no filter sees what it forwards.
pub(super) const FABRIC: &[(&str, &str)] = &[
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
];

/// A new namespace takes over the IPv4 settings of the machine that the lab runs on
/// (`net.core.devconf_inherit_init_net`), so what matters is set: loose source validation (RFC 3704, section 2.4),
/// which is what distributions have, and no forwarding.
const HOST: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "0"),
    ("ipv4/conf/all/rp_filter", "2"),
    ("ipv4/conf/default/rp_filter", "2"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

const FORWARDER: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "2"),
    ("ipv4/conf/default/rp_filter", "2"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    // Each flow has its own of several next hops, not each pair of hosts.
    ("ipv4/fib_multipath_hash_policy", "1"),
    ("ipv6/fib_multipath_hash_policy", "1"),
];

pub(super) fn machine(role: Role) -> &'static [(&'static str, &'static str)] {
    if role.forwards() { FORWARDER } else { HOST }
}

/// Lets the link-local address of an interface be used at once (`accept_dad`,
/// Documentation/networking/ip-sysctl.rst): there is nobody on the cable who could have it, too.
pub(super) fn no_duplicate_detection(member: &str, link: &str) -> Result<()> {
    write(member, &[(&format!("ipv6/conf/{link}/accept_dad"), "0")])
}

/// Writes settings under net/ in the namespace of the calling thread, which is the one that /proc/sys/net shows.
pub(super) fn write(member: &str, settings: &[(&str, &str)]) -> Result<()> {
    for (name, value) in settings {
        let path = Path::new("/proc/sys/net").join(name);
        std::fs::write(&path, value)
            .map_err(|source| Error::kernel(member)(kernel::Error::File { what: "write", path, source }))?;
    }
    Ok(())
}
