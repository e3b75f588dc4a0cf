//! Fields: what a rule reads from a packet, its connection or the routing table, and what it can ask of it.

use std::net::IpAddr;

use crate::expr::{CmpOp, Expr, PayloadBase, Reg};
use crate::value::{ByteOrder, Type, Value, padded};

/// Something that a rule loads into a register: a header field, packet metadata, connection state, a number drawn.
///
/// The modules [`crate::meta`], [`crate::ip`], [`crate::ct`] and so on make them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    source: Source,
    ty: Type,
    bits: Option<Bits>,
    fault: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Meta(u32),
    Payload { base: PayloadBase, offset: u32 },
    Ct { key: u32, direction: Option<u8> },
    Numgen { random: bool, modulus: u32, offset: u32 },
    Jhash { of: Vec<Field>, modulus: u32, seed: u32 },
    Symhash { modulus: u32 },
    Fib { result: u32, flags: u32 },
    Map { key: Vec<Field>, map: String },
    Value(Value),
}

/// `(x & mask) ^ xor`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bits {
    mask: Vec<u8>,
    xor: Vec<u8>,
}

impl Field {
    pub(crate) const fn new(source: Source, ty: Type) -> Field {
        Field { source, ty, bits: None, fault: None }
    }

    pub(crate) const fn meta(key: u32, ty: Type) -> Field {
        Field::new(Source::Meta(key), ty)
    }

    pub(crate) const fn payload(base: PayloadBase, offset: u32, ty: Type) -> Field {
        Field::new(Source::Payload { base, offset }, ty)
    }

    pub(crate) const fn ct(key: u32, direction: Option<u8>, ty: Type) -> Field {
        Field::new(Source::Ct { key, direction }, ty)
    }

    /// A fixed value in a field's place.
    pub fn value(value: impl Into<Value>) -> Field {
        let value = value.into();
        Field::new(Source::Value(value), value.ty())
    }

    /// What a map holds for a key.
    pub fn map(key: impl Into<Vec<Field>>, map: impl Into<String>, ty: Type) -> Field {
        Field::new(Source::Map { key: key.into(), map: map.into() }, ty)
    }

    /// The type.
    pub fn ty(&self) -> Type {
        self.ty
    }

    /// The field with only these bits.
    pub fn and(self, mask: impl Into<Value>) -> Field {
        let mask = mask.into();
        let zero = vec![0; self.ty.size()];
        self.bitwise(mask, mask.as_bytes().to_vec(), zero)
    }

    /// The field with these bits set.
    pub fn or(self, bits: impl Into<Value>) -> Field {
        let bits = bits.into();
        let mask = bits.as_bytes().iter().map(|byte| !byte).collect();
        self.bitwise(bits, mask, bits.as_bytes().to_vec())
    }

    fn bitwise(mut self, operand: Value, mask: Vec<u8>, xor: Vec<u8>) -> Field {
        self.fault = self.fault.take().or_else(|| self.mismatch(operand));
        // ((x & m1) ^ x1) & m2 ^ x2 = (x & (m1 & m2)) ^ ((x1 & m2) ^ x2)
        let earlier = self
            .bits
            .take()
            .unwrap_or_else(|| Bits { mask: vec![0xff; mask.len()], xor: vec![0; mask.len()] });
        self.bits = Some(Bits {
            mask: earlier.mask.iter().zip(&mask).map(|(a, b)| a & b).collect(),
            xor: earlier.xor.iter().zip(&mask).zip(&xor).map(|((x1, m2), x2)| (x1 & m2) ^ x2).collect(),
        });
        self
    }

    /// The field has this value.
    pub fn is(self, value: impl Into<Value>) -> Match {
        self.compare(CmpOp::Eq, value.into())
    }

    /// The field has another value.
    pub fn is_not(self, value: impl Into<Value>) -> Match {
        self.compare(CmpOp::Neq, value.into())
    }

    /// The field is less.
    pub fn below(self, value: impl Into<Value>) -> Match {
        self.order(CmpOp::Lt, value.into())
    }

    /// The field is less or equal.
    pub fn at_most(self, value: impl Into<Value>) -> Match {
        self.order(CmpOp::Lte, value.into())
    }

    /// The field is greater.
    pub fn above(self, value: impl Into<Value>) -> Match {
        self.order(CmpOp::Gt, value.into())
    }

    /// The field is greater or equal.
    pub fn at_least(self, value: impl Into<Value>) -> Match {
        self.order(CmpOp::Gte, value.into())
    }

    /// The field lies in this range, ends included.
    pub fn between(self, first: impl Into<Value>, last: impl Into<Value>) -> Match {
        self.range(false, first.into(), last.into())
    }

    /// The field lies outside this range, ends included.
    pub fn not_between(self, first: impl Into<Value>, last: impl Into<Value>) -> Match {
        self.range(true, first.into(), last.into())
    }

    /// The address lies in this prefix. Bits of `address` beyond `length` do not count.
    pub fn within(self, address: impl Into<IpAddr>, length: u8) -> Match {
        self.prefix(CmpOp::Eq, address.into(), length)
    }

    /// The address lies outside this prefix. Bits of `address` beyond `length` do not count.
    pub fn not_within(self, address: impl Into<IpAddr>, length: u8) -> Match {
        self.prefix(CmpOp::Neq, address.into(), length)
    }

    /// At least one of these bits is set.
    pub fn has(self, bits: impl Into<Value>) -> Match {
        let zero = Value::from_bytes(self.ty, &[]);
        self.and(bits).compare(CmpOp::Neq, zero)
    }

    /// None of these bits is set.
    pub fn lacks(self, bits: impl Into<Value>) -> Match {
        let zero = Value::from_bytes(self.ty, &[]);
        self.and(bits).compare(CmpOp::Eq, zero)
    }

    /// The interface name begins so; nft writes it with an asterisk.
    pub fn starts_with(self, prefix: &str) -> Match {
        self.start(CmpOp::Eq, prefix)
    }

    /// The interface name does not begin so.
    pub fn starts_not_with(self, prefix: &str) -> Match {
        self.start(CmpOp::Neq, prefix)
    }

    fn compare(self, op: CmpOp, value: Value) -> Match {
        Match::test(self.mismatch(value), self, |sreg| Expr::Cmp {
            op,
            sreg,
            data: value.as_bytes().to_vec(),
        })
    }

    fn order(self, op: CmpOp, value: Value) -> Match {
        let fault = self.unordered().or_else(|| self.mismatch(value));
        Match::test(fault, self, |sreg| Expr::Cmp { op, sreg, data: value.as_bytes().to_vec() })
    }

    fn range(self, inverted: bool, first: Value, last: Value) -> Match {
        let fault = self.unordered().or_else(|| self.mismatch(first)).or_else(|| self.mismatch(last));
        let (from, to) = (first.as_bytes().to_vec(), last.as_bytes().to_vec());
        Match::test(fault, self, |sreg| Expr::Range { inverted, sreg, from, to })
    }

    fn prefix(self, op: CmpOp, address: IpAddr, length: u8) -> Match {
        let value = Value::from(address);
        let fault = self.mismatch(value);
        let mask: Vec<u8> = (0..value.as_bytes().len())
            .map(|byte| {
                let bits = usize::from(length).saturating_sub(byte * 8).min(8);
                !(0xff_u16 >> bits) as u8
            })
            .collect();
        let data = value.as_bytes().iter().zip(&mask).map(|(a, b)| a & b).collect();
        let masked = if mask.iter().all(|&byte| byte == 0xff) {
            self
        } else {
            self.and(Value::from_bytes(value.ty(), &mask))
        };
        Match::test(fault, masked, |sreg| Expr::Cmp { op, sreg, data })
    }

    fn start(self, op: CmpOp, prefix: &str) -> Match {
        let fault = if self.ty != Type::Ifname {
            Some(format!("only interface names are compared by their beginning, not {:?}", self.ty))
        } else if prefix.is_empty() || prefix.len() > 15 {
            Some(format!("{prefix:?} is not the beginning of an interface name: it must have 1 to 15 bytes"))
        } else {
            None
        };
        Match::test(fault, self, |sreg| Expr::Cmp { op, sreg, data: prefix.as_bytes().to_vec() })
    }

    fn mismatch(&self, value: Value) -> Option<String> {
        (value.ty() != self.ty)
            .then(|| format!("{:?} compared or combined with {value} of type {:?}", self.ty, value.ty()))
    }

    fn unordered(&self) -> Option<String> {
        // The kernel compares bytes in order, which is the order of numbers only for big-endian ones.
        (self.ty.byte_order() == ByteOrder::Host)
            .then(|| format!("{:?} is kept in host byte order and cannot be compared by size", self.ty))
    }

    /// Loads the field into the register at `slot` and up; returns the slot after it.
    pub(crate) fn load(&self, slot: usize, out: &mut Vec<Expr>) -> Result<usize, String> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let size = self.ty.size();
        let next = slot + padded(size) / 4;
        if next > Reg::COUNT {
            return Err("the fields of one key take more than 64 bytes".into());
        }
        let dreg = Reg(slot as u8);
        let expr = match &self.source {
            Source::Meta(key) => Expr::Meta { key: *key, dreg },
            Source::Payload { base, offset } => {
                Expr::Payload { base: *base, offset: *offset, len: size as u32, dreg }
            }
            Source::Ct { key, direction } => Expr::Ct { key: *key, direction: *direction, dreg },
            Source::Numgen { random, modulus, offset } => {
                Expr::Numgen { dreg, random: *random, modulus: *modulus, offset: *offset }
            }
            Source::Jhash { of, modulus, seed } => {
                let end = load_all(of, slot, out)?;
                // Padding between concatenated fields is hashed with them; the kernel keeps it zero.
                let len = match &of[..] {
                    [one] => one.ty.size(),
                    _ => (end - slot) * 4,
                };
                Expr::Jhash { sreg: dreg, len: len as u32, dreg, modulus: *modulus, seed: *seed, offset: 0 }
            }
            Source::Symhash { modulus } => Expr::Symhash { dreg, modulus: *modulus, offset: 0 },
            Source::Fib { result, flags } => Expr::Fib { dreg, result: *result, flags: *flags },
            Source::Map { key, map } => {
                load_all(key, slot, out)?;
                Expr::MapLookup { map: map.clone(), sreg: dreg, dreg }
            }
            Source::Value(value) => Expr::Immediate { dreg, data: value.as_bytes().to_vec() },
        };
        out.push(expr);
        if let Some(Bits { mask, xor }) = &self.bits {
            out.push(Expr::Bitwise { sreg: dreg, dreg, mask: mask.clone(), xor: xor.clone() });
        }
        Ok(next)
    }
}

/// Loads the fields of a key one after the other, each from a register of its own; returns the slot after them.
pub(crate) fn load_all(fields: &[Field], slot: usize, out: &mut Vec<Expr>) -> Result<usize, String> {
    if fields.is_empty() {
        return Err("a key without fields".into());
    }
    fields.iter().try_fold(slot, |slot, field| field.load(slot, out))
}

/// A lone field is a key of one.
impl From<Field> for Vec<Field> {
    fn from(field: Field) -> Vec<Field> {
        vec![field]
    }
}

/// A condition of a rule: the rule goes on only if it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match(pub(crate) Result<Vec<Expr>, String>);

impl Match {
    /// The key is in the set.
    pub fn in_set(key: impl Into<Vec<Field>>, set: impl Into<String>) -> Match {
        Match::lookup(key.into(), set.into(), false)
    }

    /// The key is not in the set.
    pub fn not_in_set(key: impl Into<Vec<Field>>, set: impl Into<String>) -> Match {
        Match::lookup(key.into(), set.into(), true)
    }

    fn lookup(key: Vec<Field>, set: String, inverted: bool) -> Match {
        let mut exprs = Vec::new();
        Match(load_all(&key, 0, &mut exprs).map(|_| {
            exprs.push(Expr::Lookup { set, sreg: Reg(0), inverted });
            exprs
        }))
    }

    fn test(fault: Option<String>, field: Field, test: impl FnOnce(Reg) -> Expr) -> Match {
        if let Some(fault) = fault {
            return Match(Err(fault));
        }
        let mut exprs = Vec::new();
        Match(field.load(0, &mut exprs).map(|_| {
            exprs.push(test(Reg(0)));
            exprs
        }))
    }
}
