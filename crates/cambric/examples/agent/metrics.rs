//! What the agent counts of itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// The namespace is this program's own, so the port is free.
const AGENT: &str = "127.0.0.1:9469";
/// From the event to the kernel's commit.
const PROGRAMMING: &str = "cambric_programming_latency_seconds";

/// The metrics at one time.
pub(crate) struct Metrics(String);

impl Metrics {
    pub(crate) fn read() -> Metrics {
        let mut stream = TcpStream::connect(AGENT).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        Metrics(answer)
    }

    /// The metrics as soon as a number has grown to this.
    pub(crate) fn when(name: &str, least: u64) -> Metrics {
        let start = Instant::now();
        loop {
            let metrics = Metrics::read();
            if metrics.number(name) >= least {
                return metrics;
            }
            assert!(start.elapsed() < PATIENCE, "{name} does not grow to {least}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        self.0.lines().find_map(value).unwrap()
    }

    /// How many events have been programmed.
    pub(crate) fn programmed(&self) -> u64 {
        self.number(&programmed())
    }

    /// Of the events that have been programmed since, the time in which 99 of 100 were: between the bounds of its
    /// bucket, as Prometheus' `histogram_quantile` has it.
    pub(crate) fn programming(&self, since: &Metrics) -> Duration {
        let counts =
            self.buckets().zip(since.buckets()).map(|((bound, now), (_, before))| (bound, now - before));
        let counts: Vec<(f64, f64)> = counts.map(|(bound, count)| (bound, count as f64)).collect();
        let rank = counts.last().unwrap().1 * 0.99;
        let (mut below, mut passed) = (0.0, 0.0);
        for (bound, count) in counts {
            if count >= rank {
                return Duration::from_secs_f64(below + (bound - below) * (rank - passed) / (count - passed));
            }
            (below, passed) = (bound, count);
        }
        unreachable!("the last bucket has all");
    }

    /// The upper bound of each bucket in seconds, and how many events were no slower.
    fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let prefix = format!("{PROGRAMMING}_bucket{{le=\"");
        self.0.lines().filter_map(move |line| {
            let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            // Slower than all bounds is as bad as anything.
            let bound = bound.parse::<f64>().ok().filter(|bound| bound.is_finite());
            Some((bound.unwrap_or(PATIENCE.as_secs_f64()), count.parse().ok()?))
        })
    }
}

/// The number of events that have been programmed.
pub(crate) fn programmed() -> String {
    format!("{PROGRAMMING}_count")
}
