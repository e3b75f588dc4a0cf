//! Services as two maps: one verdict map to a chain per number of endpoints, one map to the endpoints; built whole,
//! listed, and with connections over loopback.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails them")]

mod common;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{in_namespace, listing, run};
use nft::*;

const TCP: Value = Value::proto(6);

struct Lab {
    family: Family,
    service: IpAddr,
    endpoints: [IpAddr; 3],
}

impl Lab {
    /// Gives the loopback interface the endpoints' addresses, and routes the service's address to it.
    fn new(family: Family) -> Lab {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        run("ip link set lo up");
        match family {
            Family::Ip6 => {
                let endpoints = [ip("fd00:244::1"), ip("fd00:244::2"), ip("fd00:244::3")];
                endpoints
                    .iter()
                    .for_each(|endpoint| drop(run(&format!("ip address add {endpoint}/128 dev lo"))));
                run("ip -6 route add fd00:96::/64 dev lo");
                Lab { family, service: ip("fd00:96::1"), endpoints }
            }
            _ => {
                let endpoints = [ip("10.244.0.1"), ip("10.244.0.2"), ip("10.244.0.3")];
                endpoints
                    .iter()
                    .for_each(|endpoint| drop(run(&format!("ip address add {endpoint}/32 dev lo"))));
                run("ip route add 10.96.0.0/16 dev lo");
                Lab { family, service: ip("10.96.0.1"), endpoints }
            }
        }
    }

    fn key(&self) -> Vec<Field> {
        vec![daddr(self.family), meta::l4proto(), th::dport()]
    }

    fn key_with(&self, index: Field) -> Vec<Field> {
        [self.key(), vec![index]].concat()
    }

    /// The rules, which do not depend on the services, and one service at three ports: 80 picks at random, 81 in turn,
    /// 82 by the client's address.
    fn install(&self, socket: &mut Socket) {
        let family = self.family;
        let address = if family == Family::Ip6 { Type::Ipv6Addr } else { Type::Ipv4Addr };
        let table = Table::new(family, "cambric");
        let key = [address, Type::InetProto, Type::InetService];
        let services = Set::verdict_map(&table, "services", key);
        let key = [address, Type::InetProto, Type::InetService, Type::Index];
        let backends = Set::map(&table, "backends", key, [address, Type::InetService]);
        let picks = [
            ("pick-3", numgen::random(3)),
            ("turn-3", numgen::incremental(3)),
            ("stay-3", hash::jhash(saddr(family), 3, 7)),
        ];
        let output = Chain::base(&table, "output", ChainType::Nat, Hook::Output, priority::DSTNAT);

        let mut batch = Batch::new();
        batch.add_table(&table);
        batch.add_set(&services);
        batch.add_set(&backends);
        batch.add_chain(&output);
        batch.add_rule(&Rule::new(&output).vmap(self.key(), "services"));
        for (port, (name, index)) in (80..).zip(picks) {
            let chain = Chain::new(&table, name);
            batch.add_chain(&chain);
            let nat = Nat::map_with_port(family, self.key_with(index), "backends");
            batch.add_rule(&Rule::new(&chain).counter().dnat(nat));
            let service = [Value::from(self.service), TCP, Value::port(port)];
            batch.add_elements(
                &services,
                [Element::new(service).data(Verdict::goto(name)).comment("default/web")],
            );
            batch.add_elements(
                &backends,
                (0..).zip(self.endpoints).map(|(index, endpoint)| {
                    let [address, proto, port] = service;
                    Element::new([address, proto, port, Value::index(index)])
                        .data([Value::from(endpoint), Value::port(8080)])
                }),
            );
        }
        socket.commit(batch).unwrap();
    }

    /// Opens connections to the service, and says at which endpoint each arrived.
    fn connect(&self, listeners: &[TcpListener], port: u16, count: usize) -> Vec<usize> {
        let arrival = || {
            let client =
                TcpStream::connect_timeout(&(self.service, port).into(), Duration::from_secs(5)).unwrap();
            let mut waiting: Vec<libc::pollfd> = listeners
                .iter()
                .map(|listener| libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 })
                .collect();
            // SAFETY: the pointer and length are those of a vector of pollfd.
            let ready = unsafe { libc::poll(waiting.as_mut_ptr(), waiting.len() as libc::nfds_t, 5000) };
            assert_eq!(ready, 1);
            let endpoint = waiting.iter().position(|each| each.revents != 0).unwrap();
            let (_, from) = listeners[endpoint].accept().unwrap();
            // The port may be another one: where two ports of the service had the same client's port and endpoint, conntrack
            // takes a new one for the second, so that answers can be told apart.
            assert_eq!(from.ip(), client.local_addr().unwrap().ip());
            endpoint
        };
        (0..count).map(|_| arrival()).collect()
    }

    fn check(&self) {
        let mut socket = Socket::open().unwrap();
        self.install(&mut socket);
        let listen = |&endpoint: &IpAddr| TcpListener::bind(SocketAddr::from((endpoint, 8080))).unwrap();
        let listeners: Vec<TcpListener> = self.endpoints.iter().map(listen).collect();

        let mut at_random = self.connect(&listeners, 80, 100);
        at_random.sort_unstable();
        at_random.dedup();
        assert_eq!(at_random, [0, 1, 2]);
        let in_turn = self.connect(&listeners, 81, 6);
        assert_eq!(in_turn[..3], in_turn[3..]);
        let mut turn = in_turn[..3].to_vec();
        turn.sort_unstable();
        assert_eq!(turn, [0, 1, 2]);
        let mut by_address = self.connect(&listeners, 82, 20);
        by_address.dedup();
        assert_eq!(by_address.len(), 1);

        let rules = socket.rules(&Table::new(self.family, "cambric")).unwrap();
        let packets =
            |chain: &str| rules.iter().find(|rule| rule.chain == chain).unwrap().counter.unwrap().packets;
        assert_eq!((packets("pick-3"), packets("turn-3"), packets("stay-3")), (100, 6, 20));
    }
}

#[test]
fn connections_reach_the_endpoints() {
    in_namespace(|| {
        Lab::new(Family::Ip).check();
        let text = listing();
        for line in [
            "type ipv4_addr . inet_proto . inet_service : verdict",
            "10.96.0.1 . tcp . 80 comment \"default/web\" : goto pick-3",
            "typeof ip daddr . meta l4proto . th dport . numgen random mod 65536 : ip daddr . th dport",
            "10.96.0.1 . tcp . 80 . 2 : 10.244.0.3 . 8080",
            "ip daddr . meta l4proto . th dport vmap @services",
            "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @backends",
            "dnat ip to ip daddr . meta l4proto . th dport . numgen inc mod 3 map @backends",
            "dnat ip to ip daddr . meta l4proto . th dport . jhash ip saddr mod 3 seed 0x7 map @backends",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    });
}

#[test]
fn connections_reach_the_endpoints_over_ipv6() {
    in_namespace(|| {
        Lab::new(Family::Ip6).check();
        let text = listing();
        for line in [
            "type ipv6_addr . inet_proto . inet_service : verdict",
            "typeof ip6 daddr . meta l4proto . th dport . numgen random mod 65536 : ip6 daddr . th dport",
            "fd00:96::1 . tcp . 80 . 2 : fd00:244::3 . 8080",
            "dnat ip6 to ip6 daddr . meta l4proto . th dport . numgen random mod 3 map @backends",
            "dnat ip6 to ip6 daddr . meta l4proto . th dport . jhash ip6 saddr mod 3 seed 0x7 map @backends",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    });
}
