//! Multicast groups: which ones a configuration can name, and the uplinks' membership in them.
//!
//! An uplink is in a group as long as the configuration relays it there, whether or not a pod has joined: membership then
//! needs no process that watches pods.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

use datapath::{
    groups::{join, joined, leave},
    link,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// Groups that belong to the network itself: pods that heard or said something there would be taken for its parts (IANA,
/// IPv4 Multicast Address Space Registry).
const OF_THE_NETWORK: [(u8, &str); 13] = [
    (0, "reserved"),
    (1, "that of all hosts, which every host is in"),
    (2, "that of all routers"),
    (4, "DVMRP's"),
    (5, "OSPF's"),
    (6, "OSPF's"),
    (9, "RIP's"),
    (10, "EIGRP's"),
    (13, "PIM's"),
    (18, "VRRP's"),
    (22, "IGMP's"),
    (102, "HSRP's"),
    (106, "that of IGMP's snoopers"),
];

/// What is expected of a group.
const EXPECTED: &str = "expected the IPv4 address of a multicast group, 224.0.0.0 to 239.255.255.255";

/// One text, or a list.
#[derive(Debug, Default)]
pub(crate) struct Texts(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a multicast group as text, or a list of them")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = vec![];
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

/// The groups that `key` names. Adds faults to `faults`.
pub(crate) fn parse(key: &str, texts: &Texts, faults: &mut Vec<String>) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = vec![];
    for text in &texts.0 {
        match text.parse() {
            Ok(group) if found.contains(&group) => faults.push(format!("`{key}` has {group} twice")),
            Ok(group) => {
                faults.extend(objection(group).map(|why| format!("`{key}` is `{group}`: {why}")));
                found.push(group);
            }
            Err(_) => faults.push(format!("`{key}` is `{text}`: {EXPECTED}")),
        }
    }
    found
}

/// Why an address is none of a group that can be relayed.
fn objection(group: Ipv4Addr) -> Option<String> {
    if !group.is_multicast() {
        return Some(EXPECTED.into());
    }
    match group.octets() {
        [224, 0, 0, last] => {
            let (_, whose) = OF_THE_NETWORK.iter().find(|(number, _)| *number == last)?;
            Some(format!("this group is {whose}; it belongs to the network, and is not relayed"))
        }
        [232, ..] => Some(
            "who joins a group in 232.0.0.0/8 names the sender, which a relay cannot; use another".into(),
        ),
        _ => None,
    }
}

/// Makes uplinks, by their interface index, members of these groups, and of no others for us. Returns what could not be done.
pub(crate) fn follow(wanted: &BTreeSet<(u32, Ipv4Addr)>) -> Result<Vec<String>, datapath::Error> {
    let mut problems = vec![];
    let present = joined()?;
    for (device, group) in present.iter().filter(|join| !wanted.contains(join)) {
        problems.extend(leave(*device, *group).err().map(|error| error.to_string()));
    }
    for (index, group) in wanted.iter().filter(|join| !present.contains(join)) {
        if let Some(device) = link::by_index(*index)? {
            problems.extend(join(&device, *group).err().map(|error| error.to_string()));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(texts: &[&str]) -> Vec<String> {
        let mut faults = vec![];
        parse("group", &Texts(texts.iter().map(|text| (*text).to_owned()).collect()), &mut faults);
        faults
    }

    #[test]
    fn groups_of_programs_are_relayed() {
        assert_eq!(faults(&["224.0.0.251", "224.0.0.252", "239.255.255.250", "224.0.1.129"]), [""; 0]);
    }

    #[test]
    fn what_is_no_group_or_the_networks_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "expected the IPv4 address of a multicast group"),
            ("mdns", "expected the IPv4 address"),
            ("ff02::fb", "expected the IPv4 address"),
            ("239.255.255.250/32", "expected the IPv4 address"),
            ("223.255.255.255", "expected the IPv4 address"),
            ("240.0.0.0", "expected the IPv4 address"),
            ("224.0.0.1", "that of all hosts"),
            ("224.0.0.5", "OSPF's"),
            ("224.0.0.22", "IGMP's"),
            ("232.1.1.1", "names the sender"),
        ] {
            let found = faults(&[text]);
            assert!(found.len() == 1 && found[0].contains(reason), "{text}: {found:?}");
            assert!(found[0].starts_with(&format!("`group` is `{text}`: ")), "{found:?}");
        }
        assert_eq!(faults(&["239.1.1.1", "239.1.1.1"]), ["`group` has 239.1.1.1 twice"]);
    }
}
