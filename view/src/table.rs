//! Text in columns and lines that fit a terminal.

use crate::printable;

/// How text is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether it shows colours.
    pub coloured: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self { width: 80, coloured: false }
    }
}

/// The least columns that are left of a cell that has to give way.
const LEAST: usize = 8;

/// Rows below a heading, in columns that are as wide as they need to be. If they do not fit, the widest give way, and end in
/// `...`; cells are made printable.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]], width: usize) -> String {
    let shown = |cell: &str| printable(cell);
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| shown(cell))).collect();
    let mut widths = heading.map(length);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(length(cell));
        }
    }
    shrink(&mut widths, width.saturating_sub(2 * N.saturating_sub(1)));
    let heading = heading.map(str::to_owned);
    std::iter::once(&heading).chain(&rows).map(|row| line(row, &widths)).collect()
}

/// Takes columns from the widest until all fit into `width`, or none can give way.
fn shrink(widths: &mut [usize], width: usize) {
    while widths.iter().sum::<usize>() > width {
        let Some(widest) = widths.iter_mut().max_by_key(|width| **width).filter(|width| **width > LEAST)
        else {
            return;
        };
        *widest -= 1;
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let cell = |(cell, width): (&String, &usize)| format!("{:width$}", cut(cell, *width), width = *width);
    let cells: Vec<_> = cells.iter().zip(widths).map(cell).collect();
    cells.join("  ").trim_end().to_owned() + "\n"
}

/// `text`, or its beginning and `...`, in at most `width` columns.
fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(3)).collect::<String>() + "..."
}

/// `text` in lines of at most `width` characters, all but the first behind `indent` spaces.
pub fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last().map_or(0, |line| length(line));
        if last > 0 && last + 1 + length(word) > width {
            lines.push(String::new());
        }
        let line = lines.len() - 1;
        if !lines[line].is_empty() {
            lines[line].push(' ');
        }
        for c in word.chars() {
            if lines.last().is_some_and(|line| length(line) >= width) {
                lines.push(String::new());
            }
            lines.iter_mut().next_back().into_iter().for_each(|line| line.push(c));
        }
    }
    lines.join(&format!("\n{:indent$}", ""))
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_wider_than_they_may_be() {
        assert_eq!(wrapped("one two three", 7, 2), "one two\n  three");
        assert_eq!(wrapped("abcdefghij k", 4, 0), "abcd\nefgh\nij k");
        assert_eq!(wrapped("", 4, 0), "");
        let long = wrapped(&"word ".repeat(100), 30, 17);
        assert!(long.lines().skip(1).all(|line| line.chars().count() <= 47), "{long}");
    }

    #[test]
    fn a_table_is_aligned_fits_and_shows_what_a_terminal_would_obey() {
        let rows = [["a".into(), "bl07/ioc".into()], ["a\u{1b}[2J".into(), "x".repeat(99)]];
        let text = table(["NODE", "POD"], &rows[..1], 80);
        assert_eq!(text, "NODE  POD\na     bl07/ioc\n");
        let text = table(["NODE", "POD"], &rows, 40);
        assert!(text.contains(r"a\u{1b}[2J  xxx") && text.contains("xx...\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
    }
}
