//! ICMP errors about translated packets: path MTU discovery, unreachable ports and hosts, TTLs that ended.
//!
//! An error quotes the packet that it is about, as it was where the error arose. One from the LAN quotes the external side, and
//! gets the pod's; one to the LAN quotes the pod's, and gets the external side: so the socket that caused it hears it. Only
//! errors about what is known are translated; all others, forged ones among them, are left to the node's stack.

use abi::{Claim, Endpoint, FlowKey, RelayKey, TCP, UDP, Uplink, Verdict, lan};

use crate::{
    circuits, copies,
    count::count_other,
    limit,
    maps::{EXTERNALS, LAN_RELAYS, SENDERS, UPLINKS, lookup},
    peers, ports,
    quote::IcmpError,
    skb::{DROP, NEXT, Skb},
};

/// `from_lan` for what is neither TCP nor UDP. An error goes straight to the pod: conntrack never saw answers, calls errors
/// about them invalid, and the chains of Kubernetes drop what is.
#[inline(always)]
pub fn arrive(skb: Skb) -> i32 {
    let interface = skb.interface();
    let Some(mut error) = IcmpError::parse(skb) else { return NEXT };
    let Some(uplink) = lookup(&UPLINKS, interface) else { return NEXT };
    if error.destination != uplink.address || error.from.address != uplink.address {
        return NEXT;
    }
    let about = about_external(&error, interface).or_else(|| about_answer(&error, interface));
    let Some(About { domain, member, pod, peer }) = about else { return NEXT };
    if !limit::admits_error(domain, member) {
        count_other(domain, Verdict::Limited);
        return NEXT;
    }
    error.set_destination(pod.address);
    error.set_from(pod);
    error.set_to(peer);
    count_other(domain, Verdict::TranslatedIn);
    skb.redirect_to_peer(member)
}

/// The packet of a pod that an error is about.
struct About {
    domain: u16,
    /// The member, by the interface index of its host-side veth.
    member: u32,
    /// Its source, as the pod sent it.
    pod: Endpoint,
    /// Its destination.
    peer: Endpoint,
}

/// One that left from an external port.
#[inline(always)]
fn about_external(error: &IcmpError, interface: u32) -> Option<About> {
    let claim = lookup(&EXTERNALS, error.from).filter(ports::is_current)?;
    let peer = peer(error, &claim, interface)?;
    Some(About { domain: claim.domain, member: claim.member, pod: claim.pod, peer })
}

/// An answer that left from the port that was asked, which all pods have in common: the last one.
#[inline(always)]
fn about_answer(error: &IcmpError, interface: u32) -> Option<About> {
    let Endpoint { port, protocol, .. } = error.from;
    let relay = lookup(&LAN_RELAYS, RelayKey::on_lan(interface, port))?;
    let (member, pod) = peers::answerer(error.to, relay.domain, port).filter(|_| protocol == UDP as u16)?;
    Some(About { domain: relay.domain, member, pod, peer: error.to })
}

/// Whom the pod's packet was for, as the pod knows it; `None` if it sent none there.
#[inline(always)]
fn peer(error: &IcmpError, claim: &Claim, interface: u32) -> Option<Endpoint> {
    let to = error.to;
    if to.protocol == TCP as u16 {
        let key = FlowKey::between(&to, &claim.pod);
        return circuits::is_known(&key, &error.from, claim.generation).then_some(to);
    }
    if peers::searcher(to.address, to.port, claim.domain, claim.member).is_some() {
        return Some(to);
    }
    // A search for a server on the LAN, where it may have another port than in pods.
    let key = RelayKey::on_lan(interface, to.port);
    let relay = lookup(&LAN_RELAYS, key).filter(|relay| relay.domain == claim.domain)?;
    let on_lan = peers::on_lan(to.address, claim.domain) & lan::HOSTS != 0;
    on_lan.then_some(Endpoint { port: relay.port, ..to })
}

/// `to_lan` for what is neither TCP nor UDP: errors of a pod, or of the node, about what came through an external port.
#[inline(always)]
pub fn depart(skb: Skb) -> i32 {
    let Some(mut error) = IcmpError::parse(skb) else { return NEXT };
    let Some(uplink) = lookup(&UPLINKS, skb.interface()) else { return NEXT };
    if refuses_search(&error, &uplink, skb.interface()) {
        return DROP;
    }
    if let Some((external, domain)) = external(&error) {
        error.set_source(uplink.address);
        error.set_to(external);
        count_other(domain, Verdict::TranslatedOut);
    }
    NEXT
}

/// Whether the node, where no socket took a search or a firewall did not let it in, would tell a client that nobody is there:
/// the search went to the pods.
#[inline(always)]
fn refuses_search(error: &IcmpError, uplink: &Uplink, interface: u32) -> bool {
    let (from, to) = (error.from, error.to);
    let key = RelayKey::on_lan(interface, to.port);
    to.protocol == UDP as u16
        && to.address == uplink.address
        && lookup(&LAN_RELAYS, key).is_some_and(|relay| {
            copies::members(relay.domain) > 0
                && peers::searched(from.address, from.port, relay.domain).is_some()
        })
}

/// The external endpoint that the packet was for, and its domain.
#[inline(always)]
fn external(error: &IcmpError) -> Option<(Endpoint, u16)> {
    let key = FlowKey::between(&error.from, &error.to);
    if error.to.protocol == TCP as u16 {
        return circuits::external(&key);
    }
    let external = lookup(&SENDERS, key)?;
    let claim = lookup(&EXTERNALS, external).filter(|claim| claim.pod == error.to)?;
    Some((external, claim.domain))
}
