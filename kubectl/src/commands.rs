//! The commands: each is one of the agent's own, for all nodes. One whose answer merges is a line here.

use view::{Duplicates, Members, Seen, doctor::Findings, survey::Survey, why::Report};

use crate::{ask::ask, kubectl::Request, live::watch, shown::Map, snoop, status::Status};

/// A command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) about: &'static str,
    /// What follows it: the agent's own arguments.
    pub(crate) values: &'static str,
    /// What the pods that are asked are labelled with, and their namespace is called.
    pub(crate) asked: &'static str,
    /// Seconds that the agent takes by itself, if it is not told how many.
    pub(crate) seconds: u64,
    /// Runs it; its exit code.
    pub(crate) run: fn(&Request) -> Result<u8, String>,
}

/// The agents, for all commands but `survey`.
const AGENTS: &str = "iocast";

/// All commands. What is live is run by `live::watch`, what answers once by `ask`.
pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "why",
        about: "Say why a client on the LAN cannot see a PV, wherever its pod is",
        values: "PV [--from ADDRESS] [--protocol ca|pva] [--ask]",
        asked: AGENTS,
        seconds: 0,
        run: ask::<Report>,
    },
    Command {
        name: "members",
        about: "List the member pods of all nodes",
        values: "...",
        asked: AGENTS,
        seconds: 0,
        run: ask::<Members>,
    },
    Command {
        name: "top",
        about: "Show what passes on all nodes, again and again: searches, PVs that nobody answers, talkers, pods",
        values: "[--every SECONDS] [--for SECONDS]",
        asked: AGENTS,
        seconds: 0,
        run: watch::<Seen>,
    },
    Command {
        name: "map",
        about: "Show who reads from which pod on all nodes",
        values: "[--for SECONDS]",
        asked: AGENTS,
        seconds: 5,
        run: ask::<Map>,
    },
    Command {
        name: "duplicates",
        about: "Find PVs that more than one server has, as all nodes see them",
        values: "[PV ...] [--for SECONDS] [--rate NAMES] [--allow SERVER] [--protocol ca|pva]",
        asked: AGENTS,
        seconds: 60,
        run: ask::<Duplicates>,
    },
    Command {
        name: "doctor",
        about: "Check everything iocast depends on, on all nodes",
        values: "...",
        asked: AGENTS,
        seconds: 0,
        run: ask::<Findings>,
    },
    Command {
        name: "status",
        about: "Show the domains of all nodes",
        values: "...",
        asked: AGENTS,
        seconds: 0,
        run: ask::<Status>,
    },
    Command {
        name: "survey",
        about: "Show which pods with their node's network could be members, and what to write for it: asks the pods of manifests/survey",
        values: "[--for SECONDS]",
        asked: "iocast-survey",
        seconds: 5,
        run: ask::<Survey>,
    },
    Command {
        name: "snoop",
        about: "Show searches, answers and beacons of all nodes as they pass",
        values: "[--pv PATTERN] [--client ADDRESS] [--unanswered] [--for SECONDS] ...",
        asked: AGENTS,
        seconds: 0,
        run: snoop::run,
    },
];
