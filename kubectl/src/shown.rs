//! Answers as they are read from agents, and what they mean to a script.

use serde::{Deserialize, Serialize};
use view::{
    Answer, Asked, Duplicates, Members, Seen, Style,
    doctor::{Findings, Level},
    survey::Survey,
    why::{Report, State},
};

/// The exit code if nothing is known, or if it was asked wrongly; 0 and 1 are the command's.
pub(crate) const NOTHING: u8 = 2;

/// An answer that all agents together give.
pub(crate) trait Shown: Answer + Send {
    /// The answer of a node, from what its agent printed.
    fn read(_node: &str, said: &str) -> serde_json::Result<Self> {
        serde_json::from_str(said)
    }

    /// The exit code: that of the agent's own command, if it answers so.
    fn code(&self) -> u8 {
        0
    }
}

impl Shown for Members {}

impl Shown for Seen {}

impl Shown for Duplicates {
    fn code(&self) -> u8 {
        u8::from(!self.duplicates.is_empty())
    }
}

/// What was seen, of which people are shown who reads from whom.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Map(Seen);

impl Answer for Map {
    fn nothing(nodes: Vec<Asked>) -> Self {
        Self(Seen::nothing(nodes))
    }

    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    fn text(&self, style: &Style) -> String {
        self.0.map(style)
    }
}

impl Shown for Map {}

impl Shown for Report {
    fn code(&self) -> u8 {
        match self.state {
            State::Ok => 0,
            State::Fail => 1,
            State::Unknown => 2,
        }
    }
}

impl Shown for Survey {
    fn code(&self) -> u8 {
        Self::code(self)
    }
}

impl Shown for Findings {
    fn read(node: &str, said: &str) -> serde_json::Result<Self> {
        Ok(Self::of(node, serde_json::from_str(said)?))
    }

    fn code(&self) -> u8 {
        let is_silent = self.nodes.iter().any(|asked| asked.error.is_some());
        u8::from(is_silent || self.worst() == Some(Level::Fail))
    }
}
