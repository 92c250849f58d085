//! What was seen, for people: `top`, and who reads from whom.

use std::{collections::HashMap, net::Ipv4Addr};

use super::{Domain, Duplicate, Pod, Prefix, Reader, Seen, Server, Talker, Unanswered};
use crate::{
    Answer, Asked, Style,
    answer::{paragraph, silent},
    table,
};

impl Answer for Seen {
    fn nothing(nodes: Vec<Asked>) -> Self {
        Self::nothing(nodes)
    }

    fn merge(&mut self, other: Self) {
        self.take_in(vec![other]);
    }

    fn merge_all(&mut self, others: Vec<Self>) {
        self.take_in(others);
    }

    fn text(&self, style: &Style) -> String {
        self.screen(style, usize::MAX)
    }

    fn screen(&self, style: &Style, lines: usize) -> String {
        self.in_lines(style, lines)
    }
}

/// A title, the heading of a table, and its rows.
struct Section {
    title: &'static str,
    lines: Vec<String>,
}

impl Section {
    fn new<const N: usize>(
        title: &'static str,
        heading: [&str; N],
        rows: &[[String; N]],
        width: usize,
    ) -> Option<Self> {
        let lines = || table(heading, rows, width).lines().map(str::to_owned).collect();
        (!rows.is_empty()).then(|| Self { title, lines: lines() })
    }

    fn rows(&self) -> usize {
        self.lines.len() - 1
    }

    /// With that many rows.
    fn text(&self, rows: usize, style: &Style) -> String {
        let of = if rows < self.rows() { format!(" ({rows} of {})", self.rows()) } else { String::new() };
        let (on, off) = if style.coloured { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let lines: Vec<_> = self.lines.iter().take(rows + 1).map(String::as_str).collect();
        format!("\n{on}{}{of}{off}\n{}\n", self.title, lines.join("\n"))
    }
}

/// Lines of a section beside its rows: a blank one, title and heading.
const BESIDE: usize = 3;

impl Seen {
    /// All of it, in at most so many lines: the longest tables give way.
    fn in_lines(&self, style: &Style, height: usize) -> String {
        let mut out = self.summary(style.width);
        let sections = self.sections(style.width);
        let used = out.lines().count() + BESIDE * sections.len();
        let mut rows: Vec<_> = sections.iter().map(Section::rows).collect();
        shorten(&mut rows, height.saturating_sub(used));
        for (section, rows) in sections.iter().zip(rows) {
            out += &section.text(rows, style);
        }
        if out.lines().count() <= height {
            return out;
        }
        out.lines().take(height).map(|line| format!("{line}\n")).collect()
    }

    /// Who reads from whom.
    pub fn map(&self, style: &Style) -> String {
        let rows: Vec<_> = self.readers.iter().map(|reader| self.reader(reader)).collect();
        let heading = ["CLIENT", "DOMAIN", "POD", "NODE", "CIRCUITS", "PVS"];
        let table = table(heading, &rows, style.width);
        let nobody = "nobody reads from a pod, or asked for a PV meanwhile\n".to_owned();
        let answered = self.nodes.iter().any(|node| node.error.is_none());
        let map = if rows.is_empty() { Some(nobody).filter(|_| answered).unwrap_or_default() } else { table };
        map + &self.faults(style.width)
    }

    fn sections(&self, width: usize) -> Vec<Section> {
        let names = Names::of(self);
        let domains: Vec<_> = self.domains.iter().map(|domain| self.domain(domain)).collect();
        let unanswered: Vec<_> = self.unanswered.iter().map(|row| self.unanswered(row, &names)).collect();
        let duplicates: Vec<_> = self.duplicates.iter().flat_map(duplicate).collect();
        let talkers: Vec<_> = self.talkers.iter().map(|talker| names.talker(talker)).collect();
        let prefixes: Vec<_> = self.prefixes.iter().map(prefix).collect();
        let pods: Vec<_> = self.pods.iter().map(pod).collect();
        let domain =
            ["DOMAIN", "UPLINK", "PODS", "CLIENTS", "SEARCHES", "ANSWERS", "BEACONS", "LIMITED", "CIRCUITS"];
        let waits = ["PV", "DOMAIN", "PROTOCOL", "CLIENT", "ASKED", "FOR", "LAST"];
        let listens = ["POD", "DOMAIN", "NODE", "LISTENS", "HEARD", "ANSWERS", "CIRCUITS", "LATENCY"];
        [
            Section::new("Domains, a second", domain, &domains, width),
            Section::new("PVs that nobody answers", waits, &unanswered, width),
            Section::new(
                "PVs of several servers",
                ["PV", "DOMAIN", "PROTOCOL", "SERVER", "POD"],
                &duplicates,
                width,
            ),
            Section::new(
                "Who searches most, a second",
                ["CLIENT", "DOMAIN", "SEARCHES", "NAMES"],
                &talkers,
                width,
            ),
            Section::new(
                "What is searched for most, a second",
                ["PREFIX", "DOMAIN", "NAMES"],
                &prefixes,
                width,
            ),
            Section::new("Pods, a second", listens, &pods, width),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn is_several(&self) -> bool {
        self.nodes.len() > 1
    }

    /// How long it was looked and at how much of what passed, and what is wrong.
    fn summary(&self, width: usize) -> String {
        let nodes: Vec<_> =
            self.nodes.iter().filter(|node| node.error.is_none()).map(|node| &*node.node).collect();
        let looked = format!("{}: {:.0} s", nodes.join(", "), self.seconds);
        paragraph(&looked, width) + &self.faults(width)
    }

    fn faults(&self, width: usize) -> String {
        let lost = match self.lost {
            0 => String::new(),
            lost => format!(
                "{lost} datagrams were too many to be looked at: rates are counted all the same, but PVs and clients may be \
                 missing"
            ),
        };
        let domains = self.domains.iter().filter_map(|domain| {
            let problem = domain.problem.as_ref()?;
            let uplink = domain.uplink.as_deref().unwrap_or("the uplink");
            Some(format!("domain {} of {}: {uplink} {problem}", domain.name, domain.node))
        });
        let lines = Some(lost).filter(|lost| !lost.is_empty()).into_iter().chain(domains);
        lines.map(|line| paragraph(&line, width)).collect::<String>() + &silent(&self.nodes, width)
    }

    fn domain(&self, domain: &Domain) -> [String; 9] {
        let at =
            if self.is_several() { format!("{} {}", domain.node, domain.name) } else { domain.name.clone() };
        let rates = [domain.searches, domain.answers, domain.beacons, domain.limited].map(rate);
        let [searches, answers, beacons, limited] = rates;
        [
            at,
            domain.uplink.clone().unwrap_or_else(|| "none".into()),
            domain.members.to_string(),
            domain.clients.to_string(),
            searches,
            answers,
            beacons,
            limited,
            domain.circuits.to_string(),
        ]
    }

    fn unanswered(&self, row: &Unanswered, names: &Names) -> [String; 7] {
        [
            row.pv.clone(),
            row.domain.clone(),
            row.protocol.clone(),
            names.client(&row.domain, row.client, row.client_pod.as_deref()),
            row.asked.to_string(),
            age(row.last - row.since),
            format!("{} ago", age(self.time - row.last)),
        ]
    }

    fn reader(&self, reader: &Reader) -> [String; 6] {
        let client = client(reader.client, reader.client_pod.as_deref());
        let pvs = match reader.pvs.len() {
            0 => "-".into(),
            count => format!("{count}: {}", reader.pvs.join(" ")),
        };
        [
            client,
            reader.domain.clone(),
            reader.pod.clone(),
            reader.node.clone(),
            reader.circuits.to_string(),
            pvs,
        ]
    }
}

/// Takes rows from the longest until they are no more than `height`.
fn shorten(rows: &mut [usize], height: usize) {
    while rows.iter().sum::<usize>() > height {
        let Some(longest) = rows.iter_mut().max().filter(|rows| **rows > 0) else { return };
        *longest -= 1;
    }
}

/// The nodes behind addresses: what one node sends for its pods, the others see coming from its uplink.
struct Names<'a>(HashMap<(&'a str, Ipv4Addr), &'a str>);

impl<'a> Names<'a> {
    fn of(seen: &'a Seen) -> Self {
        let known = seen.domains.iter();
        Self(known.filter_map(|domain| Some(((&*domain.name, domain.address?), &*domain.node))).collect())
    }

    fn client(&self, domain: &str, address: Ipv4Addr, pod: Option<&str>) -> String {
        client(address, pod.or_else(|| self.0.get(&(domain, address)).copied()))
    }

    fn talker(&self, talker: &Talker) -> [String; 4] {
        [
            self.client(&talker.domain, talker.host, talker.pod.as_deref()),
            talker.domain.clone(),
            rate(talker.searches),
            rate(talker.names),
        ]
    }
}

fn client(address: Ipv4Addr, name: Option<&str>) -> String {
    name.map_or_else(|| address.to_string(), str::to_owned)
}

/// A row for each server.
fn duplicate(row: &Duplicate) -> impl Iterator<Item = [String; 5]> {
    row.servers.iter().map(|Server { address, pod, .. }| {
        let pod = pod.clone().unwrap_or_else(|| "-".into());
        [row.pv.clone(), row.domain.clone(), row.protocol.clone(), address.to_string(), pod]
    })
}

fn prefix(prefix: &Prefix) -> [String; 3] {
    [prefix.prefix.clone(), prefix.domain.clone(), rate(prefix.names)]
}

fn pod(pod: &Pod) -> [String; 8] {
    let ports: Vec<_> = pod.listens.iter().map(u16::to_string).collect();
    [
        pod.pod.clone(),
        pod.domain.clone(),
        pod.node.clone(),
        if ports.is_empty() { "nowhere".into() } else { ports.join(" ") },
        rate(pod.heard),
        rate(pod.answers),
        pod.circuits.to_string(),
        pod.latency_ms.map_or_else(|| "-".into(), |latency| format!("{latency:.1} ms")),
    ]
}

/// With as many digits as say something.
fn rate(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// Seconds, minutes or hours.
fn age(seconds: f64) -> String {
    match seconds.max(0.0) {
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.0} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, net::SocketAddrV4, path::Path};

    use super::*;
    use crate::seen::Answered;

    const NAME: &str = "a\u{1b}[31m\u{9b}2J\u{202e}\r\nOK    kernel";

    /// What a node saw, with names as others chose them.
    fn seen(node: &str, pv: &str, pod: &str) -> Seen {
        let (domain, protocol) = ("lab".to_owned(), "ca".to_owned());
        let (client, address) = (Ipv4Addr::new(172, 23, 0, 2), Ipv4Addr::new(10, 244, 1, 2));
        let server = |host: u8, pod: Option<&str>| Server {
            address: SocketAddrV4::new([172, 23, 0, host].into(), 61000),
            pod: pod.map(str::to_owned),
            node: pod.map(|_| node.to_owned()),
        };
        Seen {
            time: 1_790_000_010.5,
            seconds: 10.0,
            domains: vec![Domain {
                node: node.into(),
                name: domain.clone(),
                uplink: Some("eth0".into()),
                address: Some([172, 23, 0, 10].into()),
                problem: None,
                members: 3,
                clients: 12,
                searches: 1234.5,
                answers: 7.25,
                beacons: 0.2,
                limited: 0.0,
                circuits: 40,
            }],
            talkers: vec![
                Talker { domain: domain.clone(), host: client, pod: None, searches: 1200.0, names: 9999.0 },
                Talker {
                    domain: domain.clone(),
                    host: address,
                    pod: Some(pod.into()),
                    searches: 34.5,
                    names: 34.5,
                },
            ],
            prefixes: vec![Prefix { domain: domain.clone(), prefix: pv.into(), names: 12.0 }],
            pods: vec![Pod {
                node: node.into(),
                domain: domain.clone(),
                pod: pod.into(),
                address,
                lan_address: None,
                listens: vec![5064, 5076],
                heard: 1234.5,
                answers: 7.25,
                circuits: 40,
                latency_ms: Some(0.42),
            }],
            unanswered: vec![Unanswered {
                domain: domain.clone(),
                protocol: protocol.clone(),
                pv: pv.into(),
                client,
                client_pod: None,
                asked: 17,
                since: 1_790_000_000.0,
                last: 1_790_000_009.0,
            }],
            duplicates: vec![Duplicate {
                domain: domain.clone(),
                protocol: protocol.clone(),
                pv: pv.into(),
                servers: vec![server(3, None), server(10, Some(pod))],
            }],
            readers: vec![Reader {
                domain: domain.clone(),
                client,
                client_pod: None,
                pod: pod.into(),
                node: node.into(),
                circuits: 2,
                pvs: vec![pv.into(), "B:NAME".into()],
            }],
            answers: vec![Answered {
                domain,
                protocol,
                pv: pv.into(),
                client: [172, 23, 0, 9].into(),
                server: server(10, Some(pod)),
                last: 1_790_000_008.0,
            }],
            ..Seen::nothing(vec![Asked::answered(node)])
        }
    }

    #[test]
    fn an_object_has_the_keys_that_programs_expect() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seen.json");
        let found = serde_json::to_string_pretty(&seen("node-1", "A:NAME", "beamline/ioc-a")).unwrap() + "\n";
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
    }

    #[test]
    fn the_text_is_the_one_recorded() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seen.txt");
        let one = seen("node-1", "A:NAME", "beamline/ioc-a");
        let mut both = one.clone();
        both.merge(Seen { lost: 12345, ..seen("node-2", "A:NAME", "beamline/ioc-b") });
        let shown =
            |seen: &Seen| format!("{}\n{}", seen.text(&Style::default()), seen.map(&Style::default()));
        let found = format!("{}\n--- two nodes ---\n\n{}", shown(&one), shown(&both));
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
    }

    #[test]
    fn it_fits_whatever_names_are_like_and_however_many_there_are() {
        let mut all = seen("node-1", NAME, NAME);
        let long = format!("bl07/{}", "x".repeat(300));
        for node in ["node-2", NAME, &long] {
            all.merge(Seen { lost: 9, ..seen(node, &long, NAME) });
            all.merge(seen(node, NAME, &long));
        }
        for host in 0..200 {
            let host = [10, 0, 0, host].into();
            all.talkers.push(Talker { domain: long.clone(), host, pod: None, searches: 1e6, names: 1e9 });
        }
        for (width, height) in [(80, 24), (120, 50), (80, usize::MAX), (80, 3)] {
            let style = Style { width, coloured: false };
            for text in [all.screen(&style, height), all.map(&style)] {
                assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
                assert!(text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{text:?}");
            }
            assert!(all.screen(&style, height).lines().count() <= height, "{height}");
        }
        let text = all.screen(&Style { width: 120, coloured: false }, 60);
        assert!(text.contains("Who searches most, a second (") && text.contains(" of 20"), "{text}");
    }

    #[test]
    fn nodes_that_saw_nothing_and_nodes_that_are_silent_are_not_the_same() {
        let nothing = Seen::nothing(vec![Asked::answered("node-1")]);
        assert_eq!(nothing.map(&Style::default()), "nobody reads from a pod, or asked for a PV meanwhile\n");
        let silent = Asked { node: "node-1".into(), error: Some("timeout".into()) };
        assert_eq!(Seen::nothing(vec![silent]).map(&Style::default()), "node-1 did not answer: timeout\n");
    }
}
