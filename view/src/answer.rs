//! What all answers have in common.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Style, printable, wrapped};

/// Changes with the shape of an answer, but for keys that are added.
pub const VERSION: u32 = 1;

/// A node that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Its name.
    pub node: String,
    /// Why it did not answer.
    pub error: Option<String>,
}

impl Asked {
    /// One that answered.
    pub fn answered(node: impl Into<String>) -> Self {
        Self { node: node.into(), error: None }
    }
}

/// What a node, or all of them, answer to a question.
pub trait Answer: Serialize + DeserializeOwned {
    /// The answer of nodes that did not answer.
    fn nothing(nodes: Vec<Asked>) -> Self;

    /// Takes in the answer of other nodes.
    fn merge(&mut self, other: Self);

    /// Takes in the answers of all others at once: what they have together may have to be put in order.
    fn merge_all(&mut self, others: Vec<Self>) {
        others.into_iter().for_each(|other| self.merge(other));
    }

    /// For people: no line is wider than the style allows.
    fn text(&self, style: &Style) -> String;

    /// For people at a terminal with so many lines, where it is shown again and again.
    fn screen(&self, style: &Style, _lines: usize) -> String {
        self.text(style)
    }
}

/// What is said of nodes that did not answer.
pub(crate) fn silent(nodes: &[Asked], width: usize) -> String {
    let silent = nodes.iter().filter_map(|asked| Some((&asked.node, asked.error.as_ref()?)));
    silent.map(|(node, error)| paragraph(&format!("{node} did not answer: {error}"), width)).collect()
}

/// A sentence with names that others chose, in lines that fit; all but the first are indented.
pub(crate) fn paragraph(text: &str, width: usize) -> String {
    const INDENT: usize = 2;
    wrapped(&printable(text), width.saturating_sub(INDENT).max(1), INDENT) + "\n"
}
