use proptest::prelude::*;

use super::*;
use crate::Origin as RouteOrigin;

/// A path as the tests write it.
#[derive(Debug, Clone)]
struct Owned {
    attributes: Arc<Attributes>,
    origin: Origin,
}

impl Owned {
    fn new(number: u8) -> Owned {
        Owned {
            attributes: Arc::new(Attributes::new(IpAddr::from([192, 0, 2, number]))),
            origin: Origin {
                kind: SourceKind::External,
                router_id: [10, 0, 0, number].into(),
                address: IpAddr::from([192, 0, 2, number]),
            },
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Attributes)) -> Owned {
        change(Arc::make_mut(&mut self.attributes));
        self
    }

    fn kind(mut self, kind: SourceKind) -> Owned {
        self.origin.kind = kind;
        self
    }
}

fn choose(paths: &[Owned], most: usize) -> Vec<usize> {
    let candidates: Vec<Candidate<'_>> =
        paths.iter().map(|path| Candidate { attributes: &path.attributes, origin: &path.origin }).collect();
    select(&candidates, Multipath { most, across_as: false })
}

#[test]
fn each_step_decides_only_when_those_before_it_do_not() {
    let internal = SourceKind::Internal { client: false };
    // Each one is better than all that follow it.
    let ladder = [
        Owned::new(90).kind(SourceKind::Local).with(|a| a.local_pref = Some(1)),
        Owned::new(91).with(|a| (a.local_pref, a.as_path) = (Some(200), [7, 7, 7].into())),
        Owned::new(92)
            .with(|a| (a.as_path, a.origin, a.med) = ([7].into(), RouteOrigin::Incomplete, Some(9))),
        Owned::new(93).with(|a| (a.as_path, a.origin, a.med) = ([7, 8].into(), RouteOrigin::Igp, Some(9))),
        Owned::new(94)
            .with(|a| (a.as_path, a.origin, a.med) = ([7, 8].into(), RouteOrigin::Egp, Some(1)))
            .kind(internal),
        Owned::new(95).with(|a| (a.as_path, a.origin, a.med) = ([7, 8].into(), RouteOrigin::Egp, Some(2))),
        Owned::new(80)
            .with(|a| (a.as_path, a.origin, a.med) = ([7, 8].into(), RouteOrigin::Egp, Some(2)))
            .kind(internal),
        Owned::new(81)
            .with(|a| {
                (a.as_path, a.origin, a.med) = ([7, 8].into(), RouteOrigin::Egp, Some(2));
                (a.originator, a.cluster_list) = (Some([10, 0, 0, 81].into()), [[1, 1, 1, 1].into()].into());
            })
            .kind(internal),
        Owned::new(70)
            .with(|a| {
                (a.as_path, a.origin, a.med) = ([7, 8].into(), RouteOrigin::Egp, Some(2));
                a.originator = Some([10, 0, 0, 81].into());
                a.cluster_list = [[1, 1, 1, 1].into(), [2, 2, 2, 2].into()].into();
            })
            .kind(internal),
        Owned::new(71)
            .with(|a| {
                (a.as_path, a.origin, a.med) = ([7, 8].into(), RouteOrigin::Egp, Some(2));
                a.originator = Some([10, 0, 0, 81].into());
                a.cluster_list = [[1, 1, 1, 1].into(), [2, 2, 2, 2].into()].into();
            })
            .kind(internal),
    ];
    for from in 0..ladder.len() {
        assert_eq!(choose(&ladder[from..], 1), [0], "from {from}");
    }
}

#[test]
fn med_is_compared_only_within_a_neighbour_as() {
    let paths = [
        Owned::new(3).with(|a| (a.as_path, a.med) = ([7].into(), Some(1))),
        Owned::new(2).with(|a| (a.as_path, a.med) = ([8].into(), Some(50))),
        Owned::new(1).with(|a| (a.as_path, a.med) = ([7].into(), Some(2))),
    ];
    // 1 has the lowest router id but loses to 3 by MED; 3 loses to 2 by router id.
    assert_eq!(choose(&paths, 1), [1]);
}

#[test]
fn multipath_takes_what_only_tie_breakers_tell_apart_and_each_next_hop_once() {
    let same_hop = Owned::new(4).with(|a| a.next_hop = IpAddr::from([192, 0, 2, 1]));
    let longer = Owned::new(5).with(|a| a.as_path = [7, 7].into());
    let other_as = Owned::new(6).with(|a| a.as_path = [8].into());
    let mut paths: Vec<Owned> = [3, 1, 2].map(Owned::new).to_vec();
    paths.extend([same_hop, longer, other_as]);
    for path in &mut paths[..4] {
        Arc::make_mut(&mut path.attributes).as_path = [7].into();
    }
    assert_eq!(choose(&paths, 8), [1, 2, 0]);
    assert_eq!(choose(&paths, 2), [1, 2]);
    assert!(choose(&[], 8).is_empty());
}

#[test]
fn a_way_round_over_a_reflector_is_not_used_beside_the_straight_one() {
    let client = SourceKind::Internal { client: true };
    let straight = Owned::new(1).kind(client);
    let round = Owned::new(2)
        .kind(client)
        .with(|a| (a.originator, a.cluster_list) = (Some([10, 0, 0, 1].into()), [[9; 4].into()].into()));
    assert_eq!(choose(&[round.clone(), straight], 4), [1]);
    let other = Owned::new(3).kind(client).with(|a| a.clone_from(&round.attributes));
    let other = other.with(|a| a.next_hop = IpAddr::from([192, 0, 2, 3]));
    assert_eq!(choose(&[round, other], 4), [0, 1]);
}

fn any_path() -> impl Strategy<Value = Owned> {
    let kinds = prop_oneof![
        Just(SourceKind::External),
        Just(SourceKind::Internal { client: false }),
        Just(SourceKind::Internal { client: true }),
    ];
    (kinds, prop::option::of(99u32..102), prop::collection::vec(7u32..9, 0..3), 0u32..3, 1u8..4, 0usize..2)
        .prop_map(|(kind, local_pref, path, med, id, clusters)| {
            let mut owned = Owned::new(id).kind(kind).with(|a| {
                a.local_pref = local_pref;
                a.as_path = path.into();
                a.med = (med > 0).then_some(med);
                a.cluster_list = vec![Ipv4Addr::LOCALHOST; clusters].into();
            });
            owned.origin.router_id = [10, 0, 0, id].into();
            owned
        })
}

fn any_paths() -> impl Strategy<Value = Vec<Owned>> {
    prop::collection::vec(any_path(), 0..9).prop_map(|mut paths| {
        // Each peer has an address of its own.
        for (number, path) in paths.iter_mut().enumerate() {
            path.origin.address = IpAddr::from([198, 51, 100, number as u8]);
        }
        paths
    })
}

proptest! {
    #[test]
    fn the_order_of_arrival_decides_nothing(
        (paths, shuffled) in any_paths().prop_flat_map(|paths| (Just(paths.clone()), Just(paths).prop_shuffle())),
        most in 1usize..4,
    ) {
        let addresses = |paths: &[Owned]| -> Vec<IpAddr> {
            choose(paths, most).into_iter().map(|index| paths[index].origin.address).collect()
        };
        prop_assert_eq!(addresses(&paths), addresses(&shuffled));
    }

    #[test]
    fn comparison_is_a_total_order(paths in any_paths()) {
        for med in [false, true] {
            let paths: Vec<&Owned> =
                paths.iter().filter(|path| !med || path.attributes.neighbour_as() == Some(7)).collect();
            let candidate = |index: usize| Candidate { attributes: &paths[index].attributes, origin: &paths[index].origin };
            for a in 0..paths.len() {
                for b in 0..paths.len() {
                    let order = compare(&candidate(a), &candidate(b), med);
                    prop_assert_eq!(order == Ordering::Equal, a == b);
                    prop_assert_eq!(order.reverse(), compare(&candidate(b), &candidate(a), med));
                    for c in 0..paths.len() {
                        if order == Ordering::Less && compare(&candidate(b), &candidate(c), med) == Ordering::Less {
                            prop_assert_eq!(compare(&candidate(a), &candidate(c), med), Ordering::Less);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_path_that_is_not_chosen_changes_nothing_by_going(paths in any_paths()) {
        // Only with a MED can a path that is not best itself have kept another from being best.
        let paths: Vec<Owned> = paths.into_iter().map(|path| path.with(|a| a.med = None)).collect();
        if let Some(best) = choose(&paths, 1).first().copied() {
            for gone in (0..paths.len()).filter(|index| *index != best) {
                let mut left = paths.clone();
                left.remove(gone);
                let chosen = choose(&left, 1)[0];
                prop_assert_eq!(left[chosen].origin.address, paths[best].origin.address);
            }
        }
    }
}
