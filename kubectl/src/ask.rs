//! One question to all agents at the same time, and their answers as one.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use view::Asked;

use crate::{
    agents::{Agent, find},
    children::Running,
    kubectl::{Kubectl, Request},
    say::{Progress, complain, complain_about, show},
    shown::{NOTHING, Shown},
    trouble::{self, Case},
};

/// How many agents are asked at once: each takes a kubectl of some 50 MB.
const AT_ONCE: usize = 16;

/// Asks all agents, shows the answer, and names those that did not give one. The exit code.
pub(crate) fn ask<A: Shown>(request: &Request) -> Result<u8, String> {
    let agents = find(request)?;
    let (answers, silent): (Vec<_>, Vec<_>) =
        all(&agents, |agent| one::<A>(request, agent)).into_iter().partition(Result::is_ok);
    let silent: Vec<_> = silent.into_iter().filter_map(Result::err).collect();
    let is_known = !answers.is_empty();
    let mut merged = A::nothing(if request.json { silent.clone() } else { vec![] });
    merged.merge_all(answers.into_iter().flatten().collect());
    show(&merged, request.json).map_err(|error| error.to_string())?;
    complain_about(&silent);
    Ok(if is_known { merged.code() } else { NOTHING })
}

/// What each agent answers to `question`, some at once; in the agents' order.
fn all<T: Send>(agents: &[Agent], question: impl Fn(&Agent) -> T + Sync) -> Vec<T> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![]));
    let progress = Progress::new(agents.len());
    let work = || {
        while let Some((at, agent)) = agents.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = question(agent);
            progress.another();
            found.lock().unwrap_or_else(PoisonError::into_inner).push((at, answer));
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(agents.len()) {
            scope.spawn(work);
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, answer)| answer).collect()
}

/// An agent's answer, or why it gave none.
fn one<A: Shown>(request: &Request, agent: &Agent) -> Result<A, Asked> {
    let silent = |error| Asked { node: agent.node.clone(), error: Some(error) };
    if let Some(trouble) = &agent.trouble {
        return Err(silent(trouble.clone()));
    }
    let case = Case { namespace: &request.kubectl.namespace, pod: &agent.pod, command: request.command() };
    let child = request.kubectl.exec(&agent.pod, &request.line);
    let child = child.map_err(|error| silent(trouble::no_kubectl(&Kubectl::program(), &error)))?;
    let seconds = patience(request);
    let ended = Running::new(child).wait(Duration::from_secs(seconds));
    let ended = ended.map_err(|error| silent(error.to_string()))?;
    match A::read(&agent.node, &ended.out) {
        Ok(answer) => {
            warn(&agent.node, &ended.err);
            Ok(answer)
        }
        Err(_) if ended.status.is_none() => Err(silent(trouble::of_waiting(&case, seconds))),
        Err(error) if ended.status.is_some_and(|status| status.success()) => {
            Err(silent(trouble::of_answer(&case, &error)))
        }
        Err(_) => Err(silent(trouble::of_command(&case, &ended.err))),
    }
}

/// Passes on what an agent that answered has to say beside; kubectl adds the exit code, which is known.
fn warn(node: &str, said: &str) {
    let complaints = said.lines().filter_map(|line| line.strip_prefix("iocast-node: "));
    complaints.for_each(|line| complain(format!("{node}: {line}")));
}

/// How long a node may take, with the time that it is to watch.
fn patience(request: &Request) -> u64 {
    let told = ["--for", "--rates"].iter().find_map(|name| request.option(name)?.parse::<u64>().ok());
    u64::from(request.seconds).saturating_add(told.unwrap_or(request.watches))
}
