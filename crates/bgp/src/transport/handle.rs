//! The speaker as its user holds it.

use std::io;
use std::net::SocketAddr;

use ipnet::IpNet;
use model::Family;
use tokio::sync::{mpsc, oneshot};

use super::PeerTransport;
use crate::{ConfigError, Input, LocalRoute, PeerConfig, PeerName, PeerStatus, RibChange};

/// A running speaker. When the last handle is dropped, it ends as if it had been killed: peers that know graceful
/// restart keep its routes.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
pub(super) enum Command {
    Tell(Input),
    SetPeer(Box<PeerConfig>, PeerTransport),
    Listen(SocketAddr, oneshot::Sender<io::Result<()>>),
    Status(oneshot::Sender<Vec<PeerStatus>>),
    Routes(oneshot::Sender<Vec<RibChange>>),
    Stop(oneshot::Sender<()>),
}

/// The speaker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the BGP speaker has ended")]
pub struct Stopped;

impl Handle {
    /// Takes connections at one more address than [`super::Options::listen`] has.
    ///
    /// # Errors
    /// What the system says of the address; the speaker goes on as before.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<()> {
        self.ask(|answer| Command::Listen(address, answer)).await.map_err(io::Error::other)?
    }

    /// Adds a peer, or changes one.
    ///
    /// # Errors
    /// [`ConfigError`] for settings that cannot be used; then nothing is changed.
    pub async fn set_peer(&self, config: PeerConfig, transport: PeerTransport) -> Result<(), ConfigError> {
        config.check()?;
        // One who asks a speaker that has ended learns so from its answers.
        let _ = self.commands.send(Command::SetPeer(Box::new(config), transport)).await;
        Ok(())
    }

    /// Removes a peer, which is told to forget our routes.
    pub async fn remove_peer(&self, name: PeerName) {
        self.tell(Input::RemovePeer(name)).await;
    }

    /// Begins a peer's session anew.
    pub async fn reset_peer(&self, name: PeerName) {
        self.tell(Input::ResetPeer(name)).await;
    }

    /// Asks a peer for its routes again.
    pub async fn refresh_peer(&self, name: PeerName, family: Family) {
        self.tell(Input::RefreshPeer(name, family)).await;
    }

    /// Says that a peer's data path is gone.
    pub async fn peer_unreachable(&self, name: PeerName) {
        self.tell(Input::PeerUnreachable(name)).await;
    }

    /// Says that a peer's data path is there (again). After [`Handle::peer_unreachable`] this is waited for, if not for
    /// longer than the peer's `connect_retry`.
    pub async fn peer_reachable(&self, name: PeerName) {
        self.tell(Input::PeerReachable(name)).await;
    }

    /// Says that BFD has lost a peer. `independent` is whether the peer's BFD goes on when its BGP ends (RFC 5880, section
    /// 4.1, bit C): then the path is gone (RFC 5882, section 4.3.1), or else that depends on whether BGP has noticed before.
    pub async fn peer_lost(&self, name: PeerName, independent: bool) {
        self.tell(if independent { Input::PeerUnreachable(name) } else { Input::PeerLost(name) }).await;
    }

    /// Announces a route, or changes one.
    pub async fn announce(&self, prefix: IpNet, route: LocalRoute) {
        self.tell(Input::Announce(prefix, route)).await;
    }

    /// Withdraws a route.
    pub async fn withdraw(&self, prefix: IpNet) {
        self.tell(Input::Withdraw(prefix)).await;
    }

    /// Every peer, in the order of their names.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn status(&self) -> Result<Vec<PeerStatus>, Stopped> {
        self.ask(Command::Status).await
    }

    /// Every prefix with the paths in use, in the order of prefixes.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn routes(&self) -> Result<Vec<RibChange>, Stopped> {
        self.ask(Command::Routes).await
    }

    /// Ends the speaker for good: peers are told to forget its routes.
    pub async fn stop(self) {
        // It has ended in either case.
        let _ = self.ask(Command::Stop).await;
    }

    async fn tell(&self, input: Input) {
        // One who asks a speaker that has ended learns so from its answers.
        let _ = self.commands.send(Command::Tell(input)).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}
