use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use hyper::header::{AUTHORIZATION, HOST};
use model::{Cluster, Encapsulation, NetworkConfig};
use serde_json::Value;

use super::*;
use crate::picture::Ground;

/// A cluster without anything, that counts how often it is looked at.
#[derive(Default)]
struct Empty(AtomicUsize);

impl Source for Empty {
    fn view(&self) -> Result<View, String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let network =
            NetworkConfig::parse(&["10.244.0.0/16".to_owned()], &[], Encapsulation::default(), "auto");
        let cluster = Cluster {
            network: network.unwrap(),
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        };
        let scene = Arc::new(Scene::assumed(cluster, Vec::new()));
        Ok(View { scene, ground: Ground::default() })
    }

    fn flows(&self, _: &Scene) -> Result<Vec<NamedFlow>, String> {
        Ok(Vec::new())
    }

    fn findings(&self) -> Result<Vec<Verdict>, String> {
        Ok(Vec::new())
    }

    fn sessions(&self) -> Result<Vec<Sessions>, String> {
        Err("nobody answers".to_owned())
    }
}

struct Asked {
    status: u16,
    headers: HeaderMap,
    body: String,
}

fn ask(page: &Arc<Page<Empty>>, path: &str, more: &[(HeaderName, &str)]) -> Asked {
    let mut request = Request::get(path).header(HOST, "127.0.0.1:8080");
    for (name, value) in more {
        request.headers_mut().unwrap().insert(name, HeaderValue::from_str(value).unwrap());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (head, body) = page.clone().answer(request.body(()).unwrap()).await.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Asked { status: head.status.as_u16(), headers: head.headers, body }
    })
}

fn page() -> (Arc<Page<Empty>>, String) {
    let token = Token::random().unwrap();
    let bearer = format!("Bearer {}", token.as_str());
    (Arc::new(Page::new(Empty::default(), token)), bearer)
}

#[test]
fn the_files_are_for_all_and_the_cluster_for_those_who_know_the_token() {
    let (page, bearer) = page();
    for path in ["/", "/page.js", "/page.css"] {
        let asked = ask(&page, path, &[]);
        assert_eq!(asked.status, 200, "{path}");
        let policy = asked.headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    assert_eq!(ask(&page, "/etc/passwd", &[]).status, 404);
    for path in
        ["/api/picture", "/api/trace?from=a&to=b", "/api/flows", "/api/findings", "/api/bgp", "/api/else"]
    {
        assert_eq!(ask(&page, path, &[]).status, 401, "{path}");
        assert_eq!(ask(&page, path, &[(AUTHORIZATION, "Bearer 0")]).status, 401, "{path}");
    }
    assert_eq!(page.source.0.load(Ordering::Relaxed), 0);
    assert_eq!(ask(&page, "/api/picture", &[(AUTHORIZATION, &bearer)]).status, 200);
    assert_eq!(ask(&page, "/api/else", &[(AUTHORIZATION, &bearer)]).status, 404);
    let rebound = [(AUTHORIZATION, bearer.as_str()), (HOST, "example.com:8080")];
    for path in ["/", "/api/picture"] {
        assert_eq!(ask(&page, path, &rebound).status, 421, "{path}");
    }
}

#[test]
fn what_is_known_already_is_not_sent_again() {
    let (page, bearer) = page();
    let first = ask(&page, "/api/picture", &[(AUTHORIZATION, &bearer)]);
    let tag = first.headers[ETAG].to_str().unwrap();
    let again = ask(&page, "/api/picture", &[(AUTHORIZATION, &bearer), (IF_NONE_MATCH, tag)]);
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let other = ask(&page, "/api/picture", &[(AUTHORIZATION, &bearer), (IF_NONE_MATCH, "\"0\"")]);
    assert_eq!((other.status, other.body), (200, first.body));
}

#[test]
fn problems_are_said_in_words() {
    let (page, bearer) = page();
    let problem = |path: &str, status: u16| {
        let asked = ask(&page, path, &[(AUTHORIZATION, &bearer)]);
        assert_eq!(asked.status, status, "{path}: {}", asked.body);
        let value: Value = serde_json::from_str(&asked.body).unwrap();
        value["problem"].as_str().unwrap().to_owned()
    };
    assert_eq!(problem("/api/bgp", 503), "nobody answers");
    assert!(problem("/api/trace?to=a", 400).starts_with("from is missing"));
    assert!(problem("/api/trace?from=192.0.2.1&to=", 400).starts_with("to is missing"));
    assert_eq!(problem("/api/trace?from=a&to=b&family=5", 400), "family \"5\" is neither 4 nor 6");
    assert!(
        problem("/api/trace?from=pod%2Fdefault%2Fa&to=b", 400)
            .contains("no pod with an address \"default/a\"")
    );
    assert!(problem("/api/trace?from=192.0.2.1&to=192.0.2.2", 400).contains("in the field Via"));
}
