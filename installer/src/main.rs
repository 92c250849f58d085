//! `iocast-node`: loads, pins and attaches the datapath on a node, keeps it attached, and shows what it does.
//!
//! All state is in pinned maps: ending or replacing this process changes nothing for a packet.
#![forbid(unsafe_code)]

mod adopt;
mod cni;
mod config;
mod cri;
mod doctor;
mod error;
mod metrics;
mod plan;
mod protocol;
mod reconcile;
mod reload;
mod reserve;
mod run;
mod serve;
mod snoop;
mod status;
mod uplink;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Broadcast for Kubernetes pods, without hostNetwork: the node's part.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// The BPF file system in which the datapath is pinned.
    #[arg(long, global = true, value_name = "DIR", default_value = datapath::BPFFS)]
    bpffs: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load the datapath, attach it, chain the plugin, and keep all that until SIGTERM, which leaves everything in place.
    Run(run::Options),
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
        /// Count for so many seconds, and show packets per second, too.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..))]
        rates: Option<u16>,
    },
    /// Look at everything iocast depends on: what is as it should be, what is not, and what to do.
    Doctor {
        #[command(flatten)]
        places: doctor::Places,
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
        Command::Run(options) => run::run(&arguments.bpffs, options),
        Command::Install { cni } => cni::install(cni, &arguments.bpffs),
        Command::Uninstall { cni, remove_plugin } => cni::uninstall(cni, &arguments.bpffs, *remove_plugin),
        Command::Status { json, rates } => status::run(&arguments.bpffs, *json, *rates),
        Command::Doctor { places, json } => doctor::run(&arguments.bpffs, places, *json),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
