//! `iocast-node`: loads, pins and attaches the datapath on a node, keeps it attached, and reports on it.
//!
//! All state is in pinned maps: stopping or replacing this process does not affect traffic.
#![forbid(unsafe_code)]

mod absent;
mod addresses;
mod adopt;
mod allowed;
mod ask;
mod bounded;
mod clients;
mod cni;
mod config;
mod conflicts;
mod cri;
mod doctor;
mod duplicates;
mod error;
mod exhausted;
mod frame;
mod groups;
mod log;
mod members;
mod metrics;
mod page;
mod places;
mod plan;
mod podman;
mod protocol;
mod ready;
mod reconcile;
mod relay;
mod reload;
mod reserve;
mod run;
mod runtime;
mod say;
mod seen;
mod serve;
mod signals;
mod snoop;
mod status;
mod survey;
mod take;
mod uplink;
mod why;

use std::{net::Ipv4Addr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Broadcast for Kubernetes pods without hostNetwork: the node agent.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// BPF file system where the datapath is pinned.
    #[arg(long, global = true, value_name = "DIR", default_value = datapath::BPFFS)]
    bpffs: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load and attach the datapath, chain the CNI plugin, and keep both in place; SIGTERM ends only the agent.
    Run(run::Options),
    /// Install the CNI plugin and add it to the primary CNI's chain, once.
    Install {
        #[command(flatten)]
        cni: cni::Options,
    },
    /// Remove the plugin from the chain, then the datapath from the node. Stop `run` first. Pods can be created and
    /// deleted throughout.
    Uninstall {
        #[command(flatten)]
        cni: cni::Options,
        /// Delete the plugin's binary too. CRI-O cannot delete pods that it created with the plugin any more.
        #[arg(long)]
        remove_plugin: bool,
    },
    /// Show the domains, their members, external ports and counters.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Count for this many seconds, and show packets per second as well.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..))]
        rates: Option<u16>,
        #[command(flatten)]
        runtime: absent::Runtime,
    },
    /// Show the member pods with their addresses, external ports and connections, and pods that ask for a domain and are no
    /// members, with the reason.
    Members {
        #[command(flatten)]
        options: members::Options,
    },
    /// Ask the running agent whether the node is ready: exits with 1 and says why if it is not, for probes.
    Ready(ready::Options),
    /// Do nothing until SIGTERM: keeps the pod of a node where iocast was uninstalled.
    #[command(hide = true)]
    Idle,
    /// Check everything iocast depends on: what is healthy, what is not, and what to do about it.
    Doctor {
        #[command(flatten)]
        places: doctor::Places,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give a LAN address to the pod on this node, whichever other node answers for it.
    ///
    /// For an address that has moved here with its pod while the node that had the pod is lost, but still answers on the
    /// LAN: the new pod does not start then, because its address is in use, or another node's claim has come before. Run it
    /// on the node where the pod is, or will be within ten minutes. It makes other nodes with iocast give the address up; a
    /// host without iocast that has the address keeps it, so give it another one first.
    Take {
        /// The address.
        address: Ipv4Addr,
    },
    /// Show searches, answers and beacons as they pass: who asks for what, and who answers.
    Snoop {
        #[command(flatten)]
        options: snoop::Options,
    },
    /// Show what happens, again and again: domains, PVs that nobody answers, PVs of several servers, who searches most and for
    /// what, and the pods with what they hear and answer.
    Top {
        #[command(flatten)]
        options: seen::TopOptions,
    },
    /// Show who reads from which pod: clients, pods, connections, and the PVs that were asked for meanwhile.
    Map {
        #[command(flatten)]
        options: seen::MapOptions,
    },
    /// Find PVs that more than one server has: clients get whichever answers first.
    ///
    /// It learns names from searches, and asks for them on the LANs of this node's domains. Exit codes: 0 if there are none, 1 if
    /// there are some, 2 if it could not look, or for wrong usage.
    Duplicates {
        #[command(flatten)]
        options: duplicates::Options,
    },
    /// Say why a client on the LAN cannot see a PV: what must be true for it, and the first thing that is not.
    ///
    /// It asks for the PV itself, from this node and in the client's name, and tries to connect as the client would. Exit
    /// codes: 0 if everything is in order, 1 if something is broken, 2 if something is not known, or for wrong usage.
    Why {
        #[command(flatten)]
        options: why::Options,
    },
    /// Show which pods have their node's network and what is relayed, whom they talk to, and which of them could be members today,
    /// with what to write; before they move, and before iocast is installed.
    ///
    /// It only looks. It needs the node's network and process ids, which the agent has not: manifests/survey has both. Of the
    /// environment of programs it reads EPICS settings with addresses and ports, and nothing else. Exit codes: 0 if all can
    /// move, 1 if some need an address of their own or have to stay, 2 if something is not known, or for wrong usage.
    Survey {
        #[command(flatten)]
        options: survey::Options,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Command::Run(options) => return run::run(&arguments.bpffs, options),
        Command::Install { cni } => cni::install(cni, &arguments.bpffs),
        Command::Uninstall { cni, remove_plugin } => cni::uninstall(cni, &arguments.bpffs, *remove_plugin),
        Command::Status { json, rates, runtime } => status::run(&arguments.bpffs, *json, *rates, runtime),
        Command::Members { options } => members::run(&arguments.bpffs, options),
        Command::Ready(options) => ready::run(options),
        Command::Idle => signals::idle(),
        Command::Doctor { places, json } => doctor::run(&arguments.bpffs, places, *json),
        Command::Take { address } => take::run(&arguments.bpffs, *address),
        Command::Snoop { options } => snoop::run(&arguments.bpffs, options),
        Command::Top { options } => seen::top(&arguments.bpffs, options),
        Command::Map { options } => seen::map(&arguments.bpffs, options),
        Command::Duplicates { options } => return duplicates::run(&arguments.bpffs, options),
        Command::Why { options } => return why::run(&arguments.bpffs, options),
        Command::Survey { options } => return survey::run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::complain(error);
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
