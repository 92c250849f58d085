//! What all agents know of their domains: each node's `status`, as it is, and a table of them for people.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use view::{Answer, Asked, Style, VERSION, table};

use crate::shown::Shown;

/// All nodes' domains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// [`VERSION`].
    version: u32,
    /// Who was asked.
    nodes: Vec<Asked>,
    /// By node.
    status: Vec<OfNode>,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OfNode {
    node: String,
    /// What `iocast-node status --json` prints: its domains.
    domains: Vec<Value>,
}

impl Answer for Status {
    fn nothing(nodes: Vec<Asked>) -> Self {
        Self { version: VERSION, nodes, status: vec![] }
    }

    fn merge(&mut self, other: Self) {
        self.nodes.extend(other.nodes);
        self.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        self.status.extend(other.status);
        self.status.sort_by(|a, b| a.node.cmp(&b.node));
    }

    fn text(&self, style: &Style) -> String {
        let rows = self.status.iter().flat_map(|of| of.domains.iter().map(|domain| row(&of.node, domain)));
        let rows: Vec<_> = rows.collect();
        table(
            ["NODE", "DOMAIN", "UPLINK", "ADDRESS", "MEMBERS", "NOT", "TCP", "UDP", "STATE"],
            &rows,
            style.width,
        )
    }
}

impl Shown for Status {
    fn read(node: &str, said: &str) -> serde_json::Result<Self> {
        let domains = serde_json::from_str(said)?;
        let nodes = vec![Asked::answered(node)];
        Ok(Self { status: vec![OfNode { node: node.into(), domains }], ..Self::nothing(nodes) })
    }
}

fn row(node: &str, domain: &Value) -> [String; 9] {
    let text = |key: &str| domain[key].as_str().map(str::to_owned);
    let count = |key: &str| domain[key].as_array().map_or(0, Vec::len).to_string();
    let none = || "-".to_owned();
    [
        node.into(),
        text("name").unwrap_or_default(),
        text("uplink").unwrap_or_else(none),
        text("address").unwrap_or_else(none),
        count("members"),
        count("absent"),
        domain["ports"]["tcp"].to_string(),
        domain["ports"]["udp"].to_string(),
        text("problem").unwrap_or_else(|| "ok".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_of_a_node_is_a_row_and_keeps_all_its_keys() {
        let one = r#"[{"name":"lab","uplink":"eth0","address":"172.23.0.10","members":[{}],"ports":{"tcp":1,"udp":0},"x":1}]"#;
        let other = r#"[{"name":"lab","uplink":null,"problem":"has no uplink","members":[],"absent":[{}],"ports":{"tcp":0,"udp":0}}]"#;
        let read = |node, said| Status::read(node, said).unwrap_or_else(|error| panic!("{error}"));
        let mut all = read("node-2", other);
        all.merge(read("node-1", one));
        assert_eq!(
            all.text(&Style::default()),
            "NODE    DOMAIN  UPLINK  ADDRESS      MEMBERS  NOT  TCP  UDP  STATE\n\
             node-1  lab     eth0    172.23.0.10  1        0    1    0    ok\n\
             node-2  lab     -       -            0        1    0    0    has no uplink\n"
        );
        assert_eq!(all.status[0].domains[0]["x"], 1);
    }
}
