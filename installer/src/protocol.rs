//! The protocols that a domain can relay: those with their own parser, and those that the configuration describes.
//!
//! ```toml
//! [protocol.recsync]
//! ports = [5049]                              # UDP ports to which its datagrams are sent
//! group = "239.1.1.1"                         # multicast groups to which they are sent, one or a list; default: none
//! subnets = true                              # cross to the domain's other subnets; default: they do not
//! symmetric = true                            # sent from the port that they are sent to; default: from any
//! direction = "announce"                      # or "search" (answered by unicast), or "both"; default: both
//! must = { offset = 0, bytes = "5243 0000" }  # what identifies a datagram; others are not relayed; default: any
//! fields = [                                  # where a datagram names its sender's own address and port; default: nowhere
//!     { offset = 4, kind = "ipv4" },
//!     { offset = 8, kind = "port16", order = "big", transport = "tcp", when = { offset = 0, bytes = "52" } },
//! ]
//! ```

use std::{collections::BTreeMap, net::Ipv4Addr, ops::Range, sync::Arc};

use abi::{PARSED, Protocol, paths};
use serde::Deserialize;
use wire::data::{Bytes, Descriptor, FIELDS, Field, kind};

use crate::groups::{self, Texts};

/// The described protocols that ship with iocast.
const SHIPPED: &str = include_str!("protocols.toml");
/// The longest payload of an unfragmented datagram on Ethernet, bytes.
const PAYLOAD: usize = 1472;
/// Bytes that a condition can compare.
const WORD: usize = 4;

/// A protocol that a domain relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DomainProtocol {
    /// One with its own parser.
    BuiltIn(Protocol),
    /// One that the configuration describes.
    Described(Arc<Described>),
}

/// A protocol that the configuration describes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) name: String,
    /// Its UDP ports.
    pub(crate) ports: Vec<u16>,
    /// The multicast groups to which its datagrams are sent, at each of these ports.
    pub(crate) groups: Vec<Ipv4Addr>,
    /// The directions in which datagrams to them travel, from [`paths`].
    flags: u16,
    pub(crate) descriptor: Descriptor,
    /// Whether they cross to other subnets.
    pub(crate) subnets: bool,
}

impl DomainProtocol {
    /// Its UDP ports, and the directions in which datagrams to them travel.
    pub(crate) fn ports(&self) -> Vec<(u16, u16)> {
        match self {
            Self::BuiltIn(protocol) => ports_of(*protocol).to_vec(),
            Self::Described(described) => {
                described.ports.iter().map(|port| (*port, described.flags)).collect()
            }
        }
    }

    /// Its name in the configuration.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::BuiltIn(protocol) => protocol.name(),
            Self::Described(described) => &described.name,
        }
    }

    /// The directions in which datagrams to a port in `search_ports` travel.
    pub(crate) fn flags(&self) -> u16 {
        match self {
            Self::BuiltIn(protocol) => ports_of(*protocol).first().map_or(0, |(_, flags)| *flags),
            Self::Described(described) => described.flags,
        }
    }

    /// The multicast groups to which its datagrams are sent; those with their own parser have none by themselves.
    pub(crate) fn groups(&self) -> &[Ipv4Addr] {
        match self {
            Self::BuiltIn(_) => &[],
            Self::Described(described) => &described.groups,
        }
    }

    /// Its name, if it uses groups, and nothing of its datagrams is translated: what they name is text, or nothing.
    pub(crate) fn untranslated(&self) -> Option<&str> {
        match self {
            Self::Described(it) if !it.groups.is_empty() && it.descriptor.fields == [Field::NONE; FIELDS] => {
                Some(&it.name)
            }
            _ => None,
        }
    }

    /// Whether it is this built-in protocol.
    pub(crate) fn is(&self, protocol: Protocol) -> bool {
        *self == Self::BuiltIn(protocol)
    }
}

/// The UDP ports of a protocol with its own parser, and the directions of datagrams to them; the first is for searches.
fn ports_of(protocol: Protocol) -> &'static [(u16, u16)] {
    PARSED.iter().find(|parsed| parsed.protocol == protocol).map_or(&[], |parsed| parsed.ports)
}

/// The protocols that can be named without being described, by UDP port.
pub(crate) fn included() -> BTreeMap<u16, String> {
    let Registry(protocols) = Registry::new(BTreeMap::new(), &mut vec![]);
    let ports = protocols
        .into_iter()
        .flat_map(|(name, protocol)| protocol.ports().into_iter().map(move |(port, _)| (port, name.clone())));
    ports.collect()
}

/// All protocols that a configuration can name.
pub(crate) struct Registry(BTreeMap<String, DomainProtocol>);

impl Registry {
    /// The built-in protocols and those of these sections; adds faults to `faults`.
    pub(crate) fn new(sections: BTreeMap<String, Section>, faults: &mut Vec<String>) -> Self {
        let built_in = PARSED.iter().filter(|parsed| !parsed.ports.is_empty()).map(|parsed| parsed.protocol);
        let mut registry =
            Self(built_in.map(|own| (own.name().into(), DomainProtocol::BuiltIn(own))).collect());
        // A test parses the shipped file, and it cannot change at run time.
        registry.add(toml::from_str::<File>(SHIPPED).map(|file| file.protocol).unwrap_or_default(), faults);
        registry.add(sections, faults);
        registry
    }

    fn add(&mut self, sections: BTreeMap<String, Section>, faults: &mut Vec<String>) {
        for (name, section) in sections {
            if self.0.contains_key(&name) {
                faults.push(format!("protocol `{name}`: iocast has a protocol of this name; choose another"));
                continue;
            }
            let mut found = vec![];
            let described = describe(&name, &section, &mut found);
            faults.extend(found.into_iter().map(|what| format!("protocol `{name}`: {what}")));
            self.0.insert(name, DomainProtocol::Described(Arc::new(described)));
        }
    }

    /// The protocol called this.
    pub(crate) fn find(&self, name: &str) -> Option<DomainProtocol> {
        self.0.get(name).cloned()
    }

    /// Their names, for messages.
    pub(crate) fn names(&self) -> String {
        self.0.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

#[derive(Deserialize)]
struct File {
    protocol: BTreeMap<String, Section>,
}

/// A section `[protocol.NAME]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Section {
    ports: Vec<u16>,
    direction: Option<String>,
    #[serde(default)]
    group: Texts,
    #[serde(default)]
    symmetric: bool,
    #[serde(default)]
    subnets: bool,
    must: Option<Condition>,
    #[serde(default)]
    fields: Vec<FieldSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    offset: usize,
    bytes: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldSection {
    offset: usize,
    kind: String,
    order: Option<String>,
    transport: Option<String>,
    when: Option<Condition>,
}

/// The protocol that a section describes. Adds faults to `faults`; the value is then a placeholder.
fn describe(name: &str, section: &Section, faults: &mut Vec<String>) -> Described {
    if !(1..=31).contains(&name.len())
        || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    {
        faults.push("a name must be 1 to 31 lower-case letters, digits or `-`".into());
    }
    if section.ports.contains(&0) {
        faults.push("`ports` has 0, which is not a UDP port".into());
    }
    let groups = groups::parse("group", &section.group, faults);
    let direction = match section.direction.as_deref() {
        Some("announce") => paths::ANNOUNCE,
        None | Some("search" | "both") => paths::SEARCH,
        Some(other) => {
            faults.push(format!("`direction` is `{other}`: expected `announce`, `search` or `both`"));
            paths::SEARCH
        }
    };
    let must = condition("must", section.must.as_ref(), faults);
    let mut fields = [Field::NONE; FIELDS];
    if section.fields.len() > FIELDS {
        faults.push(format!("`fields` has {} fields; the maximum is {FIELDS}", section.fields.len()));
    }
    for (index, (place, from)) in fields.iter_mut().zip(&section.fields).enumerate() {
        *place = field(&format!("fields[{index}]"), from, faults);
    }
    faults.extend(overlaps(section));
    let flags = direction | if section.symmetric { paths::SYMMETRIC } else { 0 };
    let search = u32::from(flags & paths::ANSWERED != 0);
    let descriptor = Descriptor { must, search, fields };
    let (ports, subnets) = (section.ports.clone(), section.subnets);
    Described { name: name.into(), ports, groups, flags, descriptor, subnets }
}

/// A field in the form that the programs use.
fn field(key: &str, section: &FieldSection, faults: &mut Vec<String>) -> Field {
    let Some(length) = length(&section.kind) else {
        faults.push(format!("`{key}.kind` is `{}`: expected `ipv4`, `port16` or `port32`", section.kind));
        return Field::NONE;
    };
    check_place(key, section.offset, length, faults);
    let when = condition(&format!("{key}.when"), section.when.as_ref(), faults);
    let is_port = section.kind != "ipv4";
    let little = choice(key, "order", section.order.as_deref(), ["big", "little"], is_port, faults);
    let udp = choice(key, "transport", section.transport.as_deref(), ["tcp", "udp"], is_port, faults);
    if !is_port {
        return Field { kind: kind::ADDRESS, at: section.offset as u16, when };
    }
    let wide = length == WORD;
    let flag = |set, flag| if set { flag } else { 0 };
    let kind = kind::PORT | flag(little, kind::LITTLE) | flag(udp, kind::UDP) | flag(wide, kind::WIDE);
    // The less significant half of four bytes is the first in little-endian order, the second otherwise.
    let low = section.offset + if wide && !little { 2 } else { 0 };
    Field { kind, at: low as u16, when }
}

/// Whether the second of two values is chosen; the first is the default. Addresses do not have such keys.
fn choice(
    key: &str,
    name: &str,
    value: Option<&str>,
    [first, second]: [&str; 2],
    allowed: bool,
    faults: &mut Vec<String>,
) -> bool {
    match value {
        Some(_) if !allowed => {
            faults.push(format!("`{key}.{name}` is for ports, but this field is an address"));
        }
        Some(value) if value != first && value != second => {
            faults.push(format!("`{key}.{name}` is `{value}`: expected `{first}` or `{second}`"));
        }
        _ => {}
    }
    value == Some(second)
}

/// Length of a field of this kind, bytes.
fn length(kind: &str) -> Option<usize> {
    match kind {
        "port16" => Some(2),
        "ipv4" | "port32" => Some(WORD),
        _ => None,
    }
}

/// A condition in the form that the programs use: they compare a word, which ends with the bytes if possible, so that it
/// does not extend past a datagram that ends there.
fn condition(key: &str, section: Option<&Condition>, faults: &mut Vec<String>) -> Bytes {
    let Some(Condition { offset, bytes }) = section else { return Bytes::ANY };
    let Some(found) = parse_bytes(bytes) else {
        faults.push(format!(
            "`{key}.bytes` is `{bytes}`: expected 1 to {WORD} bytes in hexadecimal, such as `5243 0000`"
        ));
        return Bytes::ANY;
    };
    check_place(key, *offset, found.len(), faults);
    let at = (offset + found.len()).saturating_sub(WORD);
    let (mut mask, mut value) = ([0; WORD], [0; WORD]);
    for (index, byte) in found.iter().enumerate() {
        (mask[offset - at + index], value[offset - at + index]) = (0xff, *byte);
    }
    Bytes { at: at as u16, reserved: 0, mask: u32::from_be_bytes(mask), value: u32::from_be_bytes(value) }
}

/// One to four bytes in hexadecimal; spaces are ignored.
fn parse_bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ' ')
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let bytes = digits.chunks(2).map(|pair| Some(pair.first()? << 4 | pair.get(1)?));
    bytes.collect::<Option<Vec<u8>>>().filter(|bytes| (1..=WORD).contains(&bytes.len()))
}

fn check_place(key: &str, offset: usize, length: usize, faults: &mut Vec<String>) {
    if offset.saturating_add(length) > PAYLOAD {
        faults.push(format!(
            "`{key}.offset` is {offset}: {length} bytes there would end past {PAYLOAD}, the longest payload"
        ));
    }
}

/// Overlapping fields, and conditions on bytes that are rewritten: the rewriting could not be undone.
fn overlaps(section: &Section) -> Vec<String> {
    let place =
        |from: &FieldSection| from.offset..from.offset.saturating_add(length(&from.kind).unwrap_or(0));
    let meet = |one: &Range<usize>, other: &Range<usize>| one.start < other.end && other.start < one.end;
    let mut found = vec![];
    for (index, one) in section.fields.iter().enumerate() {
        let others = section.fields.iter().enumerate().skip(index + 1);
        for (other, _) in others.filter(|(_, other)| meet(&place(one), &place(other))) {
            found.push(format!("`fields[{index}]` and `fields[{other}]` overlap"));
        }
        let conditions = section.fields.iter().enumerate();
        let conditions =
            conditions.map(|(index, field)| (format!("fields[{index}].when"), field.when.as_ref()));
        for (key, condition) in conditions.chain([("must".into(), section.must.as_ref())]) {
            let Some(Condition { offset, bytes }) = condition else { continue };
            let compared = *offset..offset.saturating_add(parse_bytes(bytes).map_or(0, |bytes| bytes.len()));
            if meet(&place(one), &compared) {
                found.push(format!("`{key}` compares bytes of `fields[{index}]`, which are rewritten"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(text: &str) -> (Registry, Vec<String>) {
        let mut faults = vec![];
        let file: File = toml::from_str(text).unwrap();
        (Registry::new(file.protocol, &mut faults), faults)
    }

    fn described(text: &str) -> Arc<Described> {
        let (registry, faults) = registry(text);
        assert_eq!(faults, Vec::<String>::new());
        match registry.find("x") {
            Some(DomainProtocol::Described(described)) => described,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_examples_of_the_documentation_are_valid() {
        let page = include_str!("../../docs/protocols.md");
        let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let text: String = blocks.collect();
        let config = crate::config::Config::parse(&text).unwrap();
        let names: Vec<_> = config.described().iter().map(|described| described.name.as_str()).collect();
        assert_eq!(names, ["mdns", "motion", "recsync", "relay"]);
    }

    #[test]
    fn what_is_shipped_has_no_fault() {
        let (registry, faults) = registry("[protocol]");
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(
            registry.names(),
            "`ads`, `bacnet`, `ca`, `gvcp`, `mdns`, `pva`, `recsync`, `relay`, `ssdp`, `ws-discovery`"
        );
        assert_eq!(
            registry.find("recsync").map(|spoken| spoken.ports()),
            Some(vec![(5049, paths::ANNOUNCE)])
        );
        assert_eq!(registry.find("ads").map(|spoken| spoken.ports()), Some(vec![(48899, paths::SEARCH)]));
    }

    #[test]
    fn fields_and_conditions_are_compiled_to_what_the_programs_read() {
        let found = described(
            "[protocol.x]\nports = [9]\nfields = [{ offset = 20, kind = \"port32\", transport = \"udp\", \
             when = { offset = 9, bytes = \"01 ff\" } }, { offset = 24, kind = \"port32\", order = \"little\" }]",
        );
        let when = Bytes { at: 7, reserved: 0, mask: 0x0000_ffff, value: 0x0000_01ff };
        let first = Field { kind: kind::PORT | kind::UDP | kind::WIDE, at: 22, when };
        let second = Field { kind: kind::PORT | kind::LITTLE | kind::WIDE, at: 24, when: Bytes::ANY };
        assert_eq!(found.descriptor.fields[..3], [first, second, Field::NONE]);
        assert_eq!(found.descriptor.search, 1);
    }

    #[test]
    fn a_condition_at_the_start_has_no_room_before_it() {
        let found = described("[protocol.x]\nports = [9]\nmust = { offset = 1, bytes = \"81\" }");
        let expected = Bytes { at: 0, reserved: 0, mask: 0x00ff_0000, value: 0x0081_0000 };
        assert_eq!(found.descriptor.must, expected);
    }

    #[test]
    fn every_fault_names_the_key_what_was_found_and_what_is_expected() {
        let (_, faults) = registry(
            "[protocol.\"Odd Name\"]\nports = [0]\ndirection = \"sideways\"\ngroup = \"224.0.0.9\"\n\
             must = { offset = 2, bytes = \"5\" }\nfields = [\n{ offset = 4, kind = \"ipv6\" },\n\
             { offset = 4, kind = \"ipv4\", order = \"big\" },\n\
             { offset = 1471, kind = \"port16\", order = \"middle\", transport = \"sctp\" }]\n\
             [protocol.ca]\nports = [1]",
        );
        let expected = [
            "protocol `Odd Name`: a name must be 1 to 31",
            "protocol `Odd Name`: `ports` has 0",
            "protocol `Odd Name`: `group` is `224.0.0.9`: this group is RIP's",
            "protocol `Odd Name`: `direction` is `sideways`: expected `announce`",
            "protocol `Odd Name`: `must.bytes` is `5`: expected 1 to 4 bytes",
            "protocol `Odd Name`: `fields[0].kind` is `ipv6`: expected `ipv4`",
            "protocol `Odd Name`: `fields[1].order` is for ports",
            "protocol `Odd Name`: `fields[2].offset` is 1471: 2 bytes there would end past 1472",
            "protocol `Odd Name`: `fields[2].order` is `middle`: expected `big` or `little`",
            "protocol `Odd Name`: `fields[2].transport` is `sctp`: expected `tcp` or `udp`",
            "protocol `ca`: iocast has a protocol of this name",
        ];
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, expected) in faults.iter().zip(expected) {
            assert!(fault.starts_with(expected), "{fault}");
        }
    }

    #[test]
    fn bytes_that_are_rewritten_are_nobody_elses() {
        let (_, faults) = registry(
            "[protocol.x]\nports = [9]\nmust = { offset = 7, bytes = \"00\" }\nfields = [\n\
             { offset = 4, kind = \"ipv4\" },\n{ offset = 6, kind = \"port16\", when = { offset = 0, bytes = \"01\" } }]",
        );
        let expected = [
            "protocol `x`: `fields[0]` and `fields[1]` overlap",
            "protocol `x`: `must` compares bytes of `fields[0]`, which are rewritten",
            "protocol `x`: `must` compares bytes of `fields[1]`, which are rewritten",
        ];
        assert_eq!(faults, expected);
    }

    #[test]
    fn there_is_room_for_so_many_fields() {
        let field = "{ offset = 0, kind = \"port16\" },".repeat(FIELDS + 1);
        let (_, faults) = registry(&format!("[protocol.x]\nports = [9]\nfields = [{field}]"));
        assert!(faults[0].contains("`fields` has 9 fields; the maximum is 8"), "{faults:#?}");
    }
}
