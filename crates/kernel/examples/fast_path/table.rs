//! Sides beside each other, and goals.

use std::fmt;
use std::time::Instant;

use crate::measure::{Block, Measure};
use crate::ways::Way;

/// How many times as many blocks there are at most where a goal is near.
const MOST_TIMES: usize = 8;

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

/// The median of ratios of blocks, and between what it is.
struct Ratio {
    least: f64,
    median: f64,
    most: f64,
}

impl Goal {
    pub(crate) fn beside(beside: &'static str, limit: f64) -> Goal {
        Goal { beside, limit }
    }
}

impl Row {
    /// Measures blocks, and so many more as long as whether a goal is met is open, but not for ever.
    pub(crate) fn measure(
        name: String,
        measure: Measure,
        ways: Vec<(&'static str, Way)>,
        blocks: usize,
        goals: &[Goal],
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
        let mut row = Row { name, measure, sides: ways.iter().map(side).collect() };
        for _ in 0..MOST_TIMES {
            for block in 0..measure.blocks(blocks) {
                for turn in 0..row.sides.len() {
                    let at = (block + turn) % row.sides.len();
                    before_each();
                    let (start, before) = (Instant::now(), unused(measure.cores()));
                    let Block { value, work } = opened[at]();
                    let available = start.elapsed().as_secs_f64() * measure.cores().len() as f64;
                    let side = &mut row.sides[at];
                    side.busy += available - (unused(measure.cores()) - before);
                    side.values.push(value);
                    side.work += work;
                }
            }
            if goals.iter().all(|goal| !row.ratio(goal).may_be(goal.limit)) {
                break;
            }
        }
        row
    }

    pub(crate) fn print(&self) {
        println!("{}", self.name);
        let is_time = self.measure.is_time();
        let (unit, of) =
            if is_time { ("us", "us of processor each") } else { ("Gbit/s", "ms of processor per GB") };
        let first = &self.sides[0];
        for side in &self.sides {
            let each = side.busy / side.work * if is_time { 1e6 } else { 1e3 };
            let (value, ratio) = (median(side.values.clone()), side.beside(first).median);
            println!("    {:<14}{value:>8.2} {unit:<7}{ratio:>6.2}{each:>10.1} {of}", side.name);
        }
    }

    /// Whether the fast path is as near to another side as it should be; says so.
    pub(crate) fn meets(&self, goal: &Goal) -> bool {
        let ratio = self.ratio(goal);
        let (is_met, most) = if self.measure.is_time() {
            (ratio.median <= goal.limit, "at most")
        } else {
            (ratio.median >= goal.limit, "at least")
        };
        let met = if is_met { "met" } else { "MISSED" };
        let Goal { beside, limit } = goal;
        println!(
            "    goal {met}: {ratio} of {beside}, {most} {limit:.2}; {} blocks",
            self.sides[0].values.len()
        );
        is_met
    }

    fn ratio(&self, goal: &Goal) -> Ratio {
        let side = |name| self.sides.iter().find(|side| side.name == name).unwrap();
        side("fast").beside(side(goal.beside))
    }
}

impl Side {
    /// How many times as much as the other.
    fn beside(&self, other: &Side) -> Ratio {
        let mut ratios: Vec<f64> =
            self.values.iter().zip(&other.values).map(|(own, other)| own / other).collect();
        ratios.sort_by(f64::total_cmp);
        // The ranks between which the median of all that could be measured is in 19 of 20 cases, by the binomial distribution.
        let (middle, apart) = (ratios.len() as f64 / 2.0, 0.98 * (ratios.len() as f64).sqrt());
        let ranked = |rank: f64| ratios[(rank as usize).min(ratios.len() - 1)];
        Ratio { least: ranked(middle - apart), median: ranked(middle), most: ranked(middle + apart) }
    }
}

impl Ratio {
    fn may_be(&self, value: f64) -> bool {
        (self.least..=self.most).contains(&value)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3} to {:.3})", self.median, self.least, self.most)
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
