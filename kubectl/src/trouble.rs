//! What went wrong, said so that the user can mend it: pure, from what kubectl and the agent printed.

use std::{ffi::OsStr, io};

/// How the line begins that has the reason, if there is one.
const REASONS: [&str; 2] = ["Error from server", "error: "];

/// There is no kubectl that runs.
pub(crate) fn no_kubectl(program: &OsStr, error: &io::Error) -> String {
    let program = program.display();
    format!("cannot run {program}: {error}; install kubectl, or name it: KUBECTL=/path/to/kubectl")
}

/// No pod has the labels.
pub(crate) fn no_agents(namespace: &str, selector: &str, command: &str) -> String {
    if command == "survey" {
        return format!(
            "namespace {namespace} has no pod with the label {selector}; start those that survey the nodes: kubectl apply -k \
             manifests/survey, and delete them when you are done"
        );
    }
    format!(
        "namespace {namespace} has no pod with the label {selector}; find iocast, and name its namespace with -n: \
         kubectl get daemonsets --all-namespaces --selector {selector}"
    )
}

/// The pods cannot be listed.
pub(crate) fn of_listing(namespace: &str, is_late: bool, said: &str) -> String {
    if is_late {
        return format!("the API server does not answer; check: kubectl -n {namespace} get pods");
    }
    let said = reason(said);
    if is_forbidden(said) {
        return format!(
            "you may not list pods in namespace {namespace}: {said}; check: kubectl auth can-i list pods -n \
             {namespace}; docs/kubectl.md has the Role to ask for"
        );
    }
    format!(
        "the pods of namespace {namespace} cannot be listed: {said}; check: kubectl -n {namespace} get pods"
    )
}

/// A kind of failure of a command in a pod: what kubectl or the agent printed, and what to say instead.
type Kind = (&'static [&'static str], fn(&Case<'_>) -> String);

/// What was tried.
pub(crate) struct Case<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    /// The agent's command.
    pub(crate) command: &'a str,
}

const KINDS: &[Kind] = &[
    (&["(Forbidden)", "is forbidden"], |case| {
        let namespace = case.namespace;
        format!(
            "you may not execute commands in pods of namespace {namespace}; check: kubectl auth can-i create pods --subresource=exec \
             -n {namespace}; docs/kubectl.md has the Role to ask for"
        )
    }),
    (&["unrecognized subcommand"], |case| {
        format!(
            "its agent is older and does not know `{}`; bring it to this version: kubectl -n {} rollout status daemonset iocast",
            case.command, case.namespace
        )
    }),
    (&["(NotFound)", "container not found", "is not running"], |case| {
        format!("the pod {} is gone, or its container has ended; ask again", case.pod)
    }),
    (&["no such file or directory", "executable file not found"], |case| {
        format!("the pod {} has no /iocast-node: is it an agent's?", case.pod)
    }),
];

/// A command in a pod gave no answer; `said` is what was printed to stderr.
pub(crate) fn of_command(case: &Case<'_>, said: &str) -> String {
    let found = KINDS.iter().find(|(texts, _)| texts.iter().any(|text| said.contains(text)));
    found.map_or_else(|| reason(said).to_owned(), |(_, say)| say(case))
}

/// A command in a pod took too long.
pub(crate) fn of_waiting(case: &Case<'_>, seconds: u64) -> String {
    let Case { namespace, pod, .. } = case;
    format!("no answer in {seconds} s; check: kubectl -n {namespace} exec {pod} -- /iocast-node status")
}

/// What a command in a pod printed is no answer.
pub(crate) fn of_answer(case: &Case<'_>, error: &impl std::fmt::Display) -> String {
    format!("its answer to `{}` cannot be read ({error}): are agent and plugin of one version?", case.command)
}

fn is_forbidden(said: &str) -> bool {
    KINDS[0].0.iter().any(|text| said.contains(text))
}

/// The line that says why; kubectl's own last line only says that the command failed.
fn reason(said: &str) -> &str {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_empty = |line: &&str| line.starts_with("command terminated");
    let found = lines().find(|line| REASONS.iter().any(|begin| line.starts_with(begin)));
    let found = found.or_else(|| lines().rfind(|line| !is_empty(line)));
    let found = found.or_else(|| lines().next_back()).unwrap_or("it said nothing");
    found.strip_prefix("error: ").or(found.strip_prefix("iocast-node: ")).unwrap_or(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case<'_> = Case { namespace: "iocast", pod: "iocast-x", command: "top" };

    #[test]
    fn each_failure_says_what_to_do() {
        const EXEC: &str = "Error from server (Forbidden): pods \"iocast-x\" is forbidden: User \"me\" cannot create \
                            resource \"pods/exec\" in API group \"\" in the namespace \"iocast\"";
        for (said, has) in [
            (EXEC, "kubectl auth can-i create pods --subresource=exec -n iocast"),
            ("error: unrecognized subcommand 'top'\n\nUsage: iocast-node", "does not know `top`"),
            ("Error from server (NotFound): pods \"iocast-x\" not found", "iocast-x is gone"),
            ("error: unable to upgrade connection: container not found (\"iocast\")", "iocast-x is gone"),
            (
                "iocast-node: the datapath is not loaded\ncommand terminated with exit code 1",
                "the datapath is not loaded",
            ),
            (
                "error: invalid value 'x' for '--from <ADDRESS>'\n\nFor more, try '--help'.\ncommand terminated with exit code 2",
                "invalid value 'x'",
            ),
            ("error: dial tcp 10.0.0.1:10250: connect: connection refused", "dial tcp"),
            ("", "it said nothing"),
        ] {
            let found = of_command(&CASE, said);
            assert!(found.contains(has), "{said:?}: {found:?}");
        }
    }

    #[test]
    fn who_may_not_list_pods_learns_what_to_ask_for() {
        let said =
            "Error from server (Forbidden): pods is forbidden: User \"me\" cannot list resource \"pods\"";
        let found = of_listing("iocast", false, said);
        assert!(found.contains("kubectl auth can-i list pods -n iocast"), "{found}");
        let found = of_listing("iocast", false, "error: context \"x\" does not exist\n");
        assert!(found.contains("cannot be listed: context \"x\" does not exist; check:"), "{found}");
    }
}
