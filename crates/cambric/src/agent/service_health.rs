//! Answers load balancers that ask whether this node has endpoints of a service (`healthCheckNodePort`), as kube-proxy
//! does (pkg/proxy/healthcheck/service_health.go).

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Request, Response, StatusCode};
use model::Family;
use nix::sys::socket::{setsockopt, sockopt};
use plan::services::HealthCheck;
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::health::Health;

/// What is to be answered, by port.
pub(crate) type Checks = BTreeMap<u16, HealthCheck>;

/// How many endpoints a node has, for balancers that send more to where more are.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
/// When a port that another process has is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How many connections wait to be taken.
const BACKLOG: u32 = 128;

/// Listens on the ports of the checks for as long as they are there. `tell` is told which ports cannot be listened on,
/// whenever that is new.
pub(crate) async fn serve(
    mut checks: watch::Receiver<Checks>,
    health: Arc<Health>,
    tell: impl Fn(Vec<String>),
) {
    let mut ports =
        Ports { checks: checks.clone(), health, open: BTreeMap::new(), listeners: JoinSet::new() };
    let mut told = Vec::new();
    loop {
        let wanted = checks.borrow_and_update().clone();
        let problems = ports.listen(&wanted);
        let all_open = problems.is_empty();
        if problems != told {
            told.clone_from(&problems);
            tell(problems);
        }
        tokio::select! {
            changed = checks.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(RETRY), if !all_open => {}
        }
    }
}

/// The ports that are listened on.
struct Ports {
    checks: watch::Receiver<Checks>,
    health: Arc<Health>,
    open: BTreeMap<u16, AbortHandle>,
    /// All end when this is dropped.
    listeners: JoinSet<()>,
}

impl Ports {
    /// Listens where it is wanted and nowhere else; says what cannot be done.
    fn listen(&mut self, wanted: &Checks) -> Vec<String> {
        self.close_all_but(&wanted.keys().copied().collect());
        let mut problems = Vec::new();
        for (port, check) in wanted {
            if self.open.contains_key(port) {
                continue;
            }
            match listen_on(*port) {
                Ok(listener) => self.answer(*port, listener),
                Err(error) => problems.push(format!(
                    "Service {}: cannot listen on spec.healthCheckNodePort {port}: {error}; load balancers think that \
                     this node has no endpoint",
                    check.service
                )),
            }
        }
        problems
    }

    fn close_all_but(&mut self, wanted: &BTreeSet<u16>) {
        self.open.retain(|port, listener| {
            let stays = wanted.contains(port);
            if !stays {
                listener.abort();
            }
            stays
        });
        while self.listeners.try_join_next().is_some() {}
    }

    fn answer(&mut self, port: u16, listener: TcpListener) {
        let (checks, health) = (self.checks.clone(), self.health.clone());
        let answer = move |_: Request<Incoming>, peer: IpAddr| {
            ready(match checks.borrow().get(&port) {
                Some(check) => answer(check, Family::of(&peer), health.services().is_ok()),
                // The plan has just changed, and the listener is about to be closed.
                None => unasked(),
            })
        };
        let serving = web::accept(listener, "a service's health check", answer);
        self.open.insert(port, self.listeners.spawn(serving));
    }
}

/// Listens on a port of all addresses of both families.
fn listen_on(port: u16) -> io::Result<TcpListener> {
    let (socket, address) = match TcpSocket::new_v6() {
        Ok(socket) => {
            // Whatever net.ipv6.bindv6only says.
            setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
            (socket, IpAddr::from(Ipv6Addr::UNSPECIFIED))
        }
        // A kernel without IPv6.
        Err(_) => (TcpSocket::new_v4()?, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
    };
    // A port that was closed a moment ago can be had again.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(address, port))?;
    socket.listen(BACKLOG)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Named<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// Any method and any path gets it.
fn answer(check: &HealthCheck, asked_over: Family, healthy: bool) -> Response<Full<Bytes>> {
    let count = check.endpoints(asked_over);
    let service = Named { namespace: &check.service.namespace, name: &check.service.name };
    let body = Body { service, local_endpoints: count, service_proxy_healthy: healthy };
    // These types have nothing that JSON cannot say.
    let json = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(json)));
    if count == 0 || !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(count));
    response
}

fn unasked() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use model::{ObjectName, PerFamily};

    use super::*;

    /// Status, weight and body.
    fn answered(v4: Option<usize>, v6: Option<usize>, over: Family, healthy: bool) -> (u16, String, String) {
        let service = ObjectName::new("shop", "web");
        let check = HealthCheck { service, local_endpoints: PerFamily { v4, v6 } };
        let response = answer(&check, over, healthy);
        let status = response.status().as_u16();
        let weight = response.headers()["X-Load-Balancing-Endpoint-Weight"].to_str().unwrap().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
        (status, weight, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn a_node_with_endpoints_says_how_many() {
        let body = |count: usize, healthy: bool| {
            format!(
                r#"{{"service":{{"namespace":"shop","name":"web"}},"localEndpoints":{count},"serviceProxyHealthy":{healthy}}}"#
            )
        };
        let (v4, v6) = (Family::V4, Family::V6);
        assert_eq!(answered(Some(2), Some(1), v4, true), (200, "2".to_owned(), body(2, true)));
        assert_eq!(answered(Some(2), Some(1), v6, true), (200, "1".to_owned(), body(1, true)));
        assert_eq!(answered(Some(2), None, v6, true), (200, "2".to_owned(), body(2, true)));
        assert_eq!(answered(Some(0), Some(1), v4, true), (503, "0".to_owned(), body(0, true)));
        assert_eq!(answered(Some(2), Some(1), v4, false), (503, "2".to_owned(), body(2, false)));
    }
}
