//! `iocast-node`: loads, pins and attaches the datapath on a node, keeps it attached, and shows what it does.
//!
//! All state is in pinned maps: ending or replacing this process changes nothing for a packet.
#![forbid(unsafe_code)]

mod cni;
mod config;
mod doctor;
mod metrics;
mod plan;
mod reconcile;
mod reserve;
mod run;
mod serve;
mod status;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Broadcast for Kubernetes pods, without hostNetwork: the node's part.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// The BPF file system in which the datapath is pinned.
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load the datapath, attach it, and keep it attached until SIGTERM, which leaves everything in place.
    Run {
        /// The configuration: which domains there are, and their uplinks.
        #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
        config: PathBuf,
        /// Do it once and exit: the datapath works without this process.
        #[arg(long)]
        once: bool,
        /// Serve /metrics, /healthz and /readyz there.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<std::net::SocketAddr>,
    },
    /// Show the domains, their members, external ports and counters.
    Status {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Look at everything iocast depends on: what is as it should be, what is not, and what to do.
    Doctor {
        #[command(flatten)]
        places: doctor::Places,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Command::Run { config, once, listen } => run::run(&arguments.bpffs, config, *once, *listen),
        Command::Status { json } => status::run(&arguments.bpffs, *json),
        Command::Doctor { places, json } => doctor::run(&arguments.bpffs, places, *json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("iocast-node: {error}");
            ExitCode::FAILURE
        }
    }
}
