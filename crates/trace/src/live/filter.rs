//! Which frames a probe's captures take at all: a classic BPF program (linux/filter.h), so that on a busy node the kernel
//! passes over what others send.

use super::Mark;
use crate::capture::Instruction;
use crate::journey::Transport;

/// The length in bytes of an Ethernet header, of UDP's, and of VXLAN's (RFC 7348, section 5).
const ETHERNET: u32 = 14;
const UDP: u32 = 8;
const VXLAN: u32 = 8;
/// The length in bytes of an IPv6 header (RFC 8200, section 3).
const IPV6: u32 = 40;
/// Fragment offset in an IPv4 header (RFC 791, section 3.1).
const FRAGMENT: u32 = 0x1fff;
/// How much of a frame is kept, in bytes: the headers of a datagram in VXLAN over IPv6, and the mark's text.
pub(super) const KEPT: u32 = 256;

// IANA protocol numbers, and what begins an IP header
const PROTOCOLS: [u32; 2] = [4, 41];
const TCP_NUMBER: u32 = 6;
const UDP_NUMBER: u32 = 17;
const ICMP_NUMBERS: [u32; 2] = [1, 58];

/// A program that takes a probe's own frames, plain or in one tunnel: by the mark, which is the sequence number of a TCP
/// segment and the identifier and sequence number of an echo request; or by the sender's `port`, for a datagram.
/// [`sightings`](super::sightings()) then judges them more closely.
pub fn filter(transport: Transport, mark: Mark, port: u16, vxlan_port: u16) -> Vec<Instruction> {
    let mut program = Program::default();
    program.add(libc::BPF_LDX | libc::BPF_IMM, ETHERNET);
    let inner = program.label();
    ip(&mut program, transport, mark, port, Some((inner, vxlan_port)));
    program.here(inner);
    ip(&mut program, transport, mark, port, None);
    program.finish()
}

/// An IP packet that begins at the index register. `tunnel` is where to go on with the one in it, and the port of VXLAN.
fn ip(program: &mut Program, wanted: Transport, mark: Mark, port: u16, tunnel: Option<(Label, u16)>) {
    let (v6, transport) = (program.label(), program.label());
    program.load(libc::BPF_B, 0);
    program.add(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4);
    program.jump_if(libc::BPF_JEQ, 6, v6);
    program.unless(4, REJECT);
    program.load(libc::BPF_H, 6);
    program.jump_if(libc::BPF_JSET, FRAGMENT, REJECT);
    program.load(libc::BPF_B, 9);
    program.add(libc::BPF_ST, 0);
    program.load(libc::BPF_B, 0);
    program.add(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xf);
    program.add(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 2);
    program.add(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0);
    program.add(libc::BPF_MISC | libc::BPF_TAX, 0);
    program.goto(transport);
    program.here(v6);
    program.load(libc::BPF_B, 6);
    program.add(libc::BPF_ST, 0);
    program.forward(IPV6);
    program.here(transport);
    program.add(libc::BPF_LD | libc::BPF_MEM, 0);
    if let Some((inner, _)) = tunnel {
        PROTOCOLS.iter().for_each(|number| program.jump_if(libc::BPF_JEQ, *number, inner));
    }
    let udp = program.label();
    program.jump_if(libc::BPF_JEQ, UDP_NUMBER, udp);
    own(program, wanted, mark);
    program.here(udp);
    program.load(libc::BPF_H, 0);
    if wanted == Transport::Udp {
        program.jump_if(libc::BPF_JEQ, u32::from(port), ACCEPT);
    }
    program.load(libc::BPF_H, 2);
    if wanted == Transport::Udp {
        program.jump_if(libc::BPF_JEQ, u32::from(port), ACCEPT);
    }
    match tunnel {
        Some((inner, vxlan_port)) => {
            program.unless(u32::from(vxlan_port), REJECT);
            program.forward(UDP + VXLAN + ETHERNET);
            program.goto(inner);
        }
        None => program.goto(REJECT),
    }
}

/// Anything but a datagram: its protocol is in the accumulator.
fn own(program: &mut Program, wanted: Transport, mark: Mark) {
    let header = program.label();
    match wanted {
        Transport::Tcp => program.jump_if(libc::BPF_JEQ, TCP_NUMBER, header),
        Transport::Icmp => {
            ICMP_NUMBERS.iter().for_each(|number| program.jump_if(libc::BPF_JEQ, *number, header));
        }
        Transport::Udp => {}
    }
    program.goto(REJECT);
    program.here(header);
    // The sequence number; or an echo request's identifier and sequence number, and its reply's.
    program.load(libc::BPF_W, 4);
    program.jump_if(libc::BPF_JEQ, mark.0, ACCEPT);
    if wanted == Transport::Tcp {
        program.load(libc::BPF_W, 8);
        program.jump_if(libc::BPF_JEQ, mark.0.wrapping_add(1), ACCEPT);
    }
    program.goto(REJECT);
}

/// A place in a program that jumps lead forward to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

const ACCEPT: Label = Label(0);
const REJECT: Label = Label(1);

/// Where a conditional jump goes.
#[derive(Debug, Clone, Copy)]
enum Jump {
    Next,
    To(Label),
}

/// A program in the making.
#[derive(Debug, Default)]
struct Program {
    code: Vec<(u32, Jump, Jump, u32)>,
    /// Where the labels are; the first two are at the end.
    places: Vec<usize>,
}

impl Program {
    fn add(&mut self, code: u32, operand: u32) {
        self.code.push((code, Jump::Next, Jump::Next, operand));
    }

    /// Loads a byte, half word or word that is so many bytes past the index register.
    fn load(&mut self, size: u32, offset: u32) {
        self.add(libc::BPF_LD | size | libc::BPF_IND, offset);
    }

    /// Moves the index register.
    fn forward(&mut self, bytes: u32) {
        self.add(libc::BPF_MISC | libc::BPF_TXA, 0);
        self.add(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, bytes);
        self.add(libc::BPF_MISC | libc::BPF_TAX, 0);
    }

    fn jump_if(&mut self, test: u32, operand: u32, to: Label) {
        self.code.push((libc::BPF_JMP | test | libc::BPF_K, Jump::To(to), Jump::Next, operand));
    }

    fn unless(&mut self, equal: u32, to: Label) {
        self.code.push((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, Jump::Next, Jump::To(to), equal));
    }

    fn goto(&mut self, to: Label) {
        self.code.push((libc::BPF_JMP | libc::BPF_JA, Jump::To(to), Jump::Next, 0));
    }

    fn label(&mut self) -> Label {
        self.places.push(0);
        Label(self.places.len() + 1)
    }

    fn here(&mut self, label: Label) {
        let at = self.code.len();
        if let Some(place) = label.0.checked_sub(2).and_then(|index| self.places.get_mut(index)) {
            *place = at;
        }
    }

    fn finish(mut self) -> Vec<Instruction> {
        let accept = self.code.len();
        self.add(libc::BPF_RET | libc::BPF_K, KEPT);
        self.add(libc::BPF_RET | libc::BPF_K, 0);
        let place = |label: Label| match label {
            ACCEPT => accept,
            REJECT => accept + 1,
            Label(number) => self.places.get(number - 2).copied().unwrap_or(accept + 1),
        };
        // Jumps lead forward by less than 256 instructions, as the program is shorter than that.
        let over = |at: usize, jump: Jump| match jump {
            Jump::Next => 0,
            Jump::To(label) => place(label) - at - 1,
        };
        let instruction = |(at, (code, yes, no, operand)): (usize, &(u32, Jump, Jump, u32))| {
            let always = *code == libc::BPF_JMP | libc::BPF_JA;
            let (yes, no) = (over(at, *yes), over(at, *no));
            match always {
                true => (*code as u16, 0, 0, yes as u32),
                false => (*code as u16, yes as u8, no as u8, *operand),
            }
        };
        self.code.iter().enumerate().map(instruction).collect()
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
