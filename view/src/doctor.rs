//! What is healthy, what is not, and what to do about it.

use std::{borrow::Cow, cmp::Reverse};

use serde::{Deserialize, Serialize};

use crate::{Answer, Asked, Style, VERSION, printable, wrapped};

/// Columns before what was found.
const INDENT: usize = 21;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, or may work, but somebody should look.
    Warn,
    /// Does not work.
    Fail,
}

impl Level {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// How serious it is.
    pub level: Level,
    /// The check.
    pub check: Cow<'static, str>,
    /// What was found.
    pub found: String,
    /// What to do; none where there is nothing to do.
    pub advice: Option<String>,
}

/// What the checks of all nodes found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// [`VERSION`].
    pub version: u32,
    /// Who was asked.
    pub nodes: Vec<Asked>,
    /// The worst first; what several nodes found is there once.
    pub findings: Vec<Shared>,
}

/// What was found on some nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// The nodes, by name.
    pub nodes: Vec<String>,
    /// What was found there.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Findings {
    /// What a node found.
    pub fn of(node: &str, findings: Vec<Finding>) -> Self {
        let shared = |finding| Shared { nodes: vec![node.into()], finding };
        let mut found = Self::nothing(vec![Asked::answered(node)]);
        found.findings = findings.into_iter().map(shared).collect();
        found.settle();
        found
    }

    /// The level of the worst finding.
    pub fn worst(&self) -> Option<Level> {
        self.findings.first().map(|shared| shared.finding.level)
    }

    /// One of each finding, the worst first.
    fn settle(&mut self) {
        let order = |shared: &Shared| (Reverse(shared.finding.level), shared.finding.clone());
        self.findings.sort_by_key(order);
        self.findings.dedup_by(|next, shared| {
            let is_same = next.finding == shared.finding;
            if is_same {
                shared.nodes.append(&mut next.nodes);
            }
            is_same
        });
        for shared in &mut self.findings {
            shared.nodes.sort();
            shared.nodes.dedup();
        }
    }
}

impl Answer for Findings {
    fn nothing(nodes: Vec<Asked>) -> Self {
        Self { version: VERSION, nodes, findings: vec![] }
    }

    fn merge(&mut self, other: Self) {
        self.nodes.extend(other.nodes);
        self.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        self.findings.extend(other.findings);
        self.settle();
    }

    /// What is not as it should be, with its nodes; of what is, how much it is.
    fn text(&self, style: &Style) -> String {
        let (well, ill): (Vec<_>, Vec<_>) =
            self.findings.iter().partition(|shared| shared.finding.level == Level::Ok);
        let mut out: String = ill.iter().map(|shared| shared.text(style)).collect();
        let (checks, nodes) = (well.iter().map(|shared| shared.nodes.len()).sum::<usize>(), self.answered());
        if checks > 0 {
            out += &format!("{:<5} {checks} checks on {nodes}\n", Level::Ok.name());
        }
        out
    }
}

impl Findings {
    fn answered(&self) -> String {
        match self.nodes.iter().filter(|asked| asked.error.is_none()).count() {
            1 => "1 node".into(),
            nodes => format!("{nodes} nodes"),
        }
    }
}

impl Shared {
    fn text(&self, style: &Style) -> String {
        let Finding { level, check, found, advice } = &self.finding;
        let advice = advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
        let found = printable(&format!("{}: {found}{advice}", self.nodes.join(", ")));
        let found = wrapped(&found, style.width.saturating_sub(INDENT), INDENT);
        format!("{:<5} {check:<14} {found}\n", level.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(level: Level, found: &str) -> Finding {
        let advice = (level != Level::Ok).then(|| "mend it".into());
        Finding { level, check: "uplink".into(), found: found.into(), advice }
    }

    #[test]
    fn what_several_nodes_found_is_there_once_and_the_worst_is_first() {
        let one = Findings::of("node-2", vec![finding(Level::Ok, "is up"), finding(Level::Warn, "is slow")]);
        let other =
            Findings::of("node-1", vec![finding(Level::Warn, "is slow"), finding(Level::Fail, "is down")]);
        let merge = |mut one: Findings, other| {
            one.merge(other);
            one
        };
        let merged = merge(one.clone(), other.clone());
        assert_eq!(merged, merge(other, one));
        assert_eq!(
            merged.text(&Style::default()),
            "FAIL  uplink         node-1: is down; mend it\n\
             WARN  uplink         node-1, node-2: is slow; mend it\n\
             OK    1 checks on 2 nodes\n"
        );
        assert_eq!(merged.worst(), Some(Level::Fail));
        let text = serde_json::to_string(&merged.findings[0]).unwrap_or_default();
        let keys =
            r#"{"nodes":["node-1"],"level":"FAIL","check":"uplink","found":"is down","advice":"mend it"}"#;
        assert_eq!(text, keys);
    }
}
