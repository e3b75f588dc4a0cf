//! The server as a whole: a directory in which its state lives, and the sockets it answers on.

use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::admission::Admission;
use crate::api::Api;
use crate::error::ApiError;
use crate::http::{self, State};
use crate::store::{Durability, Store};
use crate::tls::{Pki, PkiError};

/// How a server is set up.
pub struct Config {
    /// Where certificates, token and objects are kept; made if it does not exist.
    pub directory: PathBuf,
    /// DNS names and IP addresses under which clients reach the server, besides `localhost` and the loopback
    /// addresses.
    pub names: Vec<String>,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// Number of revisions after which history is forgotten.
    pub history: u64,
    /// Time between bookmarks on a quiet watch.
    pub bookmark_interval: Duration,
    /// Called for each write, in this order.
    pub admission: Vec<Box<dyn Admission>>,
}

impl Config {
    /// A server whose state lives in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            names: Vec::new(),
            durability: Durability::default(),
            history: 100_000,
            bookmark_interval: Duration::from_secs(30),
            admission: Vec::new(),
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Certificates or token cannot be had.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The stored objects cannot be read.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A listening socket cannot be used.
    #[error("listening socket: {0}")]
    Listener(#[from] std::io::Error),
}

/// An API server that holds its state open.
pub struct Server {
    api: Api,
    pki: Pki,
    names: Vec<String>,
    bookmark_interval: Duration,
}

impl Server {
    /// Opens the state in the configured directory, or begins a new one.
    ///
    /// # Errors
    /// If the directory cannot be used or what is in it cannot be read, for example because another server has
    /// it open.
    pub fn open(config: Config) -> Result<Self, ServerError> {
        let pki = Pki::open(&config.directory.join("pki"))?;
        let store = Store::open(&config.directory.join("objects.redb"), config.durability, config.history)?;
        let api = Api::new(store, config.admission)?;
        Ok(Self { api, pki, names: config.names, bookmark_interval: config.bookmark_interval })
    }

    /// The objects, for use inside the process.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The credentials.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// A kubeconfig for a client that reaches this server at `url`.
    pub fn kubeconfig(&self, url: &str) -> String {
        self.pki.kubeconfig(url)
    }

    /// Answers on all `listeners`, which may belong to different network namespaces, until `shutdown` is ready;
    /// then ends watches and waits a little for other requests.
    ///
    /// # Errors
    /// If a socket cannot be used or the server certificate cannot be made.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let tls = TlsAcceptor::from(self.pki.server_config(&self.names)?);
        let (stop, stopped) = watch::channel(false);
        let state = Arc::new(State {
            api: self.api.clone(),
            token: self.pki.token().to_owned(),
            bookmark_every: self.bookmark_interval,
            shutdown: stopped,
        });
        let mut accepting = JoinSet::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            accepting.spawn(http::accept(listener, tls.clone(), state.clone()));
        }
        shutdown.await;
        stop.send_replace(true);
        while accepting.join_next().await.is_some() {}
        Ok(())
    }
}
