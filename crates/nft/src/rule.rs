//! Rules, and how they are built.

use std::net::IpAddr;
use std::time::Duration;

use crate::attr::Writer;
use crate::comment::Comment;
use crate::expr::{Expr, Reg};
use crate::field::{Field, Match, load_all};
use crate::fields::{ct, meta};
use crate::table::{Chain, Family, Table};
use crate::value::{Type, Value};
use crate::verdict::Verdict;

/// A rule: conditions and statements in order.
///
/// Whatever is wrong with one (a port compared with a mark, a key that does not fit the registers) is kept until it is
/// put into a batch, whose commit then says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(crate) table: Table,
    pub(crate) chain: String,
    pub(crate) exprs: Vec<Expr>,
    pub(crate) comment: Option<Comment>,
    tag: Option<u64>,
    pub(crate) fault: Option<String>,
}

impl Rule {
    /// A rule of this chain that does nothing yet.
    pub fn new(chain: &Chain) -> Rule {
        Rule {
            table: chain.table.clone(),
            chain: chain.name.clone(),
            exprs: Vec::new(),
            comment: None,
            tag: None,
            fault: None,
        }
    }

    /// Sets the comment, which `nft list` shows.
    pub fn comment(mut self, comment: impl Into<Comment>) -> Rule {
        self.comment = Some(comment.into());
        self
    }

    /// Sets the tag, an opaque number stored with the rule; otherwise it is [`Rule::content_hash`].
    pub fn with_tag(mut self, tag: u64) -> Rule {
        self.tag = Some(tag);
        self
    }

    /// The number stored with the rule, by which it is recognised when listed.
    pub fn tag(&self) -> u64 {
        self.tag.unwrap_or_else(|| self.content_hash())
    }

    /// A hash of the rule's expressions and comment (FNV-1a, 64 bits): the same for the same rule, in each version of
    /// this program that encodes it the same way.
    pub fn content_hash(&self) -> u64 {
        let mut w = Writer::default();
        self.exprs.iter().for_each(|expr| expr.encode(&mut w));
        let comment = self.comment.as_deref().unwrap_or("");
        w.buf.iter().chain(comment.as_bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// Goes on only if the condition holds.
    pub fn when(mut self, condition: Match) -> Rule {
        match condition.0 {
            Ok(exprs) => self.exprs.extend(exprs),
            Err(fault) => self.fail(fault),
        }
        self
    }

    /// Counts packets and bytes.
    pub fn counter(self) -> Rule {
        self.with(Expr::Counter)
    }

    /// Ends with this verdict.
    pub fn verdict(self, verdict: Verdict) -> Rule {
        self.with(Expr::Verdict(verdict))
    }

    /// Lets the packet pass this base chain.
    pub fn accept(self) -> Rule {
        self.verdict(Verdict::Accept)
    }

    /// Drops the packet.
    pub fn drop(self) -> Rule {
        self.verdict(Verdict::Drop)
    }

    /// Returns to the calling chain.
    pub fn ret(self) -> Rule {
        self.verdict(Verdict::Return)
    }

    /// Goes to a chain, and back after it.
    pub fn jump(self, chain: &str) -> Rule {
        self.verdict(Verdict::jump(chain))
    }

    /// Goes to a chain, not to come back here.
    pub fn goto(self, chain: &str) -> Rule {
        self.verdict(Verdict::goto(chain))
    }

    /// Does what a verdict map holds for a key; goes on if it holds nothing.
    pub fn vmap(self, key: impl Into<Vec<Field>>, map: impl Into<String>) -> Rule {
        let map = map.into();
        self.lower(|out| {
            load_all(&key.into(), 0, out)?;
            out.push(Expr::VerdictLookup { map, sreg: Reg(0) });
            Ok(())
        })
    }

    /// Sets the packet's mark.
    pub fn set_mark(self, to: Field) -> Rule {
        self.set(to, |sreg| Expr::MetaSet { key: meta::MARK, sreg })
    }

    /// Sets the connection's mark.
    pub fn set_ct_mark(self, to: Field) -> Rule {
        self.set(to, |sreg| Expr::CtSet { key: ct::MARK, sreg })
    }

    /// Lets `nft monitor trace` follow the packet.
    pub fn trace(self) -> Rule {
        self.with(Expr::Immediate { dreg: Reg(0), data: vec![1] })
            .with(Expr::MetaSet { key: meta::NFTRACE, sreg: Reg(0) })
    }

    /// Rewrites the connection's destination; in `nat` chains at prerouting and output.
    pub fn dnat(self, nat: Nat) -> Rule {
        self.nat(true, nat)
    }

    /// Rewrites the connection's source; in `nat` chains at input and postrouting.
    pub fn snat(self, nat: Nat) -> Rule {
        self.nat(false, nat)
    }

    /// Rewrites the connection's source to the address of the interface by which it leaves; in `nat` chains at
    /// postrouting.
    pub fn masquerade(self, ports: PortChoice) -> Rule {
        self.with(Expr::Masquerade { flags: ports as u32 })
    }

    /// Drops the packet and tells the sender. ICMP or ICMPv6 as the packet's family asks.
    pub fn reject(self, reject: Reject) -> Rule {
        let family = self.table.family;
        self.with(reject.expression(family))
    }

    /// Exempts the packet from connection tracking; in chains before it (priority raw).
    pub fn notrack(self) -> Rule {
        self.with(Expr::Notrack)
    }

    /// Goes on for at most `rate` packets in each `per` (whole seconds), and `burst` more at once.
    pub fn limit(self, rate: u64, per: Duration, burst: u32) -> Rule {
        self.with(Expr::Limit { rate, per_seconds: per.as_secs().max(1), burst })
    }

    /// Puts a key into a dynamic set, or makes its time limit start again.
    pub fn update(
        self,
        set: impl Into<String>,
        key: impl Into<Vec<Field>>,
        timeout: Option<Duration>,
    ) -> Rule {
        self.update_map(set, key, [], timeout)
    }

    /// Puts a key and what it maps to into a dynamic map, or makes its time limit start again.
    pub fn update_map(
        self,
        map: impl Into<String>,
        key: impl Into<Vec<Field>>,
        data: impl Into<Vec<Field>>,
        timeout: Option<Duration>,
    ) -> Rule {
        let (set, data) = (map.into(), data.into());
        self.lower(|out| {
            let next = load_all(&key.into(), 0, out)?;
            let has_data = !data.is_empty();
            if has_data {
                load_all(&data, next, out)?;
            }
            out.push(Expr::DynSet {
                set,
                op: 1, // NFT_DYNSET_OP_UPDATE
                key: Reg(0),
                data: has_data.then_some(Reg(next as u8)),
                timeout_ms: timeout.map(|timeout| timeout.as_millis() as u64),
            });
            Ok(())
        })
    }

    fn set(self, to: Field, set: impl FnOnce(Reg) -> Expr) -> Rule {
        self.lower(|out| {
            if to.ty() != Type::Mark && to.ty() != Type::Index {
                return Err(format!("a mark cannot be set from {:?}", to.ty()));
            }
            to.load(0, out)?;
            out.push(set(Reg(0)));
            Ok(())
        })
    }

    fn nat(self, destination: bool, nat: Nat) -> Rule {
        self.lower(|out| {
            let Nat { to, flags } = nat;
            let expr = |family: Family, addr_last, port| Expr::Nat {
                destination,
                family: family as u8,
                addr: Reg(0),
                addr_last,
                port,
                flags,
            };
            match to {
                NatTo::Fixed { address, last, port } => {
                    let family = if address.is_ipv4() { Family::Ip } else { Family::Ip6 };
                    let mut next = Field::value(address).load(0, out)?;
                    let mut more = |value: Value, out: &mut Vec<Expr>| {
                        let reg = Reg(next as u8);
                        next = Field::value(value).load(next, out)?;
                        Ok::<_, String>(reg)
                    };
                    let last = last.map(|last| more(last.into(), out)).transpose()?;
                    let port = port.map(|port| more(Value::port(port), out)).transpose()?;
                    out.push(expr(family, last, port));
                }
                NatTo::Map { key, map, family, with_port } => {
                    load_all(&key, 0, out)?;
                    out.push(Expr::MapLookup { map, sreg: Reg(0), dreg: Reg(0) });
                    let port = Reg(if family == Family::Ip6 { 4 } else { 1 });
                    out.push(expr(family, None, with_port.then_some(port)));
                }
            }
            Ok(())
        })
    }

    fn lower(mut self, append: impl FnOnce(&mut Vec<Expr>) -> Result<(), String>) -> Rule {
        if let Err(fault) = append(&mut self.exprs) {
            self.fail(fault);
        }
        self
    }

    fn with(mut self, expr: Expr) -> Rule {
        self.exprs.push(expr);
        self
    }

    fn fail(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }
}

/// Where address translation leads, for [`Rule::dnat`] and [`Rule::snat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    to: NatTo,
    flags: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NatTo {
    Fixed { address: IpAddr, last: Option<IpAddr>, port: Option<u16> },
    Map { key: Vec<Field>, map: String, family: Family, with_port: bool },
}

impl Nat {
    /// To this address.
    pub fn to(address: IpAddr) -> Nat {
        Nat { to: NatTo::Fixed { address, last: None, port: None }, flags: 0 }
    }

    /// To this address and port. The rule must have asked for the transport protocol.
    pub fn to_port(address: IpAddr, port: u16) -> Nat {
        Nat { to: NatTo::Fixed { address, last: None, port: Some(port) }, flags: 0 }
    }

    /// To one of the addresses from the first to the last, which must be of one family.
    pub fn to_range(first: IpAddr, last: IpAddr) -> Nat {
        Nat { to: NatTo::Fixed { address: first, last: Some(last), port: None }, flags: 0 }
    }

    /// To the address that a map holds for a key; goes on if it holds nothing. `family` is that of the addresses,
    /// [`Family::Ip`] or [`Family::Ip6`].
    pub fn map(family: Family, key: impl Into<Vec<Field>>, map: impl Into<String>) -> Nat {
        Nat { to: NatTo::Map { key: key.into(), map: map.into(), family, with_port: false }, flags: 0 }
    }

    /// To the address and port that a map holds for a key, a concatenation of the two; goes on if it holds nothing.
    /// `family` is that of the addresses, [`Family::Ip`] or [`Family::Ip6`].
    pub fn map_with_port(family: Family, key: impl Into<Vec<Field>>, map: impl Into<String>) -> Nat {
        Nat { to: NatTo::Map { key: key.into(), map: map.into(), family, with_port: true }, flags: 0 }
    }

    /// Chooses the ports so.
    pub fn ports(mut self, ports: PortChoice) -> Nat {
        self.flags |= ports as u32;
        self
    }

    /// Gives a client the same address for each of its connections, where there are several to choose from.
    pub fn persistent(mut self) -> Nat {
        self.flags |= 1 << 3; // NF_NAT_RANGE_PERSISTENT
        self
    }
}

/// How translation chooses a port where it is free to (`linux/netfilter/nf_nat.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// The same port if it is free.
    Keep = 0,
    /// A random port (`NF_NAT_RANGE_PROTO_RANDOM_FULLY`), which avoids collisions of connections opened at once.
    FullyRandom = 1 << 4,
}

/// What the sender of a rejected packet is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// A TCP reset. The rule must have asked for TCP.
    TcpReset,
    /// There is no route to the destination.
    NoRoute,
    /// Nobody listens at the port.
    PortUnreachable,
    /// The host cannot be reached.
    HostUnreachable,
    /// It is forbidden.
    AdminProhibited,
}

impl Reject {
    /// The kernel's expression: ICMP codes in tables of one family, and codes for either (`NFT_REJECT_ICMPX_UNREACH`)
    /// in others.
    fn expression(self, family: Family) -> Expr {
        const ICMP_UNREACH: u32 = 0;
        const TCP_RST: u32 = 1;
        const ICMPX_UNREACH: u32 = 2;
        let (ip, ip6, icmpx) = match self {
            Reject::TcpReset => return Expr::Reject { ty: TCP_RST, code: 0 },
            Reject::NoRoute => (0, 0, 0),
            Reject::PortUnreachable => (3, 4, 1),
            Reject::HostUnreachable => (1, 3, 2),
            Reject::AdminProhibited => (13, 1, 3),
        };
        match family {
            Family::Ip => Expr::Reject { ty: ICMP_UNREACH, code: ip },
            Family::Ip6 => Expr::Reject { ty: ICMP_UNREACH, code: ip6 },
            Family::Inet | Family::Bridge => Expr::Reject { ty: ICMPX_UNREACH, code: icmpx },
        }
    }
}
