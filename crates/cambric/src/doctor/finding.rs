//! What the doctor says: findings, and what it could not or need not say.

use std::fmt;

use serde::Serialize;

/// What is looked at. The names are for scripts: none changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Check {
    Agent,
    Bgp,
    BridgeNetfilter,
    Forwarding,
    SourceValidation,
    Uplink,
    PathMtu,
    Checksums,
    ConnectionTracking,
    Ranges,
    OtherNetworks,
    CniConfiguration,
    KubeProxy,
    Clock,
    Drift,
    Addresses,
}

impl Check {
    #[cfg(test)]
    pub(crate) const ALL: [Check; 16] = [
        Check::Agent,
        Check::Bgp,
        Check::BridgeNetfilter,
        Check::Forwarding,
        Check::SourceValidation,
        Check::Uplink,
        Check::PathMtu,
        Check::Checksums,
        Check::ConnectionTracking,
        Check::Ranges,
        Check::OtherNetworks,
        Check::CniConfiguration,
        Check::KubeProxy,
        Check::Clock,
        Check::Drift,
        Check::Addresses,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Check::Agent => "agent",
            Check::Bgp => "bgp",
            Check::BridgeNetfilter => "bridge-netfilter",
            Check::Forwarding => "forwarding",
            Check::SourceValidation => "source-validation",
            Check::Uplink => "uplink",
            Check::PathMtu => "path-mtu",
            Check::Checksums => "checksums",
            Check::ConnectionTracking => "connection-tracking",
            Check::Ranges => "ranges",
            Check::OtherNetworks => "other-networks",
            Check::CniConfiguration => "cni-configuration",
            Check::KubeProxy => "kube-proxy",
            Check::Clock => "clock",
            Check::Drift => "drift",
            Check::Addresses => "addresses",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Something that hurts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: Check,
    /// The setting, link, file or object.
    pub(crate) place: String,
    /// What is so.
    pub(crate) what: String,
    /// Why it hurts.
    pub(crate) hurts: String,
    /// The command or the change that mends it.
    pub(crate) cure: String,
}

/// Something that was noticed and is no finding, or could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Remark {
    pub(crate) check: Check,
    pub(crate) text: String,
}

impl Remark {
    pub(crate) fn new(check: Check, text: impl Into<String>) -> Remark {
        Remark { check, text: text.into() }
    }
}

/// All that is to be said of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) node: String,
    pub(crate) findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub(crate) unchecked: Vec<Remark>,
    pub(crate) remarks: Vec<Remark>,
}

impl Verdict {
    /// Findings come first: 1 if there are any, else 2 if something could not be looked at, else 0.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.findings.is_empty(), self.unchecked.is_empty()) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 0,
        }
    }
}
