//! `iocast-node`: loads, pins and attaches the datapath on a node, keeps it attached, and shows what it does.
//!
//! All state is in pinned maps: ending or replacing this process changes nothing for a packet.
#![forbid(unsafe_code)]

mod cni;
mod config;
mod plan;
mod reconcile;
mod reload;
mod reserve;
mod run;
mod snoop;
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
    /// Load the datapath, attach it, chain the plugin, and keep all that until SIGTERM, which leaves everything in place.
    Run {
        /// The configuration: which domains there are, and their uplinks.
        #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
        config: PathBuf,
        /// Do it once and exit: the datapath works without this process.
        #[arg(long)]
        once: bool,
        /// Neither install the plugin nor chain it.
        #[arg(long)]
        no_cni: bool,
        #[command(flatten)]
        cni: cni::Options,
    },
    /// Install the plugin and chain it after the primary CNI's, once.
    Install {
        #[command(flatten)]
        cni: cni::Options,
    },
    /// Take the plugin out of the chain, then the datapath down; every pod can be created and deleted all the while. End
    /// `run` before.
    Uninstall {
        #[command(flatten)]
        cni: cni::Options,
        /// Delete the plugin's binary, too. Pods that CRI-O created with it cannot be deleted then.
        #[arg(long)]
        remove_plugin: bool,
    },
    /// Show the domains, their members, external ports and counters.
    Status {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Show searches, answers and beacons as they pass: who asks for what, and who answers.
    Snoop {
        #[command(flatten)]
        options: snoop::Options,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Command::Run { config, once, no_cni, cni } => {
            run::run(&arguments.bpffs, config, *once, (!no_cni).then_some(cni))
        }
        Command::Install { cni } => cni::install(cni, &arguments.bpffs),
        Command::Uninstall { cni, remove_plugin } => cni::uninstall(cni, &arguments.bpffs, *remove_plugin),
        Command::Status { json } => status::run(&arguments.bpffs, *json),
        Command::Snoop { options } => snoop::run(&arguments.bpffs, options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("iocast-node: {error}");
            ExitCode::FAILURE
        }
    }
}
