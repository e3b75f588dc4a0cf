//! Sides beside each other, and goals.

use std::time::Instant;

use crate::measure::{Block, Measure};
use crate::ways::Way;

/// What was measured of some ways in turns.
pub(crate) struct Row {
    name: String,
    measure: Measure,
    sides: Vec<Side>,
}

struct Side {
    name: &'static str,
    values: Vec<f64>,
    work: f64,
    /// Processor time in seconds.
    busy: f64,
}

/// The fast path beside another side: for times at most so many times as much, for throughputs at least.
pub(crate) struct Goal {
    beside: &'static str,
    limit: f64,
}

impl Goal {
    pub(crate) fn beside(beside: &'static str, limit: f64) -> Goal {
        Goal { beside, limit }
    }
}

impl Row {
    pub(crate) fn measure(
        name: String,
        measure: Measure,
        ways: Vec<(&'static str, Way)>,
        blocks: usize,
        mut before_each: impl FnMut(),
    ) -> Row {
        let mut opened: Vec<_> = ways.iter().map(|(_, way)| measure.open(way)).collect();
        let warm = Instant::now();
        while warm.elapsed() < measure.warms_up_for() {
            before_each();
            for block in &mut opened {
                block();
            }
        }
        let side = |(name, _): &(&'static str, Way)| Side { name, values: Vec::new(), work: 0.0, busy: 0.0 };
        let mut sides: Vec<Side> = ways.iter().map(side).collect();
        for block in 0..measure.blocks(blocks) {
            for turn in 0..sides.len() {
                let at = (block + turn) % sides.len();
                before_each();
                let (start, before) = (Instant::now(), unused(measure.cores()));
                let Block { value, work } = opened[at]();
                let available = start.elapsed().as_secs_f64() * measure.cores().len() as f64;
                sides[at].busy += available - (unused(measure.cores()) - before);
                sides[at].values.push(value);
                sides[at].work += work;
            }
        }
        Row { name, measure, sides }
    }

    pub(crate) fn print(&self) {
        println!("{}", self.name);
        let is_time = self.measure.is_time();
        let (unit, of) =
            if is_time { ("us", "us of processor each") } else { ("Gbit/s", "ms of processor per GB") };
        let first = &self.sides[0];
        for side in &self.sides {
            let each = side.busy / side.work * if is_time { 1e6 } else { 1e3 };
            let (value, ratio) = (median(side.values.clone()), side.beside(first));
            println!("    {:<14}{value:>8.2} {unit:<7}{ratio:>6.2}{each:>10.1} {of}", side.name);
        }
    }

    /// Whether the fast path is as near to another side as it should be; says so.
    pub(crate) fn meets(&self, goal: &Goal) -> bool {
        let side = |name| self.sides.iter().find(|side| side.name == name).unwrap();
        let ratio = side("fast").beside(side(goal.beside));
        let (is_met, most) = if self.measure.is_time() {
            (ratio <= goal.limit, "at most")
        } else {
            (ratio >= goal.limit, "at least")
        };
        let met = if is_met { "met" } else { "MISSED" };
        println!("    goal {met}: {ratio:.3} of {}, {most} {:.2}", goal.beside, goal.limit);
        is_met
    }
}

impl Side {
    /// How many times as much as the other.
    fn beside(&self, other: &Side) -> f64 {
        median(self.values.iter().zip(&other.values).map(|(own, other)| own / other).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The time since the start that cores were idle, waited for disks or were taken by the machine's host, in seconds, by
/// `/proc/stat` (proc_stat(5)). All else is use. It is not added up from the other columns: which of these grows is looked at
/// only once a tick, and each is cut to hundredths. So is what is read here; the sum over many blocks is what counts.
fn unused(cores: &[usize]) -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let of = |core: &usize| {
        let name = format!("cpu{core} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        let times: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal
        times[3] + times[4] + times[7]
    };
    cores.iter().map(of).sum::<u64>() as f64 / 100.0
}
