//! What is printed: the only place that prints. What others chose in it, such as names, leaves it printable.

use std::{
    io::{self, ErrorKind, IsTerminal as _, Write, stderr, stdout},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde::Serialize;
use view::{
    Answer, Asked, Style,
    printable::{json, message, printable},
    terminal,
};

/// Clears the line that the cursor is on.
const CLEAR_LINE: &str = "\r\x1b[K";

/// Says what is wrong, on stderr.
pub(crate) fn complain(what: impl std::fmt::Display) {
    let _ = writeln!(stderr(), "kubectl-iocast: {}", message(&what.to_string()));
}

/// Passes on to a person what kubectl says.
pub(crate) fn pass_on(lines: &str) {
    if stderr().is_terminal() {
        lines.lines().for_each(|line| drop(writeln!(stderr(), "{}", printable(line))));
    }
}

/// Names those that did not answer, and says why; those of one reason on one line.
pub(crate) fn complain_about(silent: &[Asked]) {
    let mut reasons: Vec<(&str, Vec<&str>)> = vec![];
    for Asked { node, error } in silent {
        let error = error.as_deref().unwrap_or_default();
        match reasons.iter_mut().find(|(reason, _)| *reason == error) {
            Some((_, nodes)) => nodes.push(node),
            None => reasons.push((error, vec![node])),
        }
    }
    for (reason, nodes) in reasons {
        complain(format!("no answer from {}: {reason}", nodes.join(", ")));
    }
}

/// Shows an answer, to people or to programs.
pub(crate) fn show(answer: &impl Answer, as_json: bool) -> io::Result<()> {
    if as_json {
        print(&(json(&serde_json::to_string_pretty(answer)?) + "\n"))
    } else {
        print(&answer.text(&style()))
    }
}

/// Columns of a list that programs search, too.
pub(crate) fn width() -> usize {
    terminal::columns(&stdout())
}

/// Prints an object on a line of its own.
pub(crate) fn print_object(object: &impl Serialize) -> io::Result<()> {
    print_live(&(json(&serde_json::to_string(object)?) + "\n"))
}

/// Prints a line whose names are not printable yet.
pub(crate) fn print_line(line: &str) -> io::Result<()> {
    print_live(&(printable(line) + "\n"))
}

/// Prints an answer in place of the one before it.
pub(crate) fn redraw(answer: &impl Answer) -> io::Result<()> {
    let lines = terminal::size(&stdout()).map_or(usize::MAX, |(_, lines)| lines.saturating_sub(1));
    print_live(&terminal::in_place(&answer.screen(&style(), lines)))
}

/// Prints to somebody who may be gone, which is an error then.
fn print_live(text: &str) -> io::Result<()> {
    stdout().write_all(text.as_bytes())?;
    stdout().flush()
}

/// Prints text that is printable, whether or not somebody still reads it, as by `| head`.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match print_live(text) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Whether people look at what is printed.
pub(crate) fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// How the terminal wants text; 80 columns if it is none.
fn style() -> Style {
    Style::of(&stdout())
}

/// How many of all have answered, on a terminal.
pub(crate) struct Progress {
    all: usize,
    done: AtomicUsize,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(all: usize) -> Self {
        let progress = Self { all, done: AtomicUsize::new(0), shown: stderr().is_terminal() };
        progress.show(0);
        progress
    }

    /// Another one has answered, or will not.
    pub(crate) fn another(&self) {
        self.show(self.done.fetch_add(1, Ordering::Relaxed) + 1);
    }

    fn show(&self, done: usize) {
        if self.shown {
            let _ = write!(stderr(), "{CLEAR_LINE}{done} of {} nodes", self.all);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(stderr(), "{CLEAR_LINE}");
        }
    }
}
