//! Tries of connections to services, each with a mark, so that its packets are known whatever becomes of their addresses
//! and ports.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kernel::netns::{self, NetNs};
use nix::sys::socket::SockType;
use trace::live::Mark;
use trace::live::send::{self, PORTS};

use super::evidence::{Got, Heard, Transport};
use super::probe::{LONGEST, same_answers};
use crate::echo::Answer;

/// Gives each try a port and a mark.
#[derive(Debug)]
pub(crate) struct Ports {
    port: AtomicU16,
    mark: AtomicU32,
}

impl Ports {
    /// Begins anywhere: what connection tracking still knows of an earlier check is not met again so soon.
    pub(crate) fn new() -> Ports {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let span = u64::from(PORTS.end - PORTS.start);
        let offset = (time.as_millis() as u64 / 10 * 97) % span;
        Ports {
            port: AtomicU16::new(PORTS.start + offset as u16),
            mark: AtomicU32::new(time.as_micros() as u32),
        }
    }

    /// A mark that nobody else has been given.
    pub(crate) fn mark(&self) -> Mark {
        // Sequence numbers of retransmissions are near each other, and marks should not be. The factor is odd, so that
        // different numbers remain so.
        Mark(self.mark.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b1))
    }

    fn next(&self) -> u16 {
        let next = |port: u16| if port + 1 >= PORTS.end { PORTS.start } else { port + 1 };
        self.port
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |port| Some(next(port)))
            .unwrap_or(PORTS.start)
    }
}

/// One try, before the captures have been looked at.
#[derive(Debug)]
pub(crate) struct Tried {
    /// What its packets are known by.
    pub(crate) mark: Mark,
    pub(crate) got: Got,
    pub(crate) after: Duration,
}

/// Asks who answers; over TCP so many times, by one connection. Each step may take some time. The mark is the sequence
/// number of a TCP connection's first segment, or a text in a datagram, which an echo server repeats.
pub(crate) fn attempt(
    from: &NetNs,
    to: SocketAddr,
    transport: Transport,
    ports: &Ports,
    patience: Duration,
    mark: Mark,
    times: usize,
) -> Tried {
    let tried = netns::run_in(from, || -> nix::Result<Tried> {
        let kind = match transport {
            Transport::Tcp => SockType::Stream,
            Transport::Udp => SockType::Datagram,
        };
        let (fd, _) = send::bound(to, kind, PORTS.map(|_| ports.next()))?;
        let begun = Instant::now();
        let asked = match transport {
            Transport::Tcp => {
                send::begin_at(&fd, mark)?;
                send::connect(fd, to, patience).and_then(|stream| ask_tcp(&stream, patience, times))
            }
            Transport::Udp => {
                let question = format!("JSON {}", mark.text());
                send::ask_udp(fd, to, patience, question.as_bytes())
            }
        };
        Ok(Tried { mark, got: got(asked), after: begun.elapsed() })
    });
    let failed = |error: &dyn std::fmt::Display| Tried {
        mark,
        got: Got::Other(error.to_string()),
        after: Duration::ZERO,
    };
    match tried {
        Ok(Ok(tried)) => tried,
        Ok(Err(error)) => failed(&io::Error::from(error)),
        Err(error) => failed(&error),
    }
}

fn ask_tcp(stream: &TcpStream, patience: Duration, times: usize) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut writer = stream;
    let mut reader = BufReader::new(stream);
    let line = same_answers(times, || {
        writer.write_all(b"JSON\n")?;
        let mut line = Vec::new();
        reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        Ok(line)
    })?;
    // What ends the connection is on its way before a detour ends, or it would go by another node.
    if stream.shutdown(Shutdown::Write).is_ok() {
        let _ = io::copy(&mut reader, &mut io::sink());
    }
    Ok(line)
}

fn got(asked: io::Result<Vec<u8>>) -> Got {
    match asked {
        Ok(text) => match serde_json::from_slice::<Answer>(&text) {
            Ok(answer) => Got::Answer(Heard {
                by: format!("{}/{}", answer.identity.namespace, answer.identity.pod),
                source: answer.source,
            }),
            Err(error) => Got::Other(format!("what answers is no echo server: {error}")),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Got::Refusal,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Got::Nothing,
            _ => Got::Other(format!("it cannot connect: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    #[test]
    fn refusals_and_answers_are_told_apart() {
        let here = NetNs::current().unwrap();
        let ports = Ports::new();
        for address in ["127.0.0.1", "::1"] {
            let closed = {
                let listener = TcpListener::bind((address, 0)).unwrap();
                listener.local_addr().unwrap()
            };
            for transport in Transport::BOTH {
                let tried = attempt(&here, closed, transport, &ports, LONG, ports.mark(), 1);
                assert_eq!(tried.got, Got::Refusal, "{address} {transport}");
            }
            let listener = TcpListener::bind((address, 0)).unwrap();
            let open = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, source) = listener.accept().unwrap();
                stream.write_all(b"220 ready\n").unwrap();
                source
            });
            let tried = attempt(&here, open, Transport::Tcp, &ports, LONG, ports.mark(), 1);
            assert!(
                matches!(&tried.got, Got::Other(what) if what.contains("no echo server")),
                "{:?}",
                tried.got
            );
            assert!(PORTS.contains(&server.join().unwrap().port()));
        }
    }
}
