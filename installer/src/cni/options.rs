//! Where the runtime looks for networks and plugins.

use std::path::PathBuf;

use clap::Args;

use super::conflist::PLUGIN;

/// Where the runtime looks for networks and plugins.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The runtime's CNI configuration directory.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// The runtime's CNI plugin directory.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// The plugin to install [default: `iocast` beside this program].
    #[arg(long, value_name = "FILE")]
    pub(crate) plugin: Option<PathBuf>,
}

impl Options {
    /// The plugin to install.
    pub(super) fn source(&self) -> PathBuf {
        let beside = || std::env::current_exe().unwrap_or_default().with_file_name(PLUGIN);
        self.plugin.clone().unwrap_or_else(beside)
    }
}
