//! One TCP connection: bytes in and out.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio::time::timeout;

use super::{PeerTransport, socket};
use crate::{ConnectionId, Input};

/// How long the first answer of a peer may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// How long the last bytes of a connection may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// Opens a connection and serves it.
pub(super) async fn open(
    id: ConnectionId,
    to: IpAddr,
    transport: PeerTransport,
    outgoing: UnboundedReceiver<Bytes>,
    inputs: Sender<Input>,
) {
    let opened = timeout(CONNECT_PATIENCE, socket::connect(to, &transport)).await;
    let stream = match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => stream,
        Err(error) => return closed(id, format!("cannot connect: {error}"), &inputs).await,
    };
    match stream.local_addr() {
        Ok(local) => {
            let connected = Input::Connected { connection: id, local: local.ip() };
            if inputs.send(connected).await.is_ok() {
                serve(id, stream, outgoing, inputs).await;
            }
        }
        Err(error) => closed(id, error.to_string(), &inputs).await,
    }
}

/// Serves a connection until one of both sides ends it.
pub(super) async fn serve(
    id: ConnectionId,
    stream: TcpStream,
    outgoing: UnboundedReceiver<Bytes>,
    inputs: Sender<Input>,
) {
    // Messages are put together before they are handed over; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let (read, write) = stream.into_split();
    tokio::select! {
        reason = receive(id, read, &inputs) => closed(id, reason, &inputs).await,
        error = send(id, write, outgoing, &inputs) => {
            if let Some(error) = error {
                closed(id, format!("cannot send: {error}"), &inputs).await;
            }
        }
    }
}

async fn receive(id: ConnectionId, mut from: OwnedReadHalf, inputs: &Sender<Input>) -> String {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return "peer closed the connection".to_owned(),
            Ok(len) => {
                let received = Input::Received { connection: id, bytes: buffer[..len].to_vec() };
                if inputs.send(received).await.is_err() {
                    return "stopped".to_owned();
                }
            }
            Err(error) => return error.to_string(),
        }
    }
}

/// Sends until nothing more can come; what went wrong, if something did.
async fn send(
    id: ConnectionId,
    mut to: OwnedWriteHalf,
    mut outgoing: UnboundedReceiver<Bytes>,
    inputs: &Sender<Input>,
) -> Option<io::Error> {
    while let Some(bytes) = outgoing.recv().await {
        // Once nothing more can be asked for, the peer may not keep us waiting for ever.
        let written = if outgoing.is_closed() {
            timeout(CLOSE_PATIENCE, to.write_all(&bytes))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        } else {
            to.write_all(&bytes).await
        };
        if let Err(error) = written {
            return Some(error);
        }
        if outgoing.is_empty()
            && !outgoing.is_closed()
            && inputs.send(Input::Drained { connection: id }).await.is_err()
        {
            return None;
        }
    }
    let _ = timeout(CLOSE_PATIENCE, to.shutdown()).await;
    None
}

async fn closed(id: ConnectionId, reason: String, inputs: &Sender<Input>) {
    // Nobody is left to tell if the speaker has gone.
    let _ = inputs.send(Input::Closed { connection: id, reason }).await;
}
