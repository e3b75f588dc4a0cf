//! All that the doctor goes by: values, gathered before anything is judged.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use kernel::LinkState;
use kernel::counters::{Arrivals, Tracking};
use kernel::probe::{Echoed, Letter};
use model::{Attachment, LinkName, NetworkConfig, Node, NodeName, PerFamily};
use plan::Underlay;

use super::finding::Remark;
use crate::agent::{BgpStatus, Status};

/// A node, its kernel and its files at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    pub(crate) network: NetworkConfig,
    pub(crate) local: Node,
    /// All nodes, this one among them.
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    pub(crate) agent: AgentSeen,
    /// The settings of interest, by their paths below `/proc/sys`. What the kernel does not have is not there.
    pub(crate) settings: BTreeMap<String, String>,
    /// The links with the node's underlay addresses.
    pub(crate) underlay: PerFamily<Underlay>,
    pub(crate) links: Vec<LinkState>,
    pub(crate) addresses: Vec<(LinkName, IpNet)>,
    /// By which link the node reaches the underlay addresses of others; none if it has no way.
    pub(crate) ways: Vec<(NodeName, IpAddr, Option<LinkName>)>,
    /// Tables and chains of nftables.
    pub(crate) chains: Vec<(String, String)>,
    /// Tables of iptables-legacy.
    pub(crate) legacy_tables: Vec<String>,
    pub(crate) tracking: Option<Tracking>,
    pub(crate) arrivals: Vec<Arrivals>,
    /// The names of all files in the directory of CNI configurations.
    pub(crate) cni_files: Vec<String>,
    /// Where they are.
    pub(crate) cni_conf_dir: String,
    /// The pods' interfaces to which addresses are given, and where that is written.
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) store: String,
    /// What is not as planned, in words, and what asks for it.
    pub(crate) drift: Vec<Deviation>,
    /// How far the API's clock is ahead of ours, in seconds.
    pub(crate) clock_ahead: Option<i64>,
    /// What the API says of our certificates, or we of its, if it is refused.
    pub(crate) certificate_error: Option<String>,
    pub(crate) paths: Vec<PathSeen>,
    pub(crate) letters: Vec<LetterSeen>,
    pub(crate) unchecked: Vec<Remark>,
    pub(crate) remarks: Vec<Remark>,
}

/// What the agent has left in its run directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgentSeen {
    /// Its process id, if it runs.
    pub(crate) pid: Option<String>,
    pub(crate) status: Option<Status>,
    pub(crate) bgp: Option<BgpStatus>,
}

/// Something in the kernel that is not as planned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deviation {
    pub(crate) place: String,
    pub(crate) what: String,
}

/// What big packets meet on the way to a node.
#[derive(Debug, Clone)]
pub(crate) struct PathSeen {
    pub(crate) node: NodeName,
    pub(crate) to: IpAddr,
    /// The size of the packet that the plan takes for granted, in bytes.
    pub(crate) size: u32,
    /// What came back for a small packet, and for one of that size.
    pub(crate) small: Echoed,
    pub(crate) big: Echoed,
    /// The largest of some smaller ones that was answered, if the big one was not.
    pub(crate) fits: Option<u32>,
}

/// Which datagrams reach another node the way that pods' packets take.
#[derive(Debug, Clone)]
pub(crate) struct LetterSeen {
    pub(crate) node: NodeName,
    pub(crate) letter: Letter,
    /// By which link they leave.
    pub(crate) link: LinkName,
    pub(crate) arrived: Arrived,
}

/// Which of two datagrams have arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// One whose checksum was computed by the doctor.
    pub(crate) by_hand: bool,
    /// One whose checksum was left to the kernel or the device.
    pub(crate) by_device: bool,
}
