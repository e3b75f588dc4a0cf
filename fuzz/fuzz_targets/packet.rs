//! Captured packets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trace::capture::{Tunnels, decode, decode_ip};

fuzz_target!(|data: &[u8]| {
    let tunnels = Tunnels::default();
    let _ = decode(data, &tunnels).to_string();
    let _ = decode_ip(data, &tunnels).to_string();
});
