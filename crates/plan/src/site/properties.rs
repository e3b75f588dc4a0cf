//! Clusters of any shape, with gateways that remember whom they like: packets arrive, and nodes agree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{Family, Node, NodeName, RouteSource};
use proptest::prelude::*;

use super::{Contact, Contacts, End, Heard, Sites, View, Way};

/// Whom a gateway remembers for a node outside.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Memory {
    /// Nobody: who sends first from inside is remembered.
    Nobody,
    /// A node that is there, which the outside has heard.
    Live(NodeName),
    /// One that is gone: nobody else can get through.
    Gone,
}

/// A cluster, and what is the case in it.
#[derive(Debug)]
struct World {
    nodes: BTreeMap<NodeName, Node>,
    sites: Sites,
    gone: BTreeSet<NodeName>,
    memories: BTreeMap<(String, NodeName, Family), Memory>,
    source: RouteSource,
}

fn name(site: Option<usize>, index: usize) -> NodeName {
    let text = site.map_or(format!("outside-{index}"), |site| format!("inside-{site}-{index}"));
    NodeName::new(text).unwrap()
}

/// Nodes of different sites have the same addresses.
fn node(site: Option<usize>, index: usize) -> Node {
    let (subnet, range) = (if site.is_some() { 10 } else { 172 }, site.map_or(0, |site| site + 1));
    let address = format!("{subnet}.16.0.{}", index + 1);
    let ranges = [format!("10.{}.{index}.0/24", 100 + range), format!("fd00:{range}:{index}::/64")];
    let node = Node::parse(name(site, index), [&*address], ranges.iter().map(|range| &**range)).unwrap();
    Node { site: site.map(|site| site.to_string().into()), ..node }
}

fn gateway(site: &str) -> IpAddr {
    format!("203.0.113.{}", site.parse::<u8>().unwrap() + 1).parse().unwrap()
}

impl World {
    fn new(outside: usize, inside: &[usize], source: RouteSource) -> World {
        let mut world = World {
            nodes: BTreeMap::new(),
            sites: Sites::default(),
            gone: BTreeSet::new(),
            memories: BTreeMap::new(),
            source,
        };
        for index in 0..outside {
            world.add(node(None, index));
        }
        for (site, count) in inside.iter().enumerate() {
            (0..*count).for_each(|index| world.add(node(Some(site), index)));
        }
        world
    }

    fn add(&mut self, mut node: Node) {
        if let Some(site) = &node.site {
            node.external.insert(Family::V4, gateway(site));
        }
        self.sites.replace(None, Some(&node));
        self.nodes.insert(node.name.clone(), node);
    }

    fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| !self.gone.contains(&node.name))
    }

    fn memory(&self, site: &str, outside: &NodeName, inner: Family) -> &Memory {
        self.memories.get(&(site.to_owned(), outside.clone(), inner)).unwrap_or(&Memory::Nobody)
    }

    fn told(&self, node: &Node) -> Heard {
        let told = self.memories.iter().filter_map(|((site, outside, inner), memory)| {
            let Memory::Live(holder) = memory else { return None };
            if *holder == node.name {
                Some((End::node(outside), *inner))
            } else {
                (*outside == node.name).then(|| (End::site(site), *inner))
            }
        });
        told.collect()
    }

    /// What a node knows when all has been told.
    fn contacts(&self, local: &Node) -> Contacts {
        let mut contacts = Contacts::default();
        for node in self.live().filter(|node| node.name != local.name) {
            let across = node.site != local.site;
            if across && node.site.is_some() && local.site.is_some() {
                continue;
            }
            let seen = node.site.as_deref().filter(|_| across).map(gateway);
            let contact = Contact { seen: seen.or(node.addresses.v4).unwrap(), heard: self.told(node) };
            contacts.others.insert(node.name.clone(), contact);
        }
        for ((site, outside, inner), memory) in &self.memories {
            let Memory::Live(holder) = memory else { continue };
            if *holder == local.name {
                contacts.heard.insert((self.nodes[outside].addresses.v4.unwrap(), *inner));
            } else if *outside == local.name {
                contacts.heard.insert((gateway(site), *inner));
            }
        }
        contacts
    }

    fn with_view<T>(&self, local: &Node, run: impl FnOnce(View<'_>) -> T) -> T {
        let (nodes, sites, contacts) = (&self.nodes, &self.sites, self.contacts(local));
        run(View { nodes, sites, local, contacts: &contacts, source: self.source })
    }

    /// The nodes by which a packet gets from one node to another, or why it does not.
    fn walk(&self, from: &Node, to: &Node, inner: Family) -> Result<Vec<NodeName>, String> {
        let (mut at, mut path) = (from, vec![from.name.clone()]);
        while at.name != to.name {
            let next = self.with_view(at, |view| match view.way(to, inner) {
                Ok(Way::As(next)) if next.site == at.site => Ok(next.name.clone()),
                Ok(Way::As(next)) => Err(format!("{} as to {}", at.name, next.name)),
                Ok(Way::Tunnel { outer, held }) => {
                    assert_eq!(Some(outer.source()), at.addresses.v4);
                    self.cross(at, outer.destination(), held, inner)
                }
                Err(problem) => Err(format!("{}: {problem:?}", at.name)),
            });
            let next = next.map_err(|error| format!("{path:?}: {error}"))?;
            if self.gone.contains(&next) || path.contains(&next) {
                return Err(format!("{path:?} and then {next}"));
            }
            at = &self.nodes[&next];
            path.push(next);
        }
        Ok(path)
    }

    /// What a gateway makes of a packet.
    fn cross(&self, at: &Node, to: IpAddr, held: bool, inner: Family) -> Result<NodeName, String> {
        if let Some(site) = &at.site {
            let outside =
                self.nodes.values().find(|node| node.site.is_none() && node.addresses.v4 == Some(to));
            let outside = &outside.ok_or(format!("{to} is nobody"))?.name;
            return match self.memory(site, outside, inner) {
                Memory::Live(holder) if *holder != at.name => Err(format!("{} has no mapping", at.name)),
                Memory::Gone => Err("the mapping is that of one who is gone".to_owned()),
                _ => Ok(outside.clone()),
            };
        }
        assert!(held, "the outside waits");
        let mut sites = self.nodes.values().filter_map(|node| node.site.as_deref());
        let site = sites.find(|site| gateway(site) == to).ok_or(format!("{to} is no gateway"))?;
        match self.memory(site, &at.name, inner) {
            Memory::Live(holder) => Ok(holder.clone()),
            other => Err(format!("not heard: {other:?}")),
        }
    }
}

/// A cluster in which every site has an open tunnel to somebody, and otherwise anything may be.
fn worlds() -> impl Strategy<Value = World> {
    let shape = (1..4_usize, prop::collection::vec(1..4_usize, 1..4));
    let choices = (any::<prop::sample::Index>(), prop::collection::vec(0..9_usize, 72), any::<[bool; 9]>());
    (shape, choices).prop_map(|((outside, inside), (first, choices, gone))| {
        let mut world = World::new(outside, &inside, RouteSource::Bgp);
        let (mut choices, mut gone) = (choices.into_iter().cycle(), gone.into_iter().cycle());
        for (site, count) in inside.iter().enumerate() {
            // Of each site one node stays.
            world.gone.extend(
                (1..*count).filter(|_| gone.next() == Some(true)).map(|index| name(Some(site), index)),
            );
        }
        for (site, count) in inside.iter().enumerate() {
            for family in Family::BOTH {
                for index in 0..outside {
                    let open = index == (first.index(outside) + site) % outside;
                    let choice = choices.next().unwrap_or_default();
                    let holder = name(Some(site), choice % count);
                    let memory = match choice {
                        _ if open && world.gone.contains(&holder) => Memory::Live(name(Some(site), 0)),
                        _ if open => Memory::Live(holder),
                        6.. => Memory::Nobody,
                        _ if world.gone.contains(&holder) => Memory::Gone,
                        _ => Memory::Live(holder),
                    };
                    world.memories.insert((site.to_string(), name(None, index), family), memory);
                }
            }
        }
        world
    })
}

proptest! {
    #[test]
    fn every_packet_arrives(world in worlds()) {
        for from in world.live() {
            for to in world.live() {
                for inner in Family::BOTH {
                    if let Err(error) = world.walk(from, to, inner) {
                        prop_assert!(false, "{} to {}, {inner}: {error}\n{world:#?}", from.name, to.name);
                    }
                }
            }
        }
    }

    #[test]
    fn the_nodes_of_a_site_agree_and_the_carrier_keeps_its_tunnel(world in worlds()) {
        let outside: Vec<&Node> = world.live().filter(|node| node.site.is_none()).collect();
        for to in outside {
            for inner in Family::BOTH {
                let mut carriers: BTreeMap<&str, BTreeSet<NodeName>> = BTreeMap::new();
                let mut keeping: BTreeMap<&str, BTreeSet<NodeName>> = BTreeMap::new();
                for local in world.live() {
                    let Some(site) = local.site.as_deref() else { continue };
                    world.with_view(local, |view| {
                        let keepalives = view.keepalives(to);
                        if keepalives.iter().any(|keepalive| keepalive.inner == inner) {
                            keeping.entry(site).or_default().insert(local.name.clone());
                        }
                        if let Ok(Way::As(node)) = view.way_out(site, to, inner) {
                            carriers.entry(site).or_default().insert(node.name.clone());
                        }
                    });
                }
                for (site, names) in &carriers {
                    prop_assert_eq!(Some(names), keeping.get(site), "site {}", site);
                }
                prop_assert!(keeping.values().all(|names| names.len() == 1), "{:?}", keeping);
            }
        }
    }
}

/// With one tunnel per pair a single death cuts the pair off, unless others pass its packets on.
#[test]
fn when_the_carrier_is_gone_packets_go_by_another_node_outside() {
    let mut world = World::new(2, &[2], RouteSource::Bgp);
    let [a, b] = [0, 1].map(|index| name(Some(0), index));
    let [x, y] = [0, 1].map(|index| name(None, index));
    for inner in Family::BOTH {
        world.memories.insert(("0".to_owned(), x.clone(), inner), Memory::Gone);
        world.memories.insert(("0".to_owned(), y.clone(), inner), Memory::Live(b.clone()));
    }
    world.gone.insert(a);
    let path = |from: &NodeName, to: &NodeName| {
        world.walk(&world.nodes[from], &world.nodes[to], Family::V4).unwrap()
    };
    assert_eq!(path(&b, &x), [b.clone(), y.clone(), x.clone()]);
    assert_eq!(path(&x, &b), [x, y, b]);
}

#[test]
fn without_bgp_everybody_is_taken_to_be_there_and_the_gateway_where_the_node_says() {
    let world = World::new(2, &[3, 1], RouteSource::Kubernetes);
    let mut at_work = BTreeSet::new();
    for to in world.live().filter(|node| node.site.is_none()) {
        let mut carriers = BTreeSet::new();
        for local in world.live().filter(|node| node.site.as_deref() == Some("0")) {
            world.with_view(local, |view| {
                carriers.insert(view.carrier("0", to, Family::V4).unwrap().name.clone());
            });
        }
        assert_eq!(carriers.len(), 1);
        at_work.extend(carriers);
        let inside = &world.nodes[&name(Some(0), 0)];
        let way = world.with_view(to, |view| format!("{:?}", view.way(inside, Family::V6)));
        let own = to.addresses.v4.unwrap();
        let expected = format!("V4 {{ source: {own}, destination: 203.0.113.1 }}, held: true");
        assert!(way.contains(&expected), "{way}");
    }
}

#[test]
fn what_is_taken_from_another_site_comes_from_its_gateway() {
    let world = World::new(1, &[1, 1], RouteSource::Bgp);
    let accepted = |local: NodeName, remote: NodeName| {
        world.with_view(&world.nodes[&local], |view| view.accepted(&world.nodes[&remote]))
    };
    let (outside, one, other) = (name(None, 0), name(Some(0), 0), name(Some(1), 0));
    assert_eq!(accepted(outside.clone(), one.clone()), [gateway("0")]);
    assert_eq!(accepted(outside.clone(), other.clone()), [gateway("1")]);
    assert_eq!(accepted(one.clone(), outside), ["172.16.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(accepted(one, other), Vec::<IpAddr>::new());
}

#[test]
fn without_a_node_outside_two_sites_have_no_way() {
    let world = World::new(0, &[1, 1], RouteSource::Bgp);
    let error = world.walk(&world.nodes[&name(Some(0), 0)], &world.nodes[&name(Some(1), 0)], Family::V4);
    assert!(error.as_ref().is_err_and(|error| error.contains("Relay")), "{error:?}");
}
