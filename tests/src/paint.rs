//! Colour and progress on a terminal, plain text elsewhere.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Instant,
};

/// How to print.
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    /// Colour if stdout is a terminal and NO_COLOR is not set.
    pub(crate) fn new() -> Self {
        Self { colour: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    fn wrap(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    /// What matters.
    pub(crate) fn bold(&self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What went well.
    pub(crate) fn good(&self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What can be skipped.
    pub(crate) fn dim(&self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// Does a step that takes a while: tells which, and then how long it took.
    pub(crate) fn step<T, E>(&self, what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        print!("{what} ...");
        let _ = stdout().flush(); // only for looks
        let start = Instant::now();
        let outcome = work();
        match &outcome {
            Ok(_) => println!(" {}", self.good(&format!("{:.1} s", start.elapsed().as_secs_f32()))),
            Err(_) => println!(" failed"),
        }
        outcome
    }
}
