//! STATUS: would an ADD work?

use kernel::pod::{self, Guard};

use crate::error::{Error, code};
use crate::node;
use crate::request::Config;

/// Looks at all that an ADD needs.
pub(crate) fn status(config: &Config) -> Result<(), Error> {
    let unavailable = |error: Error| Error { code: code::NOT_AVAILABLE, ..error };
    let file = node::file(config).map_err(unavailable)?;
    let mut socket = node::socket().map_err(unavailable)?;
    let cut_off = |why: String| {
        let why = format!("{why}; the agent makes it when it runs, see its log");
        Err(Error::new(code::LIMITED_CONNECTIVITY, "the bridge is not there", why))
    };
    match pod::interface(&mut socket, &file.bridge).map_err(|error| unavailable(error.into()))? {
        Some(bridge) if bridge.up => {}
        Some(bridge) => return cut_off(format!("bridge {} is down", bridge.name)),
        None => return cut_off(format!("there is no bridge {}", file.bridge)),
    }
    let ready = Guard::open().and_then(|mut guard| guard.ready());
    if let Err(error) = ready {
        let why = format!("{error}; the agent makes it when it runs, see its log");
        return Err(Error::new(code::NOT_AVAILABLE, "the agent's nftables table is not there", why));
    }
    let store = node::store(config);
    let store = store.lock().map_err(|error| unavailable(error.into()))?;
    for range in &file.pod_ranges {
        let (used, total) = store.usage(range).map_err(|error| unavailable(error.into()))?;
        if used >= total {
            let why = format!(
                "all {total} addresses of pod range {range} are in use ({}); delete pods or give the node a bigger \
                 range",
                config.data_dir.join(&config.name).display()
            );
            return Err(Error::new(code::NOT_AVAILABLE, "no free address", why));
        }
    }
    Ok(())
}
