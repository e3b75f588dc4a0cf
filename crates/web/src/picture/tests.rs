use model::{Cluster, Encapsulation, NetworkConfig, Node, NodeName, PerFamily};
use trace::journey::{Journey, Query};

use super::*;

fn node(number: u8, subnet: u8) -> Node {
    let addresses = [format!("192.0.{subnet}.{number}"), format!("2001:db8:{subnet}::{number}")];
    let ranges = [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")];
    Node::parse(
        NodeName::new(format!("node-{number}")).unwrap(),
        addresses.iter().map(String::as_str),
        ranges.iter().map(String::as_str),
    )
    .unwrap()
}

fn pod(name: &str, node: u8, number: u8) -> Pod {
    Pod {
        name: ObjectName::new("default", name),
        uid: "uid".into(),
        node: NodeName::new(format!("node-{node}")).unwrap(),
        host_network: false,
        addresses: PerFamily {
            v4: Some(IpAddr::from([10, 244, node, number])),
            v6: Some(format!("fd00:10:244:{node}::{number}").parse().unwrap()),
        },
    }
}

/// Nodes 1 and 2 in one subnet, node 3 in another.
fn scene() -> Scene {
    let network = NetworkConfig::parse(
        &["10.244.0.0/16".to_owned(), "fd00:10:244::/48".to_owned()],
        &["10.96.0.0/16".to_owned(), "fd00:10:96::/112".to_owned()],
        Encapsulation::default(),
        "auto",
    );
    let nodes = [node(1, 2), node(2, 2), node(3, 3)];
    let cluster = Cluster {
        network: network.unwrap(),
        nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
        services: BTreeMap::new(),
        slices: BTreeMap::new(),
    };
    Scene::assumed(cluster, vec![pod("b", 2, 2), pod("a", 1, 2), pod("c", 3, 2), pod("beside", 1, 3)])
}

/// A router between the subnets, and a host outside.
fn ground() -> Ground {
    let mut ground = Ground::assumed("test".to_owned(), &scene());
    let add = |ground: &mut Ground, kind: Kind, name: &str, addresses: &[&str], subnets: &[usize]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let machine = Machine { id: machine_id(kind, name), kind, name: name.to_owned(), addresses };
        for (index, subnet) in subnets.iter().enumerate() {
            ground.cables.push(Cable::new(&machine, &format!("eth{index}"), &ground.subnets[*subnet]));
        }
        ground.machines.push(machine);
    };
    add(&mut ground, Kind::Outside, "client", &["192.0.2.99"], &[0]);
    add(&mut ground, Kind::Router, "router", &["192.0.2.1", "192.0.3.1"], &[0, 1]);
    ground
}

fn journey(from: &str, to: &str) -> Journey {
    let scene = scene();
    let query = Query {
        source: scene.source(from, "default").unwrap(),
        destination: scene.party(to, "default").unwrap(),
        transport: None,
        family: None,
        via: None,
    };
    scene.journey(&query).unwrap()
}

fn found(ground: &Ground, from: &str, to: &str) -> Way {
    let journey = journey(from, to);
    way(ground, &journey, &journey.ways[0])
}

#[test]
fn nodes_with_a_prefix_in_common_are_in_one_subnet() {
    let ground = Ground::assumed("test".to_owned(), &scene());
    let names: Vec<&str> = ground.subnets.iter().map(|subnet| subnet.name.as_str()).collect();
    assert_eq!(names, ["192.0.2.0/24, 2001:db8:2::/64", "192.0.3.0/24, 2001:db8:3::/64"]);
    let ends: Vec<_> = ground.cables.iter().map(|cable| (&*cable.id, &*cable.subnet)).collect();
    let [first, second] = [0, 1].map(|index: usize| &*ground.subnets[index].id);
    let links = ["cable/node-1/uplink", "cable/node-2/uplink", "cable/node-3/uplink"];
    assert_eq!(ends, links.into_iter().zip([first, first, second]).collect::<Vec<_>>());
}

#[test]
fn pods_are_in_the_order_of_their_nodes() {
    let picture = Picture::new(&scene(), &ground());
    let pods: Vec<_> = picture.pods.iter().map(|pod| (&*pod.node, &*pod.id)).collect();
    let all = [
        ("node/node-1", "pod/default/a"),
        ("node/node-1", "pod/default/beside"),
        ("node/node-2", "pod/default/b"),
        ("node/node-3", "pod/default/c"),
    ];
    assert_eq!(pods, all);
}

#[test]
fn a_way_leads_through_cables_and_subnets() {
    let ground = ground();
    let subnet = |index: usize| ground.subnets[index].id.clone();
    let way = found(&ground, "a", "b");
    let (first, second) = (subnet(0), subnet(1));
    let same = ["pod/default/a", "node/node-1", "cable/node-1/uplink", &first, "cable/node-2/uplink"];
    assert_eq!(way.there[..5], same);
    assert_eq!(way.there[5..], ["node/node-2", "pod/default/b"]);
    assert_eq!(way.broken, []);

    let way = found(&ground, "a", "c");
    let far = [
        "pod/default/a",
        "node/node-1",
        "cable/node-1/uplink",
        &first,
        "cable/router/eth0",
        "router/router",
        "cable/router/eth1",
        &second,
        "cable/node-3/uplink",
        "node/node-3",
        "pod/default/c",
    ];
    assert_eq!(way.there, far);
}

#[test]
fn a_way_within_a_node_or_from_outside_is_drawn_too() {
    let ground = ground();
    assert_eq!(found(&ground, "a", "beside").there, ["pod/default/a", "node/node-1", "pod/default/beside"]);
    let first = ground.subnets[0].id.clone();
    let way = found(&ground, "192.0.2.99", "node/node-1");
    let wanted = ["outside/client", "cable/client/eth0", &first, "cable/node-1/uplink", "node/node-1"];
    assert_eq!(way.there, wanted);
}

#[test]
fn broken_cables_on_a_way_are_named() {
    let mut ground = ground();
    let cable = ground.cables.iter_mut().find(|cable| cable.id == "cable/node-2/uplink").unwrap();
    cable.broken = Some("it is cut".to_owned());
    let why = "uplink of node-2: it is cut".to_owned();
    let crossing = [Crossing { cable: "cable/node-2/uplink".to_owned(), why }];
    assert_eq!(found(&ground, "a", "b").broken, crossing);
    assert_eq!(found(&ground, "b", "c").broken, crossing);
    assert_eq!(found(&ground, "a", "c").broken, []);
    assert_eq!(found(&ground, "a", "beside").broken, []);
}
