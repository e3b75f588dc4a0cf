//! What the kernel has counted since the namespace was made.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::{Error, Result, sysctl};

/// Connection tracking: how full its table is, and what it could not do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tracking {
    /// How many flows there are.
    pub flows: u64,
    /// How many there can be.
    pub most: u64,
    /// Packets that were dropped because there was no room for their flow, or no memory.
    pub dropped: u64,
    /// Flows that were forgotten before their time to make room.
    pub forgotten: u64,
    /// Flows that were not taken in because another had their addresses and ports; their packet was dropped.
    pub insert_failed: u64,
    /// Packets that belong to no flow and can begin none.
    pub invalid: u64,
}

/// Packets of a protocol that came to this namespace itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrivals {
    /// The protocol: TCP (of both families), UDP, or UDP over IPv6.
    pub protocol: &'static str,
    /// How many were taken.
    pub taken: u64,
    /// How many had a wrong checksum (`InCsumErrors`, RFC 4022 and 4113 count them among the errors).
    pub garbled: u64,
}

/// Reads what connection tracking has counted in the calling thread's namespace; `None` if it is not in use.
///
/// # Errors
/// [`Error::File`] if a file is there and cannot be read, [`Error::Answer`] if one is not understood.
pub fn tracking() -> Result<Option<Tracking>> {
    let number = |name: &str| -> Result<Option<u64>> {
        let path = format!("net/netfilter/{name}");
        let parsed = |text: String| text.parse().map_err(|_| misread(&path));
        sysctl::read(&path)?.map(parsed).transpose()
    };
    let (Some(flows), Some(most)) = (number("nf_conntrack_count")?, number("nf_conntrack_max")?) else {
        return Ok(None);
    };
    let Some(text) = read("stat/nf_conntrack")? else { return Ok(None) };
    let sums = tracking_sums(&text).ok_or_else(|| misread("/proc/net/stat/nf_conntrack"))?;
    let sum = |name: &str| sums.get(name).copied().unwrap_or_default();
    Ok(Some(Tracking {
        flows,
        most,
        dropped: sum("drop"),
        forgotten: sum("early_drop"),
        insert_failed: sum("insert_failed"),
        invalid: sum("invalid"),
    }))
}

/// Reads how many packets have arrived, and how many of them garbled, in the calling thread's namespace.
///
/// # Errors
/// [`Error::File`] if a file is there and cannot be read.
pub fn arrivals() -> Result<Vec<Arrivals>> {
    let mut numbers = snmp(&read("snmp")?.unwrap_or_default());
    numbers.extend(snmp6(&read("snmp6")?.unwrap_or_default()));
    let protocols = [
        ("TCP", "TcpInSegs", "TcpInCsumErrors"),
        ("UDP", "UdpInDatagrams", "UdpInCsumErrors"),
        ("UDP over IPv6", "Udp6InDatagrams", "Udp6InCsumErrors"),
    ];
    let arrivals = |(protocol, taken, garbled): (&'static str, &str, &str)| {
        Some(Arrivals { protocol, taken: *numbers.get(taken)?, garbled: *numbers.get(garbled)? })
    };
    Ok(protocols.into_iter().filter_map(arrivals).collect())
}

/// The tables that `iptables-legacy` and `ip6tables-legacy` have made. What is in them is for nobody else to see.
///
/// # Errors
/// [`Error::File`] if a file is there and cannot be read.
pub fn legacy_tables() -> Result<Vec<String>> {
    let mut tables = Vec::new();
    for (file, program) in [("ip_tables_names", "iptables"), ("ip6_tables_names", "ip6tables")] {
        let text = read(file)?.unwrap_or_default();
        tables.extend(text.lines().map(|table| format!("{program} {}", table.trim())));
    }
    Ok(tables)
}

/// `/proc/net` shows the namespace of the process' first thread, which need not be that of this one.
fn read(name: &str) -> Result<Option<String>> {
    let path = PathBuf::from("/proc/thread-self/net").join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { what: "read", path, source }),
    }
}

fn misread(path: &str) -> Error {
    Error::Answer { what: format!("read {path}"), why: "there is no number where one should be".to_owned() }
}

/// A line of names, then one of hexadecimal numbers for each processor (net/netfilter/nf_conntrack_standalone.c).
fn tracking_sums(text: &str) -> Option<BTreeMap<&str, u64>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_whitespace().collect();
    let mut sums = BTreeMap::new();
    for line in lines {
        for (name, number) in names.iter().zip(line.split_whitespace()) {
            *sums.entry(*name).or_default() += u64::from_str_radix(number, 16).ok()?;
        }
    }
    Some(sums)
}

/// Pairs of lines, the first with names and the second with numbers, each after the protocol (net/ipv4/proc.c). Numbers
/// that are none, or negative as TCP's `MaxConn`, are left out.
fn snmp(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut numbers = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let [names, values] = pair else { continue };
        let mut words = names.split_whitespace().zip(values.split_whitespace());
        let Some((protocol, _)) = words.next() else { continue };
        let protocol = protocol.trim_end_matches(':');
        numbers.extend(
            words.filter_map(|(name, value)| Some((format!("{protocol}{name}"), value.parse().ok()?))),
        );
    }
    numbers
}

/// A name and a number in each line (net/ipv6/proc.c).
fn snmp6(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_processors_are_added() {
        let text = "entries clashres found invalid insert_failed drop early_drop\n\
                    00000010  00000000 00000001 00000003 0000000a 00000000 00000001\n\
                    00000010  00000000 00000001 00000001 00000006 00000002 00000000\n";
        let sums = tracking_sums(text).unwrap();
        assert_eq!([sums["invalid"], sums["insert_failed"], sums["drop"], sums["early_drop"]], [4, 16, 2, 1]);
        assert!(tracking_sums("drop\nmany\n").is_none());
        assert!(tracking_sums("").is_none());
    }

    #[test]
    fn packets_are_counted_by_protocol() {
        let text = "Tcp: MaxConn InSegs InCsumErrors\nTcp: -1 5 2\nUdp: InDatagrams InCsumErrors\nUdp: 7 0\n";
        let numbers = snmp(text);
        assert_eq!([numbers["TcpInSegs"], numbers["TcpInCsumErrors"], numbers["UdpInDatagrams"]], [5, 2, 7]);
        assert!(!numbers.contains_key("TcpMaxConn"));
        assert_eq!(
            snmp6("Udp6InDatagrams                 \t3\nUdp6InCsumErrors \t1\n")["Udp6InCsumErrors"],
            1
        );
    }
}
