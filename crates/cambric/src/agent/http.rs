//! `/healthz`, `/readyz` and `/metrics`.

use std::future::ready;
use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;

use super::health::Health;
use super::metrics::Metrics;

/// Answers for the agent until it is dropped.
pub(crate) async fn serve(listener: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) {
    let answer = move |request: Request<Incoming>, _: IpAddr| {
        ready(answer(request.method(), request.uri().path(), &health, &metrics))
    };
    web::accept(listener, "/healthz, /readyz or /metrics", answer).await;
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
    use std::time::Duration;

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
