use ipnet::IpNet;
use model::{BgpSettings, Encapsulation, LinkName, ObjectName, Reflector};

use super::*;

/// `name`, InternalIPs, site and whether it is a reflector.
fn node(name: &str, addresses: &[&str], site: &str, reflects: bool) -> Node {
    let name = NodeName::new(name).unwrap();
    let node = Node::parse(name, addresses.iter().copied(), ["10.244.1.0/24", "fd00:10:244:1::/64"]).unwrap();
    let node = node.with_labels(Some(site), None).unwrap();
    Node { reflector: reflects.then_some(Reflector { cluster_id: None }), ..node }
}

fn network() -> NetworkConfig {
    let ranges = ["10.244.0.0/16".to_owned(), "fd00:10:244::/48".to_owned()];
    let network = NetworkConfig::parse(&ranges, &[], Encapsulation::default(), "auto").unwrap();
    let bgp = BgpSettings { bfd: Some(BfdTimers::default()), ..BgpSettings::default() };
    NetworkConfig { route_source: RouteSource::Bgp, bgp, ..network }
}

fn peer(name: &str, address: &str) -> BgpPeer {
    BgpPeer {
        name: name.into(),
        nodes: BTreeMap::new(),
        address: address.parse().unwrap(),
        port: 179,
        asn: Asn::new(65_001).unwrap(),
        password: None,
        ttl_security: true,
        hold_time: HoldTime::default(),
        bfd: None,
        max_prefixes: Some(100),
        import: RouteFilter::default(),
        export: RouteFilter::default(),
    }
}

struct Cluster {
    network: NetworkConfig,
    nodes: BTreeMap<NodeName, Node>,
    peers: Peers,
}

impl Cluster {
    fn of(nodes: impl IntoIterator<Item = Node>) -> Cluster {
        let nodes = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        Cluster { network: network(), nodes, peers: Peers::default() }
    }

    fn with_peer(mut self, peer: BgpPeer) -> Cluster {
        self.peers.peers.insert(peer.name.clone(), peer);
        self
    }

    fn try_speaker(&self, name: &str) -> (Option<Speaker>, Vec<String>) {
        let local = &self.nodes[&NodeName::new(name).unwrap()];
        let underlay = PerFamily {
            v4: local.addresses.v4.map(|address| Underlay {
                link: LinkName::new("eth0").unwrap(),
                net: IpNet::new(address, 24).unwrap(),
                mtu: 1500,
            }),
            v6: None,
        };
        let view = View {
            network: &self.network,
            nodes: &self.nodes,
            local,
            underlay: &underlay,
            peers: &self.peers,
        };
        let mut problems = Vec::new();
        let speaker = speaker(view, &mut problems);
        (speaker, problems.iter().map(ToString::to_string).collect())
    }

    fn speaker(&self, name: &str) -> Speaker {
        match self.try_speaker(name) {
            (Some(speaker), problems) if problems.is_empty() => speaker,
            other => panic!("{other:#?}"),
        }
    }

    /// The sessions of a node in short: whom with, and `c`lient, `r`oaming, next hop `s`elf, B`F`D.
    fn sessions(&self, name: &str) -> Vec<String> {
        let (speaker, problems) = self.try_speaker(name);
        assert_eq!(problems, Vec::<String>::new());
        let short = |(name, session): (&SessionName, &Session)| {
            let flags = [
                ('c', session.client),
                ('r', session.roaming),
                ('s', session.next_hop_self),
                ('f', session.bfd.is_some()),
            ];
            let flags: String = flags.iter().filter(|(_, set)| *set).map(|(letter, _)| *letter).collect();
            format!("{name} {flags}").trim().to_owned()
        };
        speaker.iter().flat_map(|speaker| &speaker.sessions).map(short).collect()
    }
}

fn flat(names: &[(&str, &str, bool)]) -> Cluster {
    Cluster::of(names.iter().enumerate().map(|(index, (name, site, reflects))| {
        node(name, &[&format!("192.0.2.{}", index + 1)], site, *reflects)
    }))
}

#[test]
fn nodes_speak_each_with_each_or_with_reflectors_alone() {
    // Nodes with sites and whether they reflect; of which the sessions are; and the sessions.
    type Case =
        (&'static [(&'static str, &'static str, bool)], &'static [(&'static str, &'static [&'static str])]);
    let cases: &[Case] = &[
        (&[("a", "", false)], &[("a", &[])]),
        (
            &[("a", "", false), ("b", "", false), ("c", "", false)],
            &[("a", &["node/b f", "node/c f"]), ("b", &["node/a f", "node/c f"])],
        ),
        // Reflectors mesh; the others are their clients.
        (
            &[("a", "", false), ("b", "", false), ("r", "", true), ("s", "", true)],
            &[
                ("a", &["node/r f", "node/s f"]),
                ("r", &["node/a cf", "node/b cf", "node/s f"]),
                ("s", &["node/a cf", "node/b cf", "node/r f"]),
            ],
        ),
        // Two sites hear of each other through the nodes that are in none.
        (
            &[
                ("a", "", false),
                ("b", "", false),
                ("e", "east", false),
                ("f", "east", false),
                ("w", "west", false),
            ],
            &[
                ("a", &["node/b f", "node/e crs", "node/f crs", "node/w crs"]),
                ("e", &["node/a f", "node/b f", "node/f f"]),
                ("w", &["node/a f", "node/b f"]),
            ],
        ),
        // A reflector in no site passes between sites; nobody else does.
        (
            &[("a", "", false), ("e", "east", false), ("r", "", true), ("w", "west", false)],
            &[
                ("a", &["node/r f"]),
                ("e", &["node/r f"]),
                ("r", &["node/a cf", "node/e crs", "node/w crs"]),
                ("w", &["node/r f"]),
            ],
        ),
        // A reflector inside of a site serves it, and cannot be reached from another.
        (
            &[("a", "", false), ("e", "east", false), ("r", "east", true), ("w", "west", false)],
            &[("a", &["node/r rs"]), ("e", &["node/r f"]), ("r", &["node/a cf", "node/e cf"]), ("w", &[])],
        ),
    ];
    for (nodes, expected) in cases {
        let cluster = flat(nodes);
        for (name, sessions) in *expected {
            assert_eq!(cluster.sessions(name), *sessions, "{name} of {nodes:?}");
        }
    }
}

#[test]
fn a_session_has_two_ends_that_fit() {
    let cluster = flat(&[
        ("a", "", false),
        ("b", "", true),
        ("c", "east", false),
        ("d", "east", true),
        ("e", "west", false),
        ("f", "west", true),
    ]);
    for (name, node) in &cluster.nodes {
        let speaker = cluster.try_speaker(name.as_str()).0;
        for (with, session) in speaker.iter().flat_map(|speaker| &speaker.sessions) {
            let SessionName::Node(other) = with else { panic!("{with}") };
            let back = cluster.speaker(other.as_str());
            let back = &back.sessions[&SessionName::Node(name.clone())];
            assert!(!(back.roaming && session.roaming), "nobody opens: {name} {other}");
            assert!(!(back.client && session.client), "{name} {other}");
            assert_eq!(session.router_id, Some(router_id(&cluster.nodes[other])));
            assert_eq!(session.source, *node.addresses.iter().next().unwrap());
        }
    }
}

#[test]
fn both_ends_take_the_same_family_and_ipv4_if_they_can() {
    let cluster = Cluster::of([
        node("a", &["192.0.2.1", "2001:db8::1"], "", false),
        node("b", &["2001:db8::2"], "", false),
        node("c", &["2001:db8::3", "192.0.2.3"], "", false),
        node("d", &["192.0.2.4"], "", false),
    ]);
    let ends = |name: &str| -> Vec<(String, String)> {
        let speaker = cluster.speaker(name);
        speaker.sessions.values().map(|s| (s.source.to_string(), s.address.to_string())).collect()
    };
    let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    assert_eq!(
        ends("a"),
        [pair("2001:db8::1", "2001:db8::2"), pair("192.0.2.1", "192.0.2.3"), pair("192.0.2.1", "192.0.2.4")]
    );
    // Nothing is common with d.
    assert_eq!(ends("b"), [pair("2001:db8::2", "2001:db8::1"), pair("2001:db8::2", "2001:db8::3")]);
    let speaker = cluster.speaker("a");
    assert_eq!(speaker.addresses, cluster.nodes.values().next().unwrap().addresses);
    let routes: Vec<String> = speaker.pod_routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
}

#[test]
fn identifiers_are_addresses_that_are_nobody_elses_or_made_from_names() {
    assert_eq!(router_id(&node("a", &["192.0.2.1"], "", false)), Ipv4Addr::new(192, 0, 2, 1));
    // FNV-1a of "a" (the reference's test vectors).
    let of_a = Ipv4Addr::from(0xe40c_292c);
    assert_eq!(router_id(&node("a", &["10.0.0.1"], "east", false)), of_a);
    assert_eq!(router_id(&node("a", &["2001:db8::1"], "", false)), of_a);
    assert_ne!(router_id(&node("b", &["2001:db8::1"], "", false)), of_a);
    assert_eq!(hash(""), 0x811c_9dc5);
    let mut cluster = flat(&[("a", "", true), ("b", "", false)]);
    assert_eq!(cluster.speaker("a").cluster_id, None);
    let id = Some(Ipv4Addr::new(1, 0, 0, 1));
    cluster.nodes.values_mut().next().unwrap().reflector = Some(Reflector { cluster_id: id });
    assert_eq!(cluster.speaker("a").cluster_id, id);
}

#[test]
fn a_roaming_peer_is_known_by_where_its_gateway_is() {
    let mut cluster = flat(&[("a", "", false), ("e", "east", false)]);
    let external = Some("198.51.100.1".parse().unwrap());
    cluster.nodes.values_mut().last().unwrap().external.v4 = external;
    let of = |name: &str| cluster.speaker(name).sessions.into_values().next().unwrap();
    assert_eq!(Some(of("a").address), external);
    assert_eq!(of("e").address.to_string(), "192.0.2.1");
    assert!(of("a").roaming && !of("e").roaming);
}

#[test]
fn bfd_is_spoken_within_a_subnet_and_only_if_it_is_asked_for() {
    let mut cluster = Cluster::of([
        node("a", &["192.0.2.1"], "", false),
        node("b", &["192.0.2.2"], "", false),
        node("c", &["192.0.3.1"], "", false),
    ]);
    assert_eq!(cluster.sessions("a"), ["node/b f", "node/c"]);
    cluster.network.bgp.bfd = None;
    assert_eq!(cluster.sessions("a"), ["node/b", "node/c"]);
}

#[test]
fn peers_are_spoken_with_wherever_routes_come_from_by_the_nodes_they_choose() {
    let mut cluster = flat(&[("a", "", false), ("b", "", false)]);
    let edge = BgpPeer { nodes: [("rack".to_owned(), "1".to_owned())].into(), ..peer("edge", "192.0.2.200") };
    cluster = cluster.with_peer(edge).with_peer(peer("tor", "192.0.2.201"));
    cluster.network.bgp.bfd = None;
    assert_eq!(cluster.sessions("a"), ["node/b", "bgppeer/tor"]);
    cluster.peers.labels = [("rack".to_owned(), "2".to_owned())].into();
    assert_eq!(cluster.sessions("a"), ["node/b", "bgppeer/tor"]);
    cluster.peers.labels = [("rack".to_owned(), "1".to_owned()), ("x".to_owned(), "y".to_owned())].into();
    assert_eq!(cluster.sessions("a"), ["node/b", "bgppeer/edge", "bgppeer/tor"]);
    cluster.network.route_source = RouteSource::Kubernetes;
    assert_eq!(cluster.sessions("a"), ["bgppeer/edge", "bgppeer/tor"]);
    let session = &cluster.speaker("a").sessions[&SessionName::Peer("tor".into())];
    assert!(session.outside && session.ttl_security);
    assert_eq!((session.asn.value(), session.max_prefixes, session.router_id), (65_001, Some(100), None));
    cluster.peers.peers.clear();
    assert_eq!(cluster.try_speaker("a"), (None, Vec::new()), "nobody to speak with");
}

#[test]
fn a_peer_whose_password_is_unknown_is_not_spoken_with() {
    let mut cluster = flat(&[("a", "", false)]);
    let key = SecretKey { secret: ObjectName::new("net", "bgp"), key: "tor".into() };
    cluster = cluster.with_peer(BgpPeer { password: Some(key.clone()), ..peer("tor", "192.0.2.201") });
    let problem = |reason: &str| {
        vec![format!(
            "BgpPeer tor: there is no session, because the password of spec.passwordSecret is unknown: {reason}"
        )]
    };
    assert_eq!(cluster.try_speaker("a"), (None, problem("Secret net/bgp has not been read yet")));
    cluster.peers.passwords.insert(key.clone(), Err("there is no Secret net/bgp".to_owned()));
    assert_eq!(cluster.try_speaker("a"), (None, problem("there is no Secret net/bgp")));
    cluster.peers.passwords.insert(key, Ok(PeerPassword::new("sesame")));
    let speaker = cluster.speaker("a");
    let password = speaker.sessions.values().next().unwrap().password.as_ref();
    assert_eq!(password.map(PeerPassword::reveal), Some("sesame"));
    assert!(!format!("{speaker:?}").contains("sesame"));
}

#[test]
fn a_peer_that_cannot_be_is_named_and_the_others_are_spoken_with() {
    let cluster = flat(&[("a", "", false), ("b", "", false)])
        .with_peer(peer("node", "192.0.2.2"))
        .with_peer(peer("own", "192.0.2.1"))
        .with_peer(peer("six", "2001:db8::9"))
        .with_peer(peer("tor", "192.0.2.201"))
        .with_peer(peer("tor-too", "192.0.2.201"));
    let (speaker, problems) = cluster.try_speaker("a");
    let names: Vec<String> = speaker.unwrap().sessions.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["node/b", "bgppeer/tor"]);
    for (problem, expected) in problems.iter().zip([
        "BgpPeer node: there is no session, because spec.address 192.0.2.2 is that of node/b; use",
        "BgpPeer own: there is no session, because spec.address 192.0.2.1 is that of this node; use",
        "BgpPeer six: there is no session, because spec.address 2001:db8::9 is IPv6 and Node a has no IPv6",
        "BgpPeer tor-too: there is no session, because spec.address 192.0.2.201 is that of bgppeer/tor",
    ]) {
        assert!(problem.starts_with(expected), "{problem}");
    }
    assert_eq!(problems.len(), 4);
}
