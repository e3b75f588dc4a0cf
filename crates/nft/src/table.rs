//! Tables and chains.

use std::fmt;

use crate::comment::Comment;

/// The protocol family of a table (`enum nfproto`, `linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// Ethernet frames that cross a bridge.
    Bridge = 7,
    /// IPv6.
    Ip6 = 10,
}

impl Family {
    pub(crate) fn from_number(number: u8) -> Option<Family> {
        [Family::Inet, Family::Ip, Family::Bridge, Family::Ip6]
            .into_iter()
            .find(|&family| family as u8 == number)
    }
}

/// As `nft` writes it.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Bridge => "bridge",
            Family::Ip6 => "ip6",
        })
    }
}

/// A table: its family and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    /// The protocol family.
    pub family: Family,
    /// The name, unique in the family; 1 to 255 bytes.
    pub name: String,
}

impl Table {
    /// A table of this family and name.
    pub fn new(family: Family, name: impl Into<String>) -> Table {
        Table { family, name: name.into() }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {} {}", self.family, self.name)
    }
}

/// Where in the packet's way a base chain is called (`enum nf_inet_hooks`; the bridge family numbers its hooks the
/// same way).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Before the routing decision, all packets that arrive.
    Prerouting = 0,
    /// Packets for this host.
    Input = 1,
    /// Packets passed on.
    Forward = 2,
    /// Packets from this host.
    Output = 3,
    /// After the routing decision, all packets that leave.
    Postrouting = 4,
}

impl Hook {
    pub(crate) fn from_number(number: u32) -> Option<Hook> {
        [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting]
            .into_iter()
            .find(|&hook| hook as u32 == number)
    }
}

/// What a base chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainType {
    /// Any packet; may accept, drop, mark.
    Filter,
    /// First packet of each connection; sets up address translation.
    Nat,
    /// Output packets, routed again if a rule changes their mark or header.
    Route,
}

impl ChainType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ChainType::Filter => "filter",
            ChainType::Nat => "nat",
            ChainType::Route => "route",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<ChainType> {
        [ChainType::Filter, ChainType::Nat, ChainType::Route].into_iter().find(|ty| ty.name() == name)
    }
}

/// What happens to packets that reach the end of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// They pass.
    Accept,
    /// They are dropped.
    Drop,
}

/// Usual priorities of base chains; lower ones are called first (`linux/netfilter_ipv4.h`,
/// `linux/netfilter_bridge.h`).
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// Changes of packets before routing.
    pub const MANGLE: i32 = -150;
    /// Destination address translation.
    pub const DSTNAT: i32 = -100;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Source address translation.
    pub const SRCNAT: i32 = 100;
    /// Filtering in the bridge family.
    pub const BRIDGE_FILTER: i32 = -200;
}

/// How a base chain is attached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Base {
    /// What the chain is for.
    pub ty: ChainType,
    /// Where it is called.
    pub hook: Hook,
    /// In which order among the chains of that hook; see [`priority`].
    pub priority: i32,
    /// What happens at its end.
    pub policy: Policy,
}

/// A chain: a base chain if attached to a hook, else one that rules jump to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    /// The table that holds it.
    pub table: Table,
    /// The name, unique in the table; 1 to 255 bytes.
    pub name: String,
    /// The attachment of a base chain.
    pub base: Option<Base>,
    /// A comment for readers of `nft list`. Set when the chain is created, not changed later.
    pub comment: Option<Comment>,
}

impl Chain {
    /// A chain for rules to jump to.
    pub fn new(table: &Table, name: impl Into<String>) -> Chain {
        Chain { table: table.clone(), name: name.into(), base: None, comment: None }
    }

    /// A chain attached to a hook, with policy accept.
    pub fn base(table: &Table, name: impl Into<String>, ty: ChainType, hook: Hook, priority: i32) -> Chain {
        let base = Base { ty, hook, priority, policy: Policy::Accept };
        Chain { base: Some(base), ..Chain::new(table, name) }
    }

    /// Sets the policy of a base chain; does nothing to another.
    pub fn policy(mut self, policy: Policy) -> Chain {
        if let Some(base) = &mut self.base {
            base.policy = policy;
        }
        self
    }

    /// Sets the comment.
    pub fn comment(mut self, comment: impl Into<Comment>) -> Chain {
        self.comment = Some(comment.into());
        self
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} in {}", self.name, self.table)
    }
}
