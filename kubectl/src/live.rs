//! All agents watched at the same time: lines of JSON as they come, until the agents or the user end.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, ErrorKind, Read},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use view::Asked;

use crate::{
    agents::Agent,
    children::{Running, end_all},
    kubectl::{Kubectl, Request},
    say::{is_terminal, print_object, redraw, show},
    shown::{NOTHING, Shown},
    trouble::{self, Case},
};

/// Lines that wait to be shown. When there are more, agents wait, and say what they lose.
const MOST: usize = 4096;
/// Lines of what a program complained about that are kept.
const COMPLAINTS: usize = 20;
/// How often what changes is shown again.
const REFRESH: Duration = Duration::from_secs(1);

/// What came from an agent.
enum Said {
    Line(String),
    Complaint(String),
    End,
}

/// What there is to do.
pub(crate) enum Event {
    /// An agent, by its place, printed an object.
    Line(usize, String),
    /// An agent said something to people.
    Complaint(usize, String),
    /// An agent has failed.
    Failed(usize),
    /// Nothing came for a while.
    Quiet,
    /// All agents have ended.
    End,
}

/// Agents that are watched.
pub(crate) struct Watch {
    pub(crate) agents: Vec<Agent>,
    running: Vec<Option<Running>>,
    complaints: Vec<VecDeque<String>>,
    /// Whether each has printed anything.
    heard: Vec<bool>,
    /// Those that failed.
    silent: Vec<Asked>,
    receiver: Receiver<(usize, Said)>,
}

impl Watch {
    /// Starts to watch.
    pub(crate) fn new(request: &Request, agents: Vec<Agent>) -> Self {
        let (sender, receiver) = sync_channel(MOST);
        let mut watch = Self {
            running: vec![],
            complaints: agents.iter().map(|_| VecDeque::new()).collect(),
            heard: vec![false; agents.len()],
            silent: vec![],
            receiver,
            agents,
        };
        for (at, agent) in watch.agents.iter().enumerate() {
            let started = match &agent.trouble {
                Some(trouble) => Err(trouble.clone()),
                None => start(request, (at, agent), &sender),
            };
            let started = started.map_err(|error| watch.silent.push(asked(agent, error)));
            watch.running.push(started.ok());
        }
        watch
    }

    /// The next event, after some time at most.
    pub(crate) fn next(&mut self, namespace: &str, command: &str, time: Duration) -> Event {
        let (at, said) = match self.receiver.recv_timeout(time) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => return Event::Quiet,
            Err(RecvTimeoutError::Disconnected) => return Event::End,
        };
        match said {
            Said::Line(line) => {
                self.heard[at] = true;
                Event::Line(at, line)
            }
            Said::Complaint(line) => {
                let lines = &mut self.complaints[at];
                lines.push_back(line.clone());
                if lines.len() > COMPLAINTS {
                    lines.pop_front();
                }
                Event::Complaint(at, line)
            }
            Said::End => {
                if self.end(at, namespace, command) {
                    Event::Failed(at)
                } else {
                    Event::Quiet
                }
            }
        }
    }

    /// Notes why an agent ended that has failed; whether it has.
    fn end(&mut self, at: usize, namespace: &str, command: &str) -> bool {
        let Some(running) = self.running[at].take() else { return false };
        let status = running.wait(REFRESH).ok().and_then(|ended| ended.status);
        if status.is_some_and(|status| status.success()) {
            self.heard[at] = true;
            return false;
        }
        let agent = &self.agents[at];
        let case = Case { namespace, pod: &agent.pod, command };
        let said: Vec<_> = self.complaints[at].iter().map(String::as_str).collect();
        self.silent.push(asked(agent, trouble::of_command(&case, &said.join("\n"))));
        true
    }

    /// Ends all that still run. Those that failed, and the exit code.
    pub(crate) fn finish(self) -> (Vec<Asked>, u8) {
        end_all();
        (self.silent, if self.heard.contains(&true) { 0 } else { NOTHING })
    }
}

fn asked(agent: &Agent, error: String) -> Asked {
    Asked { node: agent.node.clone(), error: Some(error) }
}

/// Starts an agent's command, and threads that pass on what it prints.
fn start(
    request: &Request,
    (at, agent): (usize, &Agent),
    sender: &SyncSender<(usize, Said)>,
) -> Result<Running, String> {
    let child = request.kubectl.exec(&agent.pod, &request.line);
    let child = child.map_err(|error| trouble::no_kubectl(&Kubectl::program(), &error))?;
    let running = Running::new(child);
    let (out, err) = running.pipes();
    let complaints = sender.clone();
    let reader = spawn(move || lines(err, |line| complaints.send((at, Said::Complaint(line))).is_ok()))?;
    let sender = sender.clone();
    spawn(move || {
        lines(out, |line| sender.send((at, Said::Line(line))).is_ok());
        let _ = reader.join(); // so that its reasons are known
        let _ = sender.send((at, Said::End));
    })?;
    Ok(running)
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, String> {
    thread::Builder::new().spawn(work).map_err(|error| error.to_string())
}

/// Passes on each line, until nobody takes them.
fn lines(pipe: impl Read, mut pass: impl FnMut(String) -> bool) {
    let mut pipe = BufReader::new(pipe);
    let mut line = vec![];
    while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        if !pass(String::from_utf8_lossy(&line).trim_end().into()) {
            return;
        }
        line.clear();
    }
}

/// Shows the latest objects of all agents as one, again and again: for commands whose agents print one each second or so.
pub(crate) fn watch<A: Shown>(request: &Request) -> Result<u8, String> {
    let endless = request.option("--for").is_none() && is_terminal();
    // They write to no terminal, and would end by themselves.
    let request = &request.with(if endless { &["--for", "0"] } else { &[] });
    let mut watch = Watch::new(request, crate::agents::find(request)?);
    let mut latest: Vec<Option<String>> = vec![None; watch.agents.len()];
    let (mut shown, mut is_new) = (Instant::now(), false);
    let command = request.command();
    let merged = |watch: &Watch, latest: &[Option<String>]| {
        let mut merged = A::nothing(watch.silent.clone());
        let found = watch.agents.iter().zip(latest);
        let found = found.filter_map(|(agent, line)| A::read(&agent.node, line.as_deref()?).ok());
        merged.merge_all(found.collect());
        merged
    };
    loop {
        match watch.next(&request.kubectl.namespace, command, REFRESH / 10) {
            Event::Line(at, line) => (latest[at], is_new) = (Some(line), true),
            Event::Failed(at) => (latest[at], is_new) = (None, true),
            Event::End => break,
            Event::Complaint(..) | Event::Quiet => {}
        }
        if is_new && shown.elapsed() >= REFRESH {
            (shown, is_new) = (Instant::now(), false);
            if print(request, &merged(&watch, &latest)).is_err() {
                return Ok(watch.finish().1);
            }
        }
    }
    if is_new {
        let _ = print(request, &merged(&watch, &latest)); // whether or not anybody still reads it
    }
    let (silent, code) = watch.finish();
    crate::say::complain_about(&silent);
    Ok(code)
}

/// Prints an object a line, one table in place of the one before, or one after the other.
fn print<A: Shown>(request: &Request, answer: &A) -> std::io::Result<()> {
    if request.json {
        print_object(answer)
    } else if is_terminal() {
        redraw(answer)
    } else {
        show(answer, false).and_then(|()| crate::say::print_line(""))
    }
}

/// Whether nobody reads any more what is printed.
pub(crate) fn is_closed(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}
