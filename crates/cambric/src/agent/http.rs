//! `/healthz`, `/readyz` and `/metrics`.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::health::Health;
use super::metrics::Metrics;

/// How many clients of one listener are answered at once: more than kubelet, Prometheus and an operator need together,
/// and more than the load balancers of one service.
const CONNECTIONS: usize = 32;
/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers for the agent until it is dropped.
pub(crate) async fn serve(listener: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) {
    let answer = move |request: &Request<Incoming>, _: IpAddr| {
        answer(request.method(), request.uri().path(), &health, &metrics)
    };
    accept(listener, "/healthz, /readyz or /metrics", Arc::new(answer)).await;
}

/// Takes connections until it is dropped, and then drops them too. `what` is what they are for. The answer can depend
/// on who asks; addresses of IPv4 are such, even if the socket is one of IPv6.
pub(super) async fn accept(
    listener: TcpListener,
    what: &'static str,
    answer: Arc<impl Fn(&Request<Incoming>, IpAddr) -> Response<Full<Bytes>> + Send + Sync + 'static>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = slots.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "a connection for {what} could not be taken");
                // Descriptors are used up, and accepting again at once would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer.clone();
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(&request, peer.ip().to_canonical());
                async { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection for {what} broke");
            }
            drop(permit);
        });
        // Those that have ended are forgotten.
        while connections.try_join_next().is_some() {}
    }
}

fn answer(method: &Method, path: &str, health: &Health, metrics: &Metrics) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match path {
        "/healthz" => state(health.alive()),
        "/readyz" => state(health.ready()),
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics.text());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".to_owned()),
    }
}

fn state(state: Result<(), String>) -> Response<Full<Bytes>> {
    match state {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn ask(path: &str, health: &Health) -> (u16, String) {
        let response = answer(&Method::GET, path, health, &Metrics::new());
        let status = response.status().as_u16();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn readiness_gives_its_reason() {
        let health = Health::new(Duration::from_secs(60));
        health.beat(Some("there is no ClusterNetwork".to_owned()), None);
        assert_eq!(ask("/readyz", &health), (503, "there is no ClusterNetwork\n".to_owned()));
        assert_eq!(ask("/healthz", &health), (200, "ok\n".to_owned()));
        health.beat(None, None);
        assert_eq!(ask("/readyz", &health), (200, "ok\n".to_owned()));
        assert_eq!(ask("/", &health).0, 404);
        assert!(ask("/metrics", &health).1.ends_with("# EOF\n"));
    }
}
