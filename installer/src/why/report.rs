//! The answer, from the facts.

use std::{net::Ipv4Addr, time::Duration};

use view::why::{Report, Server};

use super::{
    facts::{self, Facts, Place, Pod},
    ladder::climb,
};
use crate::ask::domains::Domain;

/// The answer of `node` that follows from `facts`.
pub(super) fn report(node: String, facts: &Facts, took: Duration) -> Report {
    Report {
        client: facts.from.or_else(|| Some(facts.search().filter(|search| !search.ours)?.asker)),
        domain: facts.domain().map(|domain| domain.name.clone()),
        servers: facts.servers.iter().map(|found| server(&node, facts, found)).collect(),
        seconds: took.as_secs_f64(),
        ..Report::of(node, facts.pv.clone(), climb(facts))
    }
}

fn server(node: &str, facts: &Facts, server: &facts::Server) -> Server {
    let (pod, domain, host) = whereabouts(facts, server);
    Server {
        protocol: server.protocol.name().into(),
        address: server.at,
        pod: pod.map(|pod| pod.name.clone()),
        milliseconds: server.after.as_secs_f64() * 1e3,
        node: node.into(),
        domain: domain.map(|domain| domain.name.clone()),
        host,
    }
}

/// The pod of a server, the domain in which clients find it, and the address by which its LAN knows it.
fn whereabouts<'a>(
    facts: &'a Facts,
    server: &facts::Server,
) -> (Option<&'a Pod>, Option<&'a Domain>, Option<Ipv4Addr>) {
    let named = |name: &str| facts.domains.iter().find(|domain| domain.name == name);
    match &server.place {
        Place::Pod(name) => {
            let pod = facts.pods.iter().find(|pod| pod.name == *name);
            let domain = pod.and_then(|pod| named(pod.domain.as_deref()?));
            let own = pod.and_then(|pod| pod.lan_address);
            (pod, domain, own.or_else(|| domain?.address))
        }
        Place::Node => {
            let domain = facts.domain();
            (None, domain, domain.and_then(|domain| domain.address))
        }
        Place::Lan(domain) => (None, named(domain), Some(*server.at.ip())),
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use view::{Answer as _, Style};

    use super::{super::ladder::tests::well, *};

    #[test]
    fn an_object_has_the_keys_that_programs_expect() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/why.json");
        let answer = report("node-1".into(), &well(), Duration::from_millis(1500));
        let found = serde_json::to_string_pretty(&answer).unwrap() + "\n";
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
    }

    fn said(facts: &Facts, coloured: bool) -> String {
        report("node-1".into(), facts, Duration::ZERO).text(&Style { coloured, ..Style::default() })
    }

    #[test]
    fn the_text_has_a_line_a_rung_and_shows_what_a_terminal_would_obey() {
        let mut facts = well();
        let text = said(&facts, false);
        assert_eq!(text.lines().filter(|line| line.starts_with("OK ")).count(), 9, "{text}");
        assert!(text.contains("OK    connected  172.23.0.2 to 172.23.0.10:61000, accepted"), "{text}");
        assert!(text.ends_with("\n172.23.0.2 can see A:NAME.\n"), "{text}");
        facts.pv = "A\u{1b}[2J".into();
        facts.servers.clear();
        facts.pods[0].name = format!("bl07/{}", "x".repeat(200));
        let text = said(&facts, false);
        assert!(text.contains(r"cannot see A\u{1b}[2J: ") && !text.contains('\u{1b}'), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(said(&facts, true).contains("\u{1b}[1;31mFAIL"));
    }
}
