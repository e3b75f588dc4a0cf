use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;

use super::*;

const MARK: Mark = Mark(0xdead_beef);
const PORT: u16 = 12_345;
const VXLAN_PORT: u16 = 4789;

/// Runs a program as the kernel does (Documentation/networking/filter.rst); how many bytes of the frame it keeps.
fn run(program: &[Instruction], frame: &[u8]) -> u32 {
    let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, 0_u32, 0);
    loop {
        let (code, yes, no, k) = program[at];
        let code = u32::from(code);
        at += 1;
        let indirect = |size: usize| {
            let from = (x + k) as usize;
            frame
                .get(from..from + size)
                .map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
        };
        // A load past the end drops the frame.
        macro_rules! load {
            ($size:literal) => {
                match indirect($size) {
                    Some(value) => a = value,
                    None => return 0,
                }
            };
        }
        match code {
            c if c == libc::BPF_LDX | libc::BPF_IMM => x = k,
            c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_IND => load!(4),
            c if c == libc::BPF_LD | libc::BPF_H | libc::BPF_IND => load!(2),
            c if c == libc::BPF_LD | libc::BPF_B | libc::BPF_IND => load!(1),
            c if c == libc::BPF_LD | libc::BPF_MEM => a = memory,
            c if c == libc::BPF_ST => memory = a,
            c if c == libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K => a >>= k,
            c if c == libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K => a <<= k,
            c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => a &= k,
            c if c == libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K => a += k,
            c if c == libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X => a += x,
            c if c == libc::BPF_MISC | libc::BPF_TAX => x = a,
            c if c == libc::BPF_MISC | libc::BPF_TXA => a = x,
            c if c == libc::BPF_JMP | libc::BPF_JA => at += k as usize,
            c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                at += usize::from(if a == k { yes } else { no });
            }
            c if c == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => {
                at += usize::from(if a & k != 0 { yes } else { no });
            }
            c if c == libc::BPF_RET | libc::BPF_K => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn ip(v6: bool) -> PacketBuilderStep {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    match v6 {
        false => ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
        true => ethernet.ipv6(Ipv6Addr::LOCALHOST.octets(), Ipv6Addr::UNSPECIFIED.octets(), 64),
    }
}

type PacketBuilderStep = etherparse::PacketBuilderStep<etherparse::IpHeaders>;

fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

fn tcp(v6: bool, sequence: u32) -> Vec<u8> {
    bytes(|out| ip(v6).tcp(40_000, 80, sequence, 100).syn().write(out, &[]).unwrap())
}

fn udp(v6: bool, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    bytes(|out| ip(v6).udp(from, to).write(out, payload).unwrap())
}

fn in_vxlan(v6: bool, frame: &[u8]) -> Vec<u8> {
    let payload = [&[8, 0, 0, 0, 0, 0x10, 0, 0], frame].concat();
    udp(v6, 50_000, VXLAN_PORT, &payload)
}

fn in_ip(v6: bool, frame: &[u8], number: u8) -> Vec<u8> {
    bytes(|out| {
        let (from, to): (IpAddr, IpAddr) = match v6 {
            false => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
            true => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        };
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let step = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            _ => unreachable!("both are of one family"),
        };
        step.write(out, number.into(), &frame[14..]).unwrap();
    })
}

fn takes(transport: Transport, frame: &[u8]) -> bool {
    run(&filter(transport, MARK, PORT, VXLAN_PORT), frame) == KEPT
}

/// A packet as it is on a node: plain, in VXLAN, and in IP, over both families.
fn carried(v6: bool, frame: &[u8]) -> Vec<Vec<u8>> {
    let number = if v6 { 41 } else { 4 };
    let mut all = vec![frame.to_vec()];
    for outer in [false, true] {
        all.push(in_vxlan(outer, frame));
        all.push(in_ip(outer, frame, number));
    }
    all
}

#[test]
fn a_probes_own_packets_are_taken_however_they_are_carried() {
    for v6 in [false, true] {
        let answer =
            bytes(|out| ip(v6).tcp(80, 40_000, 7, 100).syn().ack(MARK.0 + 1).write(out, &[]).unwrap());
        for (transport, frame) in [
            (Transport::Tcp, tcp(v6, MARK.0)),
            (Transport::Tcp, answer),
            (Transport::Udp, udp(v6, PORT, 53, b"x")),
            (Transport::Udp, udp(v6, 53, PORT, b"x")),
        ] {
            for frame in carried(v6, &frame) {
                assert!(takes(transport, &frame), "{transport:?} {v6} {frame:02x?}");
            }
        }
    }
    let (id, sequence) = ((MARK.0 >> 16) as u16, MARK.0 as u16);
    let echo = bytes(|out| ip(false).icmpv4_echo_request(id, sequence).write(out, b"x").unwrap());
    let echo6 = bytes(|out| ip(true).icmpv6_echo_reply(id, sequence).write(out, b"x").unwrap());
    for frame in carried(false, &echo).into_iter().chain(carried(true, &echo6)) {
        assert!(takes(Transport::Icmp, &frame), "{frame:02x?}");
    }
}

#[test]
fn packets_of_others_are_not_taken() {
    for v6 in [false, true] {
        for (transport, frame) in [
            (Transport::Tcp, tcp(v6, MARK.0 + 2)),
            (Transport::Tcp, udp(v6, PORT, 53, b"x")),
            (Transport::Udp, udp(v6, 40_000, 53, b"x")),
            (Transport::Udp, tcp(v6, MARK.0)),
            (Transport::Icmp, tcp(v6, MARK.0)),
        ] {
            for frame in carried(v6, &frame) {
                assert!(!takes(transport, &frame), "{transport:?} {v6} {frame:02x?}");
            }
        }
        // What is in two tunnels is none of ours.
        assert!(!takes(Transport::Tcp, &in_vxlan(v6, &in_vxlan(v6, &tcp(v6, MARK.0)))));
    }
    let arp =
        [[0xff; 6], [2; 6]].concat().into_iter().chain([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]).collect::<Vec<u8>>();
    assert!(!takes(Transport::Tcp, &arp));
    let whole = tcp(false, MARK.0);
    for length in 0..whole.len() - 14 {
        let cut = &whole[..length];
        assert!(!takes(Transport::Udp, cut), "{length}");
    }
}
