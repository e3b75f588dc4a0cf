//! A kernel that will not have the fast path, whatever it is that it refuses: packets take the kernel's own path, and the
//! agent is told why.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io;

use common::fast::{Node, Nodes, exchange, network};
use model::{Family, Sending, When};
use plan::Input;

const MODE: Sending = Sending::Vxlan(When::Always);

/// Commands of bpf(2) (linux/bpf.h), and what refusing each is like.
const COMMANDS: [(u32, &str); 4] = [
    (0, "maps of a kind that there is not"),
    (2, "elements for which there is no room"),
    (5, "programs that the verifier rejects"),
    (28, "a kernel before 6.6, which has no TCX"),
];

/// Has the kernel refuse one command of bpf(2) to the calling thread from now on (seccomp(2)).
fn refuse(command: u32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // Goes on with what follows, or beyond so many.
    let only_if = |k: u32, beyond: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: beyond,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    // struct seccomp_data: the number of the call, and its first argument, of which the lower half says all.
    let lower_half = if cfg!(target_endian = "little") { 16 } else { 20 };
    let mut filter = [
        statement(load, 0),
        only_if(libc::SYS_bpf as u32, 3),
        statement(load, lower_half),
        only_if(command, 1),
        statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32),
        statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the pointers are to values that live through the calls, which copy them.
    let done = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// Has the node's plan have the fast path, and says why there is none.
fn refused(node: &mut Node, command: u32) -> String {
    node.planner.update(Input::Network(network(MODE, true)));
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| {
            let _guard = node.test.enter();
            refuse(command);
            let report = node.kernel.reconcile(node.planner.entries()).unwrap();
            assert!(node.kernel.fast_path().is_none());
            report.fast_path.expect("it is there").to_string()
        });
        refused.join().unwrap()
    })
}

#[test]
fn packets_take_the_kernels_path_and_the_report_says_why() {
    let mut nodes = Nodes::new(MODE, false);
    let without = nodes.nodes[0].programs();
    for (command, what) in COMMANDS {
        let error = refused(&mut nodes.nodes[0], command);
        println!("{what}: {error}");
        assert!(error.contains("fast path"), "{what}: {error}");
        nodes.nodes[0].until_programs(|programs| *programs == without);
        for family in Family::BOTH {
            for to in [(0, 1), (1, 0)] {
                let (client, server) = (nodes.socket((0, 0), family), nodes.server(to, family));
                exchange(&client, server.local_addr().unwrap(), &server, b"still");
            }
        }
        // What was in the way is gone, and nothing is left of the attempt.
        nodes.nodes[0].reconcile();
        assert!(nodes.nodes[0].kernel.fast_path().is_some(), "{what}");
        nodes.change(MODE, false);
        nodes.nodes[0].until_programs(|programs| *programs == without);
    }
}

#[test]
fn one_that_is_there_ends_if_it_can_no_longer_be_told_of_changes() {
    let mut nodes = Nodes::new(MODE, true);
    let node = &mut nodes.nodes[0];
    std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            let _guard = node.test.enter();
            refuse(2);
            assert!(node.kernel.doubt_flows().is_err());
        });
        told.join().unwrap();
    });
    assert!(node.kernel.fast_path().is_none());
    node.until_programs(|programs| programs.values().all(|[enter, leave]| enter + leave <= 2));
    for family in Family::BOTH {
        let (client, server) = (nodes.socket((0, 0), family), nodes.server((1, 0), family));
        exchange(&client, server.local_addr().unwrap(), &server, b"still");
    }
    nodes.nodes[0].reconcile();
    assert!(nodes.nodes[0].kernel.fast_path().is_some());
}
