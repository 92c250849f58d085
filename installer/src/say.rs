//! What the agent says: the only place that prints, but for `snoop`. What others chose in it, such as names, leaves it
//! [`printable`](mod@datapath::printable).

use std::{
    env,
    fmt::Display,
    io::{self, ErrorKind, IsTerminal as _, Write, stderr, stdout},
    os::fd::AsFd as _,
};

use datapath::{
    printable,
    printable::{json, message},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signalfd::SignalFd,
    unistd::gethostname,
};
use serde::Serialize;
use serde_json::{Map, Value};
use view::{Answer, Style, terminal};

/// Says what happened, on a line of its own.
pub(crate) fn say(what: impl Display) {
    let _ = writeln!(stdout(), "iocast-node: {}", printable(&what.to_string())); // whether or not anybody listens
}

/// Says what is wrong, on stderr; in several lines if it has them.
pub(crate) fn complain(what: impl Display) {
    let _ = writeln!(stderr(), "iocast-node: {}", message(&what.to_string()));
}

/// Says something to programs: an object on a line, on stderr if something `is_wrong`.
pub(crate) fn object(object: &Map<String, Value>, is_wrong: bool) {
    let line = json(&Value::Object(object.clone()).to_string()) + "\n";
    let mut out: Box<dyn Write> = if is_wrong { Box::new(stderr()) } else { Box::new(stdout()) };
    let _ = out.write_all(line.as_bytes()); // whether or not anybody listens
}

/// Prints the answer to a command, whose names the caller has made printable.
pub(crate) fn print(answer: &str) -> io::Result<()> {
    match stdout().write_all(answer.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()), // as by `| head`
        outcome => outcome,
    }
}

/// Shows the answer to a command, to people or to programs.
pub(crate) fn show(answer: &impl Answer, json: bool) -> io::Result<()> {
    if json { print_json(answer) } else { print(&answer.text(&style())) }
}

/// How the terminal wants text; 80 columns if it is none.
pub(crate) fn style() -> Style {
    Style::of(&stdout())
}

/// Columns of a list that programs search, too.
pub(crate) fn width() -> usize {
    terminal::columns(&stdout())
}

/// Columns and lines of the terminal; `None` if it is none.
pub(crate) fn size() -> Option<(usize, usize)> {
    terminal::size(&stdout())
}

/// Whether what is printed goes to a terminal.
pub(crate) fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// Clears the terminal.
pub(crate) fn clear() -> io::Result<()> {
    print("\x1b[2J")
}

/// Prints to a terminal in place of what it shows.
pub(crate) fn redraw(answer: &str) -> io::Result<()> {
    print(&terminal::in_place(answer))?;
    stdout().flush()
}

/// Whether it is time to stop, because of a signal or because nobody can read any more what is printed: an interrupted `kubectl exec`
/// does nothing else.
pub(crate) fn is_over(stop: &SignalFd) -> bool {
    let out = stdout();
    let mut ready =
        [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(out.as_fd(), PollFlags::empty())];
    let polled = poll(&mut ready, PollTimeout::ZERO);
    polled.is_ok() && ready.iter().any(|ready| ready.any().unwrap_or(false))
}

/// Prints the answer to a command for programs that read one object a line.
pub(crate) fn print_line(answer: &impl Serialize) -> io::Result<()> {
    print(&(json(&serde_json::to_string(answer)?) + "\n"))
}

/// The node's name: in a pod that Kubernetes tells it, otherwise that of the host.
pub(crate) fn node_name() -> String {
    let host = || gethostname().ok().and_then(|name| name.into_string().ok());
    env::var("NODE_NAME").ok().filter(|name| !name.is_empty()).or_else(host).unwrap_or_default()
}

/// Prints the answer to a command for programs.
pub(crate) fn print_json(answer: &impl Serialize) -> io::Result<()> {
    print(&(json(&serde_json::to_string_pretty(answer)?) + "\n"))
}
