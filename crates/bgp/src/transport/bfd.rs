//! BFD on UDP (RFC 5881).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use model::Family;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::udp;
use crate::Moment;
use crate::bfd::{BfdConfig, Change, Neighbours, Output, PORT, Reachability};

/// So many commands and packets may wait.
const QUEUE: usize = 64;

/// Longer than any packet that is listened to.
const BUFFER: usize = 512;

/// How long a socket that does not work is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// BFD that runs. When it is dropped, neighbours find us silent.
#[derive(Debug, Clone)]
pub struct Bfd {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Watch(IpAddr, BfdConfig),
    Forget(IpAddr),
}

impl Bfd {
    /// Starts BFD at these addresses of ours, at most one of a family. `seed` spreads its timers.
    ///
    /// # Errors
    /// What the system says of the addresses.
    pub async fn start(ours: &[IpAddr], seed: u64) -> io::Result<(Bfd, UnboundedReceiver<Change>)> {
        let (packets_to, packets) = mpsc::channel(QUEUE);
        let (commands_to, commands) = mpsc::channel(QUEUE);
        let (changes_to, changes) = mpsc::unbounded_channel();
        let mut receivers = JoinSet::new();
        let mut senders = Vec::new();
        for address in ours {
            let at = SocketAddr::new(*address, PORT);
            let named = |error: io::Error| io::Error::new(error.kind(), format!("BFD at {at}: {error}"));
            let socket = udp::receiver(at).await.map_err(named)?;
            senders.push((Family::of(address), udp::sender(*address).await.map_err(named)?));
            receivers.spawn(receive(socket, packets_to.clone()));
        }
        let driver = Driver {
            neighbours: Neighbours::new(seed),
            clock: Instant::now(),
            senders,
            changes: changes_to,
            receivers,
        };
        tokio::spawn(driver.run(commands, packets));
        Ok((Bfd { commands: commands_to }, changes))
    }

    /// Watches a neighbour, or watches it otherwise.
    pub async fn watch(&self, neighbour: IpAddr, config: BfdConfig) {
        // The driver lives as long as this handle.
        let _ = self.commands.send(Command::Watch(neighbour, config)).await;
    }

    /// Watches a neighbour no more.
    pub async fn forget(&self, neighbour: IpAddr) {
        // The driver lives as long as this handle.
        let _ = self.commands.send(Command::Forget(neighbour)).await;
    }
}

struct Driver {
    neighbours: Neighbours,
    clock: Instant,
    senders: Vec<(Family, UdpSocket)>,
    changes: UnboundedSender<Change>,
    receivers: JoinSet<()>,
}

impl Driver {
    async fn run(mut self, mut commands: Receiver<Command>, mut packets: Receiver<(IpAddr, Vec<u8>)>) {
        loop {
            let deadline =
                self.neighbours.deadline().map(|moment| self.clock + moment.since(Moment::default()));
            let tick = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What has come in counts before what did not come in time.
                biased;
                command = commands.recv() => match command {
                    Some(Command::Watch(neighbour, config)) => {
                        let now = self.now();
                        self.neighbours.watch(neighbour, config, now);
                    }
                    Some(Command::Forget(neighbour)) => {
                        let farewell = self.neighbours.forget(neighbour);
                        self.obey(farewell.into_iter().collect());
                    }
                    None => {
                        // With the end of the changes, the addresses can be used again.
                        self.receivers.shutdown().await;
                        self.senders.clear();
                        return;
                    }
                },
                Some((from, bytes)) = packets.recv() => {
                    let now = self.now();
                    let outputs = self.neighbours.received(from, &bytes, now);
                    self.obey(outputs);
                }
                () = tick => {
                    let now = self.now();
                    let outputs = self.neighbours.tick(now);
                    self.obey(outputs);
                }
            }
        }
    }

    fn obey(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { to, bytes } => {
                    let sender = self.senders.iter().find(|(family, _)| *family == Family::of(&to));
                    // One that is lost here is like one that is lost on the way.
                    if let Some((_, socket)) = sender
                        && let Err(error) = socket.try_send_to(&bytes, SocketAddr::new(to, PORT))
                    {
                        debug!(neighbour = %to, %error, "cannot send a BFD packet");
                    }
                }
                Output::Changed(change) => {
                    match change.reachability {
                        Reachability::Up => info!(neighbour = %change.neighbour, "BFD: up"),
                        Reachability::Down(why) => warn!(neighbour = %change.neighbour, ?why, "BFD: down"),
                        Reachability::Unknown => {
                            info!(neighbour = %change.neighbour, "BFD: stopped by the neighbour");
                        }
                    }
                    // Whoever does not want to know may have dropped the other end.
                    let _ = self.changes.send(change);
                }
            }
        }
    }

    fn now(&self) -> Moment {
        Moment::after_start(self.clock.elapsed())
    }
}

async fn receive(socket: UdpSocket, to: mpsc::Sender<(IpAddr, Vec<u8>)>) {
    let mut buffer = [0; BUFFER];
    loop {
        match udp::receive(&socket, &mut buffer).await {
            Ok((len, from)) => {
                if to.send((from, buffer[..len].to_vec())).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                debug!(%error, "cannot receive BFD packets");
                sleep(PAUSE).await;
            }
        }
    }
}
