//! The log on standard error.

use std::io;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::agent::LogFormat;
use crate::terminal::in_colour;

/// Starts logging. `filter` is a level or a list as tracing-subscriber's `EnvFilter` takes it.
pub(crate) fn start(format: LogFormat, filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("log level \"{filter}\" is not understood; use info, debug or the like"))?;
    let colour = in_colour(&io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(colour).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_target(false).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
