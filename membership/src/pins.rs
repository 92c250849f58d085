//! Pinned ports: a pod chooses the external ports for its own ports.
//!
//! `tcp/5064=15064, udp/5064=15064`: the node's TCP port 15064 is the pod's 5064, from ADD to DEL, whether or not the pod
//! uses it. A port that is taken, that the node uses itself, or that the domain may not assign, is refused. What the node
//! begins to use later is found by [`conflicts`].

use std::collections::BTreeSet;

use abi::{Domain, Endpoint, Protocol, TCP, UDP, Uplink, hold};
use datapath::{
    External, State, link,
    member::Port,
    node_ports::{Arrival, NodePorts},
};

use crate::{annotation::PORTS, error::Error};

/// The longest annotation, bytes: room for [`PER_POD`] pins with spaces.
const LONGEST: usize = 1024;
/// How many ports a pod may pin.
const PER_POD: usize = 32;

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
    if text.len() > LONGEST {
        return Err(fault(format!("it has {} bytes; at most {LONGEST} are read", text.len())));
    }
    let mut pins = vec![];
    let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let pin = parse_one(entry).ok_or_else(|| {
            fault(format!("`{entry}` is not a port mapping; write tcp/5064=65064 or udp/5064=65064"))
        })?;
        if !inside.insert((pin.protocol, pin.pod)) || !outside.insert((pin.protocol, pin.external)) {
            return Err(fault(format!("`{entry}` uses a port twice")));
        }
        pins.push(pin);
    }
    if pins.len() > PER_POD {
        return Err(fault(format!("it pins {} ports; a pod may pin {PER_POD}", pins.len())));
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
    pins.iter().map(|pin| place.port(state, pin)).collect()
}

/// Checks that the node itself uses none of the ports that a member of `domain` would get.
pub(crate) fn check_node(state: &State, domain: u16, pins: &[Pin]) -> Result<(), Error> {
    if pins.is_empty() {
        return Ok(());
    }
    let place = Place::find(state, domain)?;
    let ports = pins.iter().map(|pin| place.port(state, pin)).collect::<Result<Vec<_>, _>>()?;
    let mut node = NodePorts::default();
    for port in &ports {
        if let Some(receiver) = node.receiver_by_trial(place.arrival(port.external))? {
            return Err(place.refuse(port.external.port, &receiver.to_string()));
        }
    }
    Ok(())
}

/// A pinned port that the node has come to use itself: who connects to it reaches the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The pin.
    pub external: External,
    /// What else receives what goes there.
    pub receiver: String,
}

/// The pins that the node uses as well. Costs next to nothing if no port is pinned.
pub fn conflicts(state: &State) -> Result<Vec<Conflict>, Error> {
    let mut pins = state.externals()?;
    pins.retain(|external| external.claim.hold == hold::PINNED);
    if pins.is_empty() {
        return Ok(vec![]);
    }
    let mut node = NodePorts::default();
    let mut found = vec![];
    for external in pins {
        if !state.is_current(&external.claim)? {
            continue; // kept for a pod that was deleted, it leads nowhere
        }
        let Ok(place) = Place::find(state, external.claim.domain) else { continue }; // without an uplink it leads nowhere
        let receiver = node.receiver(place.arrival(external.external))?;
        found.extend(receiver.map(|receiver| Conflict { external, receiver: receiver.to_string() }));
    }
    Ok(found)
}

/// Where ports are pinned: a domain, and its uplink.
struct Place {
    number: u16,
    domain: Domain,
    uplink: Uplink,
    /// The name of the uplink's interface.
    interface: String,
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
        let interface = link::by_index(domain.uplink)?.ok_or_else(absent)?.name;
        Ok(Self { number, domain, uplink, interface })
    }

    fn arrival(&self, at: Endpoint) -> Arrival<'_> {
        Arrival { index: self.domain.uplink, uplink: &self.interface, at }
    }

    /// The port, if the domain may assign it.
    fn port(&self, state: &State, pin: &Pin) -> Result<Port, Error> {
        let port = pin.external;
        let Domain { first_pin, last_pin, .. } = self.domain;
        if !(first_pin..=last_pin).contains(&port) {
            let allowed =
                if first_pin > last_pin { "none".into() } else { format!("{first_pin}-{last_pin}") };
            let why = format!("pods may pin {allowed}; an admin can allow others by `pins`");
            return Err(self.refuse(port, &why));
        }
        if pin.protocol == UDP && state.lan_relay(self.domain.uplink, port)?.is_some() {
            return Err(self.refuse(port, "UDP searches to this port go to all pods"));
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
    fn an_annotation_has_an_end() {
        let pins =
            |count: u16| (1..=count).map(|port| format!("udp/{port}={}, ", 60000 + port)).collect::<String>();
        assert_eq!(parse(&pins(32)).unwrap().len(), 32);
        assert!(parse(&pins(33)).unwrap_err().to_string().contains("pins 33 ports; a pod may pin 32"));
        let long = parse(&pins(500)).unwrap_err().to_string();
        assert!(long.contains("bytes; at most 1024 are read"), "{long}");
    }

    #[test]
    fn a_port_is_pinned_once() {
        for twice in ["tcp/1=5001,tcp/1=5002", "tcp/1=5001,tcp/2=5001"] {
            assert!(parse(twice).unwrap_err().to_string().contains("twice"), "{twice}");
        }
        assert!(parse("tcp/1=5001,udp/1=5001").is_ok());
    }
}
