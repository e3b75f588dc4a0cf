//! Which addresses nodes and services get. Pure.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The pod ranges of a node: of each cluster range the first part that is not taken; `None` for a range that is used
/// up.
pub(super) fn node_ranges(cluster: &[IpNet], taken: &HashSet<IpNet>) -> Vec<Option<IpNet>> {
    let of = |range: &IpNet| range.subnets(node_length(range)).ok()?.find(|part| !taken.contains(part));
    cluster.iter().map(of).collect()
}

/// The prefix length of a node's part of a range: 24 and 64, and longer if that would leave room for fewer than 16
/// nodes.
fn node_length(range: &IpNet) -> u8 {
    match range {
        IpNet::V4(net) => (net.prefix_len() + 4).clamp(24, 30).max(net.prefix_len()),
        IpNet::V6(net) => (net.prefix_len() + 4).clamp(64, 124).max(net.prefix_len()),
    }
}

/// Addresses of a service range, in turn.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    range: IpNet,
    next: u128,
}

impl Pool {
    pub(super) fn new(range: IpNet) -> Self {
        Self { range, next: 1 }
    }

    pub(super) fn range(&self) -> IpNet {
        self.range
    }

    /// The next address that is not taken; `None` if there is none. The first address of the range and, in IPv4, the
    /// last are no host's.
    pub(super) fn take(&mut self, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
        let (bits, length) = (u32::from(self.range.max_prefix_len()), u32::from(self.range.prefix_len()));
        let size = 1_u128.checked_shl(bits - length).unwrap_or(u128::MAX);
        let end = if self.range.addr().is_ipv4() { size.saturating_sub(1) } else { size };
        // No more turns than there can be addresses taken.
        let turns = u128::try_from(taken.len()).unwrap_or(u128::MAX).min(end) + 1;
        for _ in 0..=turns {
            if self.next >= end {
                self.next = 1;
            }
            let address = self.at(self.next);
            self.next += 1;
            if self.range.contains(&address) && !taken.contains(&address) && end > 1 {
                return Some(address);
            }
        }
        None
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.range.network() {
            IpAddr::V4(first) => {
                Ipv4Addr::from(u32::from(first).wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX)))
                    .into()
            }
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset)).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn nodes_get_the_first_free_part_of_each_range() {
        let cluster = [net("10.244.0.0/16"), net("fd00:10:244::/56")];
        let mut taken = HashSet::new();
        for expected in [("10.244.0.0/24", "fd00:10:244::/64"), ("10.244.1.0/24", "fd00:10:244:1::/64")] {
            let ranges: Vec<IpNet> = node_ranges(&cluster, &taken).into_iter().flatten().collect();
            assert_eq!(ranges, [net(expected.0), net(expected.1)]);
            taken.extend(ranges);
        }
        taken.remove(&net("10.244.0.0/24"));
        assert_eq!(node_ranges(&cluster, &taken)[0], Some(net("10.244.0.0/24")));
    }

    #[test]
    fn small_ranges_are_cut_finer_and_run_out() {
        assert_eq!(node_ranges(&[net("10.1.0.0/24")], &HashSet::new()), [Some(net("10.1.0.0/28"))]);
        assert_eq!(node_ranges(&[net("fd00::/64")], &HashSet::new()), [Some(net("fd00::/68"))]);
        let all: HashSet<IpNet> = net("10.1.0.0/24").subnets(28).unwrap().collect();
        assert_eq!(node_ranges(&[net("10.1.0.0/24")], &all), [None]);
    }

    #[test]
    fn service_addresses_come_in_turn_and_run_out() {
        let mut pool = Pool::new(net("10.96.0.0/29"));
        let mut taken = HashSet::new();
        for last in 1..=6 {
            let address = pool.take(&taken).unwrap();
            assert_eq!(address, IpAddr::from([10, 96, 0, last]));
            taken.insert(address);
        }
        assert_eq!(pool.take(&taken), None);
        taken.remove(&IpAddr::from([10, 96, 0, 3]));
        assert_eq!(pool.take(&taken), Some(IpAddr::from([10, 96, 0, 3])));
        let mut pool = Pool::new(net("fd00::/112"));
        assert_eq!(pool.take(&taken), Some("fd00::1".parse().unwrap()));
    }
}
