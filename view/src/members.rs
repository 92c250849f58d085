//! The pods that joined, and those that ask to and could not.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    Answer, Asked, Style, VERSION,
    answer::{paragraph, silent},
    table,
};

/// All members of the nodes that were asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// [`VERSION`].
    pub version: u32,
    /// Who was asked.
    pub nodes: Vec<Asked>,
    /// By node, domain, namespace and pod.
    pub members: Vec<Member>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Its node.
    pub node: String,
    /// The domain that it is in, or asks for.
    pub domain: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its address in the pod network; none if it is no member.
    pub address: Option<Ipv4Addr>,
    /// Its own address on the LAN, if it has one.
    pub lan_address: Option<Address>,
    /// Its external ports.
    pub ports: Vec<Port>,
    /// TCP connections through them that are established.
    pub circuits: u32,
    /// Why it is no member, or what is wrong with it.
    pub problem: Option<String>,
}

/// A pod's address on the LAN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// What the node does about it: `reserved`, `held`, `taken` or `lost`.
    pub standing: String,
}

/// A port on the uplink's address, and the pod's port behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The external one.
    pub external: u16,
    /// The pod's.
    pub pod: u16,
}

impl Answer for Members {
    fn nothing(nodes: Vec<Asked>) -> Self {
        Self { version: VERSION, nodes, members: vec![] }
    }

    fn merge(&mut self, other: Self) {
        self.nodes.extend(other.nodes);
        self.members.extend(other.members);
        self.members.sort();
    }

    fn text(&self, style: &Style) -> String {
        let several = self.nodes.len() > 1;
        let mut out = String::new();
        if !self.members.is_empty() {
            let rows: Vec<_> = self.members.iter().map(row).collect();
            out += &columns(several, &rows, style.width);
        } else if self.nodes.iter().any(|node| node.error.is_none()) {
            out += "no pod is a member, and none asks to be\n";
        }
        let wrong = self.members.iter().filter_map(|member| Some((member, member.problem.as_ref()?)));
        for (member, problem) in wrong {
            out += &paragraph(&format!("{}: {problem}", name(member)), style.width);
        }
        out + &silent(&self.nodes, style.width)
    }
}

/// The table; without a column for the node where only one was asked.
fn columns(several: bool, rows: &[[String; 7]], width: usize) -> String {
    let heading = ["NODE", "DOMAIN", "POD", "ADDRESS", "LAN ADDRESS", "PORTS", "CIRCUITS"];
    if several {
        return table(heading, rows, width);
    }
    let [_, rest @ ..] = heading;
    let rows: Vec<_> = rows.iter().map(|[_, rest @ ..]| rest.clone()).collect();
    table(rest, &rows, width)
}

fn row(member: &Member) -> [String; 7] {
    let is_member = member.address.is_some();
    [
        member.node.clone(),
        member.domain.clone(),
        name(member),
        member.address.map_or_else(|| "no member".into(), |address| address.to_string()),
        member.lan_address.as_ref().map_or_else(|| "-".into(), lan_address),
        ports(&member.ports),
        if is_member { member.circuits.to_string() } else { "-".into() },
    ]
}

fn name(member: &Member) -> String {
    format!("{}/{}", member.namespace, member.pod)
}

/// The address, and its standing unless it is as it should be.
fn lan_address(Address { address, standing }: &Address) -> String {
    if standing == "held" { address.to_string() } else { format!("{address} {standing}") }
}

/// All of them, if they are few.
fn ports(ports: &[Port]) -> String {
    match ports {
        [] => "-".into(),
        [one] => shown(one),
        [one, other] => format!("{} {}", shown(one), shown(other)),
        [one, others @ ..] => format!("{} +{}", shown(one), others.len()),
    }
}

fn shown(port: &Port) -> String {
    let transport = if port.protocol == "udp" { "/udp" } else { "" };
    format!("{}:{}{transport}", port.external, port.pod)
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    fn member(pod: &str, ports: u16) -> Member {
        Member {
            node: "node-1".into(),
            domain: "bl07".into(),
            namespace: "beamline".into(),
            pod: pod.into(),
            address: Some([10, 244, 1, 2].into()),
            lan_address: None,
            ports: (0..ports)
                .map(|port| Port {
                    protocol: if port == 2 { "udp" } else { "tcp" }.into(),
                    external: 61000 + port,
                    pod: 5064 + 11 * port,
                })
                .collect(),
            circuits: 2,
            problem: None,
        }
    }

    fn absent(pod: &str) -> Member {
        let problem = Some("domain `bl07`: LAN address 172.23.0.50 is not one that its pods may have".into());
        Member { address: None, ports: vec![], circuits: 0, problem, ..member(pod, 0) }
    }

    fn members(members: Vec<Member>) -> Members {
        Members { members, ..Members::nothing(vec![Asked::answered("node-1")]) }
    }

    #[test]
    fn an_object_has_the_keys_that_programs_expect() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/members.json");
        let held = Address { address: [172, 23, 0, 50].into(), standing: "held".into() };
        let with_address = Member { lan_address: Some(held), ..member("ioc-a", 2) };
        let answer = members(vec![with_address, absent("ioc-b")]);
        let found = serde_json::to_string_pretty(&answer).unwrap() + "\n";
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
    }

    #[test]
    fn the_table_fits_whatever_pods_are_called_and_how_many_ports_they_have() {
        let hostile = "a\u{1b}[31m\u{9b}2J\u{202e}\r\nOK    kernel";
        let long = format!("ioc-{}", "x".repeat(300));
        let lost = Address { address: [172, 23, 0, 50].into(), standing: "lost".into() };
        let lost = Member { lan_address: Some(lost), problem: Some("x".repeat(99)), ..member("ioc-c", 4) };
        let all =
            members(vec![member("ioc-a", 250), member(hostile, 2), absent(&long), absent(hostile), lost]);
        for width in [80, 120] {
            let text = all.text(&Style { width, coloured: false });
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
            assert!(text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{text:?}");
        }
        let text = all.text(&Style { width: 120, coloured: false });
        assert!(text.contains("+249") && text.contains("172.23.0.50 lost"), "{text}");
    }

    #[test]
    fn an_ordinary_table_is_whole_at_80_columns() {
        let text = members(vec![member("ioc-a", 2), absent("ioc-b")]).text(&Style::default());
        assert_eq!(
            text,
            "DOMAIN  POD             ADDRESS     LAN ADDRESS  PORTS                  CIRCUITS\n\
             bl07    beamline/ioc-a  10.244.1.2  -            61000:5064 61001:5075  2\n\
             bl07    beamline/ioc-b  no member   -            -                      -\n\
             beamline/ioc-b: domain `bl07`: LAN address 172.23.0.50 is not one that its\n  \
             pods may have\n"
        );
    }

    #[test]
    fn nodes_are_named_where_there_are_several_and_those_that_are_silent() {
        let mut all = members(vec![member("ioc-a", 0)]);
        let silent = Asked { node: "node-2".into(), error: Some("connection refused".into()) };
        all.merge(Members::nothing(vec![silent]));
        let text = all.text(&Style::default());
        assert!(text.starts_with("NODE    DOMAIN") && text.contains("\nnode-1  bl07"), "{text}");
        assert!(text.ends_with("\nnode-2 did not answer: connection refused\n"), "{text}");
    }

    #[test]
    fn nobody_there_is_said() {
        let text = members(vec![]).text(&Style::default());
        assert_eq!(text, "no pod is a member, and none asks to be\n");
    }
}
