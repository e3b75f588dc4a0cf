//! Programming: from nothing, one change, and as many changes as there are in a second.

use std::time::{Duration, Instant};

use kernel::Kernel;
use plan::{Change, Input};

use crate::fixture;
use crate::usage::{self, processor_time};

/// How many single changes are timed.
const CHANGES: u32 = 1_000;
/// How many changes a second are sustained, and for how long.
const RATE: u32 = 1_000;
const SUSTAINED: Duration = Duration::from_secs(5);

pub(crate) fn heading() {
    println!(
        "{:>8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9} {:>12} {:>9}",
        "services",
        "backends",
        "cold",
        "of it",
        "again",
        "change",
        "change",
        "restart",
        "1,000 a s:",
        "memory"
    );
    println!(
        "{:>8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9} {:>12} {:>9}",
        "", "", "", "planning", "", "median", "99 of 100", "", "CPU of 1", "MiB"
    );
}

/// Measures one size; whether the goals are met.
pub(crate) fn measure(size: u32, endpoints: u32) -> bool {
    let mut planner = fixture::planner();
    let mut kernel = Kernel::open().unwrap();
    // What is not about services is there already.
    assert!(kernel.reconcile(planner.entries()).unwrap().failures.is_empty());

    let start = Instant::now();
    for number in 0..size {
        planner.update(Input::Service(fixture::service(number)));
        planner.update(Input::Slice(fixture::slice(number, 0, endpoints)));
    }
    let planned = start.elapsed();
    let report = kernel.reconcile_services(planner.services()).unwrap();
    let cold = start.elapsed();
    assert!(report.services.is_none(), "{report}");
    assert!(report.made as u32 >= size * (endpoints + 1), "{report}");

    let start = Instant::now();
    assert!(kernel.reconcile_services(planner.services()).unwrap().is_quiet());
    let again = start.elapsed();

    // One endpoint goes and another comes, of services spread over all.
    let mut change = |round: u32| {
        let number = round.wrapping_mul(7919) % size;
        planner.update(Input::Slice(fixture::slice(number, 1 + round / size % 5, endpoints)))
    };
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|round| {
            let start = Instant::now();
            let change = change(round);
            apply(&mut kernel, &change);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() * 99 / 100]);

    let (used, start) = (processor_time(), Instant::now());
    let mut round = CHANGES;
    while start.elapsed() < SUSTAINED {
        // What came meanwhile is one transaction, as in the agent.
        let mut burst = Change::default();
        let due = CHANGES + (start.elapsed().as_secs_f64() * f64::from(RATE)) as u32;
        while round < due {
            burst.extend(change(round));
            round += 1;
        }
        apply(&mut kernel, &burst);
        std::thread::sleep(Duration::from_micros(500));
    }
    let share = (processor_time() - used).as_secs_f64() / start.elapsed().as_secs_f64();

    // A new process finds all as it should be.
    let start = Instant::now();
    let report = Kernel::open().unwrap().reconcile_services(planner.services()).unwrap();
    assert!(report.is_quiet(), "{report}");
    let restart = start.elapsed();

    let memory = usage::memory() as f64 / 1024.0;
    println!(
        "{size:>8} {:>10} {:>9.1} {:>9.1} {:>9.2} {:>9.3} {:>10.3} {:>9.1} {:>11.1}% {:>9.1}",
        size * endpoints,
        ms(cold),
        ms(planned),
        ms(again),
        ms(median),
        ms(worst),
        ms(restart),
        share * 100.0,
        memory
    );
    let mut sound = true;
    if size == 10_000 {
        sound &= goal("cold start in ms", ms(cold), 700.0);
        sound &= goal("memory in MiB", memory, 120.0);
        sound &= goal("99 of 100 changes in ms", ms(worst), 3.0);
    }
    sound
}

/// Says so if a goal is missed.
pub(crate) fn goal(what: &str, is: f64, most: f64) -> bool {
    if is > most {
        println!("goal missed: {what}: {is:.2}, not {most} or less");
    }
    is <= most
}

fn apply(kernel: &mut Kernel, change: &Change) {
    let report = kernel.apply(change).unwrap();
    assert!(report.services.is_none() && !report.reconcile_needed, "{report}");
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Keeps this thread, and those that it starts, on these cores.
pub(crate) fn pin(cores: &[usize]) {
    // SAFETY: cpu_set_t is plain data for which all zeroes is valid, and the call reads as much as it is told.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cores.iter().for_each(|core| libc::CPU_SET(*core, &mut set));
        let done = libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}
