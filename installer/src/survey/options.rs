//! What the command may be told.

use std::{path::PathBuf, time::Duration};

use crate::absent::Runtime;

/// How to look.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long to watch what is sent; 0: not at all.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 5)]
    pub(super) seconds: u16,
    /// Print JSON: see docs/migrate.md.
    #[arg(long)]
    pub(super) json: bool,
    /// Configuration file: the domains that pods can join.
    #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
    pub(super) config: PathBuf,
    /// The interface on the LAN, if no domain is configured [default: that of the default route].
    #[arg(long, value_name = "INTERFACE")]
    pub(super) uplink: Option<String>,
    #[command(flatten)]
    pub(super) runtime: Runtime,
}

impl Options {
    pub(super) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}
