//! The HTTPS side: listens, reads requests, writes answers.

pub(crate) mod answer;
mod body;
pub(crate) mod negotiate;
mod protobuf;
pub(crate) mod resource;
pub(crate) mod route;
mod stream;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use self::answer::{Answer, Rendered, Watch};
use self::body::Body;
use self::negotiate::Form;
use self::resource::Call;
use self::route::{Parameters, Route, route};
use crate::api::Api;
use crate::error::ApiError;
use crate::table::Include;
use crate::{discovery, openapi};

/// Largest body of a request, in bytes.
pub(crate) const MAX_BODY: usize = 3 * 1024 * 1024;
/// Time a client has to finish the TLS handshake, to send its headers, to send its body.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time that requests have to finish when the server stops.
const FAREWELL: Duration = Duration::from_secs(5);
/// Most requests at a time on one HTTP/2 connection; watches count.
const MAX_STREAMS: u32 = 2000;
/// Time without a word after which an HTTP/2 client is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Lines of a watch that wait for a slow client.
const BACKLOG: usize = 64;

/// What all connections share.
pub(crate) struct State {
    pub(crate) api: Api,
    pub(crate) token: String,
    pub(crate) bookmark_every: Duration,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// Accepts connections on `listener` until the server stops, then waits for the requests in progress.
pub(crate) async fn accept(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>) {
    let mut shutdown = state.shutdown.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, tls.clone(), state.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: some connection has to end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    if connections.join_next().await.is_none() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            },
            Some(_) = connections.join_next() => {}
            () = stopped(&mut shutdown) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Ready when the server stops.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the server is gone altogether.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, state: Arc<State>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let stream = match timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!("TLS handshake timed out");
            return;
        }
    };
    let mut shutdown = state.shutdown.clone();
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(respond(&state, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stopped(&mut shutdown) => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(FAREWELL, connection).await
        }
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "connection failed");
    }
}

async fn respond(state: &Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let include = Include::default();
    match handle(state, request).await {
        Ok((Answer::Watch(watch), ..)) => stream(state, watch),
        Ok((answer, form, asked)) => {
            let asked = asked.unwrap_or(include);
            let rendered = tokio::task::spawn_blocking(move || render(answer, form, asked)).await;
            match rendered {
                Ok(Ok(rendered)) => full(rendered),
                Ok(Err(error)) => full(Rendered::error(&error)),
                Err(error) => full(Rendered::error(&ApiError::internal(error))),
            }
        }
        Err(error) => full(Rendered::error(&error)),
    }
}

async fn handle(
    state: &Arc<State>,
    request: Request<Incoming>,
) -> Result<(Answer, Form, Option<Include>), ApiError> {
    let (head, incoming) = request.into_parts();
    let registry = state.api.registry();
    let route = route(&registry, head.uri.path());
    let get = head.method == Method::GET || head.method == Method::HEAD;
    match route {
        Route::Health if get => return Ok((Answer::Text("ok"), Form::Plain, None)),
        Route::Version if get => {
            return Ok((Answer::Json { code: 200, value: discovery::version() }, Form::Plain, None));
        }
        _ => {}
    }
    authenticate(&head.headers, &state.token)?;
    let accept = header(&head.headers, ACCEPT);
    let json = |value| Ok((Answer::Json { code: 200, value }, Form::Plain, None));
    let or_missing = |value: Option<_>| value.ok_or_else(ApiError::no_such_path);
    match route {
        Route::Resource(place) => {
            let form = negotiate::accepted(&accept)?;
            let call = Call {
                method: head.method,
                place,
                parameters: Parameters::parse(head.uri.query().unwrap_or_default()),
                content_type: header(&head.headers, CONTENT_TYPE),
                form,
                body: read(incoming).await?,
            };
            let include = call.include();
            let api = state.api.clone();
            let answer =
                tokio::task::spawn_blocking(move || call.run(&api)).await.map_err(ApiError::internal)??;
            Ok((answer, form, Some(include)))
        }
        Route::Unknown => Err(ApiError::no_such_path()),
        _ if !get => Err(ApiError::method_not_allowed(head.method.as_str())),
        Route::Core | Route::Groups => {
            let core = matches!(route, Route::Core);
            match negotiate::accepted(&accept)? {
                Form::Discovery(version) => {
                    let value = discovery::aggregated(&registry, core, version);
                    let media_type = answer::discovery_type(version);
                    let bytes = value.to_string().into_bytes();
                    Ok((Answer::Bytes { media_type, bytes }, Form::Plain, None))
                }
                _ if core => json(discovery::core_versions()),
                _ => json(discovery::groups(&registry)),
            }
        }
        Route::Group(group) => json(or_missing(discovery::group(&registry, &group))?),
        Route::Resources { group, version } => {
            json(or_missing(discovery::resources(&registry, &group, &version))?)
        }
        Route::OpenApiV2 if accept.contains("protobuf") => {
            let bytes = openapi::v2_protobuf(&registry);
            Ok((Answer::Bytes { media_type: openapi::PROTOBUF, bytes }, Form::Plain, None))
        }
        Route::OpenApiV2 => json(openapi::v2(&registry)),
        Route::OpenApiV3(rest) if rest.is_empty() => json(openapi::v3()),
        Route::OpenApiV3(_) | Route::Health | Route::Version => Err(ApiError::no_such_path()),
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

fn authenticate(headers: &HeaderMap, token: &str) -> Result<(), ApiError> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, given) = given.split_once(' ').unwrap_or_default();
    // Looks at every byte, so that the time taken does not tell how many were right.
    let differ = given
        .bytes()
        .zip(token.bytes())
        .fold(given.len() ^ token.len(), |sum, (a, b)| sum | usize::from(a ^ b));
    if scheme.eq_ignore_ascii_case("bearer") && differ == 0 { Ok(()) } else { Err(ApiError::unauthorized()) }
}

async fn read(incoming: Incoming) -> Result<Bytes, ApiError> {
    let whole = timeout(PATIENCE, Limited::new(incoming, MAX_BODY).collect()).await;
    match whole {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(MAX_BODY)),
        Ok(Err(error)) => {
            Err(ApiError::bad_request(format!("the body of the request cannot be read: {error}")))
        }
        Err(_) => Err(ApiError::bad_request("the body of the request did not arrive in time")),
    }
}

fn render(answer: Answer, form: Form, include: Include) -> Result<Rendered, ApiError> {
    Ok(match answer {
        Answer::Object { code, kind, object } => answer::object(code, &kind, object, form, include),
        Answer::Page { kind, page } => answer::page(&kind, page, form, include)?,
        Answer::Json { code, value } => Rendered::json(code, &value),
        Answer::Text(text) => Rendered { code: 200, media_type: "text/plain", body: text.into() },
        Answer::Bytes { media_type, bytes } => Rendered { code: 200, media_type, body: bytes.into() },
        Answer::Watch(_) => return Err(ApiError::internal("a watch is streamed, not written")),
    })
}

fn full(rendered: Rendered) -> Response<Body> {
    let mut response = Response::new(Body::full(rendered.body));
    *response.status_mut() = StatusCode::from_u16(rendered.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(rendered.media_type));
    if rendered.code == 401 {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn stream(state: &State, watch: Box<Watch>) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let media_type = match watch.form {
        Form::Table => "application/json;as=Table;v=v1;g=meta.k8s.io;stream=watch",
        _ => "application/json",
    };
    tokio::spawn(stream::run(watch, state.bookmark_every, sender, state.shutdown.clone()));
    let mut response = Response::new(Body::stream(receiver));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
