//! The echo server: what a container of the lab becomes when its command does not exist on this machine.
//!
//! It says who it is and whom it sees, over HTTP, over a plain line protocol and over UDP, so that ordinary
//! manifests work in the lab and a check can compare what the far end saw with what was predicted.

mod answer;
mod http;
mod tcp;
mod udp;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen, setsockopt,
    socket, sockopt,
};
use tokio::task::JoinSet;

pub use self::answer::{Answer, Identity};

/// What `cambric lab echo` takes.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// A port to serve: 8080 (TCP and UDP), 8080/tcp or 8080/udp; may be repeated
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]", default_value = "80")]
    pub ports: Vec<EchoPort>,
    /// Name of the pod that answers
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod: String,
    /// Namespace of the pod
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pub namespace: String,
    /// Node that the pod runs on
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node: String,
    /// Name of the container
    #[arg(long, env = "CONTAINER_NAME", default_value = "")]
    pub container: String,
    /// Write one byte to standard input, which must be a socket, when all ports are served
    #[arg(long, hide = true)]
    pub notify: bool,
}

const HELP: &str = "\
HTTP/1.1 on every TCP port:
  GET /            who answers, whom it sees and what was asked, as text (JSON with Accept: application/json)
  GET /json        the same as JSON
  GET /healthz     ok
  GET /stream      one numbered line every 100 ms for as long as the connection lives
                   (?interval=MILLISECONDS, ?count=LINES)
  GET /bytes/N     N bytes, at most 1 GiB
  POST /echo       the body, at most 1 MiB
Lines on every TCP port, if the first line is not an HTTP request:
  ECHO             from here on every byte comes back as it is
  JSON             one line of JSON: who answers and whom it sees
  STREAM           one numbered line every 100 ms for as long as the connection lives
  anything else    one line of text: who answers and whom it sees
UDP: a datagram that starts with ECHO comes back as it is, JSON is answered with JSON, anything else with text.";

/// The protocols served on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP and lines.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A port to serve, with one protocol or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoPort {
    /// The port, host byte order; 0 lets the kernel choose (and log what it chose).
    pub port: u16,
    /// The protocol; both if `None`.
    pub protocol: Option<Protocol>,
}

impl EchoPort {
    /// Whether `protocol` is served on the port.
    pub fn serves(&self, protocol: Protocol) -> bool {
        self.protocol.is_none_or(|own| own == protocol)
    }
}

impl fmt::Display for EchoPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            None => write!(f, "{}", self.port),
            Some(Protocol::Tcp) => write!(f, "{}/tcp", self.port),
            Some(Protocol::Udp) => write!(f, "{}/udp", self.port),
        }
    }
}

impl FromStr for EchoPort {
    type Err = EchoError;

    fn from_str(text: &str) -> Result<Self, EchoError> {
        let (port, protocol) = match text.split_once('/') {
            None => (text, None),
            Some((port, protocol)) if protocol.eq_ignore_ascii_case("tcp") => (port, Some(Protocol::Tcp)),
            Some((port, protocol)) if protocol.eq_ignore_ascii_case("udp") => (port, Some(Protocol::Udp)),
            Some(_) => return Err(EchoError::Port(text.into())),
        };
        let port = port.parse().map_err(|_| EchoError::Port(text.into()))?;
        Ok(Self { port, protocol })
    }
}

/// An echo server that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// A port that is none.
    #[error("port \"{0}\" is not a port to serve; it would look like 8080, 8080/tcp or 8080/udp")]
    Port(String),
    /// A port that cannot be had.
    #[error("cannot serve port {port}/{protocol}: {source}")]
    Bind {
        /// The port, host byte order.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// What the kernel says.
        source: io::Error,
    },
    /// No event loop.
    #[error("cannot start the event loop: {0}")]
    Runtime(io::Error),
}

/// Serves until the process is told to end; one thread, whatever the number of ports.
///
/// # Errors
/// [`EchoError`] if a port cannot be had or a socket fails for good.
pub fn run(options: &Options) -> Result<(), EchoError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(EchoError::Runtime)?;
    runtime.block_on(async {
        let mut servers = Servers::bind(options)?;
        tracing::info!(addresses = ?servers.addresses, "serving");
        if options.notify {
            // Whoever waited may have gone; that is no reason not to serve.
            let _ = nix::unistd::write(io::stdin().as_fd(), b"\n");
        }
        servers.run().await
    })
}

/// The sockets of one echo server, each with its task.
struct Servers {
    tasks: JoinSet<Result<(), EchoError>>,
    /// Where each socket listens, in the order of the options, TCP before UDP.
    addresses: Vec<SocketAddr>,
}

impl Servers {
    fn bind(options: &Options) -> Result<Self, EchoError> {
        let identity = Identity {
            pod: options.pod.clone(),
            namespace: options.namespace.clone(),
            node: options.node.clone(),
            container: options.container.clone(),
        };
        let (mut tasks, mut addresses) = (JoinSet::new(), Vec::new());
        for port in &options.ports {
            let failed = |protocol| {
                let port = port.port;
                move |source| EchoError::Bind { port, protocol, source }
            };
            if port.serves(Protocol::Tcp) {
                let listener = tcp_listener(port.port).map_err(failed(Protocol::Tcp))?;
                addresses.push(listener.local_addr().map_err(failed(Protocol::Tcp))?);
                let (identity, failed) = (identity.clone(), failed(Protocol::Tcp));
                tasks.spawn(async move { tcp::serve(listener, identity).await.map_err(failed) });
            }
            if port.serves(Protocol::Udp) {
                let socket = udp_socket(port.port).map_err(failed(Protocol::Udp))?;
                addresses.push(socket.local_addr().map_err(failed(Protocol::Udp))?);
                let (identity, failed) = (identity.clone(), failed(Protocol::Udp));
                tasks.spawn(async move { udp::serve(socket, identity).await.map_err(failed) });
            }
        }
        Ok(Self { tasks, addresses })
    }

    async fn run(&mut self) -> Result<(), EchoError> {
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(result) = ended {
                result?;
            }
        }
        Ok(())
    }
}

fn tcp_listener(port: u16) -> io::Result<tokio::net::TcpListener> {
    let fd = bound(SockType::Stream, port)?;
    listen(&fd, Backlog::new(1024)?)?;
    tokio::net::TcpListener::from_std(fd.into())
}

fn udp_socket(port: u16) -> io::Result<tokio::net::UdpSocket> {
    tokio::net::UdpSocket::from_std(bound(SockType::Datagram, port)?.into())
}

/// A socket for both families, or for IPv4 alone where the kernel has no IPv6.
fn bound(kind: SockType, port: u16) -> io::Result<std::os::fd::OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (fd, address): (_, SocketAddr) = match socket(AddressFamily::Inet6, kind, flags, None::<SockProtocol>)
    {
        Ok(fd) => {
            setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
            if kind == SockType::Datagram {
                setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
            (fd, (Ipv6Addr::UNSPECIFIED, port).into())
        }
        Err(Errno::EAFNOSUPPORT) => {
            let fd = socket(AddressFamily::Inet, kind, flags, None::<SockProtocol>)?;
            if kind == SockType::Datagram {
                setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
            }
            (fd, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        Err(error) => return Err(error.into()),
    };
    if kind == SockType::Stream {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd)
}

#[cfg(test)]
mod tests;
