//! What an output says of its terminal: how large it is, and whether it is to be coloured. Nothing is printed here.

use std::{env, io::IsTerminal, os::fd::AsFd};

use rustix::termios::tcgetwinsize;

use crate::Style;

impl Style {
    /// That of `out`: as wide as its terminal, coloured unless the user wants no colours (<https://no-color.org>); plain, and as wide as
    /// [`Style::default`], if it is none.
    pub fn of(out: &(impl AsFd + IsTerminal)) -> Self {
        let width = size(out).map_or(Self::default().width, |(columns, _)| columns);
        Self { width, coloured: is_coloured(out) }
    }
}

/// Columns and lines of the terminal that `out` is; `None` if it is none.
pub fn size(out: &impl AsFd) -> Option<(usize, usize)> {
    let size = tcgetwinsize(out).ok()?;
    let (columns, lines) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (columns > 0 && lines > 0).then_some((columns, lines))
}

/// Columns of a list that programs search, too: what is no terminal gets all of a name.
pub fn columns(out: &(impl AsFd + IsTerminal)) -> usize {
    if out.is_terminal() { Style::of(out).width } else { usize::MAX }
}

fn is_coloured(out: &impl IsTerminal) -> bool {
    out.is_terminal() && env::var_os("NO_COLOR").is_none_or(|wanted| wanted.is_empty())
}

/// `text` for a terminal, in place of what it shows, without a blink.
pub fn in_place(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}
