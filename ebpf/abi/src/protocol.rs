//! The protocols. One table has a row for each protocol with its own parser, and everything else follows from that row: its
//! number, the ports that the agent configures, the programs that the loader installs, and the entry points and the
//! dispatcher that `ebpf/programs` compiles.

use crate::{named::named, paths};
use wire::gvcp;

/// Numbers of protocols: keys of counters, relays and program arrays.
pub const PROTOCOLS: u32 = 16;
/// Number of the first protocol that the configuration describes. Lower numbers are for rows of the table, so that a new row
/// does not renumber anything.
pub const DESCRIBED: u32 = PROTOCOLS - DESCRIPTORS;
/// How many protocols the configuration of a node can describe.
pub const DESCRIPTORS: u32 = 8;
/// The place, in the map `FROM_POD`, of the program that the one of `protocol` goes on with.
pub const fn next_place(protocol: Protocol) -> u32 {
    PROTOCOLS + protocol as u32
}

/// The program of `from_pod` for all protocols that are described by configuration.
pub const FROM_POD_DESCRIBED: &str = "from_pod_described";

/// The program of `from_lan` for datagrams to relayed ports.
pub const FROM_LAN_RELAYED: &str = "from_lan_relayed";
/// Its place in the map `FROM_LAN`: the number of no protocol.
pub const RELAYED_PLACE: u32 = Protocol::Other as u32;

/// Passes the table to the macro `$with`.
///
/// A row has: the name of its [`Protocol`] and of its format in `ebpf/programs`; its number; its name in configuration and
/// metrics; its UDP ports, that for searches first, each with flags of [`paths`]; and its programs with the functions of
/// `ebpf/programs` that they run: those that `from_pod` tail-calls one after the other, and the one that `from_lan`
/// tail-calls for a datagram to an external port, if the format alone is not enough.
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

/// What the loader and the agent need to know about a protocol with its own parser.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The protocol.
    pub protocol: Protocol,
    /// Its UDP ports, that for searches first, each with the directions in which datagrams to it travel, from [`paths`].
    pub ports: &'static [(u16, u16)],
    /// The programs that `from_pod` tail-calls, one after the other.
    pub from_pod: &'static [&'static str],
    /// The program that `from_lan` tail-calls for a datagram to an external port; none if the format alone is enough.
    pub from_lan: &'static [&'static str],
}

macro_rules! define {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $ports:expr,
        from_pod: [$($from_pod:ident: $_from_pod:path),*], from_lan: [$($from_lan:ident: $_from_lan:path),*];)*) => {
        named! {
            /// A protocol with its own parser, one that the configuration describes, or [`Protocol::Other`].
            Protocol:
            /// No protocol that is relayed.
            Other (0) = "other",
            $($(#[$doc])* $variant ($number) = $name,)*
            /// The first protocol that the configuration describes.
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

        /// The table: the protocols with their own parser.
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
    /// The protocol with this number.
    pub fn find(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|protocol| *protocol as u16 == number)
    }

    /// Its index among the protocols that the configuration describes, if it is one.
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
    fn a_row_has_no_more_programs_than_there_are_places() {
        for Parsed { from_pod, from_lan, .. } in PARSED {
            assert!((1..=2).contains(&from_pod.len()) && from_lan.len() <= 1);
        }
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
