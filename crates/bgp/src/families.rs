//! A set of address families.

use std::fmt;

use model::Family;
use serde::{Deserialize, Serialize};

/// Which of IPv4 unicast and IPv6 unicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Families {
    /// IPv4 unicast.
    pub v4: bool,
    /// IPv6 unicast.
    pub v6: bool,
}

impl Families {
    /// Neither.
    pub const NONE: Families = Families { v4: false, v6: false };
    /// Both.
    pub const BOTH: Families = Families { v4: true, v6: true };

    /// One family alone.
    pub fn only(family: Family) -> Families {
        let mut families = Families::NONE;
        families.insert(family);
        families
    }

    /// Whether a family is in the set.
    pub fn contains(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Whether the set has no family.
    pub fn is_empty(self) -> bool {
        self == Families::NONE
    }

    /// Adds a family.
    pub fn insert(&mut self, family: Family) {
        match family {
            Family::V4 => self.v4 = true,
            Family::V6 => self.v6 = true,
        }
    }

    /// Takes a family out; whether it was there.
    pub fn remove(&mut self, family: Family) -> bool {
        let slot = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        std::mem::take(slot)
    }

    /// The families of the set, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::BOTH.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<T: IntoIterator<Item = Family>>(families: T) -> Families {
        let mut set = Families::NONE;
        families.into_iter().for_each(|family| set.insert(family));
        set
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.v4, self.v6) {
            (true, true) => "IPv4 and IPv6",
            (true, false) => "IPv4",
            (false, true) => "IPv6",
            (false, false) => "no family",
        })
    }
}
