//! The kernel's expressions: what a rule is made of once fields have been given registers.

use crate::attr::Writer;
use crate::uapi::{NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LIST_ELEM};
use crate::verdict::Verdict;

/// A register: one of sixteen words of 4 bytes. Longer data lie in the words that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg(pub(crate) u8);

impl Reg {
    pub(crate) const COUNT: usize = 16;

    /// `NFT_REG32_00` and up.
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CmpOp {
    Eq = 0,
    Neq = 1,
    Lt = 2,
    Lte = 3,
    Gt = 4,
    Gte = 5,
}

/// `enum nft_payload_bases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PayloadBase {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// An expression of the kernel, with its registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    Meta { key: u32, dreg: Reg },
    MetaSet { key: u32, sreg: Reg },
    Payload { base: PayloadBase, offset: u32, len: u32, dreg: Reg },
    Ct { key: u32, direction: Option<u8>, dreg: Reg },
    CtSet { key: u32, sreg: Reg },
    Cmp { op: CmpOp, sreg: Reg, data: Vec<u8> },
    Range { inverted: bool, sreg: Reg, from: Vec<u8>, to: Vec<u8> },
    Bitwise { sreg: Reg, dreg: Reg, mask: Vec<u8>, xor: Vec<u8> },
    Immediate { dreg: Reg, data: Vec<u8> },
    Verdict(Verdict),
    Lookup { set: String, sreg: Reg, inverted: bool },
    MapLookup { map: String, sreg: Reg, dreg: Reg },
    VerdictLookup { map: String, sreg: Reg },
    DynSet { set: String, op: u32, key: Reg, data: Option<Reg>, timeout_ms: Option<u64> },
    Numgen { dreg: Reg, random: bool, modulus: u32, offset: u32 },
    Jhash { sreg: Reg, len: u32, dreg: Reg, modulus: u32, seed: u32, offset: u32 },
    Symhash { dreg: Reg, modulus: u32, offset: u32 },
    Fib { dreg: Reg, result: u32, flags: u32 },
    Nat { destination: bool, family: u8, addr: Reg, addr_last: Option<Reg>, port: Option<Reg>, flags: u32 },
    Masquerade { flags: u32 },
    Reject { ty: u32, code: u8 },
    Limit { rate: u64, per_seconds: u64, burst: u32 },
    Counter,
    Notrack,
}

impl Expr {
    /// Writes the expression as a list element: its name, then its attributes.
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.nest(NFTA_LIST_ELEM, |w| {
            w.put_str(NFTA_EXPR_NAME, self.name());
            if !matches!(self, Expr::Notrack) {
                w.nest(NFTA_EXPR_DATA, |w| self.encode_attributes(w));
            }
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
            Expr::Payload { .. } => "payload",
            Expr::Ct { .. } | Expr::CtSet { .. } => "ct",
            Expr::Cmp { .. } => "cmp",
            Expr::Range { .. } => "range",
            Expr::Bitwise { .. } => "bitwise",
            Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
            Expr::Lookup { .. } | Expr::MapLookup { .. } | Expr::VerdictLookup { .. } => "lookup",
            Expr::DynSet { .. } => "dynset",
            Expr::Numgen { .. } => "numgen",
            Expr::Jhash { .. } | Expr::Symhash { .. } => "hash",
            Expr::Fib { .. } => "fib",
            Expr::Nat { .. } => "nat",
            Expr::Masquerade { .. } => "masq",
            Expr::Reject { .. } => "reject",
            Expr::Limit { .. } => "limit",
            Expr::Counter => "counter",
            Expr::Notrack => "notrack",
        }
    }

    /// The attributes, whose numbers are those of the expression's `enum nft_*_attributes`.
    fn encode_attributes(&self, w: &mut Writer) {
        match self {
            Expr::Meta { key, dreg } => {
                w.put_u32(2, *key);
                w.put_u32(1, dreg.number());
            }
            Expr::MetaSet { key, sreg } => {
                w.put_u32(2, *key);
                w.put_u32(3, sreg.number());
            }
            Expr::Payload { base, offset, len, dreg } => {
                w.put_u32(1, dreg.number());
                w.put_u32(2, *base as u32);
                w.put_u32(3, *offset);
                w.put_u32(4, *len);
            }
            Expr::Ct { key, direction, dreg } => {
                w.put_u32(2, *key);
                w.put_u32(1, dreg.number());
                if let Some(direction) = direction {
                    w.put(3, &[*direction]);
                }
            }
            Expr::CtSet { key, sreg } => {
                w.put_u32(2, *key);
                w.put_u32(4, sreg.number());
            }
            Expr::Cmp { op, sreg, data } => {
                w.put_u32(1, sreg.number());
                w.put_u32(2, *op as u32);
                put_value(w, 3, data);
            }
            Expr::Range { inverted, sreg, from, to } => {
                w.put_u32(1, sreg.number());
                w.put_u32(2, u32::from(*inverted));
                put_value(w, 3, from);
                put_value(w, 4, to);
            }
            Expr::Bitwise { sreg, dreg, mask, xor } => {
                w.put_u32(1, sreg.number());
                w.put_u32(2, dreg.number());
                w.put_u32(3, mask.len() as u32);
                w.put_u32(6, 0); // NFT_BITWISE_MASK_XOR
                put_value(w, 4, mask);
                put_value(w, 5, xor);
            }
            Expr::Immediate { dreg, data } => {
                w.put_u32(1, dreg.number());
                put_value(w, 2, data);
            }
            Expr::Verdict(verdict) => {
                w.put_u32(1, 0); // NFT_REG_VERDICT
                verdict.encode(w, 2);
            }
            Expr::Lookup { set, sreg, inverted } => {
                w.put_str(1, set);
                w.put_u32(2, sreg.number());
                if *inverted {
                    w.put_u32(5, 1); // NFT_LOOKUP_F_INV
                }
            }
            Expr::MapLookup { map, sreg, dreg } => {
                w.put_str(1, map);
                w.put_u32(2, sreg.number());
                w.put_u32(3, dreg.number());
            }
            Expr::VerdictLookup { map, sreg } => {
                w.put_str(1, map);
                w.put_u32(2, sreg.number());
                w.put_u32(3, 0); // NFT_REG_VERDICT
            }
            Expr::DynSet { set, op, key, data, timeout_ms } => {
                w.put_str(1, set);
                w.put_u32(3, *op);
                w.put_u32(4, key.number());
                if let Some(data) = data {
                    w.put_u32(5, data.number());
                }
                if let Some(timeout) = timeout_ms {
                    w.put_u64(6, *timeout);
                }
            }
            Expr::Numgen { dreg, random, modulus, offset } => {
                w.put_u32(1, dreg.number());
                w.put_u32(2, *modulus);
                w.put_u32(3, u32::from(*random));
                w.put_u32(4, *offset);
            }
            Expr::Jhash { sreg, len, dreg, modulus, seed, offset } => {
                w.put_u32(1, sreg.number());
                w.put_u32(2, dreg.number());
                w.put_u32(3, *len);
                w.put_u32(4, *modulus);
                w.put_u32(5, *seed);
                w.put_u32(6, *offset);
                w.put_u32(7, 0); // NFT_HASH_JENKINS
            }
            Expr::Symhash { dreg, modulus, offset } => {
                w.put_u32(2, dreg.number());
                w.put_u32(4, *modulus);
                w.put_u32(6, *offset);
                w.put_u32(7, 1); // NFT_HASH_SYM
            }
            Expr::Fib { dreg, result, flags } => {
                w.put_u32(1, dreg.number());
                w.put_u32(2, *result);
                w.put_u32(3, *flags);
            }
            Expr::Nat { destination, family, addr, addr_last, port, flags } => {
                w.put_u32(1, u32::from(*destination));
                w.put_u32(2, u32::from(*family));
                w.put_u32(3, addr.number());
                if let Some(last) = addr_last {
                    w.put_u32(4, last.number());
                }
                if let Some(port) = port {
                    w.put_u32(5, port.number());
                }
                if *flags != 0 {
                    w.put_u32(7, *flags);
                }
            }
            Expr::Masquerade { flags } => {
                if *flags != 0 {
                    w.put_u32(1, *flags);
                }
            }
            Expr::Reject { ty, code } => {
                w.put_u32(1, *ty);
                w.put(2, &[*code]);
            }
            Expr::Limit { rate, per_seconds, burst } => {
                w.put_u64(1, *rate);
                w.put_u64(2, *per_seconds);
                w.put_u32(3, *burst);
                w.put_u32(4, 0); // NFT_LIMIT_PKTS
                w.put_u32(5, 0);
            }
            Expr::Counter | Expr::Notrack => {}
        }
    }
}

fn put_value(w: &mut Writer, ty: u16, value: &[u8]) {
    w.nest(ty, |w| w.put(NFTA_DATA_VALUE, value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(expr: Expr) -> Vec<u8> {
        let mut w = Writer::default();
        expr.encode(&mut w);
        w.buf
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_comparison_is_what_nft_writes() {
        let data = b"cbv".to_vec();
        #[rustfmt::skip]
        assert_eq!(encoded(Expr::Cmp { op: CmpOp::Eq, sreg: Reg(0), data }), [
            44, 0, 1, 0x80,
            8, 0, 1, 0, b'c', b'm', b'p', 0,
            32, 0, 2, 0x80,
            8, 0, 1, 0, 0, 0, 0, 8,
            8, 0, 2, 0, 0, 0, 0, 0,
            12, 0, 3, 0x80, 7, 0, 1, 0, b'c', b'b', b'v', 0,
        ]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn an_expression_without_attributes_has_no_data() {
        #[rustfmt::skip]
        assert_eq!(encoded(Expr::Notrack), [
            16, 0, 1, 0x80, 12, 0, 1, 0, b'n', b'o', b't', b'r', b'a', b'c', b'k', 0,
        ]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_verdict_goes_to_the_verdict_register() {
        #[rustfmt::skip]
        assert_eq!(encoded(Expr::Verdict(Verdict::Drop)), [
            48, 0, 1, 0x80,
            14, 0, 1, 0, b'i', b'm', b'm', b'e', b'd', b'i', b'a', b't', b'e', 0, 0, 0,
            28, 0, 2, 0x80,
            8, 0, 1, 0, 0, 0, 0, 0,
            16, 0, 2, 0x80, 12, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 0,
        ]);
    }
}
