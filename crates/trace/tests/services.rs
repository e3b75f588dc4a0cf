//! For any cluster with any services: from everywhere, every outcome of a connection is an endpoint that the service
//! may use there, each as likely as the others, and the endpoint's answer comes back to the node that translated.

#![allow(clippy::unwrap_used, reason = "helpers of a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{
    Attachment, Endpoint, EndpointPort, EndpointSlice, Family, NodeName, ObjectName, PodRange, Protocol,
    Sending, Service, ServicePort, TrafficPolicy, When,
};
use proptest::prelude::*;
use proptest::sample::Index;
use trace::{End, Loss, Outcome, Packet, Start, World, walk, walk_all};

use common::{Built, Shape, TCP, Way, build, families, packet, pods, world};

const PORT: u16 = 80;
const ENDPOINT_PORT: u16 = 8080;
/// A port that no service has.
const CLIENT_PORT: u16 = 40_000;

#[derive(Debug, Clone)]
struct ServiceShape {
    /// Which pods, and how they are.
    pods: Vec<(Index, Condition)>,
    /// A node that is an endpoint itself.
    host: Option<Index>,
    internal: TrafficPolicy,
    external: TrafficPolicy,
    sticky: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Ready,
    Terminating,
    Down,
}

/// An endpoint of a service in one family.
#[derive(Debug, Clone)]
struct Place {
    address: IpAddr,
    node: NodeName,
    condition: Condition,
    end: End,
}

/// Somebody who connects.
#[derive(Debug, Clone)]
struct Client {
    start: Start,
    source: IpAddr,
    node: NodeName,
}

fn cluster() -> impl Strategy<Value = Shape> {
    let nodes = prop::collection::vec((0u8..3, any::<bool>()), 1..4);
    let sending = (0..5usize, any::<bool>());
    (families(), families(), nodes, any::<bool>(), sending).prop_map(
        |(underlay, pods, nodes, stray, (mode, far))| {
            let (nodes, mut far_nodes): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
            // Without encapsulation there is a way between nodes of one subnet only, and none for IPv6 over IPv4.
            let plain = pods.v6.is_none() || underlay.v6.is_some();
            let sending = match mode {
                0 => Sending::Vxlan(When::Always),
                1 if plain => {
                    far_nodes.fill(far);
                    Sending::Plain
                }
                2 => Sending::Ipip(When::Always),
                3 => Sending::Ipip(When::CrossSubnet),
                _ => Sending::Vxlan(When::CrossSubnet),
            };
            Shape { underlay, pods, nodes, stray, sending, far: far_nodes }
        },
    )
}

fn services() -> impl Strategy<Value = Vec<ServiceShape>> {
    let condition = prop_oneof![
        4 => Just(Condition::Ready),
        1 => Just(Condition::Terminating),
        1 => Just(Condition::Down),
    ];
    let policy = || prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)];
    let pods = prop::collection::vec((any::<Index>(), condition), 0..5);
    let one = (pods, prop::option::weighted(0.3, any::<Index>()), policy(), policy(), any::<bool>())
        .prop_map(|(pods, host, internal, external, sticky)| ServiceShape {
            pods,
            host,
            internal,
            external,
            sticky,
        });
    prop::collection::vec(one, 1..3)
}

fn address_of(kind: Kind, index: usize, family: Family) -> IpAddr {
    let last = index as u8 + 1;
    match (kind, family) {
        (Kind::Cluster, Family::V4) => IpAddr::from([10, 96, 0, last]),
        (Kind::Cluster, Family::V6) => IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, last.into()]),
        (Kind::External, Family::V4) => IpAddr::from([203, 0, 113, last]),
        (Kind::External, Family::V6) => IpAddr::from([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, last.into()]),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cluster,
    External,
}

fn node_port(index: usize) -> u16 {
    30_000 + index as u16
}

/// The endpoints of a service in one family.
fn places(built: &Built, shape: &ServiceShape, family: Family) -> Vec<Place> {
    let all = pods(built);
    let mut places: BTreeMap<IpAddr, Place> = BTreeMap::new();
    for (index, condition) in &shape.pods {
        if all.is_empty() {
            break;
        }
        let (node, pod) = index.get(&all);
        let of_family = pod.addresses.iter().find(|address| Family::of(address) == family);
        let Some(address) = of_family.copied() else { continue };
        let end = End::Pod(node.clone(), pod.id.host_link());
        places.insert(address, Place { address, node: node.clone(), condition: *condition, end });
    }
    if let Some(index) = &shape.host {
        let nodes: Vec<_> = built.cluster.nodes.values().collect();
        let node = index.get(&nodes);
        if let Some(address) = node.addresses.of(family).copied() {
            let (name, condition) = (node.name.clone(), Condition::Ready);
            let place = Place { address, node: name.clone(), condition, end: End::Node(name) };
            places.insert(address, place);
        }
    }
    places.into_values().collect()
}

fn add_services(built: &mut Built, shapes: &[ServiceShape]) {
    for (index, shape) in shapes.iter().enumerate() {
        let name = ObjectName::new("default", format!("service-{index}"));
        let both = |kind| Family::BOTH.map(|family| address_of(kind, index, family)).to_vec();
        let port = ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: PORT,
            node_port: Some(node_port(index)),
        };
        let service = Service {
            name: name.clone(),
            cluster_addresses: both(Kind::Cluster),
            external_addresses: both(Kind::External),
            balancer_addresses: Vec::new(),
            balancer_sources: Vec::new(),
            ports: vec![port],
            internal_policy: shape.internal,
            external_policy: shape.external,
            affinity: shape.sticky.then(|| Duration::from_secs(60)),
            health_check_port: None,
        };
        built.cluster.services.insert(name.clone(), service);
        for family in Family::BOTH {
            let endpoint = |place: Place| Endpoint {
                address: place.address,
                ready: place.condition == Condition::Ready,
                serving: place.condition != Condition::Down,
                terminating: place.condition == Condition::Terminating,
                node: Some(Arc::new(place.node)),
                zones: Arc::new([]),
                nodes: Arc::new([]),
            };
            let slice = EndpointSlice {
                name: ObjectName::new("default", format!("service-{index}-{family}")),
                service: name.name.clone(),
                family,
                ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: ENDPOINT_PORT }],
                endpoints: places(built, shape, family).into_iter().map(endpoint).collect(),
            };
            built.cluster.slices.insert(slice.name.clone(), slice);
        }
    }
}

/// Every pod, every node by each of its addresses, and somebody outside at each node.
fn clients(built: &Built, family: Family) -> Vec<Client> {
    let mut clients = Vec::new();
    for (node, pod) in pods(built) {
        let start = Start::Pod(node.clone(), pod.id.host_link());
        let of_family = pod.addresses.into_iter().filter(|address| Family::of(address) == family);
        clients.extend(of_family.map(|source| Client { start: start.clone(), source, node: node.clone() }));
    }
    for (name, node) in &built.cluster.nodes {
        let gateway = node.pod_ranges.of(family).map(PodRange::gateway);
        for source in node.addresses.of(family).copied().into_iter().chain(gateway) {
            clients.push(Client { start: Start::Node(name.clone()), source, node: name.clone() });
        }
        let source = match family {
            Family::V4 => IpAddr::from([198, 51, 100, 1]),
            Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1]),
        };
        let start = Start::Outside { node: name.clone() };
        clients.push(Client { start, source, node: name.clone() });
    }
    clients
}

/// What an outcome should be.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Refused,
    Dropped,
    /// The endpoints, each with the source that it sees.
    Ends(BTreeMap<IpAddr, IpAddr>),
}

/// What the node that translates makes of a connection, by the words of Kubernetes' API and of the network model.
fn expected(
    (built, cluster): (&Built, &Shape),
    shape: &ServiceShape,
    client: &Client,
    exposed: bool,
) -> Expected {
    let family = Family::of(&client.source);
    let node = &built.cluster.nodes[&client.node];
    let from_outside = matches!(client.start, Start::Outside { .. });
    let from_pod = matches!(client.start, Start::Pod(..));
    let policy = match exposed {
        false => shape.internal,
        true if from_outside => shape.external,
        true => TrafficPolicy::Cluster,
    };
    let places = places(built, shape, family);
    let usable = |places: &[&Place]| {
        let having = |condition| places.iter().filter(|each| each.condition == condition).count();
        let wanted = if having(Condition::Ready) > 0 { Condition::Ready } else { Condition::Terminating };
        places.iter().filter(|each| each.condition == wanted).map(|each| (*each).clone()).collect::<Vec<_>>()
    };
    let here = |place: &&Place| policy == TrafficPolicy::Cluster || place.node == client.node;
    let chosen = usable(&places.iter().filter(here).collect::<Vec<_>>());
    if chosen.is_empty() {
        let anywhere = !usable(&places.iter().collect::<Vec<_>>()).is_empty();
        return if anywhere { Expected::Dropped } else { Expected::Refused };
    }
    let gateway = node.pod_ranges.of(family).unwrap().gateway();
    let own_gateway = matches!(client.start, Start::Node(_)) && client.source == gateway;
    let source = |place: &Place| match &place.end {
        // The gateway has an address of the pods' range, and what has that is masqueraded where it leaves that range.
        End::Node(_) if own_gateway => *node.addresses.of(family).unwrap(),
        // What stays on the node needs no other source to be answered.
        End::Node(name) if *name == client.node => client.source,
        End::Node(_) => *node.addresses.of(family).unwrap(),
        _ if from_pod && place.address != client.source => client.source,
        _ if exposed && policy == TrafficPolicy::Local => client.source,
        // By the uplink, the address of the uplink.
        _ if !own_gateway
            && place.node != client.node
            && cluster.way(&client.node, &place.node, family) == Way::Plain =>
        {
            node.addresses.of(family).copied().unwrap_or(gateway)
        }
        _ => gateway,
    };
    Expected::Ends(chosen.iter().map(|place| (place.address, source(place))).collect())
}

/// Checks all outcomes of a connection. `translates` is the client as the node sees it that translates.
fn check(
    world: &World,
    (built, cluster): (&Built, &Shape),
    shape: &ServiceShape,
    (client, sent): (&Client, Packet),
    (translates, exposed): (&Client, bool),
) -> Result<(), TestCaseError> {
    let outcomes: Vec<Outcome> = walk_all(world, &client.start, sent).collect();
    let expected = expected((built, cluster), shape, translates, exposed);
    let Expected::Ends(sources) = &expected else {
        prop_assert_eq!(outcomes.len(), 1);
        let fits = match &outcomes[0].walk.end {
            End::Lost(Loss::Refused { .. }) => expected == Expected::Refused,
            End::Lost(Loss::Dropped { .. }) => expected == Expected::Dropped,
            _ => false,
        };
        prop_assert!(fits, "{expected:?} of {sent:?} from {client:?}: {:?}", outcomes[0].walk);
        return Ok(());
    };
    let mut seen = BTreeSet::new();
    let places = places(built, shape, Family::of(&sent.source));
    for Outcome { one_in, walk } in &outcomes {
        prop_assert_eq!(*one_in, sources.len() as u64, "{:?} from {:?}: {:?}", sent, client, walk);
        let end = walk.packet.destination;
        prop_assert!(seen.insert(end), "{end} twice");
        prop_assert_eq!(walk.packet.destination_port, Some(ENDPOINT_PORT));
        let Some(place) = places.iter().find(|place| place.address == end) else {
            return Err(TestCaseError::fail(format!("{end} is no endpoint: {walk:?}")));
        };
        prop_assert_eq!(&walk.end, &place.end, "{:?}", walk);
        let source = sources.get(&end);
        prop_assert_eq!(Some(&walk.packet.source), source, "{:?} from {:?}: {:?}", sent, client, walk);
        answer(world, place, walk.packet.source, translates)?;
    }
    prop_assert_eq!(seen.len(), sources.len());
    Ok(())
}

/// The answer of an endpoint has to pass the node that translated, and to end where the source is.
fn answer(world: &World, place: &Place, seen: IpAddr, client: &Client) -> Result<(), TestCaseError> {
    let start = match &place.end {
        End::Pod(node, link) => Start::Pod(node.clone(), link.clone()),
        _ => Start::Node(place.node.clone()),
    };
    let sent = Packet {
        source: place.address,
        destination: seen,
        protocol: TCP,
        destination_port: Some(CLIENT_PORT),
    };
    let back = walk(world, &start, sent);
    let on_the_way = place.node == client.node
        || matches!(&back.end, End::Node(node) | End::Pod(node, _) if *node == client.node);
    prop_assert!(on_the_way, "the answer to {seen} does not come to {}: {back:?}", client.node);
    prop_assert!(!matches!(back.end, End::Lost(_)), "the answer to {seen}: {back:?}");
    Ok(())
}

fn of_family(pod: &Attachment, family: Family) -> Option<IpAddr> {
    pod.addresses.iter().copied().find(|address| Family::of(address) == family)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_service_is_its_endpoints_from_everywhere(shape in cluster(), services in services()) {
        let mut built = build(&shape);
        add_services(&mut built, &services);
        let world = world(&built);
        for (_, plan) in world.nodes.values() {
            prop_assert!(plan.problems.is_empty(), "{:?}", plan.problems);
        }
        let with_pods = Family::BOTH.into_iter().filter(|family| shape.pods.of(*family).is_some());
        for family in with_pods {
            for client in clients(&built, family) {
                for (index, service) in services.iter().enumerate() {
                    for (kind, exposed) in [(Kind::Cluster, false), (Kind::External, true)] {
                        let to = address_of(kind, index, family);
                        let sent = Packet { destination_port: Some(PORT), ..packet(client.source, to) };
                        check(&world, (&built, &shape), service, (&client, sent), (&client, exposed))?;
                    }
                    for (name, node) in &built.cluster.nodes {
                        let Some(to) = node.addresses.of(family) else { continue };
                        let sent = Packet { destination_port: Some(node_port(index)), ..packet(client.source, *to) };
                        let translates = at_node(&built, &client, name);
                        check(&world, (&built, &shape), service, (&client, sent), (&translates, true))?;
                    }
                }
            }
        }
    }

    #[test]
    fn what_no_service_has_is_refused(shape in cluster(), services in services(), which in 1u16..) {
        let mut built = build(&shape);
        add_services(&mut built, &services);
        let world = world(&built);
        for family in Family::BOTH.into_iter().filter(|family| shape.pods.of(*family).is_some()) {
            for client in clients(&built, family) {
                for (index, port) in [(0, which), (100, PORT)] {
                    let to = address_of(Kind::Cluster, index, family);
                    if (index, port) == (0, PORT) {
                        continue;
                    }
                    let sent = Packet { destination_port: Some(port), ..packet(client.source, to) };
                    let ends: Vec<End> =
                        walk_all(&world, &client.start, sent).map(|outcome| outcome.walk.end).collect();
                    prop_assert!(matches!(ends.as_slice(), [End::Lost(Loss::Refused { .. })]), "{ends:?}");
                }
            }
        }
    }

    #[test]
    fn pods_are_reached_from_outside_as_they_are(shape in cluster()) {
        let built = build(&shape);
        let world = world(&built);
        for (to_node, pod) in pods(&built) {
            for family in Family::BOTH {
                let Some(to) = of_family(&pod, family) else { continue };
                for client in clients(&built, family) {
                    let Start::Outside { .. } = client.start else { continue };
                    let walk = walk(&world, &client.start, packet(client.source, to));
                    prop_assert_eq!(&walk.end, &End::Pod(to_node.clone(), pod.id.host_link()), "{:?}", walk.hops);
                    prop_assert_eq!(walk.packet.source, client.source);
                }
            }
        }
    }
}

/// The client as a node sees it whose port it asks: on another node it is that node, by its own address, unless it is
/// outside and was sent there by somebody else.
fn at_node(built: &Built, client: &Client, node: &NodeName) -> Client {
    if client.node == *node {
        return client.clone();
    }
    let family = Family::of(&client.source);
    let source = match client.start {
        Start::Outside { .. } => client.source,
        _ => *built.cluster.nodes[&client.node].addresses.of(family).unwrap(),
    };
    Client { start: Start::Outside { node: node.clone() }, source, node: node.clone() }
}
