use std::time::Duration;

use super::super::Reachability;
use super::super::packet::{Diagnostic, Packet};
use super::*;

const MS: Duration = Duration::from_millis(1);

/// Two that watch each other.
struct Pair {
    now: Moment,
    ends: [Neighbours; 2],
    /// Whether what each sends gets through.
    through: [bool; 2],
    heard: [Vec<Reachability>; 2],
    sent: [usize; 2],
}

fn address(end: usize) -> IpAddr {
    if end == 0 { "192.0.2.1".parse().unwrap() } else { "2001:db8::2".parse().unwrap() }
}

fn config(tx: u32, rx: u32, multiplier: u8) -> BfdConfig {
    BfdConfig { min_tx: MS * tx, min_rx: MS * rx, multiplier }
}

impl Pair {
    fn new(configs: [BfdConfig; 2]) -> Pair {
        let now = Moment::after_start(MS);
        let mut ends = [Neighbours::new(1), Neighbours::new(2)];
        for end in 0..2 {
            ends[end].watch(address(1 - end), configs[end], now);
        }
        Pair { now, ends, through: [true; 2], heard: Default::default(), sent: [0; 2] }
    }

    fn handle(&mut self, end: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Changed(change) => self.heard[end].push(change.reachability),
                Output::Send { bytes, .. } => {
                    self.sent[end] += 1;
                    if self.through[end] {
                        let answers = self.ends[1 - end].received(address(end), &bytes, self.now);
                        self.handle(1 - end, answers);
                    }
                }
            }
        }
    }

    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some((due, end)) = (0..2)
            .filter_map(|end| Some((self.ends[end].deadline()?, end)))
            .min()
            .filter(|(due, _)| *due <= until)
        {
            self.now = self.now.max(due);
            let outputs = self.ends[end].tick(self.now);
            self.handle(end, outputs);
        }
        self.now = until;
    }
}

#[test]
fn two_come_up_and_send_as_often_as_was_agreed() {
    let mut pair = Pair::new([config(50, 100, 3), config(80, 20, 5)]);
    pair.pass(MS * 3000);
    assert_eq!(pair.heard, [vec![Reachability::Up], vec![Reachability::Up]]);
    let before = pair.sent;
    pair.pass(MS * 10_000);
    // The first sends every max(50, 20) ms, the second every max(80, 100), each up to a quarter less.
    let each = [pair.sent[0] - before[0], pair.sent[1] - before[1]];
    assert!((200..=267).contains(&each[0]) && (100..=134).contains(&each[1]), "{each:?}");
}

#[test]
fn silence_is_noticed_in_time_and_the_other_side_is_told() {
    let mut pair = Pair::new([config(50, 50, 3), config(50, 50, 3)]);
    pair.pass(MS * 3000);
    pair.through[0] = false;
    pair.pass(MS * 100);
    assert_eq!(pair.heard[1], [Reachability::Up]);
    pair.pass(MS * 60);
    assert_eq!(pair.heard[1][1], Reachability::Down(Diagnostic::DetectionTimeExpired));
    // The first one still hears, and hears that it is not heard.
    assert_eq!(pair.heard[0][1], Reachability::Down(Diagnostic::NeighbourSignaledDown));
    pair.through[0] = true;
    pair.pass(MS * 3000);
    assert!(pair.heard.iter().all(|heard| heard.last() == Some(&Reachability::Up) && heard.len() == 3));
}

#[test]
fn one_that_stops_on_purpose_is_not_taken_for_dead() {
    let mut pair = Pair::new([config(50, 50, 3), config(50, 50, 3)]);
    pair.pass(MS * 3000);
    let farewell = pair.ends[0].forget(address(1)).unwrap();
    pair.handle(0, vec![farewell]);
    pair.pass(MS * 2000);
    assert_eq!(pair.heard[1], [Reachability::Up, Reachability::Unknown]);
    assert_eq!(pair.ends[0].state(address(1)), None);
}

/// As a restarted process does, which has lost nothing: the path may be whole all the time.
#[test]
fn one_that_has_begun_anew_is_not_taken_for_dead() {
    let mut pair = Pair::new([config(50, 50, 3), config(50, 50, 3)]);
    pair.pass(MS * 3000);
    pair.ends[0] = Neighbours::new(3);
    pair.ends[0].watch(address(1), config(50, 50, 3), pair.now);
    pair.pass(MS * 3000);
    assert_eq!(pair.heard[1], [Reachability::Up, Reachability::Unknown, Reachability::Up]);
    assert_eq!(pair.heard[0], [Reachability::Up, Reachability::Up]);

    // One that says that it has missed us has a reason to.
    pair.through[1] = false;
    pair.pass(MS * 160);
    assert_eq!(pair.heard[0].last(), Some(&Reachability::Down(Diagnostic::DetectionTimeExpired)));
    assert_eq!(pair.heard[1].last(), Some(&Reachability::Down(Diagnostic::NeighbourSignaledDown)));
}

/// Not before three slow intervals have passed, as if the neighbour still sent every second.
#[test]
fn a_silence_right_after_it_has_come_up_is_noticed_as_soon_as_any_other() {
    let mut pair = Pair::new([config(50, 50, 3), config(50, 50, 3)]);
    for round in 1..=3 {
        let up = |pair: &Pair| pair.heard.iter().all(|heard| heard.last() == Some(&Reachability::Up));
        let healed = pair.now;
        while !up(&pair) {
            pair.pass(MS);
        }
        assert!(pair.now.since(healed) <= MS * 1000, "one slow interval: {:?}", pair.now.since(healed));
        pair.through = [false; 2];
        pair.pass(MS * 151);
        for heard in &pair.heard {
            assert_eq!(heard.len(), 2 * round);
            assert_eq!(heard.last(), Some(&Reachability::Down(Diagnostic::DetectionTimeExpired)));
        }
        pair.pass(MS * 2000);
        pair.through = [true; 2];
    }
}

#[test]
fn intervals_can_change_while_it_is_up() {
    let mut pair = Pair::new([config(50, 50, 3), config(50, 50, 3)]);
    pair.pass(MS * 3000);
    pair.ends[0].watch(address(1), config(500, 500, 3), pair.now);
    pair.pass(MS * 20_000);
    assert!(pair.heard.iter().all(|heard| heard.len() == 1), "{:?}", pair.heard);
    let before = pair.sent;
    pair.pass(MS * 10_000);
    let each = [pair.sent[0] - before[0], pair.sent[1] - before[1]];
    assert!(each.iter().all(|sent| (20..=27).contains(sent)), "{each:?}");
    // Also if what is said of it is lost at first.
    pair.ends[0].watch(address(1), config(50, 50, 3), pair.now);
    pair.pass(MS * 2000);
    pair.ends[0].watch(address(1), config(900, 50, 3), pair.now);
    pair.through[0] = false;
    pair.pass(MS * 70);
    pair.through[0] = true;
    pair.pass(MS * 5000);
    assert!(pair.heard.iter().all(|heard| heard.len() == 1), "{:?}", pair.heard);
}

#[test]
fn strangers_and_wrong_discriminators_are_not_listened_to() {
    let mut ends = Neighbours::new(1);
    let now = Moment::default();
    ends.watch(address(1), config(50, 50, 3), now);
    let packet = Packet {
        diagnostic: Diagnostic::None,
        state: State::Init,
        poll: true,
        finish: false,
        independent: true,
        multiplier: 3,
        mine: 9,
        yours: 1,
        min_tx: MS,
        min_rx: MS,
    };
    assert!(ends.received(address(0), &packet.bytes(), now).is_empty());
    assert!(ends.received(address(1), &Packet { yours: 2, ..packet }.bytes(), now).is_empty());
    assert_eq!(ends.state(address(1)), Some(State::Down));
    assert_eq!(ends.received(address(1), &packet.bytes(), now).len(), 2, "an answer, and the news");
    assert_eq!(ends.state(address(1)), Some(State::Up));
    let expired = Change {
        neighbour: address(1),
        reachability: Reachability::Down(Diagnostic::DetectionTimeExpired),
        independent: true,
    };
    assert!(ends.tick(now + MS * 150).contains(&Output::Changed(expired)), "as it has said last");
}
