//! What the agent says in words that others say as well: entries of a plan, as the tools that show them would name them.

use std::net::IpAddr;

use plan::{Key, TableFamily};

/// Which entry of its kind.
pub(crate) fn entry(key: &Key) -> String {
    match key {
        Key::Table(family) => format!("{} cambric", table_family(*family)),
        Key::Member(member) => {
            format!("{} cambric {} {{ {} }}", table_family(member.family), member.set, member.key_text())
        }
        Key::Link(link) | Key::Port(link) | Key::TunnelUplink(link) => link.to_string(),
        Key::TunnelLocal(address) | Key::TunnelNode(address) => address.to_string(),
        Key::Sysctl(path) => path.clone(),
        Key::Address(link, net) => format!("{net} dev {link}"),
        Key::Forwarding(link, mac) => format!("{mac} dev {link}"),
        Key::Neighbour(link, address) => format!("{address} dev {link}"),
        Key::FastPath => "the fast path".to_owned(),
        Key::TunnelRoute(net) | Key::Route(net) => net.to_string(),
    }
}

/// What is said of an underlay address of this node that no link has.
pub(crate) fn nowhere(address: &IpAddr) -> String {
    format!(
        "this node's InternalIP {address} is on none of its links, so nothing can be sent from it to other nodes; see \
         --node-ip of the kubelet"
    )
}

fn table_family(family: TableFamily) -> &'static str {
    match family {
        TableFamily::Bridge => "bridge",
        TableFamily::Ip => "ip",
        TableFamily::Ip6 => "ip6",
    }
}

#[cfg(test)]
mod tests {
    use model::LinkName;

    use super::*;

    #[test]
    fn entries_read_as_in_ip_and_nft() {
        let key = Key::Neighbour(LinkName::vxlan_v4(), "10.244.2.1".parse().unwrap());
        assert_eq!(entry(&key), "10.244.2.1 dev vxlan.cambric");
        assert_eq!(entry(&Key::Table(TableFamily::Ip6)), "ip6 cambric");
    }
}
