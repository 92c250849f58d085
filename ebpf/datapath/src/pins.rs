//! Pinned ports: a pod names the external ports that are to stand for its own, in the annotation `iocast.io/ports`.
//!
//! `tcp/5064=15064, udp/5064=15064`: the node's TCP port 15064 is the pod's 5064, from ADD to DEL, whether or not the pod
//! uses it. What is taken, or not the domain's to give, is refused.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, UdpSocket},
};

use crate::{Error, Result, State};
use abi::{Claim, Domain, Endpoint, Member, Protocol, TCP, UDP, Uplink};

/// The annotation by which a pod asks for external ports.
pub const ANNOTATION: &str = "iocast.io/ports";

/// One pinned port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// [`TCP`] or [`UDP`].
    protocol: u8,
    /// The pod's port.
    pod: u16,
    /// The external one.
    external: u16,
}

/// The pins in an annotation.
pub fn parse(text: &str) -> Result<Vec<Pin>> {
    let fault = |what: String| Error::Refused(format!("annotation {ANNOTATION} {what}"));
    let mut pins = vec![];
    let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let pin = parse_one(entry).ok_or_else(|| {
            fault(format!("has `{entry}`: expected such as tcp/5064=15064, or udp/5064=15064"))
        })?;
        if !inside.insert((pin.protocol, pin.pod)) || !outside.insert((pin.protocol, pin.external)) {
            return Err(fault(format!("has `{entry}`, a port of which it names twice")));
        }
        pins.push(pin);
    }
    Ok(pins)
}

fn parse_one(entry: &str) -> Option<Pin> {
    let (protocol, ports) = entry.split_once('/')?;
    let protocol = match protocol {
        "tcp" => TCP,
        "udp" => UDP,
        _ => return None,
    };
    let (pod, external) = ports.split_once('=')?;
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
    Some(Pin { protocol, pod: port(pod)?, external: port(external)? })
}

/// Gives the member its pins. The caller holds the lock, has joined the member, and takes them back if one is refused.
pub(crate) fn pin(state: &mut State, pins: &[Pin], interface: u32, member: &Member) -> Result<()> {
    if pins.is_empty() {
        return Ok(());
    }
    let place = Place::find(state, member.domain)?;
    for pin in pins {
        let protocol = place.check(state, pin)?;
        let of = |address, port| Endpoint { address, port, protocol: u16::from(pin.protocol) };
        let claim = Claim {
            pod: of(member.address, pin.pod),
            member: interface,
            generation: member.generation,
            domain: member.domain,
            protocol: protocol as u8,
            pinned: 1,
            peer: [0; 4],
            trouble: 0,
        };
        state.pin(of(place.uplink.address, pin.external), claim)?;
    }
    Ok(())
}

/// Where ports are pinned: a domain, and its uplink.
struct Place {
    number: u16,
    domain: Domain,
    uplink: Uplink,
}

impl Place {
    fn find(state: &State, number: u16) -> Result<Self> {
        let domains = state.domains()?;
        let domain = domains.into_iter().find(|(found, _)| *found == number).map(|(_, domain)| domain);
        let absent =
            || Error::NoUplink(domain.map(|domain| abi::text(&domain.name).into()).unwrap_or_default());
        let domain = domain.ok_or_else(absent)?;
        let uplinks = state.uplinks()?;
        let uplink = uplinks.into_iter().find(|(index, _)| *index == domain.uplink).ok_or_else(absent)?.1;
        Ok(Self { number, domain, uplink })
    }

    /// Whether the port is free, and the domain's to give; the protocol of what comes there.
    fn check(&self, state: &State, pin: &Pin) -> Result<Protocol> {
        let Domain { first_port, last_port, first_pin, last_pin, name, uplink, .. } = &self.domain;
        let port = pin.external;
        let refuse = |why: String| {
            let name = abi::text(name);
            Error::Refused(format!("annotation {ANNOTATION}, external port {port} of domain `{name}`: {why}"))
        };
        if !(first_port..=last_port).contains(&&port) && !(first_pin..=last_pin).contains(&&port) {
            return Err(refuse(format!(
                "pods may ask for {first_pin}-{last_pin} and {first_port}-{last_port}"
            )));
        }
        if pin.protocol == UDP && state.lan_relay(*uplink, port)?.is_some() {
            return Err(refuse("UDP there is a search of all pods".into()));
        }
        if is_used_by_the_node(self.uplink.address.into(), pin) {
            return Err(refuse("a process of the node listens there".into()));
        }
        if pin.protocol == TCP {
            return Ok(Protocol::Other);
        }
        let relay = state.pod_relay(self.number, pin.pod)?;
        let protocol = relay.and_then(|relay| Protocol::find(relay.protocol));
        protocol.ok_or_else(|| refuse(format!("UDP port {} of pods is not relayed in this domain", pin.pod)))
    }
}

/// Whether a process of the node has the port: then it cannot be bound.
fn is_used_by_the_node(address: Ipv4Addr, pin: &Pin) -> bool {
    let at = (address, pin.external);
    let bound =
        if pin.protocol == TCP { TcpListener::bind(at).map(drop) } else { UdpSocket::bind(at).map(drop) };
    bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_a_list_of_protocol_and_two_ports() {
        let expected = vec![
            Pin { protocol: TCP, pod: 5064, external: 15064 },
            Pin { protocol: UDP, pod: 5064, external: 15064 },
        ];
        assert_eq!(parse("tcp/5064=15064, udp/5064=15064").unwrap(), expected);
        assert_eq!(parse(" ").unwrap(), []);
    }

    #[test]
    fn what_is_no_pin_is_named() {
        for wrong in ["5064", "tcp/5064", "tcp/5064=", "tcp/0=5064", "sctp/1=2", "tcp/1=70000", "tcp/-1=2"] {
            let error = parse(&format!("tcp/1=5001,{wrong}")).unwrap_err();
            assert!(error.to_string().contains(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    fn a_port_is_pinned_once() {
        for twice in ["tcp/1=5001,tcp/1=5002", "tcp/1=5001,tcp/2=5001"] {
            assert!(parse(twice).unwrap_err().to_string().contains("twice"), "{twice}");
        }
        assert!(parse("tcp/1=5001,udp/1=5001").is_ok());
    }
}
