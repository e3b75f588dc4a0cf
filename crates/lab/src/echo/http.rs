//! As much of an HTTP/1.1 server (RFC 9112) as an echo server needs.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{MissedTickBehavior, interval};

use super::answer::{Answer, excerpt};
use super::tcp::{MAX_LINE, STREAM_INTERVAL, read_line};

/// The largest body taken, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// The largest answer of `/bytes/N`, in bytes.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// Whether a connection's first line is an HTTP request line (RFC 9112, section 3).
pub(super) fn is_request(line: &[u8]) -> bool {
    let mut words = line.trim_ascii_end().split(|&byte| byte == b' ');
    let method = words.next().unwrap_or_default();
    !method.is_empty()
        && method.iter().all(u8::is_ascii_uppercase)
        && words.next().is_some_and(|target| !target.is_empty())
        && words.next().is_some_and(|version| version.starts_with(b"HTTP/1."))
        && words.next().is_none()
}

/// Serves requests on a connection whose first request line is `line`, until one side ends it.
pub(super) async fn serve(
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    answer: Answer,
    mut line: Vec<u8>,
) -> io::Result<()> {
    loop {
        let request = match Request::read(&mut reader, &mut writer, &line).await? {
            Ok(request) => request,
            Err(status) => {
                return respond(&mut writer, status, "text/plain", status.as_bytes(), true, true).await;
            }
        };
        let answer = Answer { asked: request.line.clone(), ..answer.clone() };
        route(&mut writer, &request, &answer).await?;
        if request.close || !read_line(&mut reader, &mut line).await? {
            return writer.shutdown().await;
        }
        if !is_request(&line) {
            return respond(&mut writer, BAD_REQUEST, "text/plain", b"not an HTTP request\n", true, true)
                .await;
        }
    }
}

const BAD_REQUEST: &str = "400 Bad Request";

/// A request with its body.
struct Request {
    line: String,
    method: String,
    path: String,
    query: String,
    json: bool,
    close: bool,
    body: Vec<u8>,
}

impl Request {
    /// Reads the headers and the body that follow the request line; a request that cannot be served is the
    /// status line to refuse it with.
    async fn read(
        reader: &mut BufReader<OwnedReadHalf>,
        writer: &mut OwnedWriteHalf,
        line: &[u8],
    ) -> io::Result<Result<Self, &'static str>> {
        let text = excerpt(line);
        let line_text = String::from_utf8_lossy(line);
        let mut words = line_text.split_ascii_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self {
            line: text,
            method: method.into(),
            path: path.into(),
            query: query.into(),
            json: path == "/json",
            close: words.next() == Some("HTTP/1.0"),
            body: Vec::new(),
        };
        let (mut length, mut expects, mut header, mut total) = (0, false, Vec::new(), 0);
        loop {
            if !read_line(reader, &mut header).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = String::from_utf8_lossy(header.trim_ascii_end());
            if text.is_empty() {
                break;
            }
            total += header.len();
            if total > MAX_LINE {
                return Ok(Err("431 Request Header Fields Too Large"));
            }
            let Some((name, value)) = text.split_once(':') else { return Ok(Err(BAD_REQUEST)) };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => match value.parse::<usize>() {
                    Ok(value) if value <= MAX_BODY => length = value,
                    Ok(_) => return Ok(Err("413 Content Too Large")),
                    Err(_) => return Ok(Err(BAD_REQUEST)),
                },
                "transfer-encoding" => return Ok(Err("411 Length Required")),
                "accept" => request.json |= value.contains("application/json"),
                "connection" => request.close |= value.eq_ignore_ascii_case("close"),
                "expect" => expects |= value.eq_ignore_ascii_case("100-continue"),
                _ => {}
            }
        }
        if expects {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        request.body.resize(length, 0);
        reader.read_exact(&mut request.body).await?;
        Ok(Ok(request))
    }

    /// A number from the query.
    fn number(&self, name: &str) -> Option<u64> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
    }
}

async fn route(writer: &mut OwnedWriteHalf, request: &Request, answer: &Answer) -> io::Result<()> {
    let (with_body, close) = (request.method != "HEAD", request.close);
    match request.path.as_str() {
        "/stream" => stream(writer, request).await,
        "/echo" => respond(writer, OK, "application/octet-stream", &request.body, with_body, close).await,
        "/healthz" => respond(writer, OK, "text/plain", b"ok\n", with_body, close).await,
        path if path.starts_with("/bytes/") => match path["/bytes/".len()..].parse() {
            Ok(count) if count <= MAX_BYTES => bytes(writer, count, with_body).await,
            _ => {
                respond(writer, BAD_REQUEST, "text/plain", b"/bytes/N: N is 0 to 1073741824\n", true, close)
                    .await
            }
        },
        _ if request.json => {
            let body = answer.to_json() + "\n";
            respond(writer, OK, "application/json", body.as_bytes(), with_body, close).await
        }
        _ => respond(writer, OK, "text/plain", answer.to_text().as_bytes(), with_body, close).await,
    }
}

const OK: &str = "200 OK";

async fn respond(
    writer: &mut OwnedWriteHalf,
    status: &str,
    media_type: &str,
    body: &[u8],
    with_body: bool,
    close: bool,
) -> io::Result<()> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    let length = body.len();
    let mut message = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n{connection}\r\n"
    )
    .into_bytes();
    if with_body {
        message.extend_from_slice(body);
    }
    writer.write_all(&message).await
}

async fn bytes(writer: &mut OwnedWriteHalf, count: u64, with_body: bool) -> io::Result<()> {
    let head =
        format!("HTTP/1.1 {OK}\r\nContent-Type: application/octet-stream\r\nContent-Length: {count}\r\n\r\n");
    writer.write_all(head.as_bytes()).await?;
    let block = [b'.'; 16 * 1024];
    let mut left = if with_body { usize::try_from(count).unwrap_or(usize::MAX) } else { 0 };
    while left > 0 {
        let part = left.min(block.len());
        writer.write_all(&block[..part]).await?;
        left -= part;
    }
    Ok(())
}

/// Numbered lines, one a chunk, until the count is reached or the peer goes away.
async fn stream(writer: &mut OwnedWriteHalf, request: &Request) -> io::Result<()> {
    let pause = request.number("interval").map_or(STREAM_INTERVAL, |ms| Duration::from_millis(ms.max(1)));
    let count = request.number("count").unwrap_or(u64::MAX);
    let head = format!("HTTP/1.1 {OK}\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n");
    writer.write_all(head.as_bytes()).await?;
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0..count {
        ticks.tick().await;
        let line = format!("{number}\n");
        writer.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
    }
    writer.write_all(b"0\r\n\r\n").await
}
