//! One request to the API, for the time that it says it is (`Date`, RFC 9110, section 6.6.1).

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use kube::client::Body;
use rustls::CertificateError;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the API says.
pub(super) enum Answer {
    /// How far its clock is ahead of ours, in seconds.
    Clock(i64),
    /// Nothing, because a certificate is not valid now.
    Certificate(String),
    /// Nothing, or nothing of use, and why.
    None(String),
}

pub(super) fn ask(kubeconfig: Option<&Path>) -> Answer {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Answer::None(error.to_string()),
    };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, request(kubeconfig)).await });
    // A name look-up that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => match refused_certificate(error.as_ref()) {
            Some(why) => Answer::Certificate(why),
            None => Answer::None(format!("the API cannot be asked: {}", chain(error.as_ref()))),
        },
        Err(_) => Answer::None(format!("the API has not answered within {} s", PATIENCE.as_secs())),
    }
}

async fn request(kubeconfig: Option<&Path>) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let client = kube_source::client(kubeconfig).await?;
    let request = hyper::Request::get("/version").body(Body::empty())?;
    let before = SystemTime::now();
    let response = client.send(request).await?;
    let after = SystemTime::now();
    let date = response.headers().get(hyper::header::DATE).and_then(|date| date.to_str().ok());
    Ok(match date.and_then(|date| httpdate::parse_http_date(date).ok()) {
        Some(date) => Answer::Clock(ahead(before, date, after)),
        None => Answer::None("the API does not say what time it is".to_owned()),
    })
}

/// How many seconds `date`, which is in whole seconds, is outside of the time that the request took.
fn ahead(before: SystemTime, date: SystemTime, after: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    if let Ok(ahead) = date.duration_since(after) {
        seconds(ahead)
    } else if let Ok(behind) = before.duration_since(date + Duration::from_secs(1)) {
        -seconds(behind)
    } else {
        0
    }
}

/// Why a certificate is not valid now, if that is what an error comes from.
fn refused_certificate(error: &(dyn Error + 'static)) -> Option<String> {
    causes(error).find_map(|error| {
        // What is in an io::Error is no source of it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match error.downcast_ref::<rustls::Error>().or(inner)? {
            rustls::Error::InvalidCertificate(
                why @ (CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }),
            ) => Some(format!("is not valid now: {why}")),
            _ => None,
        }
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// An error with its causes, each once: some errors show their cause themselves.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{colon}{cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_and_a_slow_answer_are_no_skew() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(ahead(at(10_900), at(10_000), at(10_950)), 0);
        assert_eq!(ahead(at(10_000), at(13_000), at(14_000)), 0);
        assert_eq!(ahead(at(10_000), at(70_000), at(10_500)), 59);
        assert_eq!(ahead(at(100_000), at(40_000), at(100_500)), -59);
    }

    #[test]
    fn a_certificate_of_another_time_is_known_in_whatever_it_is_wrapped() {
        let expired = || rustls::Error::InvalidCertificate(CertificateError::Expired);
        let wrapped = io::Error::other(expired());
        assert!(refused_certificate(&wrapped).is_some_and(|why| why.contains("not valid now")));
        assert!(refused_certificate(&expired()).is_some());
        let other = io::Error::other(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(refused_certificate(&other).is_none());
    }
}
