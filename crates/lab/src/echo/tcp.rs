//! TCP connections: HTTP if the first line is an HTTP request, lines otherwise.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval};

use super::answer::{Answer, Identity, canonical, excerpt};
use super::http;

/// The longest line, HTTP request line or header block in bytes.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// How often a stream writes a line if nobody says otherwise.
pub(super) const STREAM_INTERVAL: Duration = Duration::from_millis(100);

/// Serves connections until the listener fails.
pub(super) async fn serve(listener: TcpListener, identity: Identity) -> io::Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let identity = identity.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, identity).await {
                        tracing::debug!(%error, "connection ended");
                    }
                });
            }
            // The peer gave up before it was its turn.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

async fn connection(stream: TcpStream, identity: Identity) -> io::Result<()> {
    let answer = Answer {
        identity,
        protocol: "TCP".into(),
        source: canonical(stream.peer_addr()?),
        destination: canonical(stream.local_addr()?),
        asked: String::new(),
    };
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        if !read_line(&mut reader, &mut line).await? {
            return Ok(());
        }
        if http::is_request(&line) {
            return http::serve(reader, writer, answer, line).await;
        }
        match line.trim_ascii_end() {
            b"ECHO" => {
                writer.write_all(reader.buffer()).await?;
                let read = reader.buffer().len();
                reader.consume(read);
                tokio::io::copy(&mut reader.into_inner(), &mut writer).await?;
                return writer.shutdown().await;
            }
            b"STREAM" => {
                let mut ticks = interval(STREAM_INTERVAL);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for number in 0u64.. {
                    ticks.tick().await;
                    writer.write_all(format!("{number}\n").as_bytes()).await?;
                }
            }
            asked => {
                let answer = Answer { asked: excerpt(asked), ..answer.clone() };
                let text = if asked == b"JSON" { answer.to_json() } else { answer.to_line() };
                writer.write_all((text + "\n").as_bytes()).await?;
            }
        }
    }
}

/// Reads up to and including the next newline (or the end) into `line`; false at the end of the stream.
///
/// # Errors
/// `InvalidData` if there is no newline within [`MAX_LINE`].
pub(super) async fn read_line(reader: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    let read = reader.take(limit).read_until(b'\n', line).await?;
    if read == MAX_LINE && line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
    }
    Ok(read > 0)
}
