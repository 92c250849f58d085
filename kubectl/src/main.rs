//! `kubectl iocast`: asks the agents of all nodes at once, and shows their answers as one.
//!
//! It speaks to no API server: it runs the user's own kubectl, so that configuration, contexts, credentials, proxies and
//! rights are those of kubectl.
#![forbid(unsafe_code)]

mod agents;
mod ask;
mod children;
mod commands;
mod kubectl;
mod live;
mod say;
mod shown;
mod snoop;
mod status;
mod trouble;

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::{
    commands::{COMMANDS, Command},
    kubectl::{Kubectl, Request},
    say::complain,
    shown::NOTHING,
};

fn main() -> ExitCode {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let matches = command_line().get_matches_from(arranged(words));
    let Some((name, of_command)) = matches.subcommand() else { return ExitCode::from(NOTHING) };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        return ExitCode::from(NOTHING);
    };
    let ended = children::end_with_us().map_err(|error| error.to_string());
    match ended.and_then(|()| (command.run)(&request(command, of_command))) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(error);
            ExitCode::from(NOTHING)
        }
    }
}

fn command_line() -> clap::Command {
    let plugin = clap::Command::new("kubectl-iocast")
        .bin_name("kubectl iocast")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Ask the iocast agents of all nodes at once")
        .after_help("It runs your own kubectl: the one of $KUBECTL, or that of your PATH.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args(options());
    plugin.subcommands(COMMANDS.iter().map(|command| {
        let rest = Arg::new("rest").value_name(command.values).num_args(0..);
        clap::Command::new(command.name)
            .about(command.about)
            .arg(rest.help("What is for the agent's own command"))
    }))
}

/// The words with what is the plugin's first, then the command, and what is the agent's behind `--`.
fn arranged(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let (mut ours, mut command, mut rest) = (vec![], vec![], vec!["--".to_owned()]);
    let mut words = words.into_iter();
    let program = words.next();
    while let Some(word) = words.next() {
        if let Some(takes_value) = is_ours(&word) {
            ours.push(word);
            ours.extend(takes_value.then(|| words.next()).flatten());
        } else if command.is_empty() {
            command.push(word);
        } else {
            rest.push(word);
        }
    }
    if command.is_empty() {
        rest.clear();
    }
    program.into_iter().chain(ours).chain(command).chain(rest).collect()
}

/// Whether a word is an option of the plugin, and if so, whether its value is the next word.
fn is_ours(word: &str) -> Option<bool> {
    if ["-h", "--help", "-V", "--version"].contains(&word) {
        return Some(false);
    }
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let is_called = |option: &Arg| {
        let short = option.get_short().map(|short| format!("-{short}"));
        short.as_deref() == Some(name) || option.get_long() == name.strip_prefix("--")
    };
    let options = options();
    let option = options.iter().find(|option| is_called(option))?;
    Some(option.get_action().takes_values() && name == word)
}

/// What all commands take.
fn options() -> [Arg; 9] {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).global(true)
    };
    [
        option("namespace", "NAME", "Namespace of the pods that are asked [default: iocast]").short('n'),
        option("selector", "LABELS", "Labels of these pods [default: app.kubernetes.io/name=iocast]")
            .short('l'),
        option("node", "NAME", "Only this node; may be given again").action(ArgAction::Append),
        option("timeout", "SECONDS", "How long a node may take, beside the time that it was told to watch")
            .value_parser(value_parser!(u16).range(1..))
            .default_value("30"),
        option("json", "", "Print JSON").action(ArgAction::SetTrue),
        option("context", "NAME", "kubectl's context"),
        option("kubeconfig", "FILE", "kubectl's configuration"),
        option("as", "USER", "Whom kubectl impersonates"),
        option("request-timeout", "TIME", "kubectl's timeout of a request, such as 5s"),
    ]
}

fn request(command: &Command, matches: &ArgMatches) -> Request {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let all =
        |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect::<Vec<_>>();
    let flags = ["context", "kubeconfig", "as", "request-timeout"];
    let flags = flags.iter().filter_map(|name| Some(format!("--{name}={}", text(name)?))).collect();
    let Command { name, asked, seconds, .. } = *command;
    Request {
        kubectl: Kubectl::new(text("namespace").unwrap_or_else(|| asked.into()), flags),
        selector: text("selector").unwrap_or_else(|| format!("app.kubernetes.io/name={asked}")),
        nodes: all("node"),
        seconds: matches.get_one::<u16>("timeout").copied().unwrap_or_default(),
        watches: seconds,
        json: matches.get_flag("json"),
        line: std::iter::once(name.to_owned()).chain(all("rest")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn each_command_asks_its_own_pods_unless_it_is_told_which() {
        for (line, namespace, selector) in [
            ("kubectl-iocast status", "iocast", "app.kubernetes.io/name=iocast"),
            ("kubectl-iocast survey", "iocast-survey", "app.kubernetes.io/name=iocast-survey"),
            ("kubectl-iocast survey -n x -l a=b", "x", "a=b"),
        ] {
            let matches = command_line().get_matches_from(arranged(line.split(' ').map(str::to_owned)));
            let (name, matches) = matches.subcommand().unwrap_or_else(|| panic!("no command"));
            let command = COMMANDS.iter().find(|command| command.name == name);
            let found = request(command.unwrap_or_else(|| panic!("{name}")), matches);
            assert_eq!((found.kubectl.namespace.as_str(), found.selector.as_str()), (namespace, selector));
        }
    }

    #[test]
    fn what_is_ours_may_stand_anywhere_and_the_rest_is_the_agents() {
        let line =
            "kubectl-iocast why A:NAME --from 172.23.0.2 -n io --ask --json --node node-3 --context=lab";
        let words = arranged(line.split(' ').map(str::to_owned));
        let matches = command_line().try_get_matches_from(words).unwrap_or_else(|error| panic!("{error}"));
        let (name, matches) = matches.subcommand().unwrap_or_else(|| panic!("no command"));
        let command =
            COMMANDS.iter().find(|command| command.name == name).unwrap_or_else(|| panic!("{name}"));
        let found = request(command, matches);
        assert_eq!(found.line, ["why", "A:NAME", "--from", "172.23.0.2", "--ask"]);
        assert_eq!((found.json, found.nodes), (true, vec!["node-3".to_owned()]));
        assert_eq!(found.kubectl, Kubectl::new("io".into(), vec!["--context=lab".into()]));
    }
}
