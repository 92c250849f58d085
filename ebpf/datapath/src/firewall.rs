//! The firewall chains that forwarded packets pass.

use crate::{
    Result,
    nftables::{Kind, Message, dump},
};

/// A chain at the forward hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family and name of its table, such as `ip filter`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether it drops what no rule accepts.
    pub drops: bool,
}

/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// `NF_DROP`.
const DROP: u32 = 0;

/// The IPv4 chains at the forward hook of this network namespace; none if the kernel has no nf_tables.
pub fn forward_chains() -> Result<Vec<Chain>> {
    Ok(dump(Kind::Chains, 0, &[])?.iter().filter_map(parse).collect())
}

/// The chain in an answer, if forwarded IPv4 packets pass it.
fn parse(answer: &Message) -> Option<Chain> {
    let family = match answer.family() {
        1 => "inet",
        2 => "ip",
        _ => return None,
    };
    let attributes = answer.attributes();
    let hook = attributes.get(4)?.number(1)?; // NFTA_CHAIN_HOOK, NFTA_HOOK_HOOKNUM
    (hook == FORWARD).then_some(())?;
    Some(Chain {
        table: format!("{family} {}", attributes.text(1)?), // NFTA_CHAIN_TABLE
        name: attributes.text(3)?.into(),                   // NFTA_CHAIN_NAME
        drops: attributes.number(5) == Some(DROP),          // NFTA_CHAIN_POLICY
    })
}
