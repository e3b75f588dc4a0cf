//! The echo server on the loopback, both families.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::*;

const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Serves free ports on a thread that ends with the test process; answers the TCP and the UDP port.
fn started() -> (u16, u16) {
    let options = Options {
        ports: vec![EchoPort { port: 0, protocol: None }],
        pod: "web-0".into(),
        namespace: "shop".into(),
        node: "a".into(),
        container: "web".into(),
        notify: false,
    };
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut servers = Servers::bind(&options).unwrap();
            let ports: Vec<u16> = servers.addresses.iter().map(SocketAddr::port).collect();
            tell.send((ports[0], ports[1])).unwrap();
            servers.run().await.unwrap();
        });
    });
    told.recv().unwrap()
}

fn connect(ip: IpAddr, port: u16) -> TcpStream {
    let stream = TcpStream::connect((ip, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends a request that asks for the connection to be closed; the status line and the body.
fn http(ip: IpAddr, port: u16, request: &str) -> (String, String) {
    let mut stream = connect(ip, port);
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn http_says_who_answers_and_whom_it_sees() {
    let (port, _) = started();
    for ip in LOCAL {
        let mut stream = connect(ip, port);
        let own = stream.local_addr().unwrap();
        stream.write_all(b"GET /json?x=1 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let answer: Answer = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(answer.identity.pod, "web-0");
        assert_eq!(answer.identity.namespace, "shop");
        assert_eq!((answer.source, answer.destination), (own, SocketAddr::new(ip, port)));
        assert_eq!(answer.asked, "GET /json?x=1 HTTP/1.1");

        let (status, body) = http(ip, port, "GET / HTTP/1.0\r\n\r\n");
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(body.starts_with("pod:         web-0\n"), "{body}");
    }
}

#[test]
fn http_keeps_the_connection_and_bounds_what_it_takes() {
    let (port, _) = started();
    let ip = LOCAL[0];
    let mut stream = connect(ip, port);
    for round in 0..3 {
        let body = format!("hello {round}");
        let length = body.len();
        stream
            .write_all(format!("POST /echo HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes())
            .unwrap();
        let mut buffer = vec![0; 1024];
        let mut text = String::new();
        while !text.ends_with(&body) {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "connection closed after {text:?}");
            text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    }
    for (request, expected) in [
        ("POST / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", "HTTP/1.1 413 "),
        ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400 "),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 411 "),
        ("GET /bytes/1073741825 HTTP/1.0\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let (status, _) = http(ip, port, request);
        assert!(status.starts_with(expected), "{request:?}: {status}");
    }
    let (_, body) = http(ip, port, "GET /bytes/100000 HTTP/1.0\r\n\r\n");
    assert_eq!(body.len(), 100_000);
    let (_, body) = http(ip, port, "GET /stream?interval=1&count=3 HTTP/1.0\r\n\r\n");
    assert_eq!(body, "2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n0\r\n\r\n");
}

#[test]
fn lines_echo_and_stream() {
    let (port, _) = started();
    for ip in LOCAL {
        let stream = connect(ip, port);
        let own = stream.local_addr().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut writer = stream;
        let mut line = String::new();
        writer.write_all(b"who are you\n").unwrap();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains("pod=web-0 ") && line.contains(&format!("source={own} ")), "{line}");
        line.clear();
        writer.write_all(b"JSON\n").unwrap();
        reader.read_line(&mut line).unwrap();
        let answer: Answer = serde_json::from_str(&line).unwrap();
        assert_eq!(answer.source, own);
        writer.write_all(b"ECHO\nabc").unwrap();
        let mut back = [0; 3];
        reader.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"abc");
        writer.write_all(b"ECHO\n\0\xff").unwrap();
        let mut back = [0; 7];
        reader.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"ECHO\n\0\xff");

        let mut stream = connect(ip, port);
        stream.write_all(b"STREAM\n").unwrap();
        let lines: Vec<String> = BufReader::new(stream).lines().take(3).map(Result::unwrap).collect();
        assert_eq!(lines, ["0", "1", "2"]);
    }
}

#[test]
fn datagrams() {
    let (_, port) = started();
    for ip in LOCAL {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.connect((ip, port)).unwrap();
        let own = socket.local_addr().unwrap();
        let ask = |asked: &[u8]| {
            let mut buffer = vec![0; 65_536];
            socket.send(asked).unwrap();
            let length = socket.recv(&mut buffer).unwrap();
            buffer.truncate(length);
            buffer
        };
        let answer: Answer = serde_json::from_slice(&ask(b"JSON")).unwrap();
        assert_eq!((answer.source, answer.destination), (own, SocketAddr::new(ip, port)));
        assert!(String::from_utf8(ask(b"hello")).unwrap().contains("asked=\"hello\""));
        let large = [b"ECHO".as_slice(), &[7; 8000]].concat();
        assert_eq!(ask(&large), large);
    }
}

/// A client whose socket is connected takes an answer only from the address it asked.
#[test]
fn datagrams_are_answered_from_the_address_they_were_sent_to() {
    let (_, port) = started();
    let asked: SocketAddr = (Ipv4Addr::new(127, 9, 8, 7), port).into();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.connect(asked).unwrap();
    socket.send(b"JSON").unwrap();
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).unwrap();
    let answer: Answer = serde_json::from_slice(&buffer[..length]).unwrap();
    assert_eq!(answer.destination, asked);
}

#[test]
fn ports_parse_or_say_what_would_be_right() {
    for (text, port, protocol) in
        [("80", 80, None), ("53/UDP", 53, Some(Protocol::Udp)), ("53/tcp", 53, Some(Protocol::Tcp))]
    {
        assert_eq!(text.parse::<EchoPort>().unwrap(), EchoPort { port, protocol });
    }
    for bad in ["", "70000", "80/sctp", "http"] {
        let error = bad.parse::<EchoPort>().unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains("8080/tcp"), "{error}");
    }
}
