//! A node behind a NAT gateway, and one outside that waits until it hears it.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::sites::{Reconcile, Sites, heard, node, pod, range, router};
use kernel::ipip::{self, Ipip};
use model::Family;
use plan::ipip::{Outer, Table};

const HOLD: Duration = Duration::from_secs(1);

/// Node 1 is inside, node 2 outside; the router masquerades what comes from inside.
struct Scene {
    sites: Sites,
    outside: Ipip,
    _inside: Ipip,
}

impl Scene {
    fn new() -> Scene {
        let sites = Sites::new(2);
        let [inside, outside] = sites.connect(Family::V4).try_into().unwrap();
        let mut scene = Scene { sites, outside, _inside: inside };
        let gateway = &scene.sites.router;
        gateway.run_words(&["nft", "add table ip nat"]);
        gateway.run_words(&["nft", "add chain ip nat post { type nat hook postrouting priority srcnat; }"]);
        gateway.run_words(&["nft", "add rule ip nat post ip saddr 172.16.1.0/24 oifname r2 masquerade"]);
        // Ten minutes by default.
        gateway.run("sysctl -qw net.netfilter.nf_conntrack_generic_timeout=2");
        let table = outside_table(&scene.sites);
        let _guard = scene.sites.site(2).node.enter();
        scene.outside.reconcile(&table).unwrap();
        scene
    }

    fn tries(&self, from: usize, to: usize) -> bool {
        let to = pod(to, Family::V4).to_string();
        self.sites
            .site(from)
            .pod
            .try_run(&["ping", "-n", "-c", "2", "-i", "0.1", "-W", "0.3", &to])
            .status
            .success()
    }

    /// Runs something while node 1 says that it is there, some times in each second.
    fn with_keepalives(&self, run: impl FnOnce()) {
        let done = AtomicBool::new(false);
        let inside = &self.sites.site(1).node;
        let outer = Outer::new(node(1, Family::V4), node(2, Family::V4)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _guard = inside.enter();
                while !done.load(Ordering::Relaxed) {
                    // A gateway knows protocols 4 and 41 as two flows.
                    for family in Family::BOTH {
                        ipip::send_keepalive(outer, family).unwrap();
                    }
                    thread::park_timeout(Duration::from_millis(100));
                }
            });
            let stop = Stop(&done);
            run();
            drop(stop);
        });
    }
}

/// Ends the keepalives even if a test does not go well.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// To the outside, node 1 is where the gateway is.
fn outside_table(sites: &Sites) -> Table {
    let mut table = sites.table(2, Family::V4);
    let seen = router(2, Family::V4);
    table.nodes = [seen].into();
    for family in Family::BOTH {
        let route = table.routes.get_mut(&range(1, family)).unwrap();
        route.outer = Outer::new(node(2, Family::V4), seen).unwrap();
        route.hold = Some(HOLD);
    }
    table
}

#[test]
fn the_outside_waits_and_hears_again_after_the_gateway_forgot() {
    let scene = Scene::new();
    assert!(!scene.tries(2, 1), "nothing was heard");
    let held = scene.outside.counters().unwrap().held;
    assert!(held >= 2);

    scene.with_keepalives(|| {
        // Echo requests of both sides until one is answered: the outside has heard the inside.
        for family in Family::BOTH {
            heard(&scene.sites.site(2).pod, pod(1, family));
            heard(&scene.sites.site(1).pod, pod(2, family));
            scene.sites.site(2).ping(pod(1, family), "-c 10 -i 0.02");
            scene.sites.site(1).ping(pod(2, family), "-c 10 -i 0.02");
        }
        let seen = router(2, Family::V4);
        assert!(scene.outside.last_heard().unwrap()[&seen].iter().all(|time| *time < HOLD));
        // The outside sends all the time, so it may well be the first one that the gateway sees afterwards. If so, it
        // falls silent when it hears nothing more, the gateway forgets that too, and the inside is first.
        thread::scope(|scope| {
            let outside = &scene.sites.site(2).pod;
            let to = pod(1, Family::V4);
            let flood = scope.spawn(move || {
                outside.try_run(&["ping", "-n", "-q", "-i", "0.002", "-c", "400", &to.to_string()])
            });
            while !flood.is_finished() {
                scene.sites.router.run("conntrack -F");
                heard(outside, to);
            }
            flood.join().unwrap();
        });
    });
    // No keepalives, no sign of life.
    let silent = |time: &Duration| *time > HOLD + Duration::from_millis(20);
    while !scene.outside.last_heard().unwrap()[&router(2, Family::V4)].iter().all(silent) {
        thread::yield_now();
    }
    assert!(!scene.tries(2, 1), "the inside is silent");
}
