//! The numbers of the protocol (linux/netfilter/nfnetlink_conntrack.h).

// Types of messages (`enum cntl_msg_types`).
pub(super) const NEW: u8 = 0;
pub(super) const GET: u8 = 1;
pub(super) const DELETE: u8 = 2;
// `enum ctattr_type`
pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
pub(super) const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_COUNTERS_ORIG: u16 = 9;
pub(super) const CTA_COUNTERS_REPLY: u16 = 10;
pub(super) const CTA_ID: u16 = 12;
pub(super) const CTA_ZONE: u16 = 18;
pub(super) const CTA_TIMESTAMP: u16 = 20;
pub(super) const CTA_FILTER: u16 = 25;
// `enum ctattr_tuple`
pub(super) const CTA_TUPLE_IP: u16 = 1;
pub(super) const CTA_TUPLE_PROTO: u16 = 2;
pub(super) const CTA_TUPLE_ZONE: u16 = 3;
// `enum ctattr_ip`
pub(super) const CTA_IP_V4_SRC: u16 = 1;
pub(super) const CTA_IP_V4_DST: u16 = 2;
pub(super) const CTA_IP_V6_SRC: u16 = 3;
pub(super) const CTA_IP_V6_DST: u16 = 4;
// `enum ctattr_l4proto`
pub(super) const CTA_PROTO_NUM: u16 = 1;
pub(super) const CTA_PROTO_SRC_PORT: u16 = 2;
pub(super) const CTA_PROTO_DST_PORT: u16 = 3;
// `enum ctattr_protoinfo`, and `enum ctattr_protoinfo_tcp` and `_sctp`, where the state has the same number
pub(super) const CTA_PROTOINFO_TCP: u16 = 1;
pub(super) const CTA_PROTOINFO_SCTP: u16 = 3;
pub(super) const CTA_PROTOINFO_STATE: u16 = 1;
// `enum ctattr_counters`
pub(super) const CTA_COUNTERS_PACKETS: u16 = 1;
pub(super) const CTA_COUNTERS_BYTES: u16 = 2;
// `enum ctattr_tstamp`
pub(super) const CTA_TIMESTAMP_START: u16 = 1;
// `enum ctattr_filter`, and the flag for the transport protocol (net/netfilter/nf_internals.h)
pub(super) const CTA_FILTER_ORIG_FLAGS: u16 = 1;
pub(super) const FILTER_PROTOCOL: u32 = 1 << 3;

/// Length of `struct nfgenmsg` in bytes (linux/netfilter/nfnetlink.h).
pub(super) const GENERIC: usize = 4;
