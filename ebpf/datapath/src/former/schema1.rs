//! The maps of schema 1, which iocast 0.1.0 pinned, as far as they are taken over, and what becomes of their entries. Types that have not
//! changed since are those of `abi`. Written down once and for all: that version's sources are the reference (`ebpf/abi` and
//! `ebpf/programs/src/maps.rs` of the tag v0.1.0).

use std::path::Path;

use abi::{
    Address, AttachmentKey, Circuit, Claim, Described, Domain, Endpoint, FlowKey, Identity, Limit, Member,
    NO_ADDRESS, Protocol, RelayKey, SearcherKey, TCP, Uplink, hold, limited, reset,
};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
};

use crate::{
    Result,
    maps::{all, array, hash, range, typed},
};

/// Number of this schema.
pub(super) const SCHEMA: u32 = 1;
/// Domains on one node.
const DOMAINS: u32 = 16;
/// Number of the first protocol that the configuration describes.
pub(super) const DESCRIBED: u8 = 5;

/// A value of a map: C layout, no padding.
macro_rules! plain {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$fmeta:meta])* $field:ident: $type:ty,)* } of $size:literal bytes;)*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name { $($(#[$fmeta])* pub(super) $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: C layout, no padding (the sizes are those of the fields), every bit pattern is valid.
        unsafe impl Pod for $name {}
    )*};
}

plain! {
    /// A broadcast domain.
    struct OldDomain {
        uplink: u32,
        first_port: u16,
        last_port: u16,
        first_pin: u16,
        last_pin: u16,
        ports_per_pod: u32,
        limits: [Limit; limited::KINDS],
        name: [u8; 64],
    } of 104 bytes;

    /// A member.
    struct OldMember {
        address: Address,
        broadcast: Address,
        netns: i32,
        /// Shorter than it is now, so it is made anew.
        identity: u32,
        mac: [u8; 6],
        domain: u16,
        mtu: u32,
    } of 28 bytes;

    /// An attachment; without the generation that it has now.
    struct OldAttachment {
        member: u32,
        domain: u16,
        slot: u16,
        address: Address,
        network: [u8; 64],
        namespace: [u8; 64],
        pod: [u8; 256],
    } of 396 bytes;

    /// Who holds an external port.
    struct OldClaim {
        pod: Endpoint,
        member: u32,
        domain: u16,
        protocol: u8,
        /// Not 0 if the pod asked for this very port.
        pinned: u8,
        peer: Address,
        trouble: u32,
    } of 24 bytes;

    /// A circuit.
    struct OldCircuit {
        external: Endpoint,
        followed: u32,
    } of 12 bytes;

    /// A LAN socket that searched, or to which a camera streams.
    struct OldSearcher {
        seen: u64,
        protocol: u64,
    } of 16 bytes;
}

/// The maps.
pub(super) struct Maps {
    domains: Array<MapData, OldDomain>,
    members: HashMap<MapData, u32, OldMember>,
    attachments: HashMap<MapData, AttachmentKey, OldAttachment>,
    relays: HashMap<MapData, RelayKey, abi::Relay>,
    externals: HashMap<MapData, Endpoint, OldClaim>,
    internals: HashMap<MapData, Endpoint, Endpoint>,
    ports: Array<MapData, u64>,
    flows: HashMap<MapData, FlowKey, OldCircuit>,
    searchers: HashMap<MapData, SearcherKey, OldSearcher>,
    uplinks: HashMap<MapData, u32, Uplink>,
    descriptors: Array<MapData, Described>,
}

impl Maps {
    /// Opens those pinned in this directory.
    pub(super) fn open(maps: &Path) -> Result<Self> {
        Ok(Self {
            domains: array(maps, "DOMAINS")?,
            members: hash(maps, "MEMBERS")?,
            attachments: hash(maps, "ATTACHMENTS")?,
            relays: hash(maps, "POD_RELAYS")?,
            externals: hash(maps, "EXTERNALS")?,
            internals: hash(maps, "INTERNALS")?,
            ports: array(maps, "EXTERNAL_PORTS")?,
            flows: typed(maps, "FLOWS", Map::LruHashMap)?,
            searchers: typed(maps, "SEARCHERS", Map::LruHashMap)?,
            uplinks: hash(maps, "UPLINKS")?,
            descriptors: array(maps, "DESCRIPTORS")?,
        })
    }

    /// The domains, by number.
    pub(super) fn domains(&self) -> Result<Vec<(u16, OldDomain)>> {
        let domains = (0..).zip(range("DOMAINS", &self.domains, 0, DOMAINS)?);
        Ok(domains.filter(|(_, domain)| domain.name[0] != 0).collect())
    }

    /// The uplinks, by interface index.
    pub(super) fn uplinks(&self) -> Result<Vec<(u32, Uplink)>> {
        all("UPLINKS", &self.uplinks)
    }

    /// What the configuration describes, in the order of the numbers from [`DESCRIBED`] on.
    pub(super) fn described(&self) -> Result<Vec<Described>> {
        range("DESCRIPTORS", &self.descriptors, 0, self.descriptors.len())
    }

    /// The attachments, with their members.
    pub(super) fn attachments(&self) -> Result<Vec<(AttachmentKey, OldAttachment, OldMember)>> {
        let members = all("MEMBERS", &self.members)?;
        let member = |of: &OldAttachment| members.iter().find(|(index, _)| *index == of.member);
        let attachments = all("ATTACHMENTS", &self.attachments)?.into_iter();
        Ok(attachments.filter_map(|(key, of)| member(&of).map(|(_, member)| (key, of, *member))).collect())
    }

    /// Who holds which external port, and whether it is the one by which the pod's port is known.
    pub(super) fn claims(&self) -> Result<Vec<(Endpoint, OldClaim, bool)>> {
        let claims = all("EXTERNALS", &self.externals)?.into_iter();
        let is_known =
            |claim: &OldClaim, by| self.internals.get(&claim.pod, 0).is_ok_and(|found| found == by);
        Ok(claims.map(|(external, claim)| (external, claim, is_known(&claim, external))).collect())
    }

    /// Whether a UDP port of the domain's pods is relayed.
    pub(super) fn is_relayed(&self, domain: u16, port: u16) -> bool {
        self.relays.get(&RelayKey::of_pods(domain, port), 0).is_ok()
    }

    /// Which ports may be external, 64 in a word.
    pub(super) fn ports(&self) -> Result<Vec<u64>> {
        range("EXTERNAL_PORTS", &self.ports, 0, self.ports.len())
    }

    /// The circuits, and those of the past that are still remembered.
    pub(super) fn circuits(&self) -> Result<Vec<(FlowKey, OldCircuit)>> {
        all("FLOWS", &self.flows)
    }

    /// The LAN sockets that cameras in pods stream to.
    pub(super) fn receivers(&self) -> Result<Vec<SearcherKey>> {
        let all = all("SEARCHERS", &self.searchers)?.into_iter();
        let streams = all.filter(|(_, searcher)| searcher.protocol == Protocol::Gvsp as u64);
        Ok(streams.map(|(key, _)| key).collect())
    }
}

impl OldDomain {
    /// As it is now, as far as it is known; the rest comes with the configuration.
    pub(super) fn renewed(&self) -> Domain {
        let Self { uplink, first_port, last_port, first_pin, last_pin, ports_per_pod, limits, name } = *self;
        Domain {
            uplink,
            first_port,
            last_port,
            first_pin,
            last_pin,
            ports_per_pod,
            ports: 0,
            circuits: 0,
            direct: 0,
            limits,
            name,
        }
    }
}

impl OldMember {
    /// As it is now.
    pub(super) fn renewed(&self, domain: u16, generation: u32, identity: Identity) -> Member {
        let Self { address, broadcast, netns, mac, mtu, .. } = *self;
        let lan_address = NO_ADDRESS;
        Member { address, broadcast, lan_address, generation, netns, identity, mac, domain, mtu, prefixes: 0 }
    }
}

impl OldClaim {
    /// As it is now, of a member with the interface index [`OldClaim::member`], with the present number of its protocol.
    pub(super) fn renewed(&self, member: &Member, protocol: u8, is_relayed: bool) -> Claim {
        let Self { pod, peer, trouble, .. } = *self;
        let lasts = pod.protocol == u16::from(TCP) || is_relayed && protocol != Protocol::Gvsp as u8;
        let hold = match (self.pinned, lasts) {
            (0, true) => hold::SERVER,
            (0, false) => hold::CLIENT,
            _ => hold::PINNED,
        };
        Claim {
            identity: member.identity,
            pod,
            member: self.member,
            generation: member.generation,
            vacant: 0,
            peer,
            trouble,
            domain: member.domain,
            protocol,
            hold,
        }
    }
}

impl OldCircuit {
    /// As it is now, of who holds its external port, and last seen at `seen`; without its place.
    pub(super) fn renewed(&self, claim: &Claim, seen: u32) -> Circuit {
        Circuit {
            external: self.external,
            member: claim.member,
            generation: claim.generation,
            first: 0, // not known
            seen,
            place: 0,
            domain: claim.domain,
            client_finished: 0,
            pod_finished: 0,
            reset: reset::NOBODY,
            followed: u16::from(self.followed != 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::UDP;

    use super::*;

    #[test]
    fn how_a_port_is_held_depends_on_what_it_was_taken_for() {
        let member = OldMember {
            address: [10, 244, 1, 2],
            broadcast: [10, 244, 1, 255],
            netns: 3,
            identity: 0,
            mac: [2; 6],
            domain: 0,
            mtu: 1500,
        };
        let member = member.renewed(5, 77, [1, 2]);
        assert_eq!((member.domain, member.generation, member.mtu), (5, 77, 1500));
        let (ca, gvsp) = (Protocol::Ca as u8, Protocol::Gvsp as u8);
        for (protocol, transport, pinned, is_relayed, expected) in [
            (ca, TCP, 0, false, hold::SERVER),
            (ca, UDP, 0, true, hold::SERVER),
            (ca, UDP, 0, false, hold::CLIENT),
            (gvsp, UDP, 0, true, hold::CLIENT),
            (ca, TCP, 1, false, hold::PINNED),
            (ca, UDP, 1, true, hold::PINNED),
        ] {
            let pod = Endpoint { address: member.address, port: 5064, protocol: transport.into() };
            let peer = [172, 23, 0, 3];
            let claim = OldClaim { pod, member: 9, domain: 0, protocol, pinned, peer, trouble: 2 };
            let claim = claim.renewed(&member, protocol, is_relayed);
            assert_eq!(claim.hold, expected, "{protocol} {transport} {pinned} {is_relayed}");
            assert_eq!((claim.member, claim.generation, claim.domain), (9, 77, 5));
            assert_eq!((claim.peer, claim.trouble, claim.vacant), (peer, 2, 0));
        }
    }
}
