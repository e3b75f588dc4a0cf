//! The loop that joins the core to sockets and the clock.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::handle::{Command, Handle};
use super::{Event, Options, PeerTransport, connection, socket};
use crate::record::Recorder;
use crate::{ConnectionId, Input, Moment, Output, PeerConfig, PeerName, Speaker, SpeakerConfig};

/// So many commands and inputs may wait.
const QUEUE: usize = 64;

/// So many accepted connections may be open; more than any number of peers needs at once.
const MOST_INCOMING: usize = 16 * 1024;

/// How long to wait when there are no descriptors for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the last messages may take when the speaker ends.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Starts a speaker on the current runtime. `seed` spreads its timers and should not be that of others.
///
/// # Errors
/// Settings that cannot be used, and what the system says of the addresses to listen on.
pub fn start(
    config: SpeakerConfig,
    seed: u64,
    options: Options,
) -> io::Result<(Handle, UnboundedReceiver<Vec<Event>>)> {
    config.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let clock = Instant::now();
    let recorder =
        options.record.map(|to| Recorder::new(to, &config, seed, Moment::default())).transpose()?;
    let (accepted_to, accepted) = mpsc::channel(QUEUE);
    let (commands_to, commands) = mpsc::channel(QUEUE);
    let (inputs_to, inputs) = mpsc::channel(QUEUE);
    let (events_to, events) = mpsc::unbounded_channel();
    let mut driver = Driver {
        speaker: Speaker::new(config, seed, Moment::default()),
        clock,
        recorder,
        listeners: Vec::new(),
        accepted_to,
        transports: BTreeMap::new(),
        connections: HashMap::new(),
        accepted_count: 0,
        inputs_to,
        events: events_to,
        acceptors: JoinSet::new(),
        tasks: JoinSet::new(),
    };
    for address in options.listen {
        driver.listen(address)?;
    }
    tokio::spawn(driver.run(commands, inputs, accepted));
    Ok((Handle { commands: commands_to }, events))
}

struct Driver {
    speaker: Speaker,
    clock: Instant,
    recorder: Option<Recorder<Box<dyn io::Write + Send>>>,
    listeners: Vec<Arc<TcpListener>>,
    accepted_to: Sender<(TcpStream, SocketAddr)>,
    transports: BTreeMap<PeerName, (IpAddr, PeerTransport)>,
    connections: HashMap<ConnectionId, UnboundedSender<Bytes>>,
    accepted_count: u64,
    inputs_to: Sender<Input>,
    events: UnboundedSender<Vec<Event>>,
    /// These and those below end with the driver.
    acceptors: JoinSet<()>,
    tasks: JoinSet<()>,
}

impl Driver {
    async fn run(
        mut self,
        mut commands: Receiver<Command>,
        mut inputs: Receiver<Input>,
        mut accepted: Receiver<(TcpStream, SocketAddr)>,
    ) {
        loop {
            let deadline = self.speaker.deadline().map(|moment| self.clock + moment.since(Moment::default()));
            let tick = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop(done)) => {
                        self.tell(Input::Stop);
                        self.finish().await;
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.obey(command),
                    None => {
                        // With the end of the events, the addresses can be listened on again.
                        self.acceptors.shutdown().await;
                        return;
                    }
                },
                Some(input) = inputs.recv() => self.tell(input),
                Some((stream, from)) = accepted.recv() => self.take(stream, from),
                Some(_) = self.tasks.join_next() => {}
                () = tick => self.tell(Input::Tick),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Tell(input) => {
                if let Input::RemovePeer(name) = &input {
                    self.forget_transport(name);
                }
                self.tell(input);
            }
            Command::SetPeer(config, transport) => self.set_peer(*config, transport),
            Command::Listen(address, answer) => {
                let _ = answer.send(self.listen(address));
            }
            Command::Status(answer) => {
                let _ = answer.send(self.speaker.status(self.now()));
            }
            Command::Routes(answer) => {
                let _ = answer.send(self.speaker.routes().collect());
            }
            // Seen to by the loop.
            Command::Stop(_) => {}
        }
    }

    /// Takes connections at one more address.
    fn listen(&mut self, address: SocketAddr) -> io::Result<()> {
        let listener = socket::listen(address)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        for (peer, transport) in self.transports.values() {
            set_password(&listener, *peer, Some(transport));
        }
        let listener = Arc::new(listener);
        self.acceptors.spawn(accept(Arc::clone(&listener), self.accepted_to.clone()));
        self.listeners.push(listener);
        Ok(())
    }

    fn set_peer(&mut self, config: PeerConfig, transport: PeerTransport) {
        let (name, address) = (config.name.clone(), config.address);
        let before = self.transports.insert(name.clone(), (address, transport.clone()));
        if let Some((old, _)) = before.as_ref().filter(|(old, _)| *old != address) {
            self.set_password(*old, None);
        }
        self.set_password(address, Some(&transport));
        let only_transport = before.is_some_and(|(_, before)| before != transport);
        self.tell(Input::SetPeer(Box::new(config)));
        if only_transport {
            self.tell(Input::ResetPeer(name));
        }
    }

    fn forget_transport(&mut self, name: &PeerName) {
        if let Some((address, _)) = self.transports.remove(name)
            && !self.transports.values().any(|(other, _)| *other == address)
        {
            self.set_password(address, None);
        }
    }

    /// Has packets of an address signed, or not, on connections that it opens.
    fn set_password(&self, address: IpAddr, transport: Option<&PeerTransport>) {
        for listener in &self.listeners {
            set_password(listener, address, transport);
        }
    }

    fn take(&mut self, stream: TcpStream, from: SocketAddr) {
        let direct = self
            .transports
            .values()
            .any(|(address, transport)| *address == from.ip() && transport.ttl_security);
        let ready = stream.local_addr().and_then(|local| {
            if direct {
                socket::require_direct(stream.as_fd(), from.ip())?;
            }
            Ok(local.ip())
        });
        let local = match ready {
            Ok(local) if self.connections.len() < MOST_INCOMING => local,
            _ => return,
        };
        self.accepted_count += 1;
        let connection = ConnectionId::Incoming(self.accepted_count);
        let (sender, outgoing) = mpsc::unbounded_channel();
        self.connections.insert(connection, sender);
        self.tasks.spawn(connection::serve(connection, stream, outgoing, self.inputs_to.clone()));
        self.tell(Input::Accepted { connection, from: from.ip(), local });
    }

    fn tell(&mut self, input: Input) {
        let now = self.now();
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.record(now, &input)
        {
            warn!(%error, "the recording of the BGP speaker ends");
            self.recorder = None;
        }
        if let Input::Closed { connection, .. } = &input {
            self.connections.remove(connection);
        }
        let outputs = self.speaker.handle(now, input);
        let events: Vec<Event> = outputs.into_iter().filter_map(|output| self.carry_out(output)).collect();
        if !events.is_empty() {
            // Whoever does not want to know may have dropped the other end.
            let _ = self.events.send(events);
        }
    }

    /// Does what is to be done; what is to be known is for the user.
    fn carry_out(&mut self, output: Output) -> Option<Event> {
        match output {
            Output::Connect { connection, peer, address } => self.connect(connection, &peer, address),
            Output::Send { connection, bytes } => {
                if let Some(sender) = self.connections.get(&connection) {
                    // If it has ended, that is told by `Input::Closed`.
                    let _ = sender.send(bytes);
                }
            }
            Output::Close { connection } => {
                debug!(%connection, "close");
                self.connections.remove(&connection);
            }
            Output::Rib(change) => return Some(Event::Rib(change)),
            Output::Session(event) => {
                match &event.down {
                    None => info!(peer = %event.peer, "BGP session is up"),
                    Some(reason) => warn!(peer = %event.peer, reason, "BGP session is down"),
                }
                return Some(Event::Session(event));
            }
            Output::Converged => return Some(Event::Converged),
        }
        None
    }

    fn connect(&mut self, connection: ConnectionId, peer: &PeerName, address: IpAddr) {
        let transport = self.transports.get(peer).map(|(_, transport)| transport.clone()).unwrap_or_default();
        let (sender, outgoing) = mpsc::unbounded_channel();
        self.connections.insert(connection, sender);
        let inputs = self.inputs_to.clone();
        self.tasks.spawn(connection::open(connection, address, transport, outgoing, inputs));
    }

    /// Lets the last messages go out.
    async fn finish(&mut self) {
        self.acceptors.abort_all();
        self.connections.clear();
        let tasks = &mut self.tasks;
        let drained = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_PATIENCE, drained).await;
    }

    fn now(&self) -> Moment {
        Moment::after_start(self.clock.elapsed())
    }
}

fn set_password(listener: &TcpListener, address: IpAddr, transport: Option<&PeerTransport>) {
    let password = transport.and_then(|transport| transport.password.as_ref());
    let same_family = listener.local_addr().is_ok_and(|local| local.is_ipv4() == address.is_ipv4());
    if same_family && let Err(error) = socket::set_password(listener.as_fd(), address, password) {
        warn!(peer = %address, %error, "cannot set the password of a BGP peer on the listening socket");
    }
}

async fn accept(listener: Arc<TcpListener>, to: Sender<(TcpStream, SocketAddr)>) {
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                if to.send(accepted).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "cannot accept a BGP connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
