//! PVs that more than one server has, and how those that several nodes found become one list.

use std::{collections::HashSet, net::SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::{Answer, Asked, Duplicate, Server, Style, VERSION, printable, seen::join, table, wrapped};

/// What was found when nodes asked for names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Duplicates {
    /// [`VERSION`].
    pub version: u32,
    /// Who was asked.
    pub nodes: Vec<Asked>,
    /// For how long it was looked.
    pub seconds: f64,
    /// Names that were asked for; of several nodes, the most that one asked for.
    pub names: u64,
    /// Datagrams whose names were not learnt, because there were too many.
    pub lost: u64,
    /// Servers that were left out, because they are allowed to have PVs beside others.
    #[serde(default)]
    pub allowed: Vec<SocketAddrV4>,
    /// By domain, name and protocol.
    pub duplicates: Vec<Duplicate>,
}

impl Answer for Duplicates {
    fn nothing(nodes: Vec<Asked>) -> Self {
        Self { version: VERSION, nodes, seconds: 0.0, names: 0, lost: 0, allowed: vec![], duplicates: vec![] }
    }

    fn merge(&mut self, other: Self) {
        self.nodes.extend(other.nodes);
        self.seconds = self.seconds.max(other.seconds);
        self.names = self.names.max(other.names);
        self.lost += other.lost;
        join(&mut self.duplicates, other.duplicates);
        self.allowed.extend(other.allowed);
        // A pod that its node leaves out is known to others by its address alone.
        let allowed: HashSet<_> = self.allowed.iter().copied().collect();
        self.leave_out(|server| allowed.contains(&server.address));
    }

    fn text(&self, style: &Style) -> String {
        let rows: Vec<_> = self.duplicates.iter().flat_map(rows).collect();
        let heading = ["PV", "DOMAIN", "BY", "SERVER", "POD"];
        let list = if rows.is_empty() { String::new() } else { table(heading, &rows, style.width) + "\n" };
        list + &wrapped(&self.summary(), style.width, 0) + "\n"
    }
}

impl Default for Duplicates {
    fn default() -> Self {
        Self::nothing(vec![])
    }
}

impl Duplicates {
    /// Leaves out the servers that are allowed to have PVs beside others.
    pub fn leave_out(&mut self, is_allowed: impl Fn(&Server) -> bool) {
        for duplicate in &mut self.duplicates {
            let allowed = duplicate.servers.extract_if(.., |server| is_allowed(server));
            self.allowed.extend(allowed.map(|server| server.address));
            duplicate.servers.sort();
        }
        self.duplicates.retain(|duplicate| duplicate.servers.len() > 1);
        self.allowed.sort_unstable();
        self.allowed.dedup();
    }

    fn summary(&self) -> String {
        let Self { seconds, names, lost, duplicates, .. } = self;
        let found = match duplicates.len() {
            0 => "No PV has more than one server".to_owned(),
            1 => "1 PV has more than one server".to_owned(),
            found => format!("{found} PVs have more than one server"),
        };
        let lost = if *lost == 0 { String::new() } else { format!("; {lost} datagrams passed unread") };
        format!("{found}; asked for {names} names in {seconds:.1} s{lost}.")
    }
}

/// A row for each server; what they have in common stands in the first.
fn rows(duplicate: &Duplicate) -> Vec<[String; 5]> {
    let Duplicate { domain, protocol, pv, servers } = duplicate;
    let row = |(at, server): (usize, &Server)| {
        let [pv, domain, protocol] =
            [pv, domain, protocol].map(|text| if at == 0 { printable(text) } else { String::new() });
        let pod = match (&server.pod, &server.node) {
            (Some(pod), Some(node)) => format!("{pod} on {node}"),
            (Some(pod), None) => pod.clone(),
            _ => "-".into(),
        };
        [pv, domain, protocol, server.address.to_string(), pod]
    };
    servers.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str, pod: Option<&str>) -> Server {
        let node = pod.map(|_| "node-a".to_owned());
        Server { address: address.parse().unwrap(), pod: pod.map(str::to_owned), node }
    }

    fn found(node: &str, servers: &[Server]) -> Duplicates {
        let duplicate = Duplicate {
            domain: "bl07".into(),
            protocol: "ca".into(),
            pv: "A\u{1b}".into(),
            servers: servers.to_vec(),
        };
        let nodes = vec![Asked::answered(node)];
        Duplicates { seconds: 2.0, names: 7, duplicates: vec![duplicate], ..Duplicates::nothing(nodes) }
    }

    #[test]
    fn a_server_that_two_nodes_found_is_one_and_its_pod_stays_known() {
        let (pod, native) =
            (server("172.23.0.10:61000", Some("bl07/ioc-a")), server("172.23.0.3:5064", None));
        let mut merged = found("node-a", &[pod.clone(), native.clone()]);
        merged.merge(found("node-b", &[server("172.23.0.10:61000", None), native.clone()]));
        assert_eq!(merged.nodes.len(), 2);
        assert_eq!((merged.names, merged.duplicates.len()), (7, 1));
        assert_eq!(merged.duplicates[0].servers, [native, pod]);
    }

    #[test]
    fn a_pod_that_is_allowed_on_its_node_is_allowed_everywhere() {
        let (pod, native) =
            (server("172.23.0.10:61000", Some("bl07/gateway")), server("172.23.0.3:5064", None));
        let mut here = found("node-a", &[pod, native.clone()]);
        here.leave_out(|server| server.pod.as_deref() == Some("bl07/gateway"));
        assert_eq!(here.duplicates, []);
        let mut there = found("node-b", &[server("172.23.0.10:61000", None), native]);
        for (one, other) in [(here.clone(), there.clone()), (there.clone(), here)] {
            let mut merged = one;
            merged.merge(other);
            assert_eq!(merged.duplicates, []);
        }
        there.merge(found("node-c", &[]));
        assert_eq!(there.duplicates.len(), 1);
    }

    #[test]
    fn programs_read_this() {
        let pod = server("172.23.0.10:61000", Some("bl07/ioc-a"));
        let json = serde_json::to_string(&found("node-a", &[pod, server("172.23.0.3:5064", None)])).unwrap();
        let golden = concat!(
            r#"{"version":1,"nodes":[{"node":"node-a","error":null}],"seconds":2.0,"names":7,"lost":0,"allowed":[],"duplicates":["#,
            r#"{"domain":"bl07","protocol":"ca","pv":"A\u001b","servers":["#,
            r#"{"address":"172.23.0.10:61000","pod":"bl07/ioc-a","node":"node-a"},"#,
            r#"{"address":"172.23.0.3:5064","pod":null,"node":null}]}]}"#
        );
        assert_eq!(json, golden);
    }

    #[test]
    fn the_text_fits_and_shows_what_a_terminal_would_obey() {
        let pod = server("172.23.0.10:61000", Some("bl07/ioc-a"));
        let text = found("node-a", &[pod, server("172.23.0.3:5064", None)]).text(&Style::default());
        assert!(text.contains(r"A\u{1b}") && text.contains("bl07/ioc-a on node-a"), "{text}");
        assert!(text.ends_with("\n1 PV has more than one server; asked for 7 names in 2.0 s.\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let none = Duplicates::nothing(vec![]).text(&Style::default());
        assert_eq!(none, "No PV has more than one server; asked for 0 names in 0.0 s.\n");
    }
}
