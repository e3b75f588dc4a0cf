//! Who may ask: whoever knows the token, under a name that is this machine's own.

use hyper::header::{AUTHORIZATION, HOST};
use hyper::{HeaderMap, Uri};
use rustls::crypto::ring::default_provider;
use subtle::ConstantTimeEq;

/// The names under which the page is reached. A page of somebody else whose name suddenly has this machine's address (DNS
/// rebinding) comes with its own name.
const HOSTS: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// A secret that the page is asked with.
#[derive(Clone)]
pub struct Token(String);

/// There is no token to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random source failed")]
pub struct TokenError;

impl Token {
    /// A new one, of 256 random bits.
    ///
    /// # Errors
    /// [`TokenError`] if the system has no random bits.
    pub fn random() -> Result<Token, TokenError> {
        let mut bytes = [0; 32];
        default_provider().secure_random.fill(&mut bytes).map_err(|_| TokenError)?;
        Ok(Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The token as text: lower-case hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a request comes with it, as RFC 6750 section 2.1 has it. The time taken does not tell how much was right.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, given) = given.split_once(' ').unwrap_or_default();
        scheme.eq_ignore_ascii_case("bearer") && bool::from(given.as_bytes().ct_eq(self.0.as_bytes()))
    }
}

/// Not the token itself, which would be in logs then.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Whether a request is for this machine by a name of its own, with any port: it may have been forwarded.
pub(crate) fn is_for_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let of_header = || headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = uri.authority().map(|authority| authority.as_str()).or_else(of_header);
    let name = host.map(|host| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    });
    name.is_some_and(|name| HOSTS.iter().any(|own| own.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn with(name: hyper::header::HeaderName, value: &str) -> HeaderMap {
        [(name, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    #[test]
    fn only_the_whole_token_will_do() {
        let token = Token::random().unwrap();
        assert_eq!(token.as_str().len(), 64);
        assert_ne!(token.as_str(), Token::random().unwrap().as_str());
        let given = |text: String| token.is_in(&with(AUTHORIZATION, &text));
        assert!(given(format!("Bearer {}", token.as_str())));
        assert!(!given(format!("Bearer {}", &token.as_str()[..63])));
        assert!(!given(format!("Bearer {}0", token.as_str())));
        assert!(!given(format!("Basic {}", token.as_str())));
        assert!(!given("Bearer ".to_owned()));
        assert!(!token.is_in(&HeaderMap::new()));
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn names_of_others_are_refused() {
        let path = Uri::from_static("/");
        for own in ["127.0.0.1:8080", "localhost:1", "localhost", "LOCALHOST:80", "[::1]:8080", "[::1]"] {
            assert!(is_for_loopback(&path, &with(HOST, own)), "{own}");
        }
        for other in ["example.com", "127.0.0.1.example.com:80", "[::2]:80", "127.0.0.1:x", "", "192.0.2.1"] {
            assert!(!is_for_loopback(&path, &with(HOST, other)), "{other}");
        }
        assert!(!is_for_loopback(&path, &HeaderMap::new()));
        let named = Uri::from_static("http://example.com/");
        assert!(!is_for_loopback(&named, &with(HOST, "localhost")));
    }
}
