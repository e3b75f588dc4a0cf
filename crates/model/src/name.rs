//! Names of nodes and links.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name that its kind does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a DNS subdomain.
    #[error(
        "node name \"{0}\" is not a DNS subdomain (RFC 1123): at most 253 lower-case letters, digits, '-' and '.', \
         beginning and ending with a letter or digit"
    )]
    Node(String),
    /// Not the name of a network interface.
    #[error(
        "\"{0}\" cannot name a network interface: 1 to 15 bytes, no '/', no ':', no white space, not '.' or '..'"
    )]
    Link(String),
}

/// The name of a Kubernetes node: a DNS subdomain (RFC 1123). A copy shares the text: each entry of a plan has one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Parses a node's name.
    ///
    /// # Errors
    /// [`NameError::Node`] if it is not a DNS subdomain.
    pub fn new(name: impl Into<String>) -> Result<NodeName, NameError> {
        let name = name.into();
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let bytes = name.as_bytes();
        if bytes.len() <= 253 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().copied().all(inner)
        {
            Ok(NodeName(name.into()))
        } else {
            Err(NameError::Node(name))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a network interface (`dev_valid_name` in the kernel's net/core/dev.c).
///
/// It is kept in place, since most entries of a plan have one: the bytes, and zeroes up to the kernel's `IFNAMSIZ`. No
/// name has a zero in it, so names are in the order of their texts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName([u8; 16]);

impl LinkName {
    /// Parses an interface's name.
    ///
    /// # Errors
    /// [`NameError::Link`] if the kernel would not take it.
    pub fn new(name: impl Into<String>) -> Result<LinkName, NameError> {
        let name = name.into();
        let allowed = |b: u8| b != b'/' && b != b':' && b != 0 && !b.is_ascii_whitespace();
        let fits = (1..=15).contains(&name.len()) && name.bytes().all(allowed);
        if fits && name != "." && name != ".." {
            Ok(LinkName::padded(&name))
        } else {
            Err(NameError::Link(name))
        }
    }

    /// The bridge that the pods of a node are attached to.
    pub fn bridge() -> LinkName {
        LinkName::padded("cbr0")
    }

    /// The VXLAN device between nodes that have IPv4 addresses.
    pub fn vxlan_v4() -> LinkName {
        LinkName::padded("vxlan.cambric")
    }

    /// The VXLAN device between nodes that only have IPv6 addresses in common.
    pub fn vxlan_v6() -> LinkName {
        LinkName::padded("vxlan6.cambric")
    }

    /// The bridge's port that is there for the headroom of the others.
    pub fn headroom() -> LinkName {
        LinkName::padded("room.cambric")
    }

    /// The link by which a machine reaches itself.
    pub fn loopback() -> LinkName {
        LinkName::padded("lo")
    }

    /// What the name of the node's end of every pod's veth pair begins with.
    pub const POD_PREFIX: &'static str = "cbv";

    pub(crate) fn pod(hash: u64) -> LinkName {
        LinkName::padded(&format!("{}{:012x}", Self::POD_PREFIX, hash & 0xffff_ffff_ffff))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        // It was text when it was put here.
        self.0.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// `name` is at most 15 bytes.
    fn padded(name: &str) -> LinkName {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        LinkName(bytes)
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LinkName").field(&self.as_str()).finish()
    }
}

macro_rules! text_form {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, Self::Error> {
                $name::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                $name::new(name)
            }
        }
    };
}

text_form!(NodeName);
text_form!(LinkName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_dns_subdomains() {
        for good in ["a", "node-1", "ip-10-0-0-1.eu.example.org", &"a".repeat(253)] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "Node", "a_b", "a b", ".a", &"a".repeat(254)] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn link_names_are_what_the_kernel_takes() {
        for good in ["eth0", "vxlan.cambric", "a".repeat(15).as_str()] {
            assert!(LinkName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "a".repeat(16).as_str()] {
            assert!(LinkName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn link_names_are_texts_in_order_and_in_words() {
        let texts = ["a", "a0", "ab", "b", "eth0", "eth01", "vxlan.cambric", "zzzzzzzzzzzzzzz", "ü"];
        let names: Vec<LinkName> = texts.iter().map(|text| LinkName::new(*text).unwrap()).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names.iter().map(LinkName::as_str).collect::<Vec<_>>(), texts);
        assert_eq!(format!("{:?} {}", names[0], names[0]), "LinkName(\"a\") a");
    }

    #[test]
    fn our_own_names_pass_the_check() {
        for name in [
            LinkName::bridge(),
            LinkName::vxlan_v4(),
            LinkName::vxlan_v6(),
            LinkName::headroom(),
            LinkName::pod(u64::MAX),
        ] {
            assert_eq!(LinkName::new(name.as_str()), Ok(name));
        }
    }
}
