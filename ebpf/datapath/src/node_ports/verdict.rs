//! What conditions say of a packet of which not everything is known, and what a rule then does with it.

/// The outcome of a condition, or of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether it holds; `None` if that depends on what is not known.
    pub(super) holds: Option<bool>,
    /// Whether it asks for the packet's destination port, and that one is right.
    pub(super) names_port: bool,
}

impl Verdict {
    pub(super) const MATCHES: Self = Self { holds: Some(true), names_port: false };
    pub(super) const DIFFERS: Self = Self { holds: Some(false), names_port: false };
    pub(super) const UNKNOWN: Self = Self { holds: None, names_port: false };

    /// That of a condition about the destination port, unless it fails.
    pub(super) fn names_port(holds: Option<bool>) -> Self {
        Self { holds, names_port: holds != Some(false) }
    }

    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        let holds = match (self.holds, other.holds) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
        Self { holds, names_port: self.names_port || other.names_port }
    }

    pub(super) fn fails(self) -> bool {
        self.holds == Some(false)
    }

    pub(super) fn is_certain(self) -> bool {
        self.holds == Some(true)
    }
}

/// What becomes of a packet at a rule. `C` stands for a chain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<C> {
    /// It goes on to the next rule, or may.
    Next,
    /// It gets another destination.
    Forwards,
    /// It may go to one of these chains.
    Chains(Vec<C>),
    /// It goes to none of the rules after this one.
    Ends,
}

/// What becomes of a packet at a rule with this verdict, which would do `step` with it. A rule forwards if it is about the
/// packet's port, or certainly about the packet. Whoever asks for the port and goes on elsewhere is about to forward.
pub(super) fn conclude<C>(verdict: Verdict, step: Step<C>) -> Step<C> {
    match step {
        _ if verdict.fails() => Step::Next,
        Step::Forwards if verdict.names_port || verdict.is_certain() => Step::Forwards,
        Step::Chains(_) if verdict.names_port => Step::Forwards,
        Step::Chains(chains) => Step::Chains(chains),
        Step::Ends if verdict.is_certain() => Step::Ends,
        _ => Step::Next,
    }
}
