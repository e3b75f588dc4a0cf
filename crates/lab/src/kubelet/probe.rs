//! Readiness probes: `httpGet` and `tcpSocket`, from the node's namespace to the pod's address.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How often a container that has not been ready yet is asked at most, so that it need not wait a whole period.
const FIRST: Duration = Duration::from_millis(250);

/// What is asked of a container, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    check: Check,
    host: String,
    port: u16,
    delay: Duration,
    period: Duration,
    limit: Duration,
    successes: i32,
    failures: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Check {
    Connect,
    Http { path: String, headers: Vec<(String, String)> },
}

impl Readiness {
    /// The container's probe; `None` if it has none of a kind that is supported. `pod_ip` is who is asked by default.
    pub(super) fn of(container: &Container, pod_ip: &str) -> Option<Self> {
        let probe = container.readiness_probe.as_ref()?;
        let (check, host, port) = if let Some(http) = &probe.http_get {
            let headers = http.http_headers.iter().flatten();
            let headers = headers.map(|header| (header.name.clone(), header.value.clone())).collect();
            let path = http.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into());
            (Check::Http { path, headers }, http.host.clone(), &http.port)
        } else if let Some(tcp) = &probe.tcp_socket {
            (Check::Connect, tcp.host.clone(), &tcp.port)
        } else {
            tracing::warn!(
                container = container.name,
                "only httpGet and tcpSocket are probed; taken as ready"
            );
            return None;
        };
        let seconds = |value: Option<i32>, default: u32, least: u32| {
            let value = value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default);
            Duration::from_secs(value.max(least).into())
        };
        let Probe { initial_delay_seconds, period_seconds, timeout_seconds, .. } = probe;
        Some(Self {
            check,
            host: host.filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.into()),
            port: port_of(container, port)?,
            delay: seconds(*initial_delay_seconds, 0, 0),
            period: seconds(*period_seconds, 10, 1),
            limit: seconds(*timeout_seconds, 1, 1),
            successes: probe.success_threshold.unwrap_or(1).max(1),
            failures: probe.failure_threshold.unwrap_or(3).max(1),
        })
    }

    /// Asks for as long as it is polled; `changed` is told whether the container is ready, when that changes.
    pub(super) async fn watch(&self, mut changed: impl FnMut(bool)) {
        tokio::time::sleep(self.delay).await;
        let (mut ready, mut streak) = (false, 0);
        loop {
            let good = timeout(self.limit, self.ask()).await.is_ok_and(|good| good);
            streak = if good == ready { 0 } else { streak + 1 };
            if streak >= if good { self.successes } else { self.failures } {
                (ready, streak) = (good, 0);
                changed(ready);
            }
            tokio::time::sleep(if ready { self.period } else { self.period.min(FIRST) }).await;
        }
    }

    async fn ask(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((self.host.as_str(), self.port)).await else { return false };
        let Check::Http { path, headers } = &self.check else { return true };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let mut request = format!("GET {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request += &format!("Host: {host}:{}\r\n", self.port);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "User-Agent: kube-probe/cambric\r\nConnection: close\r\n\r\n";
        if stream.write_all(request.as_bytes()).await.is_err() {
            return false;
        }
        // "HTTP/1.1 200": any status from 200 to 399 is good.
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.is_ok() && matches!(&status[8..], [b' ', b'2' | b'3', _, _])
    }
}

/// A port by number, or by its name in the container.
fn port_of(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    fn container(probe: Value) -> Container {
        let ports = json!([{"name": "web", "containerPort": 8080}]);
        serde_json::from_value(json!({"name": "c", "ports": ports, "readinessProbe": probe})).unwrap()
    }

    #[test]
    fn probes_parse() {
        let probe = json!({"httpGet": {"port": "web"}, "periodSeconds": 3});
        let readiness = Readiness::of(&container(probe), "fd00::1").unwrap();
        assert_eq!((readiness.port, readiness.host.as_str()), (8080, "fd00::1"));
        assert_eq!(readiness.check, Check::Http { path: "/".into(), headers: vec![] });
        assert_eq!((readiness.period, readiness.limit), (Duration::from_secs(3), Duration::from_secs(1)));
        assert!(Readiness::of(&container(json!({"exec": {"command": ["true"]}})), "::1").is_none());
        assert!(Readiness::of(&container(json!({"tcpSocket": {"port": "nobody"}})), "::1").is_none());
    }

    #[tokio::test]
    async fn a_container_is_ready_when_it_answers() {
        for (answer, good) in [("HTTP/1.1 204 No Content\r\n\r\n", true), ("HTTP/1.1 500 Oh\r\n\r\n", false)]
        {
            let listener = TcpListener::bind("[::1]:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let probe = json!({"httpGet": {"port": port, "path": "/ready"}});
            let readiness = Readiness::of(&container(probe), "::1").unwrap();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /ready HTTP/1.1\r\nHost: [::1]:"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let (answered, ()) = tokio::join!(readiness.ask(), server);
            assert_eq!(answered, good, "{answer}");
        }
    }
}
