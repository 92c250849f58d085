//! `iocast-lab`: the lab for people. `demo` shows what iocast does; `up` keeps a lab to play with until `down`; `soak`
//! tries its endurance.

mod demo;
mod keep;
mod paint;
mod soak;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A LAN, a node and pods on this machine, in namespaces of their own.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a workstation on the LAN reading IOCs in pods, and what happened on the way.
    Demo {
        /// How pods are connected to the node.
        #[arg(long, value_enum, default_value_t = Topology::Bridge)]
        topology: Topology,
    },
    /// Make trouble for an hour under the eyes of clients, and report what they lost.
    Soak(soak::Arguments),
    /// Raise a lab and keep it.
    Up(Kept),
    /// Tear a lab down that `up` raised.
    Down(Named),
    /// Run a command in a lab: `iocast-lab exec ws caget IOC1:NAME`.
    Exec {
        #[command(flatten)]
        lab: Named,
        /// The host: ws, native, node, or pod-NAME.
        host: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Watch over a kept lab and sweep up after it.
    #[command(hide = true)]
    Guard(Kept),
    /// Be a kept lab.
    #[command(hide = true)]
    Hold(Kept),
}

/// Which lab.
#[derive(Args, Clone)]
struct Named {
    /// The lab's name, for more than one at a time.
    #[arg(long, default_value = "lab")]
    name: String,
}

/// Which lab, and what it is to be like.
#[derive(Args, Clone)]
struct Kept {
    #[command(flatten)]
    lab: Named,
    /// How pods are connected to the node.
    #[arg(long, value_enum, default_value_t = Topology::Bridge)]
    topology: Topology,
    /// How many pods, each with an IOC.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=110))]
    pods: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Topology {
    /// A bridge on the node; pods have a /24.
    Bridge,
    /// A route to each pod; pods have a /32 without a broadcast address.
    Routed,
}

impl Topology {
    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Routed => "routed",
        }
    }

    fn options(self) -> lab::Options {
        lab::Options::new(match self {
            Self::Bridge => lab::Topology::Bridge,
            Self::Routed => lab::Topology::Routed,
        })
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo { topology } => demo::run(topology),
        Command::Soak(arguments) => match soak::run(&arguments) {
            Ok(false) => return ExitCode::FAILURE,
            outcome => outcome.map(|_| ()),
        },
        Command::Up(kept) => keep::up(&kept),
        Command::Down(named) => keep::down(&named),
        Command::Exec { lab, host, command } => keep::exec(&lab, &host, &command),
        Command::Guard(kept) => keep::guard(&kept),
        Command::Hold(kept) => keep::hold(&kept),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("iocast-lab: {error}");
            ExitCode::FAILURE
        }
    }
}
