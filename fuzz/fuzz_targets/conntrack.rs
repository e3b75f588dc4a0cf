//! What comes to somebody who listens to connection tracking.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for (_, tracked) in kernel::conntrack::decode(data) {
        let flow = tracked.flow;
        let family = |end: std::net::SocketAddr| end.is_ipv4();
        assert_eq!(family(flow.original.source), family(flow.original.destination));
        assert_eq!(family(flow.original.source), family(flow.reply.source));
        assert_eq!(family(flow.reply.source), family(flow.reply.destination));
    }
});
