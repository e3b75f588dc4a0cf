//! What a set's key or a packet's field can hold: types, values, and keys made of several values.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::BitOr;

use crate::error::Error;

/// Byte order in which a type lies in a register, with nft's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    Host = 1,
    Big = 2,
}

/// The type of a field, after nft's data types, which name it in `nft list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    /// `ipv4_addr`, 4 bytes.
    Ipv4Addr,
    /// `ipv6_addr`, 16 bytes.
    Ipv6Addr,
    /// `ether_addr`, 6 bytes.
    EtherAddr,
    /// `ether_type`, 2 bytes, big-endian.
    EtherType,
    /// `nf_proto`: the netfilter family of a packet, 1 byte.
    NfProto,
    /// `inet_proto`: the transport protocol number, 1 byte.
    InetProto,
    /// `inet_service`: a port, 2 bytes, big-endian.
    InetService,
    /// `icmp_type`, 1 byte.
    IcmpType,
    /// `icmpv6_type`, 1 byte.
    Icmpv6Type,
    /// `arp_op`, 2 bytes, big-endian.
    ArpOp,
    /// `tcp_flag`, 1 byte.
    TcpFlag,
    /// `mark`: a packet or connection mark, 4 bytes, host byte order.
    Mark,
    /// `iface_index`, 4 bytes, host byte order.
    IfaceIndex,
    /// `ifname`: an interface name, 16 bytes, filled up with NUL.
    Ifname,
    /// `ct_state`, 4 bytes, host byte order.
    CtState,
    /// `ct_status`, 4 bytes, host byte order.
    CtStatus,
    /// `ct_dir`, 1 byte.
    CtDir,
    /// `fib_addrtype`, 4 bytes, host byte order.
    FibAddrType,
    /// The result of `numgen`, `jhash` or `symhash`: a number, 4 bytes, host byte order. nft has no name for it, so
    /// a set with such a field is listed as `typeof … numgen random mod 65536`.
    Index,
    /// Bytes (at most 16) of a type that this crate does not know; only met when reading other people's sets.
    Raw(u8),
}

impl Type {
    /// The number of bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Type::Ipv6Addr | Type::Ifname => 16,
            Type::EtherAddr => 6,
            Type::Ipv4Addr
            | Type::Mark
            | Type::IfaceIndex
            | Type::CtState
            | Type::CtStatus
            | Type::FibAddrType
            | Type::Index => 4,
            Type::EtherType | Type::InetService | Type::ArpOp => 2,
            Type::NfProto
            | Type::InetProto
            | Type::IcmpType
            | Type::Icmpv6Type
            | Type::TcpFlag
            | Type::CtDir => 1,
            Type::Raw(size) => usize::from(size.min(16)),
        }
    }

    /// nft's number for the type (`enum datatypes` in nftables' `datatype.h`).
    pub(crate) fn number(self) -> u32 {
        match self {
            Type::Raw(_) => 0,
            Type::NfProto => 2,
            Type::Index => 4,
            Type::Ipv4Addr => 7,
            Type::Ipv6Addr => 8,
            Type::EtherAddr => 9,
            Type::EtherType => 10,
            Type::ArpOp => 11,
            Type::InetProto => 12,
            Type::InetService => 13,
            Type::IcmpType => 14,
            Type::TcpFlag => 15,
            Type::Mark => 19,
            Type::IfaceIndex => 20,
            Type::CtState => 26,
            Type::CtDir => 27,
            Type::CtStatus => 28,
            Type::Icmpv6Type => 29,
            Type::FibAddrType => 38,
            Type::Ifname => 41,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Type> {
        Some(match number {
            2 => Type::NfProto,
            4 => Type::Index,
            7 => Type::Ipv4Addr,
            8 => Type::Ipv6Addr,
            9 => Type::EtherAddr,
            10 => Type::EtherType,
            11 => Type::ArpOp,
            12 => Type::InetProto,
            13 => Type::InetService,
            14 => Type::IcmpType,
            15 => Type::TcpFlag,
            19 => Type::Mark,
            20 => Type::IfaceIndex,
            26 => Type::CtState,
            27 => Type::CtDir,
            28 => Type::CtStatus,
            29 => Type::Icmpv6Type,
            38 => Type::FibAddrType,
            41 => Type::Ifname,
            _ => return None,
        })
    }

    pub(crate) fn byte_order_is_host(self) -> bool {
        self.byte_order() == ByteOrder::Host
    }

    pub(crate) fn byte_order(self) -> ByteOrder {
        match self {
            Type::Mark
            | Type::IfaceIndex
            | Type::CtState
            | Type::CtStatus
            | Type::FibAddrType
            | Type::Index
            | Type::Ifname => ByteOrder::Host,
            _ => ByteOrder::Big,
        }
    }
}

/// Bytes that a field takes in a concatenation: each starts on a 32-bit register.
pub(crate) fn padded(size: usize) -> usize {
    size.next_multiple_of(4)
}

/// Bytes of a key: a lone field has its own size, concatenated fields are padded to 4 bytes each.
pub(crate) fn key_size(types: &[Type]) -> usize {
    match types {
        [one] => one.size(),
        many => many.iter().map(|ty| padded(ty.size())).sum(),
    }
}

/// One value, in the byte order of its [`Type`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    ty: Type,
    bytes: [u8; 16],
}

impl Value {
    /// A port or service number.
    pub const fn port(port: u16) -> Value {
        Value::from_array(Type::InetService, port.to_be_bytes())
    }

    /// A transport protocol number, such as 6 for TCP.
    pub const fn proto(number: u8) -> Value {
        Value::from_array(Type::InetProto, [number])
    }

    /// A packet or connection mark.
    pub const fn mark(mark: u32) -> Value {
        Value::from_array(Type::Mark, mark.to_ne_bytes())
    }

    /// A position, as computed by `numgen` or a hash.
    pub const fn index(index: u32) -> Value {
        Value::from_array(Type::Index, index.to_ne_bytes())
    }

    /// An interface index.
    pub const fn iface_index(index: u32) -> Value {
        Value::from_array(Type::IfaceIndex, index.to_ne_bytes())
    }

    /// A MAC address.
    pub const fn ether(address: [u8; 6]) -> Value {
        Value::from_array(Type::EtherAddr, address)
    }

    /// An Ethernet protocol number, such as 0x0800.
    pub const fn ether_type(number: u16) -> Value {
        Value::from_array(Type::EtherType, number.to_be_bytes())
    }

    /// An interface name.
    ///
    /// # Errors
    /// If the name is empty, longer than 15 bytes, or holds a NUL (`IFNAMSIZ`, `linux/if.h`).
    pub fn ifname(name: &str) -> Result<Value, Error> {
        if name.is_empty() || name.len() > 15 || name.contains('\0') {
            let reason = "not an interface name: it must have 1 to 15 bytes";
            return Err(Error::invalid(format!("interface {name:?}"), reason));
        }
        let mut bytes = [0; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Value { ty: Type::Ifname, bytes })
    }

    /// A value from the bytes of its type, as they lie in a register. Missing bytes are zero, excess is dropped.
    pub fn from_bytes(ty: Type, from: &[u8]) -> Value {
        let mut bytes = [0; 16];
        let len = from.len().min(ty.size());
        bytes[..len].copy_from_slice(&from[..len]);
        Value { ty, bytes }
    }

    pub(crate) const fn from_array<const N: usize>(ty: Type, from: [u8; N]) -> Value {
        let mut bytes = [0; 16];
        let mut i = 0;
        while i < N {
            bytes[i] = from[i];
            i += 1;
        }
        Value { ty, bytes }
    }

    /// The type.
    pub fn ty(&self) -> Type {
        self.ty
    }

    /// The bytes as they lie in a register; as many as [`Type::size`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.ty.size()]
    }

    /// The address, if this is an IP address.
    pub fn as_ip(&self) -> Option<IpAddr> {
        match self.ty {
            Type::Ipv4Addr => {
                let [a, b, c, d, ..] = self.bytes;
                Some(Ipv4Addr::new(a, b, c, d).into())
            }
            Type::Ipv6Addr => Some(Ipv6Addr::from(self.bytes).into()),
            _ => None,
        }
    }

    /// The number, if this is one (not an address, a name or bytes of unknown type).
    pub fn as_u32(&self) -> Option<u32> {
        let [a, b, c, d, ..] = self.bytes;
        match (self.ty, self.ty.size(), self.ty.byte_order()) {
            (Type::Ipv4Addr | Type::Raw(_), ..) => None,
            (_, 1, _) => Some(u32::from(a)),
            (_, 2, _) => Some(u32::from(u16::from_be_bytes([a, b]))),
            (_, 4, ByteOrder::Host) => Some(u32::from_ne_bytes([a, b, c, d])),
            _ => None,
        }
    }
}

impl From<Ipv4Addr> for Value {
    fn from(address: Ipv4Addr) -> Value {
        Value::from_array(Type::Ipv4Addr, address.octets())
    }
}

impl From<Ipv6Addr> for Value {
    fn from(address: Ipv6Addr) -> Value {
        Value::from_array(Type::Ipv6Addr, address.octets())
    }
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Value {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

/// Unites the bits of two values of one type, such as `ct::ESTABLISHED | ct::RELATED`.
///
/// Of two types comes a value of no type, which a rule refuses.
impl BitOr for Value {
    type Output = Value;

    fn bitor(self, other: Value) -> Value {
        let mut bytes = self.bytes;
        bytes.iter_mut().zip(other.bytes).for_each(|(a, b)| *a |= b);
        Value { ty: if self.ty == other.ty { self.ty } else { Type::Raw(0) }, bytes }
    }
}

/// As `nft list` writes it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.as_ip() {
            return address.fmt(f);
        }
        match (self.ty, self.as_u32()) {
            (Type::InetProto, Some(6)) => f.write_str("tcp"),
            (Type::InetProto, Some(17)) => f.write_str("udp"),
            (Type::InetProto, Some(132)) => f.write_str("sctp"),
            (Type::Mark, Some(mark)) => write!(f, "{mark:#010x}"),
            (Type::EtherType, Some(number)) => write!(f, "{number:#06x}"),
            (_, Some(number)) => number.fmt(f),
            (Type::Ifname, None) => {
                let end = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(16);
                write!(f, "\"{}\"", String::from_utf8_lossy(&self.bytes[..end]))
            }
            (Type::EtherAddr, None) => {
                let [a, b, c, d, e, g, ..] = self.bytes;
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            (_, None) => {
                f.write_str("0x")?;
                self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.ty)
    }
}

/// The key of a set's element, or the value that a map holds for one: one value, or several concatenated.
///
/// Kept as the kernel keeps it, so that elements asked for and elements found compare directly.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub(crate) Box<[u8]>);

impl Key {
    /// A key of one or more values. A lone value is stored as it is, several are padded to 4 bytes each.
    pub fn new(values: impl AsRef<[Value]>) -> Key {
        let values = values.as_ref();
        if let [one] = values {
            return Key(one.as_bytes().into());
        }
        let mut bytes = Vec::with_capacity(values.iter().map(|value| padded(value.as_bytes().len())).sum());
        for value in values {
            bytes.extend_from_slice(value.as_bytes());
            bytes.resize(padded(bytes.len()), 0);
        }
        Key(bytes.into())
    }

    /// The bytes as they lie in the kernel's registers.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The values, if the key has the size that `types` (a set's declared fields) ask for.
    pub fn values(&self, types: &[Type]) -> Option<Vec<Value>> {
        if self.0.len() != key_size(types) {
            return None;
        }
        let mut rest = &self.0[..];
        let mut values = Vec::with_capacity(types.len());
        for &ty in types {
            values.push(Value::from_bytes(ty, rest));
            rest = rest.get(padded(ty.size())..).unwrap_or(&[]);
        }
        Some(values)
    }

    /// The key as `nft list` writes it, for a set with these fields; hexadecimal if it does not fit them.
    pub fn display(&self, types: &[Type]) -> String {
        match self.values(types) {
            Some(values) => values.iter().map(Value::to_string).collect::<Vec<_>>().join(" . "),
            None => format!("{self:?}"),
        }
    }

    /// The key after this one in byte order; `None` after the last.
    pub(crate) fn successor(&self) -> Option<Key> {
        let mut bytes = self.0.clone();
        for byte in bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Some(Key(bytes));
            }
        }
        None
    }

    /// The key before this one in byte order; `None` before the first.
    pub(crate) fn predecessor(&self) -> Option<Key> {
        let mut bytes = self.0.clone();
        for byte in bytes.iter_mut().rev() {
            *byte = byte.wrapping_sub(1);
            if *byte != 0xff {
                return Some(Key(bytes));
            }
        }
        None
    }
}

impl<V: Into<Value>> From<V> for Key {
    fn from(value: V) -> Key {
        Key::new([value.into()])
    }
}

impl<const N: usize> From<[Value; N]> for Key {
    fn from(values: [Value; N]) -> Key {
        Key::new(values)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_values_are_padded_and_lone_ones_are_not() {
        let v4: Value = Ipv4Addr::new(10, 0, 0, 1).into();
        let key = Key::new([v4, Value::proto(6), Value::port(80)]);
        assert_eq!(key.as_bytes(), [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(Key::from(Value::port(80)).as_bytes(), [0, 80]);
        let types = [Type::Ipv4Addr, Type::InetProto, Type::InetService];
        assert_eq!(key.values(&types).unwrap(), [v4, Value::proto(6), Value::port(80)]);
        assert_eq!(key.display(&types), "10.0.0.1 . tcp . 80");
        assert_eq!(key.values(&[Type::Ipv6Addr]), None);
        assert_eq!(key.display(&[Type::Ipv6Addr]), "0x0a0000010600000000500000");
    }

    #[test]
    fn values_read_back_in_both_families() {
        for ip in ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()] {
            let value = Value::from(ip);
            assert_eq!(value.as_ip(), Some(ip));
            assert_eq!(value.as_u32(), None);
            assert_eq!(value.to_string(), ip.to_string());
        }
        assert_eq!(Value::port(0x1234).as_u32(), Some(0x1234));
        assert_eq!(Value::mark(0xdead_beef).as_u32(), Some(0xdead_beef));
        assert_eq!(Value::mark(1).to_string(), "0x00000001");
        assert_eq!(Value::ifname("cbv1").unwrap().to_string(), "\"cbv1\"");
        assert!(Value::ifname("a-name-too-long-").is_err());
        assert!(Value::ifname("").is_err());
    }

    #[test]
    fn neighbours_of_a_key_stop_at_the_ends() {
        let key = |bytes: &[u8]| Key(bytes.into());
        assert_eq!(key(&[0, 255]).successor(), Some(key(&[1, 0])));
        assert_eq!(key(&[255, 255]).successor(), None);
        assert_eq!(key(&[1, 0]).predecessor(), Some(key(&[0, 255])));
        assert_eq!(key(&[0, 0]).predecessor(), None);
    }

    #[test]
    fn type_numbers_read_back() {
        for number in 1..64 {
            if let Some(ty) = Type::from_number(number) {
                assert_eq!(ty.number(), number);
            }
        }
    }
}
