//! What is asked on the command line.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use abi::Protocol;
use clap::Args;

use crate::{
    absent::Runtime,
    ask::{name, protocol},
};

/// What to explain.
#[derive(Args)]
pub(crate) struct Options {
    /// The PV's name, without a field.
    #[arg(value_name = "PV", value_parser = name)]
    pub(super) pv: String,
    /// The client that does not see it: its address on the LAN. Without it, whoever asks for the PV now.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) from: Option<Ipv4Addr>,
    /// Only this protocol [default: both].
    #[arg(long, value_name = "ca|pva", value_parser = protocol)]
    pub(super) protocol: Option<Protocol>,
    /// Ask at once in the client's name, instead of waiting 3 s for the client to ask.
    #[arg(long)]
    pub(super) ask: bool,
    /// Print JSON: see docs/why.md.
    #[arg(long)]
    pub(super) json: bool,
    /// Configuration file, for the names of uplinks that are not there.
    #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
    pub(super) config: PathBuf,
    #[command(flatten)]
    pub(super) runtime: Runtime,
    /// Only look: ask nobody, and put in nothing.
    #[arg(skip)]
    pub(super) passive: bool,
}

impl Options {
    /// To explain what can be seen of a PV without asking for it.
    pub(crate) fn passive(
        pv: &str,
        from: Option<Ipv4Addr>,
        protocol: Option<Protocol>,
        config: &Path,
        runtime: Runtime,
    ) -> Self {
        let (pv, config) = (pv.into(), config.into());
        Self { pv, from, protocol, ask: false, json: false, config, runtime, passive: true }
    }
}
