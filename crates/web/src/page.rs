//! What the page asks for, and what it is answered.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use model::{Family, NodeName};
use serde::Serialize;
use trace::flow::NamedFlow;
use trace::journey::{Journey, Query, QueryError, Scene};

use crate::access::is_for_loopback;
use crate::assets::asset;
use crate::picture::{Picture, Way, of_flow, way};
use crate::{Sessions, Source, Token, Verdict, View};

/// How old the sessions may be.
const SESSIONS_AGE: Duration = Duration::from_secs(2);
/// How old flows may be.
const FLOWS_AGE: Duration = Duration::from_secs(1);
/// How many flows are shown at most: those through which most packets have gone.
const FLOWS: usize = 200;
/// How old findings may be: to look for them takes every node's processor for a moment.
const FINDINGS_AGE: Duration = Duration::from_secs(20);

/// Nothing but the page's own files, and nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page of a source.
pub struct Page<S> {
    source: S,
    token: Token,
    view: Kept<View>,
    flows: Kept<Flows>,
    findings: Kept<Vec<Verdict>>,
    sessions: Kept<Vec<Sessions>>,
}

/// A traced packet on the picture.
#[derive(Serialize)]
struct Traced {
    journey: Journey,
    /// For each of the journey's ways.
    ways: Vec<Way>,
}

/// What flows.
#[derive(Serialize)]
struct Flows {
    /// How many flows there are.
    all: usize,
    flows: Vec<Drawn>,
}

/// A flow on the picture.
#[derive(Serialize)]
struct Drawn {
    flow: NamedFlow,
    /// The ids that it goes through, from the client on.
    there: Vec<String>,
}

#[derive(Serialize)]
struct Problem {
    problem: String,
}

impl<S: Source> Page<S> {
    /// The page, for those who know the token.
    pub fn new(source: S, token: Token) -> Page<S> {
        Page {
            source,
            token,
            view: Kept::new(),
            flows: Kept::new(),
            findings: Kept::new(),
            sessions: Kept::new(),
        }
    }

    /// Answers a request. What may block does so on a thread for that.
    pub async fn answer<B>(self: Arc<Self>, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, _) = request.into_parts();
        if !is_for_loopback(&head.uri, &head.headers) {
            return text(StatusCode::MISDIRECTED_REQUEST, "use 127.0.0.1, localhost or [::1]\n");
        }
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        if let Some(asset) = asset(head.uri.path()) {
            return response(StatusCode::OK, asset.kind, Bytes::from_static(asset.text.as_bytes()));
        }
        if !head.uri.path().starts_with("/api/") {
            return text(StatusCode::NOT_FOUND, "there is the page, at /\n");
        }
        if !self.token.is_in(&head.headers) {
            return problem(StatusCode::UNAUTHORIZED, "the token is missing or is another's".to_owned());
        }
        let asked = tokio::task::spawn_blocking(move || {
            self.ask(head.uri.path(), head.uri.query().unwrap_or_default(), &head.headers)
        });
        asked.await.unwrap_or_else(|_| {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made".to_owned())
        })
    }

    fn ask(&self, path: &str, query: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let unless_same = |body: Result<Vec<u8>, String>| match body {
            Ok(json) => versioned(json, headers),
            Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, why),
        };
        match path {
            "/api/picture" => {
                let view = self.view();
                unless_same(view.and_then(|view| json(&Picture::new(&view.scene, &view.ground))))
            }
            "/api/findings" => {
                let findings = self.findings.or(FINDINGS_AGE, || self.source.findings());
                unless_same(findings.and_then(|findings| json(&*findings)))
            }
            "/api/flows" => {
                let flows = self.flows.or(FLOWS_AGE, || drawn(&*self.view()?, &self.source));
                unless_same(flows.and_then(|flows| json(&*flows)))
            }
            "/api/bgp" => {
                let sessions = self.sessions.or(SESSIONS_AGE, || self.source.sessions());
                unless_same(sessions.and_then(|sessions| json(&*sessions)))
            }
            "/api/trace" => match self.view() {
                Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, why),
                Ok(view) => match traced(&view, query).and_then(|traced| json(&traced)) {
                    Ok(json) => response(StatusCode::OK, JSON, json.into()),
                    Err(why) => problem(StatusCode::BAD_REQUEST, why),
                },
            },
            _ => problem(
                StatusCode::NOT_FOUND,
                format!("there is no {path}; there are picture, trace, flows, findings and bgp"),
            ),
        }
    }

    fn view(&self) -> Result<Arc<View>, String> {
        self.view.or(self.source.age(), || self.source.view())
    }
}

fn drawn<S: Source>(view: &View, source: &S) -> Result<Flows, String> {
    let mut flows = source.flows(&view.scene)?;
    let packets = |flow: &NamedFlow| flow.traffic.map_or(0, |traffic| traffic.sent_packets);
    flows.sort_by_key(|flow| (Reverse(packets(flow)), flow.id));
    let all = flows.len();
    flows.truncate(FLOWS);
    let draw = |flow: NamedFlow| Drawn { there: of_flow(&view.ground, &flow), flow };
    Ok(Flows { all, flows: flows.into_iter().map(draw).collect() })
}

fn traced(view: &View, query: &str) -> Result<Traced, String> {
    let journey = view.scene.journey(&parse(&view.scene, query)?).map_err(|error| worded(&error))?;
    let ways = journey.ways.iter().map(|route| way(&view.ground, &journey, route)).collect();
    Ok(Traced { journey, ways })
}

/// What is an option on the command line is a field of the page.
fn worded(error: &QueryError) -> String {
    match error {
        QueryError::Via => {
            "packets from outside come to a node first; say to which in the field Via".to_owned()
        }
        QueryError::NoNode(name) => format!("via: there is no node \"{name}\""),
        error => error.to_string(),
    }
}

/// The question in a URL's query: `from`, `to`, and perhaps `family` and `via`.
fn parse(scene: &Scene, query: &str) -> Result<Query, String> {
    let fields: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let field = |name: &str| fields.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let needed =
        |name| field(name).ok_or_else(|| format!("{name} is missing; name a pod, node, service or address"));
    let family = match field("family") {
        None => None,
        Some("4") => Some(Family::V4),
        Some("6") => Some(Family::V6),
        Some(other) => return Err(format!("family \"{other}\" is neither 4 nor 6")),
    };
    let via = field("via").map(|name| NodeName::new(name).map_err(|error| format!("via: {error}")));
    Ok(Query {
        source: scene.source(needed("from")?, "default").map_err(|error| format!("from: {error}"))?,
        destination: scene.party(needed("to")?, "default").map_err(|error| format!("to: {error}"))?,
        transport: None,
        family,
        via: via.transpose()?,
    })
}

const JSON: &str = "application/json";

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    serde_json::to_vec(value).map_err(|error| error.to_string())
}

/// The answer, unless the one who asks has it already.
fn versioned(json: Vec<u8>, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let mut hasher = DefaultHasher::new();
    json.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let same = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = match same {
        true => response(StatusCode::NOT_MODIFIED, JSON, Bytes::new()),
        false => response(StatusCode::OK, JSON, json.into()),
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn problem(status: StatusCode, problem: String) -> Response<Full<Bytes>> {
    let body = json(&Problem { problem }).unwrap_or_default();
    response(status, JSON, body.into())
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Something that is made anew when it is asked for and old. Who asks meanwhile waits for it.
struct Kept<T>(Mutex<Option<(Instant, Arc<T>)>>);

impl<T> Kept<T> {
    fn new() -> Kept<T> {
        Kept(Mutex::new(None))
    }

    fn or(&self, age: Duration, make: impl FnOnce() -> Result<T, String>) -> Result<Arc<T>, String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, value)) = &*kept
            && since.elapsed() < age
        {
            return Ok(value.clone());
        }
        let value = Arc::new(make()?);
        *kept = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
