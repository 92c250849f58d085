//! The protocols. Each that has a parser of its own is one row of one table, and everything else follows from that row: its
//! number, the ports that the agent configures, the programs that the loader places, and the entry points and the dispatcher
//! that `ebpf/programs` compiles.

use crate::{named::named, paths};
use wire::gvcp;

/// Numbers of protocols: keys of counters, relays and program arrays.
pub const PROTOCOLS: u32 = 16;
/// Number of the first protocol that is described by configuration. The numbers below are for rows of the table, so that a
/// new row changes no number.
pub const DESCRIBED: u32 = PROTOCOLS - DESCRIPTORS;
/// How many can be described on a node.
pub const DESCRIPTORS: u32 = 8;
/// The program of `from_pod` for all protocols that are described by configuration.
pub const FROM_POD_DESCRIBED: &str = "from_pod_described";

/// Passes the table to the macro `$with`.
///
/// A row says: the name of its [`Protocol`] and of its format in `ebpf/programs`; its number; its name in configuration and
/// metrics; its UDP ports, each with flags of [`paths`]; and its programs with the functions of `ebpf/programs` that they
/// run: those that `from_pod` goes on with, one after the other, and the one that `from_lan` goes on with for a datagram to
/// an external port, if that takes more than its format.
#[macro_export]
macro_rules! protocols {
    ($with:ident) => {
        $with! {
            /// Channel Access.
            Ca = 1, "ca", [(5064, paths::SEARCH), (5065, paths::ANNOUNCE)],
                from_pod: [from_pod_ca: from_pod::process::<format::Ca>], from_lan: [];
            /// PV Access.
            Pva = 2, "pva", [(5076, paths::SEARCH)],
                from_pod: [from_pod_pva: from_pod::process::<format::Pva>], from_lan: [];
            /// GigE Vision's control protocol.
            Gvcp = 3, "gvcp", [(gvcp::PORT, paths::SEARCH | paths::CAMERAS)],
                from_pod: [from_pod_gvcp: camera::from_pod, from_pod_gvcp_send: from_pod::process::<format::Gvcp>],
                from_lan: [from_lan_gvcp: camera::at_external_port];
            /// GigE Vision's streams.
            Gvsp = 4, "gvsp", [],
                from_pod: [from_pod_gvsp: camera::send_stream], from_lan: [from_lan_gvsp: camera::receive_stream];
        }
    };
}

/// What the loader and the agent need to know of a protocol with a parser of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The protocol.
    pub protocol: Protocol,
    /// Its UDP ports, each with the directions in which datagrams to it travel, from [`paths`].
    pub ports: &'static [(u16, u16)],
    /// The programs that `from_pod` goes on with, one after the other.
    pub from_pod: &'static [&'static str],
    /// The program that `from_lan` goes on with for a datagram to an external port; none if its format is all it takes.
    pub from_lan: &'static [&'static str],
}

macro_rules! define {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $ports:expr,
        from_pod: [$($from_pod:ident: $_from_pod:path),*], from_lan: [$($from_lan:ident: $_from_lan:path),*];)*) => {
        named! {
            /// A protocol with a parser of its own, one that is described by configuration, or [`Protocol::Other`].
            Protocol:
            /// None of ours.
            Other (0) = "other",
            $($(#[$doc])* $variant ($number) = $name,)*
            /// The first of the protocols that are described by configuration.
            Described1 (8) = "described1",
            /// The second.
            Described2 (9) = "described2",
            /// The third.
            Described3 (10) = "described3",
            /// The fourth.
            Described4 (11) = "described4",
            /// The fifth.
            Described5 (12) = "described5",
            /// The sixth.
            Described6 (13) = "described6",
            /// The seventh.
            Described7 (14) = "described7",
            /// The eighth.
            Described8 (15) = "described8",
        }

        /// The table: the protocols with a parser of their own.
        pub const PARSED: &[Parsed] = &[$(Parsed {
            protocol: Protocol::$variant,
            ports: &$ports,
            from_pod: &[$(stringify!($from_pod)),*],
            from_lan: &[$(stringify!($from_lan)),*],
        }),*];
    };
}
protocols!(define);

impl Protocol {
    /// The protocol of this number.
    pub fn find(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|protocol| *protocol as u16 == number)
    }

    /// Its place among the protocols that are described by configuration, if it is one.
    pub const fn described(self) -> Option<u32> {
        (self as u32).checked_sub(DESCRIBED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_rows_and_of_described_protocols_do_not_meet() {
        assert!(PARSED.iter().all(|row| row.protocol.described().is_none()));
        let described = Protocol::ALL.iter().filter_map(|protocol| protocol.described());
        assert_eq!(described.collect::<Vec<_>>(), (0..DESCRIPTORS).collect::<Vec<_>>());
    }

    #[test]
    fn a_port_stands_in_one_row() {
        let mut ports: Vec<_> = PARSED.iter().flat_map(|row| row.ports).map(|(port, _)| *port).collect();
        let all = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), all);
    }

    #[test]
    fn every_number_is_found_again() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::find(*protocol as u16), Some(*protocol));
        }
        assert_eq!(Protocol::find(PROTOCOLS as u16), None);
    }
}
