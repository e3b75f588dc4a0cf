//! The capture: packets as a network interface sees them, decoded through their tunnels.
//!
//! [`decode`] is pure and takes any bytes. [`Capture`] is a packet socket (packet(7)) in the network namespace of
//! the thread that opens it, and [`PcapWriter`] writes what it sees for other programs to read.

mod decode;
mod display;
mod packet;
mod pcap;
mod recorder;
mod socket;

pub use decode::{Tunnels, decode, decode_ip};
pub use packet::{
    Arp, Encapsulation, Ethernet, Icmp, Ip, Network, Packet, Payload, Tcp, TcpFlags, Udp, Vxlan,
};
pub use pcap::PcapWriter;
pub use recorder::{Limits, Recorder, Recording};
pub use socket::{Capture, CaptureError, Captured, Direction, Instruction, Options, Stop};
