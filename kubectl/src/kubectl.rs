//! The user's kubectl, and what it is asked for.

use std::{
    env,
    ffi::OsString,
    io,
    process::{Child, Command, Stdio},
};

/// The container of an agent, and its program there.
const CONTAINER: &str = "iocast";
const PROGRAM: &str = "/iocast-node";

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kubectl: Kubectl,
    /// Labels of the agents' pods.
    pub(crate) selector: String,
    /// Only these nodes; all if there are none.
    pub(crate) nodes: Vec<String>,
    /// How long a node may take.
    pub(crate) seconds: u16,
    /// Seconds that the agent takes by itself, if it is not told how many.
    pub(crate) watches: u64,
    /// Whether to print JSON.
    pub(crate) json: bool,
    /// The agent's command, and what follows it.
    pub(crate) line: Vec<String>,
}

impl Request {
    /// The agent's command.
    pub(crate) fn command(&self) -> &str {
        self.line.first().map_or("", String::as_str)
    }

    /// The value of an option of the agent's command.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let mut words = self.line.iter();
        words
            .find_map(|word| match word.strip_prefix(name)? {
                "" => Some(None),
                value => Some(Some(value.strip_prefix('=')?)),
            })?
            .or_else(|| words.next().map(String::as_str))
    }

    /// The same with more for the agent.
    pub(crate) fn with(&self, words: &[&str]) -> Self {
        let mut wanted = self.clone();
        wanted.line.extend(words.iter().map(|word| (*word).to_owned()));
        wanted
    }
}

/// A kubectl, and the flags that it always gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kubectl {
    /// Where agents are.
    pub(crate) namespace: String,
    flags: Vec<String>,
}

impl Kubectl {
    pub(crate) fn new(namespace: String, flags: Vec<String>) -> Self {
        Self { namespace, flags }
    }

    /// How it is called.
    pub(crate) fn program() -> OsString {
        env::var_os("KUBECTL").filter(|name| !name.is_empty()).unwrap_or_else(|| "kubectl".into())
    }

    /// Starts to list the agents' pods.
    pub(crate) fn pods(&self, selector: &str) -> io::Result<Child> {
        self.start(&["get", "pods", "--selector", selector, "--output", "json"])
    }

    /// Starts a command of the agent in `pod`, whose answer is JSON.
    pub(crate) fn exec(&self, pod: &str, line: &[String]) -> io::Result<Child> {
        let fixed = ["exec", pod, "--container", CONTAINER, "--", PROGRAM];
        let line = line.iter().map(String::as_str).chain(["--json"]);
        self.start(&fixed.into_iter().chain(line).collect::<Vec<_>>())
    }

    fn start(&self, words: &[&str]) -> io::Result<Child> {
        let mut command = Command::new(Self::program());
        // After the verb, as everything else might be taken for a command of a plugin.
        command.args(&words[..1]).arg("--namespace").arg(&self.namespace).args(&self.flags).args(&words[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_the_agent_is_found_in_both_forms() {
        let request = |line: &str| Request {
            kubectl: Kubectl::new("iocast".into(), vec![]),
            selector: String::new(),
            nodes: vec![],
            watches: 0,
            seconds: 30,
            json: false,
            line: line.split(' ').map(str::to_owned).collect(),
        };
        for (line, value) in [
            ("top --for 5", Some("5")),
            ("top --for=7 --x", Some("7")),
            ("top --format 5", None),
            ("top", None),
        ] {
            assert_eq!(request(line).option("--for"), value, "{line}");
        }
    }
}
