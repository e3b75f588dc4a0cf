//! Netlink framing: messages and nested type-length-value attributes, written and read.

use crate::error::Error;
use crate::uapi::*;

/// Appends netlink messages and attributes to a buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) buf: Vec<u8>,
}

impl Writer {
    /// Starts a message of the nf_tables subsystem; [`Writer::end_message`] fills in its length.
    ///
    /// The sequence number stays 0 until the batch or request is sent.
    pub(crate) fn begin_message(&mut self, message: u8, flags: u16, family: u8) -> usize {
        self.begin_raw_message(NFNL_SUBSYS_NFTABLES << 8 | u16::from(message), flags, family, 0)
    }

    /// Starts a message with its full type and the `res_id` of its `nfgenmsg` (host byte order).
    pub(crate) fn begin_raw_message(&mut self, ty: u16, flags: u16, family: u8, res_id: u16) -> usize {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&ty.to_ne_bytes());
        self.buf.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.buf.extend_from_slice(&[0; 8]);
        self.buf.extend_from_slice(&[family, 0]);
        self.buf.extend_from_slice(&res_id.to_be_bytes());
        start
    }

    pub(crate) fn end_message(&mut self, start: usize) {
        let len = (self.buf.len() - start) as u32;
        self.buf[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    pub(crate) fn put(&mut self, ty: u16, value: &[u8]) {
        self.buf.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.buf.extend_from_slice(&ty.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    /// A 32-bit number, big-endian as everywhere in nf_tables.
    pub(crate) fn put_u32(&mut self, ty: u16, value: u32) {
        self.put(ty, &value.to_be_bytes());
    }

    pub(crate) fn put_u64(&mut self, ty: u16, value: u64) {
        self.put(ty, &value.to_be_bytes());
    }

    /// A NUL-terminated string.
    pub(crate) fn put_str(&mut self, ty: u16, value: &str) {
        self.buf.extend_from_slice(&((5 + value.len()) as u16).to_ne_bytes());
        self.buf.extend_from_slice(&ty.to_ne_bytes());
        self.buf.extend_from_slice(value.as_bytes());
        self.buf.push(0);
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    pub(crate) fn nest(&mut self, ty: u16, content: impl FnOnce(&mut Writer)) {
        let start = self.begin_nest(ty);
        content(self);
        self.end_nest(start);
    }

    pub(crate) fn begin_nest(&mut self, ty: u16) -> usize {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 2]);
        self.buf.extend_from_slice(&(ty | NLA_F_NESTED).to_ne_bytes());
        start
    }

    /// Fills in the length of a nested attribute. What is nested here is bounded below 64 KiB by construction:
    /// rules by the number of expressions, elements by chunking.
    pub(crate) fn end_nest(&mut self, start: usize) {
        let len = self.buf.len() - start;
        debug_assert!(len <= usize::from(u16::MAX), "nested attribute of {len} bytes");
        self.buf[start..start + 2].copy_from_slice(&(len as u16).to_ne_bytes());
    }
}

/// One netlink message, borrowed from a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) ty: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) port_id: u32,
    pub(crate) payload: &'a [u8],
    /// Where the message starts in the buffer.
    pub(crate) offset: usize,
}

impl<'a> Message<'a> {
    /// The nf_tables message number, if this is a message of that subsystem.
    pub(crate) fn nft_type(&self) -> Option<u8> {
        (self.ty >> 8 == NFNL_SUBSYS_NFTABLES).then_some(self.ty as u8)
    }

    /// The protocol family and the attributes after the `nfgenmsg` header.
    pub(crate) fn nfgen(&self) -> Result<(u8, &'a [u8]), Error> {
        match self.payload {
            [family, _, _, _, attrs @ ..] => Ok((*family, attrs)),
            _ => Err(Error::Malformed { what: "nfgenmsg header" }),
        }
    }
}

/// Iterates over the netlink messages of a datagram.
pub(crate) struct Messages<'a> {
    buf: &'a [u8],
    offset: usize,
}

impl<'a> Messages<'a> {
    pub(crate) fn new(buf: &'a [u8]) -> Self {
        Messages { buf, offset: 0 }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.buf.get(self.offset..).filter(|rest| !rest.is_empty())?;
        let len = read_u32_ne(rest).map_or(0, |len| len as usize);
        if len < NLMSG_HDRLEN || len > rest.len() {
            self.offset = self.buf.len();
            return Some(Err(Error::Malformed { what: "netlink message length" }));
        }
        let half = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let message = Message {
            ty: half(4),
            flags: half(6),
            seq: word(8),
            port_id: word(12),
            payload: &rest[NLMSG_HDRLEN..len],
            offset: self.offset,
        };
        self.offset += len.next_multiple_of(4);
        Some(Ok(message))
    }
}

/// Iterates over attributes as (type without flags, value).
pub(crate) struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    pub(crate) fn new(buf: &'a [u8]) -> Self {
        Attrs(buf)
    }

    /// Bytes not yet read.
    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<(u16, &'a [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let (len, ty) = match self.0 {
            [a, b, c, d, ..] => (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d])),
            _ => (0, 0),
        };
        if len < 4 || len > self.0.len() {
            self.0 = &[];
            return Some(Err(Error::Malformed { what: "attribute length" }));
        }
        let value = &self.0[4..len];
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok((ty & NLA_TYPE_MASK, value)))
    }
}

/// The attributes with types below `N`, by type; others are skipped.
pub(crate) fn table<const N: usize>(buf: &[u8]) -> Result<[Option<&[u8]>; N], Error> {
    let mut found = [None; N];
    for attr in Attrs::new(buf) {
        let (ty, value) = attr?;
        if let Some(slot) = found.get_mut(usize::from(ty)) {
            *slot = Some(value);
        }
    }
    Ok(found)
}

pub(crate) fn read_u32_ne(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

pub(crate) fn read_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*value.first_chunk()?))
}

pub(crate) fn read_u64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*value.first_chunk()?))
}

/// A string up to its NUL, or to its end.
pub(crate) fn read_str(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_to_four_bytes_and_read_back() {
        let mut w = Writer::default();
        w.put_str(1, "ab");
        w.nest(2, |w| {
            w.put_u32(1, 0x0102_0304);
            w.put(3, &[9, 9, 9, 9, 9]);
        });
        assert_eq!(
            w.buf,
            [
                7, 0, 1, 0, b'a', b'b', 0, 0, // string with NUL, one byte of padding
                24, 0, 2, 0x80, 8, 0, 1, 0, 1, 2, 3, 4, 9, 0, 3, 0, 9, 9, 9, 9, 9, 0, 0, 0
            ]
        );
        let [_, name, nested] = table::<3>(&w.buf).unwrap();
        assert_eq!(read_str(name.unwrap()), "ab");
        let inner: Vec<_> = Attrs::new(nested.unwrap()).map(Result::unwrap).collect();
        assert_eq!(inner, [(1, &[1, 2, 3, 4][..]), (3, &[9; 5][..])]);
    }

    #[test]
    fn a_message_has_its_length_type_and_family() {
        let mut w = Writer::default();
        let start = w.begin_message(NFT_MSG_NEWTABLE, NLM_F_CREATE, 2);
        w.put_str(NFTA_TABLE_NAME, "t");
        w.end_message(start);
        assert_eq!(w.buf.len(), 28);
        let message = Messages::new(&w.buf).next().unwrap().unwrap();
        assert_eq!(message.nft_type(), Some(NFT_MSG_NEWTABLE));
        assert_eq!(message.flags, NLM_F_REQUEST | NLM_F_CREATE);
        let (family, attrs) = message.nfgen().unwrap();
        assert_eq!((family, attrs.len()), (2, 8));
    }

    #[test]
    fn torn_input_is_an_error_and_ends() {
        assert!(Messages::new(&[200, 0, 0, 0, 0]).next().unwrap().is_err());
        assert!(Messages::new(&[1]).next().unwrap().is_err());
        let mut attrs = Attrs::new(&[9, 0, 1, 0, 0]);
        assert!(attrs.next().unwrap().is_err());
        assert!(attrs.next().is_none());
    }
}
