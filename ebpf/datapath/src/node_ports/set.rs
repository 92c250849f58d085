//! Sets and maps of nf_tables, and whether a packet's bytes are in one.

use super::{packet::Byte, verdict::Verdict};
use crate::nftables::{Attributes, Message};

/// `NFT_SET_INTERVAL`, `NFT_SET_CONCAT`.
const INTERVAL: u32 = 0x4;
const CONCAT: u32 = 0x80;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;

/// A set's elements.
#[derive(Debug)]
pub(super) struct Set {
    /// Whether elements are where intervals begin and end, in ascending order.
    is_interval: bool,
    elements: Vec<Element>,
    /// The element without a key: it matches what no other one does.
    rest: Option<Element>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Element {
    /// Nothing in the element for the rest.
    key: Vec<u8>,
    /// Whether an interval begins here, otherwise one ends.
    begins: bool,
    /// The last key of a range, word by word.
    last: Option<Vec<u8>>,
    /// The chain to which it leads, in a map of verdicts.
    chain: Option<String>,
}

impl Set {
    pub(super) fn new(flags: u32, answers: &[Message]) -> Self {
        let lists = answers.iter().filter_map(|answer| answer.attributes().get(3)); // NFTA_SET_ELEM_LIST_ELEMENTS
        let all = lists.flatten().map(|(_, element)| Element::parse(element));
        let (mut elements, rest): (Vec<_>, Vec<_>) = all.partition(|element| !element.key.is_empty());
        let is_interval = flags & (INTERVAL | CONCAT) == INTERVAL;
        if is_interval {
            elements.sort_unstable(); // the end of one interval before the beginning of the next
        }
        Self { is_interval, elements, rest: rest.into_iter().next() }
    }

    /// Whether it has what the registers hold, and the chains to which that may lead.
    pub(super) fn look_up(&self, registers: &[Byte]) -> (Verdict, Vec<&str>) {
        let mut found = if self.is_interval { self.around(registers) } else { self.equal(registers) };
        if !found.iter().any(|(_, verdict)| verdict.is_certain()) {
            found.extend(self.rest.as_ref().map(|rest| (rest, Verdict::MATCHES)));
        }
        let verdict = found.iter().fold(Verdict::DIFFERS, |any, (_, verdict)| Verdict {
            holds: if any.is_certain() || verdict.is_certain() { Some(true) } else { None },
            names_port: any.names_port || verdict.names_port,
        });
        (verdict, found.iter().filter_map(|(element, _)| element.chain.as_deref()).collect())
    }

    /// The interval that the registers are in.
    fn around(&self, registers: &[Byte]) -> Vec<(&Element, Verdict)> {
        let length = self.elements.first().map_or(0, |element| element.key.len());
        let registers = &registers[..length.min(registers.len())];
        let Some(value) = values(registers) else {
            return self.elements.iter().map(|element| (element, Verdict::UNKNOWN)).collect();
        };
        let after = self.elements.partition_point(|element| element.key <= value);
        let found = after.checked_sub(1).map(|at| &self.elements[at]).filter(|element| element.begins);
        found.map(|element| (element, named(registers, Some(true)))).into_iter().collect()
    }

    fn equal(&self, registers: &[Byte]) -> Vec<(&Element, Verdict)> {
        let judged = self.elements.iter().map(|element| (element, element.judge(registers)));
        judged.filter(|(_, verdict)| !verdict.fails()).collect()
    }
}

impl Element {
    fn parse(element: Attributes<'_>) -> Self {
        // NFTA_SET_ELEM_KEY, _KEY_END, _FLAGS, _DATA; NFTA_DATA_VALUE, _VERDICT; NFTA_VERDICT_CHAIN
        let key = |kind| element.at(&[kind, 1]).map(|value| value.0.to_vec());
        Self {
            key: key(1).unwrap_or_default(),
            begins: element.number(3).unwrap_or(0) & INTERVAL_END == 0,
            last: key(10),
            chain: element.at(&[2, 2]).and_then(|verdict| verdict.text(2)).map(str::to_owned),
        }
    }

    fn judge(&self, registers: &[Byte]) -> Verdict {
        let first = &self.key;
        let registers = &registers[..first.len().min(registers.len())];
        let last = self.last.as_ref().unwrap_or(first);
        // Each field of a concatenation has registers of its own, of four bytes each.
        let words = registers.chunks(4).zip(first.chunks(4).zip(last.chunks(4)));
        let fits = words.map(|(word, (first, last))| Verdict {
            holds: values(word).map_or_else(
                || could_be(word, first, last),
                |value| Some((first..=last).contains(&&value[..])),
            ),
            names_port: false,
        });
        let holds = fits.fold(Verdict::MATCHES, Verdict::and).holds;
        named(registers, holds)
    }
}

/// Whether a word of which some bytes are unknown can be that one; it may be, if there is a range.
fn could_be(word: &[Byte], first: &[u8], last: &[u8]) -> Option<bool> {
    let differs =
        word.iter().zip(first).any(|(byte, wanted)| byte.value.is_some_and(|value| value != *wanted));
    (first == last && differs).then_some(false)
}

/// The verdict of a condition on these bytes.
pub(super) fn named(bytes: &[Byte], holds: Option<bool>) -> Verdict {
    if bytes.iter().any(|byte| byte.port) {
        Verdict::names_port(holds)
    } else {
        Verdict { holds, names_port: false }
    }
}

/// The bytes' values, if all are known.
pub(super) fn values(bytes: &[Byte]) -> Option<Vec<u8>> {
    bytes.iter().map(|byte| byte.value).collect()
}
