//! A small typed nftables netlink encoder.
