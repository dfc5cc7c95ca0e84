//! Structured logs on standard error.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::error::StartError;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

/// Libraries that would speak too much at `info`.
const QUIET: &str = "h2=warn,hyper=warn,tonic=warn,tower=warn,raft=warn,slog=warn";

/// Starts logging; `level` is a level or a `tracing` filter.
pub fn start(level: Option<&str>, format: LogFormat, quiet: bool) -> Result<(), StartError> {
    let default = if quiet { "warn" } else { "info" };
    let level = level.unwrap_or(default);
    let filter = if level.contains('=') { level.to_owned() } else { format!("{level},{QUIET}") };
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| StartError::Config(format!("log level '{level}': {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
