//! The node's rules that give packets from the LAN another destination, or packets to the LAN another source: NAT in nf_tables,
//! as hostPorts, NodePorts, masquerading and admins have it. Chains and sets are read when a packet gets there, once each.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use super::{
    packet::Packet,
    rule::{Sets, evaluate},
    set::Set,
    verdict::Step,
};
use crate::{
    Result,
    nftables::{Kind, Message, dump},
};

/// `NF_INET_PRE_ROUTING`, `NF_INET_POST_ROUTING`.
const PREROUTING: u32 = 0;
const POSTROUTING: u32 = 4;

/// A chain of a table that has NAT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatChain {
    /// Family and name of its table, such as `ip nat`, or which other table it is.
    pub table: String,
    /// Its name.
    pub chain: String,
}

impl fmt::Display for NatChain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "table {}, chain {}", self.table, self.chain)
    }
}

/// The tables with chains of type nat at the hook of packets that arrive, or that leave, once they have been asked for.
#[derive(Debug, Default)]
pub(super) struct Tables(Option<Vec<Table>>);

/// A table, as far as it has been read.
#[derive(Debug)]
struct Table {
    family: u8,
    name: String,
    /// Its chains at the hook.
    bases: Vec<String>,
    rules: BTreeMap<String, Vec<Message>>,
    sets: Cache,
}

impl Tables {
    fn read(hook: u32) -> Result<Vec<Table>> {
        let mut tables: Vec<Table> = vec![];
        for chain in dump(Kind::Chains, 0, &[])? {
            let Some((name, base)) = nat_chain(&chain, hook) else { continue };
            let known = |table: &&mut Table| table.family == chain.family() && table.name == name;
            match tables.iter_mut().find(known) {
                Some(table) => table.bases.push(base),
                None => tables.push(Table::new(chain.family(), name, base)),
            }
        }
        Ok(tables)
    }

    /// The chain that translates a packet. All that are asked for have the same direction.
    pub(super) fn translates(&mut self, packet: Packet<'_>) -> Result<Option<NatChain>> {
        let hook = if matches!(packet, Packet::In(_)) { PREROUTING } else { POSTROUTING };
        let tables = match &mut self.0 {
            Some(known) => known,
            new => new.insert(Self::read(hook)?),
        };
        for table in tables {
            if let Some(chain) = table.translates(packet)? {
                let family = if table.family == 1 { "inet" } else { "ip" };
                return Ok(Some(NatChain { table: format!("{family} {}", table.name), chain }));
            }
        }
        Ok(None)
    }
}

/// The table and the name of a chain through which all IPv4 packets go at a hook, to be translated.
fn nat_chain(answer: &Message, hook: u32) -> Option<(String, String)> {
    let attributes = answer.attributes();
    let is_ours = matches!(answer.family(), 1 | 2) // NFPROTO_INET, NFPROTO_IPV4
        && attributes.text(7) == Some("nat") // NFTA_CHAIN_TYPE
        && attributes.get(4)?.number(1) == Some(hook); // NFTA_CHAIN_HOOK, NFTA_HOOK_HOOKNUM
    is_ours.then_some(())?;
    Some((attributes.text(1)?.into(), attributes.text(3)?.into())) // NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME
}

impl Table {
    fn new(family: u8, name: String, base: String) -> Self {
        let sets = Cache { family, table: name.clone(), flags: None, sets: BTreeMap::new() };
        Self { family, name, bases: vec![base], rules: BTreeMap::new(), sets }
    }

    /// The chain that translates a packet, of all those in which it may get.
    fn translates(&mut self, packet: Packet<'_>) -> Result<Option<String>> {
        let mut visited = self.bases.clone();
        let mut next = 0;
        while let Some(chain) = visited.get(next).cloned() {
            next += 1;
            let rules = match self.rules.entry(chain.clone()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    new.insert(dump(Kind::Rules, self.family, &[(1, &self.name), (2, &chain)])?)
                }
            };
            for rule in rules.iter() {
                match evaluate(rule.attributes(), packet, &mut self.sets)? {
                    Step::Next => {}
                    Step::Forwards => return Ok(Some(chain)),
                    Step::Ends => break,
                    Step::Chains(chains) => {
                        visited.extend(
                            chains.into_iter().filter(|chain| !visited.contains(chain)).collect::<Vec<_>>(),
                        );
                    }
                }
            }
        }
        Ok(None)
    }
}

/// A table's sets.
#[derive(Debug)]
struct Cache {
    family: u8,
    table: String,
    /// The flags of all.
    flags: Option<BTreeMap<String, u32>>,
    sets: BTreeMap<String, Set>,
}

impl Cache {
    fn flags(&mut self, name: &str) -> Result<u32> {
        if self.flags.is_none() {
            let answers = dump(Kind::Set, self.family, &[(1, &self.table)])?;
            let flags = answers.iter().map(Message::attributes);
            let flags = flags.filter_map(|set| Some((set.text(2)?.into(), set.number(3)?))); // NFTA_SET_NAME, _FLAGS
            self.flags = Some(flags.collect());
        }
        Ok(self.flags.as_ref().and_then(|flags| flags.get(name)).copied().unwrap_or(0))
    }
}

impl Sets for Cache {
    fn set(&mut self, name: &str) -> Result<&Set> {
        if !self.sets.contains_key(name) {
            let flags = self.flags(name)?;
            let elements = dump(Kind::Elements, self.family, &[(1, &self.table), (2, name)])?;
            self.sets.insert(name.into(), Set::new(flags, &elements));
        }
        Ok(&self.sets[name])
    }
}
