//! Pinned ports: a pod chooses the external ports for its own ports.
//!
//! `tcp/5064=15064, udp/5064=15064`: the node's TCP port 15064 is the pod's 5064, from ADD to DEL, whether or not the pod
//! uses it. A port that is taken, or that the domain may not assign, is refused.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, UdpSocket},
};

use abi::{Domain, Endpoint, Protocol, TCP, UDP, Uplink};
use datapath::{State, member::Port};

use crate::{annotation::PORTS, error::Error};

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
pub fn parse(text: &str) -> Result<Vec<Pin>, Error> {
    let fault = |what: String| Error::Refused(format!("annotation {PORTS}: {what}"));
    let mut pins = vec![];
    let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let pin = parse_one(entry).ok_or_else(|| {
            fault(format!("`{entry}` is not a port mapping; write tcp/5064=15064 or udp/5064=15064"))
        })?;
        if !inside.insert((pin.protocol, pin.pod)) || !outside.insert((pin.protocol, pin.external)) {
            return Err(fault(format!("`{entry}` uses a port twice")));
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

/// The ports that a member of `domain` gets for its pins; an error if it may not have all of them.
pub(crate) fn check(state: &State, domain: u16, pins: &[Pin]) -> Result<Vec<Port>, Error> {
    if pins.is_empty() {
        return Ok(vec![]);
    }
    let place = Place::find(state, domain)?;
    pins.iter().map(|pin| place.check(state, pin)).collect()
}

/// Where ports are pinned: a domain, and its uplink.
struct Place {
    number: u16,
    domain: Domain,
    uplink: Uplink,
}

impl Place {
    fn find(state: &State, number: u16) -> Result<Self, Error> {
        let domains = state.domains()?;
        let domain = domains.into_iter().find(|(found, _)| *found == number).map(|(_, domain)| domain);
        let absent =
            || Error::NoUplink(domain.map(|domain| abi::text(&domain.name).into()).unwrap_or_default());
        let domain = domain.ok_or_else(absent)?;
        let uplinks = state.uplinks()?;
        let uplink = uplinks.into_iter().find(|(index, _)| *index == domain.uplink).ok_or_else(absent)?.1;
        Ok(Self { number, domain, uplink })
    }

    /// The port, if the domain may assign it and no process on the node uses it.
    fn check(&self, state: &State, pin: &Pin) -> Result<Port, Error> {
        let Domain { first_port, last_port, first_pin, last_pin, .. } = &self.domain;
        let port = pin.external;
        if !(first_port..=last_port).contains(&&port) && !(first_pin..=last_pin).contains(&&port) {
            let ranges = format!("{first_pin}-{last_pin} and {first_port}-{last_port}");
            return Err(self.refuse(port, &format!("pods may request {ranges}")));
        }
        if pin.protocol == UDP && state.lan_relay(self.domain.uplink, port)?.is_some() {
            return Err(self.refuse(port, "UDP searches to this port go to all pods"));
        }
        if is_used_by_the_node(self.uplink.address.into(), pin) {
            return Err(self.refuse(port, "a process on the node listens there"));
        }
        let external = Endpoint { address: self.uplink.address, port, protocol: u16::from(pin.protocol) };
        Ok(Port { external, pod: pin.pod, protocol: self.protocol(state, pin)? })
    }

    /// The protocol of datagrams to a pin.
    fn protocol(&self, state: &State, pin: &Pin) -> Result<Protocol, Error> {
        if pin.protocol == TCP {
            return Ok(Protocol::Other);
        }
        let relay = state.pod_relay(self.number, pin.pod)?;
        let protocol = relay.and_then(|relay| Protocol::find(relay.protocol));
        let why = || format!("the domain does not relay UDP port {} of pods", pin.pod);
        protocol.ok_or_else(|| self.refuse(pin.external, &why()))
    }

    fn refuse(&self, port: u16, why: &str) -> Error {
        let name = abi::text(&self.domain.name);
        Error::Refused(format!("annotation {PORTS}, external port {port} of domain `{name}`: {why}"))
    }
}

/// Whether a process on the node uses the port: then it cannot be bound.
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
