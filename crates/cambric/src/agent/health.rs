//! Whether the agent is alive and ready, for those who ask over HTTP.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What the worker says of itself.
#[derive(Debug)]
pub(crate) struct Health {
    inner: Mutex<Inner>,
    /// How long the worker may be silent, because it is comparing or because nothing happens.
    patience: Duration,
}

#[derive(Debug)]
struct Inner {
    beat: Instant,
    not_ready: Option<String>,
    services: Option<String>,
}

impl Health {
    /// A worker that has just started.
    pub(crate) fn new(patience: Duration) -> Health {
        let not_ready = Some("the agent has just started".to_owned());
        let inner = Inner { beat: Instant::now(), not_ready, services: None };
        Health { inner: Mutex::new(inner), patience }
    }

    /// The worker is alive. `not_ready` is why it is not ready, if it is not, and `services` why services are not as
    /// planned, if they are not.
    pub(crate) fn beat(&self, not_ready: Option<String>, services: Option<String>) {
        let mut inner = self.lock();
        inner.beat = Instant::now();
        inner.not_ready = not_ready;
        inner.services = services;
    }

    /// `Err` with what is wrong if the worker has not been heard of for too long.
    pub(crate) fn alive(&self) -> Result<(), String> {
        let silence = self.lock().beat.elapsed();
        if silence <= self.patience {
            return Ok(());
        }
        Err(format!(
            "the thread that programs the kernel has been silent for {} seconds, more than {}",
            silence.as_secs(),
            self.patience.as_secs()
        ))
    }

    /// `Err` with the reason if pods cannot be networked on this node yet, or not all that is planned is in force.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.alive()?;
        match &self.lock().not_ready {
            None => Ok(()),
            Some(reason) => Err(reason.clone()),
        }
    }

    /// `Err` with the reason if services may not be as planned. What else is wrong is no reason for a load balancer to
    /// send nothing here.
    pub(crate) fn services(&self) -> Result<(), String> {
        self.alive()?;
        match &self.lock().services {
            None => Ok(()),
            Some(reason) => Err(reason.clone()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // The fields are assigned one by one: a panic elsewhere leaves them as good as they were.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_worker_is_not_alive_and_not_ready() {
        let health = Health::new(Duration::from_secs(60));
        assert!(health.alive().is_ok() && health.ready().is_err());
        health.beat(None, None);
        assert!(health.ready().is_ok());
        health.beat(Some("no network".to_owned()), None);
        assert_eq!(health.ready(), Err("no network".to_owned()));
        assert!(health.services().is_ok());
        health.beat(None, Some("table full".to_owned()));
        assert_eq!(health.services(), Err("table full".to_owned()));
        let stuck = Health::new(Duration::ZERO);
        assert!(stuck.services().is_err());
        assert!(stuck.alive().unwrap_err().contains("silent"));
    }
}
