//! `cambric lab capture`: the packets on the links of a machine or pod.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use kernel::netns::{self, NetNs};
use model::LinkName;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use trace::capture::{Capture, CaptureError, Captured, Direction, PcapWriter, Stop, Tunnels};

use crate::fabric::namespace_path;
use crate::paths::LabName;
use crate::signals::Interrupts;
use crate::{Error, Result, topology};

/// What to capture, and where to.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// The link, for instance eth0 [default: all but loopback]
    #[arg(short = 'i', long = "link", value_name = "LINK")]
    pub link: Option<LinkName>,
    /// Stop after so many packets
    #[arg(short, long, value_name = "PACKETS")]
    pub count: Option<u64>,
    /// Write the packets to a pcap file, for wireshark or tcpdump -r; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
}

/// Captures in a namespace of a lab and prints a line per packet, through all tunnels, until there are enough or a
/// signal comes.
///
/// # Errors
/// [`Error`] if there is no such lab or link, or the output cannot be written.
pub fn run(lab: &LabName, namespace: &str, options: &Options, interrupts: &Interrupts) -> Result<()> {
    let topology = topology::load(&lab.paths().topology())?;
    let tunnels = Tunnels { vxlan_port: topology.network.config.encapsulation.vxlan.port.value() };
    let space = NetNs::open(namespace_path(namespace)).map_err(Error::kernel(namespace))?;
    let wanted = match &options.link {
        Some(link) => trace::capture::Options::on(link.clone()),
        None => trace::capture::Options::default(),
    };
    let failed = |error: CaptureError| Error::Other(format!("{namespace}: {error}"));
    let opened =
        netns::run_in(&space, || Ok((Capture::open(&wanted)?, links()))).map_err(Error::kernel(namespace))?;
    let (mut capture, links) = opened.map_err(failed)?;
    let mut output = Output::open(options, tunnels, links)?;
    let result = until_signalled(capture.stop_handle(), interrupts, || {
        let mut left = options.count.unwrap_or(u64::MAX);
        while left > 0
            && let Some(captured) = capture.next().map_err(failed)?
        {
            output.write(&captured).map_err(|error| Error::system("write a packet", error))?;
            left -= 1;
        }
        output.flush().map_err(|error| Error::system("write the packets", error))
    });
    // A signal is how a capture ends. It is taken, so that it does not end the process as well.
    match interrupts.check() {
        Err(Error::Interrupted(_)) | Ok(()) => result,
        Err(error) => result.and(Err(error)),
    }
}

/// Does something that ends when it is told to stop, and tells it so when a signal comes.
fn until_signalled(stop: Stop, interrupts: &Interrupts, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (done, working) = io::pipe().map_err(|error| Error::system("make a pipe", error))?;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut fds = [
                PollFd::new(interrupts.as_fd(), PollFlags::POLLIN),
                PollFd::new(done.as_fd(), PollFlags::POLLIN),
            ];
            // Whatever ends the wait, an error too, there is nobody left who would wait for a signal.
            while poll(&mut fds, PollTimeout::NONE) == Err(nix::Error::EINTR) {}
            stop.stop();
        });
        let result = work();
        // The other end of the pipe sees that nobody is working any more.
        drop(working);
        result
    })
}

/// Where packets are written to.
enum Output {
    Lines { tunnels: Tunnels, links: Vec<(u32, String)> },
    Pcap(PcapWriter<Box<dyn Write>>),
}

impl Output {
    fn open(options: &Options, tunnels: Tunnels, links: Vec<(u32, String)>) -> Result<Output> {
        let Some(path) = &options.write else { return Ok(Output::Lines { tunnels, links }) };
        let failed = |error| Error::io("write", path, error);
        let writer: Box<dyn Write> = match path.as_os_str() == "-" {
            true => Box::new(BufWriter::new(io::stdout())),
            false => Box::new(BufWriter::new(File::create(path).map_err(failed)?)),
        };
        PcapWriter::new(writer).map(Output::Pcap).map_err(failed)
    }

    fn write(&mut self, captured: &Captured) -> io::Result<()> {
        match self {
            Output::Pcap(pcap) => pcap.write(captured.time, &captured.frame, captured.length),
            Output::Lines { tunnels, links } => {
                let link = links.iter().find(|(index, _)| *index == captured.link_index);
                let link = link.map_or("?", |(_, name)| name.as_str());
                let way = if captured.direction == Direction::Out { "Out" } else { "In " };
                writeln!(io::stdout(), "{} {link} {way} {}", clock(captured.time), captured.decode(tunnels))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Pcap(pcap) => pcap.flush(),
            Output::Lines { .. } => io::stdout().flush(),
        }
    }
}

/// The links of the calling thread's namespace by their indices.
fn links() -> Vec<(u32, String)> {
    let links = nix::net::if_::if_nameindex().into_iter();
    let pair = |link: &nix::net::if_::Interface| (link.index(), link.name().to_string_lossy().into_owned());
    links.flat_map(|all| all.iter().map(pair).collect::<Vec<_>>()).collect()
}

/// The time of day in UTC, to the microsecond.
pub fn clock(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = since.as_secs();
    let (hour, minute, second) = (second / 3600 % 24, second / 60 % 60, second % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{:06}", since.subsec_micros())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_time_of_day() {
        assert_eq!(clock(UNIX_EPOCH + Duration::new(86_400 + 3_661, 42_000)), "01:01:01.000042");
    }
}
