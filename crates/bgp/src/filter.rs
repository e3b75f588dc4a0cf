//! Filters by prefix.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An ordered list of rules; the first one that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixFilter {
    /// The rules.
    pub rules: Vec<FilterRule>,
    /// What becomes of a prefix that no rule matches.
    pub otherwise: bool,
}

/// One rule: prefixes inside `within` whose length is between `min` and `max`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRule {
    /// The prefix that covers what the rule is about.
    pub within: IpNet,
    /// The shortest length that matches; none for that of `within`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u8>,
    /// The longest length that matches; none for as long as the family allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u8>,
    /// Whether what matches passes.
    pub accept: bool,
}

impl PrefixFilter {
    /// Lets everything pass.
    pub fn accept_all() -> PrefixFilter {
        PrefixFilter { rules: Vec::new(), otherwise: true }
    }

    /// Lets nothing pass.
    pub fn reject_all() -> PrefixFilter {
        PrefixFilter { rules: Vec::new(), otherwise: false }
    }

    /// Lets pass what lies in one of the prefixes, at any length.
    pub fn only(within: impl IntoIterator<Item = IpNet>) -> PrefixFilter {
        let rules =
            within.into_iter().map(|within| FilterRule { within, min: None, max: None, accept: true });
        PrefixFilter { rules: rules.collect(), otherwise: false }
    }

    /// Whether a prefix passes.
    pub fn accepts(&self, prefix: &IpNet) -> bool {
        self.rules.iter().find(|rule| rule.matches(prefix)).map_or(self.otherwise, |rule| rule.accept)
    }
}

impl Default for PrefixFilter {
    fn default() -> PrefixFilter {
        PrefixFilter::accept_all()
    }
}

impl FilterRule {
    fn matches(&self, prefix: &IpNet) -> bool {
        let length = prefix.prefix_len();
        self.within.contains(prefix)
            && self.min.is_none_or(|min| length >= min)
            && self.max.is_none_or(|max| length <= max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |within: &str, min, max, accept| FilterRule { within: net(within), min, max, accept };
        let filter = PrefixFilter {
            rules: vec![
                rule("10.1.0.0/16", None, None, false),
                rule("10.0.0.0/8", Some(16), Some(24), true),
                rule("2001:db8::/32", None, Some(64), true),
            ],
            otherwise: false,
        };
        let cases = [
            ("10.2.0.0/16", true),
            ("10.2.3.0/24", true),
            ("10.2.3.0/25", false),
            ("10.0.0.0/8", false),
            ("10.1.0.0/16", false),
            ("10.1.2.0/24", false),
            ("11.0.0.0/16", false),
            ("0.0.0.0/0", false),
            ("2001:db8:1::/48", true),
            ("2001:db8:1::1/128", false),
            ("::/0", false),
        ];
        for (prefix, passes) in cases {
            assert_eq!(filter.accepts(&net(prefix)), passes, "{prefix}");
        }
        assert!(PrefixFilter::accept_all().accepts(&net("::/0")));
        assert!(!PrefixFilter::reject_all().accepts(&net("10.0.0.0/8")));
        assert!(PrefixFilter::only([net("10.0.0.0/8")]).accepts(&net("10.0.0.1/32")));
    }
}
