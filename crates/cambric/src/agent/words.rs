//! Entries of a plan in words, as the tools that show them would name them.

use plan::{Key, TableFamily};

/// An address and port of a service.
pub(crate) const FRONTEND: &str = "frontend";

/// The kind of an entry in one word.
pub(crate) fn kind(key: &Key) -> &'static str {
    match key {
        Key::Table(_) => "table",
        Key::Member(_) => "member",
        Key::Link(_) => "link",
        Key::Port(_) => "port",
        Key::Sysctl(_) => "sysctl",
        Key::Address(..) => "address",
        Key::Forwarding(..) => "forwarding",
        Key::Neighbour(..) => "neighbour",
        Key::Route(_) => "route",
    }
}

/// Which entry of its kind.
pub(crate) fn entry(key: &Key) -> String {
    match key {
        Key::Table(family) => format!("{} cambric", table_family(*family)),
        Key::Member(member) => {
            format!("{} cambric {} {{ {} }}", table_family(member.family), member.set, member.key_text())
        }
        Key::Link(link) | Key::Port(link) => link.to_string(),
        Key::Sysctl(path) => path.clone(),
        Key::Address(link, net) => format!("{net} dev {link}"),
        Key::Forwarding(link, mac) => format!("{mac} dev {link}"),
        Key::Neighbour(link, address) => format!("{address} dev {link}"),
        Key::Route(net) => net.to_string(),
    }
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
        assert_eq!((kind(&key), entry(&key).as_str()), ("neighbour", "10.244.2.1 dev vxlan.cambric"));
        assert_eq!(entry(&Key::Table(TableFamily::Ip6)), "ip6 cambric");
    }
}
