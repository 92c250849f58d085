//! What of the node itself receives what comes from the LAN: sockets, and rules that forward. The programs see a packet
//! before all of these, so a port that is given to a pod is taken from them. And which of its rules give what goes to the LAN
//! another source. Nothing is changed here.

mod legacy;
mod packet;
mod rule;
mod set;
mod sockets;
mod tables;
mod verdict;
mod xt;

pub use packet::{Arrival, Departure};
pub use tables::NatChain;

use std::{fmt, net::SocketAddr};

use crate::Result;
use legacy::Legacy;
use packet::Packet;
use sockets::Sockets;
use tables::Tables;

/// What receives the packets to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// A socket, by the address to which it is bound.
    Socket(SocketAddr),
    /// A socket that does not receive, but keeps others from the port.
    Process,
    /// A rule that gives packets another destination.
    Nat(NatChain),
}

impl fmt::Display for Receiver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(formatter, "a process on the node listens there ({address})"),
            Self::Process => write!(formatter, "a process on the node uses it"),
            Self::Nat(chain) => write!(formatter, "a NAT rule of the node ({chain}) already forwards it"),
        }
    }
}

/// The node's sockets and rules, in the calling thread's network namespace. Each is read once, when it matters.
#[derive(Debug, Default)]
pub struct NodePorts {
    sockets: Sockets,
    arriving: Tables,
    leaving: Tables,
    legacy: Option<Legacy>,
}

impl NodePorts {
    /// What receives what arrives, or keeps the port, found by taking the port for a moment: reading all sockets takes
    /// milliseconds.
    pub fn receiver_by_trial(&mut self, arrival: Arrival<'_>) -> Result<Option<Receiver>> {
        if sockets::is_taken(arrival.at) {
            return Ok(self.receiver(arrival)?.or(Some(Receiver::Process)));
        }
        self.rule(arrival)
    }

    /// What receives what arrives, found without touching it; `None` if nothing of the node does.
    pub fn receiver(&mut self, arrival: Arrival<'_>) -> Result<Option<Receiver>> {
        Ok(match self.sockets.at(arrival.at)? {
            Some(address) => Some(Receiver::Socket(address)),
            None => self.rule(arrival)?,
        })
    }

    /// The rule that forwards what arrives.
    fn rule(&mut self, arrival: Arrival<'_>) -> Result<Option<Receiver>> {
        Ok(self.translator(Packet::In(arrival))?.map(Receiver::Nat))
    }

    /// The chain that gives what leaves another source; `None` if none does, as far as is known.
    pub fn masquerade(&mut self, departure: Departure<'_>) -> Result<Option<NatChain>> {
        self.translator(Packet::Out(departure))
    }

    fn translator(&mut self, packet: Packet<'_>) -> Result<Option<NatChain>> {
        let tables = if matches!(packet, Packet::In(_)) { &mut self.arriving } else { &mut self.leaving };
        if let Some(chain) = tables.translates(packet)? {
            return Ok(Some(chain));
        }
        let legacy = match &mut self.legacy {
            Some(known) => known,
            new => new.insert(Legacy::read()?),
        };
        let chain = legacy.translates(packet);
        Ok(chain.map(|chain| NatChain { table: "nat of legacy iptables".into(), chain }))
    }
}
