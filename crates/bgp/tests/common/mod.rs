//! Our speaker and others on two ends of a wire, in namespaces without a way out.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod bird;
pub mod frr;
pub mod gobgp;
pub mod us;

use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// Everything that is waited for comes well within this.
pub const PATIENCE: Duration = Duration::from_secs(20);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Two namespaces with a wire between them. We are .1 and ::1, the others from .2 and ::2 on.
pub struct Wire {
    pub us: String,
    pub them: String,
}

pub fn us(v6: bool) -> IpAddr {
    address(v6, 1)
}

pub fn address(v6: bool, number: u8) -> IpAddr {
    if v6 { format!("fd00::{number}").parse().unwrap() } else { IpAddr::from([10, 0, 0, number]) }
}

impl Wire {
    pub fn new() -> Wire {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("bgp-{}-{count}-{side}", std::process::id());
        let wire = Wire { us: name("us"), them: name("them") };
        ip(&["netns", "add", &wire.us]);
        ip(&["netns", "add", &wire.them]);
        ip(&[
            "-n", &wire.us, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
            &wire.them,
        ]);
        for (side, numbers) in [(&wire.us, 1..=1), (&wire.them, 2..=4)] {
            for number in numbers {
                for (v6, len) in [(false, 24), (true, 64)] {
                    let address = format!("{}/{len}", address(v6, number));
                    ip(&["-n", side, "addr", "add", &address, "dev", "eth0", "nodad"]);
                }
            }
            ip(&["-n", side, "link", "set", "lo", "up"]);
            ip(&["-n", side, "link", "set", "eth0", "up"]);
        }
        wire
    }

    /// Runs a future on a thread that is in our namespace. What it spawns runs on another one, so that a test that
    /// waits for a program's answer keeps no speaker from speaking.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.us)).unwrap();
        let enter = move || setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let thread = std::thread::spawn(move || {
            enter();
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(1).enable_all().on_thread_start(enter).build().unwrap().block_on(work)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// How many segments both ends have dropped because they were signed and should not have been, or the reverse.
    pub fn md5_drops(&self) -> u64 {
        let drops = |side: &String| counters(side, &["TCPMD5NotFound", "TCPMD5Unexpected"]);
        drops(&self.us) + drops(&self.them)
    }

    /// How many segments our end has dropped because a router may have passed them on.
    pub fn ttl_drops(&self) -> u64 {
        counters(&self.us, &["TCPMinTTLDrop"])
    }

    /// Takes the wire away from their end, or joins it again. Only addresses of IPv4 are still there after it.
    pub fn join(&self, joined: bool) {
        ip(&["-n", &self.them, "link", "set", "eth0", if joined { "up" } else { "down" }]);
    }

    /// Starts a program at their end.
    pub fn start(&self, program: &str, args: &[&str], log: &std::path::Path) -> Process {
        let log = File::create(log).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.them, program])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Process(child)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.us, &self.them] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// A program that ends with the test.
pub struct Process(Child);

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has not ended by itself.
    pub fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    pub fn freeze(&self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    }

    /// Ends it without letting it say good-bye.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks again and again until the answer is as wanted: for programs that tell of nothing by themselves.
#[track_caller]
pub fn until<T: std::fmt::Debug>(
    what: &str,
    mut ask: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            let answer = ask();
            if wanted(&answer) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "{caller}: {what}: {answer:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The same where no speaker of ours runs on this thread.
#[track_caller]
pub fn until_blocking<T: std::fmt::Debug>(
    what: &str,
    ask: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(until(what, ask, wanted))
}

pub fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The sum of these counters of a namespace's TCP.
fn counters(namespace: &str, wanted: &[&str]) -> u64 {
    let all =
        text(&output(Command::new("ip").args(["netns", "exec", namespace, "cat", "/proc/net/netstat"])));
    let mut lines = all.lines().filter(|line| line.starts_with("TcpExt:")).map(|line| line.split(' '));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let of_these = names.zip(values).filter(|(name, _)| wanted.contains(name));
    of_these.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

#[track_caller]
fn ip(args: &[&str]) {
    let output = output(Command::new("ip").args(args));
    assert!(output.status.success(), "ip {args:?}: {}", text(&output));
}
