//! User data: TLVs that the kernel stores with an object and hands back unread. nft keeps comments and the names of
//! types in them.

use crate::attr::read_str;
use crate::comment::Comment;
use crate::uapi::*;
use crate::value::Type;

/// Builds a list of TLVs: one byte type, one byte length, value.
#[derive(Default)]
pub(crate) struct UserData(Vec<u8>);

impl UserData {
    pub(crate) fn put(&mut self, ty: u8, value: &[u8]) {
        debug_assert!(value.len() <= usize::from(u8::MAX), "user data of {} bytes", value.len());
        self.0.extend_from_slice(&[ty, value.len() as u8]);
        self.0.extend_from_slice(value);
    }

    /// A number, in host byte order.
    pub(crate) fn put_u32(&mut self, ty: u8, value: u32) {
        self.put(ty, &value.to_ne_bytes());
    }

    pub(crate) fn nest(&mut self, ty: u8, content: impl FnOnce(&mut UserData)) {
        let mut inner = UserData::default();
        content(&mut inner);
        self.put(ty, &inner.0);
    }

    /// A comment with its NUL.
    pub(crate) fn put_comment(&mut self, ty: u8, comment: Option<&Comment>) {
        if let Some(comment) = comment {
            let mut value = comment.as_bytes().to_vec();
            value.push(0);
            self.put(ty, &value);
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Finds a TLV.
pub(crate) fn find(mut data: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [ty, len, rest @ ..] = data {
        let value = rest.get(..usize::from(*len))?;
        if *ty == wanted {
            return Some(value);
        }
        data = &rest[usize::from(*len)..];
    }
    None
}

/// Finds a comment.
pub(crate) fn find_comment(data: Option<&[u8]>, ty: u8) -> Option<Comment> {
    find(data?, ty).map(|value| read_str(value).into())
}

/// The byte order of a key for nft: none (0) for a concatenation.
pub(crate) fn byte_order(types: &[Type]) -> u32 {
    match types {
        [one] => one.byte_order() as u32,
        _ => 0,
    }
}

/// Tells nft from which expressions the fields of a key come (`typeof`), where it has no name for a field's type.
/// `None` if one of the fields has no such expression here either; nft then lists numbers.
pub(crate) fn put_typeof(data: &mut UserData, ty: u8, types: &[Type]) -> bool {
    let Some(expressions) = types.iter().map(|&field| typeof_expression(field)).collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    data.nest(ty, |data| match &expressions[..] {
        [one] => data.0.extend_from_slice(one),
        many => {
            data.put_u32(NFTNL_UDATA_SET_TYPEOF_EXPR, EXPR_CONCAT);
            data.nest(NFTNL_UDATA_SET_TYPEOF_DATA, |data| {
                for (position, expression) in many.iter().enumerate() {
                    data.put(position as u8, expression);
                }
            });
        }
    });
    true
}

/// Tells nft that a map holds verdicts, which it wants to hear where the key is a `typeof`.
pub(crate) fn put_typeof_verdict(data: &mut UserData, ty: u8) {
    data.nest(ty, |data| {
        data.put_u32(NFTNL_UDATA_SET_TYPEOF_EXPR, EXPR_VERDICT);
        data.put(NFTNL_UDATA_SET_TYPEOF_DATA, &[]);
    });
}

// nftables' expression.h, proto.h and the user data of its expressions (seen in what nft 1.0.6 sends).
const EXPR_VERDICT: u32 = 1;
const EXPR_PAYLOAD: u32 = 7;
const EXPR_META: u32 = 9;
const EXPR_CONCAT: u32 = 13;
const EXPR_NUMGEN: u32 = 23;

/// Some expression of this type, as nft writes it into a set's user data.
fn typeof_expression(ty: Type) -> Option<Vec<u8>> {
    let (expression, numbers): (u32, &[u32]) = match ty {
        // Protocol description, field in it.
        Type::Ipv4Addr => (EXPR_PAYLOAD, &[12, 12]),   // ip daddr
        Type::Ipv6Addr => (EXPR_PAYLOAD, &[13, 9]),    // ip6 daddr
        Type::EtherAddr => (EXPR_PAYLOAD, &[17, 1]),   // ether daddr
        Type::InetService => (EXPR_PAYLOAD, &[11, 2]), // th dport
        // Meta key.
        Type::Mark => (EXPR_META, &[3]),
        Type::IfaceIndex => (EXPR_META, &[4]),
        Type::Ifname => (EXPR_META, &[6]),
        Type::NfProto => (EXPR_META, &[15]),
        Type::InetProto => (EXPR_META, &[16]),
        // Type (random), modulus, offset.
        Type::Index => (EXPR_NUMGEN, &[1, 65536, 0]),
        _ => return None,
    };
    let mut data = UserData::default();
    data.put_u32(NFTNL_UDATA_SET_TYPEOF_EXPR, expression);
    data.nest(NFTNL_UDATA_SET_TYPEOF_DATA, |data| {
        for (position, &number) in numbers.iter().enumerate() {
            data.put_u32(position as u8, number);
        }
    });
    Some(data.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_with_nul() {
        let mut data = UserData::default();
        data.put_comment(7, Some(&"ab".into()));
        data.put_comment(8, None);
        assert_eq!(data.into_bytes(), [7, 3, b'a', b'b', 0]);
    }

    #[test]
    fn a_tlv_is_found_behind_others_and_torn_data_is_nothing() {
        let data = [0, 2, b'x', 0, 0xcb, 1, 7];
        assert_eq!(find(&data, 0xcb), Some(&[7][..]));
        assert_eq!(find(&data, 5), None);
        assert_eq!(find(&data[..6], 0xcb), None);
        assert_eq!(find_comment(Some(&data), 0), Some("x".into()));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn typeof_is_what_nft_writes() {
        let mut data = UserData::default();
        assert!(put_typeof(&mut data, NFTNL_UDATA_SET_DATA_TYPEOF, &[Type::Ipv4Addr, Type::InetService]));
        #[rustfmt::skip]
        assert_eq!(data.into_bytes(), [
            4, 0x34, 0, 4, 13, 0, 0, 0, 1, 0x2c,
            0, 0x14, 0, 4, 7, 0, 0, 0, 1, 12, 0, 4, 12, 0, 0, 0, 1, 4, 12, 0, 0, 0,
            1, 0x14, 0, 4, 7, 0, 0, 0, 1, 12, 0, 4, 11, 0, 0, 0, 1, 4, 2, 0, 0, 0,
        ]);
        assert!(!put_typeof(&mut UserData::default(), 3, &[Type::CtDir]));
    }
}
