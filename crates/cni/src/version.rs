//! Versions of the CNI spec.

use std::fmt;

/// A version of the CNI spec that the plugin speaks, in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.3.0, with the result format of 0.4.0 and no CHECK.
    V0_3_0,
    /// 0.3.1, which differs from 0.3.0 in wording only.
    V0_3_1,
    /// 0.4.0, which brought CHECK and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0, which took `version` out of the result's `ips`.
    V1_0_0,
    /// 1.1.0, which brought STATUS, GC and the MTU of interfaces in the result.
    V1_1_0,
}

impl Version {
    /// All versions, the oldest first.
    pub const ALL: [Version; 5] =
        [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    /// The newest version.
    pub const NEWEST: Version = Version::V1_1_0;

    /// The version that a configuration names; `None` if it is not spoken here.
    pub fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The version as it stands in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
