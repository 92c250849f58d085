//! What all answers have in common.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Style;

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

    /// For people: no line is wider than the style allows.
    fn text(&self, style: &Style) -> String;
}
