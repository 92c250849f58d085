//! What is measured: each module makes the rows of a subject.

pub(crate) mod agent;
pub(crate) mod circuits;
pub(crate) mod cni;
pub(crate) mod epics;
pub(crate) mod fanout;
pub(crate) mod growth;
pub(crate) mod latency;
pub(crate) mod programs;
pub(crate) mod searches;
pub(crate) mod stream;
pub(crate) mod subnets;
pub(crate) mod watching;

/// How thorough the run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// A first look, in two minutes.
    pub(crate) quick: bool,
}

impl Settings {
    /// One of two, by thoroughness.
    pub(crate) fn pick<T>(self, thorough: T, quick: T) -> T {
        if self.quick { quick } else { thorough }
    }
}
