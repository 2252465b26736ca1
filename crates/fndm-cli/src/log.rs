//! What the libraries report beside their results, on standard error, where the environment asks for it.

use std::io;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// Its value is a filter: `info`, `debug`, or by crate, as `fndm_data=debug,fndm_train=info`.
const VARIABLE: &str = "FNDM_LOG";

/// Prints what passes the filter. Nothing at all where there is none.
pub(crate) fn start() -> Result<()> {
    let Some(filter) = std::env::var_os(VARIABLE).filter(|filter| !filter.is_empty()) else {
        return Ok(());
    };
    let filter = filter.to_string_lossy();
    let filter = EnvFilter::builder().parse(&filter).with_context(|| {
        format!(
            "{VARIABLE}: expected error, warn, info, debug, trace or CRATE=LEVEL,…, got {filter:?}"
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        // A screen that is gone is no reason to panic.
        .log_internal_errors(false)
        .init();
    Ok(())
}
