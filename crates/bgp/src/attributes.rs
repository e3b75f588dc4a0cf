//! Path attributes: what a route says about itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The local preference of a route that carries none.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// The attributes of a path, in the form in which they are kept: one copy for all prefixes that share them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, nearest AS first. Sets do not occur: RFC 9774 has routes with them treated as withdrawn.
    pub as_path: Box<[u32]>,
    /// NEXT_HOP, or the global address in MP_REACH_NLRI.
    pub next_hop: IpAddr,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// COMMUNITIES (RFC 1997).
    pub communities: Box<[Community]>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: Box<[LargeCommunity]>,
    /// EXTENDED COMMUNITIES (RFC 4360), passed through.
    pub extended_communities: Box<[u64]>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456), nearest reflector first.
    pub cluster_list: Box<[Ipv4Addr]>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR: the AS and the speaker that made the aggregate.
    pub aggregator: Option<(u32, Ipv4Addr)>,
    /// Transitive attributes that this speaker does not know and passes through.
    pub others: Box<[OtherAttribute]>,
}

impl Attributes {
    /// The attributes of a route that begins here, with nothing optional.
    pub fn new(next_hop: IpAddr) -> Attributes {
        Attributes {
            origin: Origin::Igp,
            as_path: Box::default(),
            next_hop,
            med: None,
            local_pref: None,
            communities: Box::default(),
            large_communities: Box::default(),
            extended_communities: Box::default(),
            originator: None,
            cluster_list: Box::default(),
            atomic_aggregate: false,
            aggregator: None,
            others: Box::default(),
        }
    }

    /// The local preference in force, which is 100 if none is carried.
    pub fn preference(&self) -> u32 {
        self.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
    }

    /// The AS from which the route came into this one; none for a route of this AS.
    pub fn neighbour_as(&self) -> Option<u32> {
        self.as_path.first().copied()
    }

    pub(crate) fn add_communities(&mut self, added: &[Community]) {
        if !added.is_empty() {
            self.communities = joined(&self.communities, added);
        }
    }

    pub(crate) fn add_large_communities(&mut self, added: &[LargeCommunity]) {
        if !added.is_empty() {
            self.large_communities = joined(&self.large_communities, added);
        }
    }
}

fn joined<T: Copy + PartialEq>(present: &[T], added: &[T]) -> Box<[T]> {
    let mut all = present.to_vec();
    for community in added {
        if !all.contains(community) {
            all.push(*community);
        }
    }
    all.into()
}

/// How a route came into BGP. The order is that of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From the interior of its AS.
    Igp,
    /// From EGP.
    Egp,
    /// Otherwise.
    Incomplete,
}

/// An attribute that is passed through as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OtherAttribute {
    /// The flags with which it is sent on.
    pub flags: u8,
    /// The type code.
    pub code: u8,
    /// The value.
    pub value: Box<[u8]>,
}

/// A community (RFC 1997), written `65000:1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Community(pub u32);

impl Community {
    /// Not to be told to other ASes.
    pub const NO_EXPORT: Community = Community(0xffff_ff01);
    /// Not to be told to anybody.
    pub const NO_ADVERTISE: Community = Community(0xffff_ff02);
    /// Not to be told to other ASes, not even of the same confederation.
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Community, ParseCommunityError> {
        let parse = || {
            let (high, low) = text.split_once(':')?;
            let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
            Some(Community(u32::from(high) << 16 | u32::from(low)))
        };
        parse().ok_or_else(|| ParseCommunityError {
            value: text.to_owned(),
            wanted: "two numbers from 0 to 65535 with a colon between, such as 65000:1",
        })
    }
}

/// A large community (RFC 8092), written `4200000000:1:2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

impl FromStr for LargeCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<LargeCommunity, ParseCommunityError> {
        let parse = || {
            let mut parts = text.split(':').map(|part| part.parse::<u32>().ok());
            let community = LargeCommunity(parts.next()??, parts.next()??, parts.next()??);
            parts.next().is_none().then_some(community)
        };
        parse().ok_or_else(|| ParseCommunityError {
            value: text.to_owned(),
            wanted: "three numbers from 0 to 4294967295 with colons between, such as 4200000000:1:2",
        })
    }
}

/// A text that is no community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("community \"{value}\": expected {wanted}")]
pub struct ParseCommunityError {
    value: String,
    wanted: &'static str,
}

impl TryFrom<String> for Community {
    type Error = ParseCommunityError;

    fn try_from(text: String) -> Result<Community, ParseCommunityError> {
        text.parse()
    }
}

impl From<Community> for String {
    fn from(community: Community) -> String {
        community.to_string()
    }
}

impl TryFrom<String> for LargeCommunity {
    type Error = ParseCommunityError;

    fn try_from(text: String) -> Result<LargeCommunity, ParseCommunityError> {
        text.parse()
    }
}

impl From<LargeCommunity> for String {
    fn from(community: LargeCommunity) -> String {
        community.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_as_they_are_written() {
        for text in ["0:0", "65000:1", "65535:65535"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        for text in ["", "1", "1:", "65536:1", "1:65536", "1:2:3", "a:1", "-1:1"] {
            assert!(text.parse::<Community>().unwrap_err().to_string().contains(text));
        }
        assert_eq!("4294967295:0:7".parse(), Ok(LargeCommunity(u32::MAX, 0, 7)));
        for text in ["1:2", "1:2:3:4", "4294967296:0:0", "::"] {
            assert!(text.parse::<LargeCommunity>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_community_is_added_once() {
        let mut attributes = Attributes::new("192.0.2.1".parse().unwrap());
        attributes.add_communities(&[Community(1), Community(2)]);
        attributes.add_communities(&[Community(2), Community(3)]);
        assert_eq!(&*attributes.communities, [Community(1), Community(2), Community(3)]);
    }
}
