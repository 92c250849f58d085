//! A pod's own address on the LAN: which one it asks for, and whether it may have it.
//!
//! `172.23.0.50` is for one pod. Of a range, `172.23.0.50-172.23.0.59` or `172.23.0.48/28`, the pod whose name ends in `-N`,
//! as those of a StatefulSet do, takes the Nth address, beginning at 0. Whether another host has the address is not known
//! here: that is probed.

use std::{
    fmt::{self, Display, Formatter},
    net::Ipv4Addr,
};

use abi::{Attachment, text};
use datapath::{
    State,
    link::{self, Address},
    member::Joining,
    route,
};

use crate::{annotation::ADDRESS, error::Error, namespace::matches};

/// Addresses, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The first one.
    pub first: Ipv4Addr,
    /// The last one.
    pub last: Ipv4Addr,
}

impl Range {
    /// The range in `text`: an address, two of them with `-` between, or a network; an error says what else it is.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((address, prefix)) = text.split_once('/') {
            return network(address, prefix).unwrap_or_else(|| Err(no_range(text)));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parse = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|_| ());
        match (parse(first), parse(last)) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            (Ok(_), Ok(_)) => Err(format!("`{text}` ends before it begins; the lower address comes first")),
            _ => Err(no_range(text)),
        }
    }

    /// Whether it has this address.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// Whether it has an address that `other` has, too.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Its address at `place`, beginning at 0; `None` if there are fewer.
    fn get(&self, place: u32) -> Option<Ipv4Addr> {
        let address = u32::from(self.first).checked_add(place)?;
        (address <= u32::from(self.last)).then(|| address.into())
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

fn no_range(text: &str) -> String {
    format!(
        "`{text}` is no address and no range; write 172.23.0.50, 172.23.0.50-172.23.0.59 or 172.23.0.48/28"
    )
}

/// The addresses of a network; `None` if it is none. One with bits beyond its prefix is rather an address with its netmask.
fn network(address: &str, prefix: &str) -> Option<Result<Range, String>> {
    let (first, bits): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    let network = link::network(first, bits);
    (bits <= 32).then_some(if network == first {
        Ok(Range { first, last: Ipv4Addr::from(u32::from(first) | link::host_bits(bits)) })
    } else {
        Err(format!(
            "`{first}/{bits}` is no network; write {first} for the address, {network}/{bits} for the network"
        ))
    })
}

/// The address that a pod called `pod` asks for by the annotation `text`.
pub fn parse(text: &str, pod: &str) -> Result<Ipv4Addr, Error> {
    let fault = |what: String| Error::Refused(format!("annotation {ADDRESS}: {what}"));
    let range = Range::parse(text.trim()).map_err(fault)?;
    if range.first == range.last {
        return Ok(range.first);
    }
    let ordinal = ordinal(pod).ok_or_else(|| {
        fault(format!(
            "`{range}` is a range, of which a pod of a StatefulSet takes the address at its ordinal, but the name `{pod}` has \
             none at its end; write a single address"
        ))
    })?;
    range.get(ordinal).ok_or_else(|| {
        fault(format!(
            "`{range}` has {} addresses, too few for the pod `{pod}`; write a longer range, or have fewer replicas",
            u64::from(u32::from(range.last) - u32::from(range.first)) + 1
        ))
    })
}

/// The number at the end of the name of a StatefulSet's pod.
fn ordinal(pod: &str) -> Option<u32> {
    let (_, digits) = pod.rsplit_once('-')?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Checks that a pod that joins `domain` may have `address`. The caller holds the lock.
pub fn check(state: &State, domain: u16, joining: &Joining<'_>, address: Ipv4Addr) -> Result<(), Error> {
    let Joining { namespace, domain: name, .. } = *joining;
    let refuse = |why: String| Error::Refused(refusal(address, name, &why));
    admit(&ranges(state, domain)?, namespace, address).map_err(refuse)?;
    lan(state, domain, name, address)?.admit(address).map_err(refuse)?;
    match holder(state, address)? {
        Some(holder) => Err(Error::Taken(refusal(
            address,
            name,
            &format!("{holder} has it; delete that pod, or write another address"),
        ))),
        None => Ok(()),
    }
}

fn refusal(address: Ipv4Addr, domain: &str, why: &str) -> String {
    format!("annotation {ADDRESS}, {address} in domain `{domain}`: {why}")
}

/// Addresses that a domain gives, and the namespaces to which: a name, or a prefix followed by `*`.
type Ranges = Vec<(Range, String)>;

/// Those of `domain`, in their order.
fn ranges(state: &State, domain: u16) -> Result<Ranges, Error> {
    let found = state.address_ranges(domain)?.into_iter();
    let mut ranges: Ranges =
        found.map(|(first, last, namespace)| (Range { first, last }, namespace)).collect();
    ranges.sort();
    Ok(ranges)
}

/// Whether a domain with `ranges` gives `address` to pods in `namespace`.
fn admit(ranges: &Ranges, namespace: &str, address: Ipv4Addr) -> Result<(), String> {
    if ranges.is_empty() {
        return Err("the domain gives no addresses; an admin can allow some by `addresses`".into());
    }
    let having: Vec<_> = ranges.iter().filter(|(range, _)| range.contains(address)).collect();
    if having.is_empty() {
        let mut all: Vec<_> = ranges.iter().map(|(range, _)| range.to_string()).collect();
        all.dedup();
        return Err(format!("the domain gives {}; an admin can allow others by `addresses`", all.join(", ")));
    }
    if having.iter().any(|(_, pattern)| matches(pattern, namespace)) {
        return Ok(());
    }
    let patterns: Vec<_> = having.iter().map(|(_, pattern)| pattern.as_str()).collect();
    Err(format!("pods in namespace `{namespace}` may not have it; those in {} may", patterns.join(", ")))
}

/// A LAN as the node sees it.
#[derive(Debug, Default)]
struct Lan {
    /// The uplink's interface.
    uplink: String,
    /// Its addresses.
    networks: Vec<Address>,
    /// The gateway that is reached through it.
    gateway: Option<Ipv4Addr>,
    /// The interface of the node that has the address in question.
    own: Option<String>,
}

/// The LAN of `domain`, called `name`, with what there is to say about `address`.
fn lan(state: &State, domain: u16, name: &str, address: Ipv4Addr) -> Result<Lan, Error> {
    let absent = || Error::NoUplink(name.into());
    let domains = state.domains()?.into_iter();
    let mut uplinks = domains.filter(|(number, _)| *number == domain).map(|(_, domain)| domain.uplink);
    let index = uplinks.find(|index| *index != 0).ok_or_else(absent)?;
    let uplink = link::by_index(index)?.ok_or_else(absent)?;
    let all = link::all_addresses()?;
    let networks: Vec<_> =
        all.iter().filter(|(of, _)| *of == uplink.index).map(|(_, address)| *address).collect();
    if networks.is_empty() {
        return Err(absent());
    }
    let own = all.iter().find(|(_, own)| own.address == address).map(|(of, _)| link::by_index(*of));
    Ok(Lan {
        networks,
        gateway: route::default_route(uplink.index)?.and_then(|route| route.gateway),
        own: own
            .transpose()?
            .map(|device| device.map_or_else(|| "an interface".into(), |device| device.name)),
        uplink: uplink.name,
    })
}

impl Lan {
    /// Whether a pod may have `address` there, as far as the node knows.
    fn admit(&self, address: Ipv4Addr) -> Result<(), String> {
        let Self { uplink, networks, gateway, own } = self;
        if let Some(device) = own {
            return Err(format!("it is the node's own, on {device}; write another"));
        }
        if let Some(outside) = outside(networks, uplink, address) {
            return Err(format!("it is {outside}; write one in there"));
        }
        for network in networks {
            if let Some(which) = reserved(network, address) {
                return Err(format!("it is {which} of {}; write another", network_of(network)));
            }
        }
        if *gateway == Some(address) {
            return Err(format!("it is the node's gateway on {uplink}; write another"));
        }
        Ok(())
    }
}

/// That `address` is in no network of `uplink`, which has the addresses `networks`; `None` if it is in one.
pub fn outside(networks: &[Address], uplink: &str, address: Ipv4Addr) -> Option<String> {
    let all: Vec<_> = networks.iter().map(network_of).collect();
    let is_inside = networks.iter().any(|network| has(network, address));
    (!is_inside).then(|| format!("outside of {}, the network of uplink {uplink}", all.join(", ")))
}

/// Whether `address` is in the network of an interface with the address `own`.
fn has(own: &Address, address: Ipv4Addr) -> bool {
    link::network(address, own.prefix) == own.network()
}

/// The network in which `own` is, as text.
fn network_of(own: &Address) -> String {
    format!("{}/{}", own.network(), own.prefix)
}

/// What an address is in the network of `own` if no host may have it.
fn reserved(own: &Address, address: Ipv4Addr) -> Option<&'static str> {
    match address {
        _ if !has(own, address) => None,
        _ if Some(address) == own.broadcast => Some("the broadcast address"),
        _ if own.prefix >= 31 => None,
        _ if address == own.network() => Some("the network address"),
        _ if address == own.natural_broadcast() => Some("the broadcast address"),
        _ => None,
    }
}

/// The member of this node that has `address`, or has reserved it, such as `pod bl07/ioc-0`.
pub fn holder(state: &State, address: Ipv4Addr) -> datapath::Result<Option<String>> {
    let Some(entry) = state.lan_address(address.octets())? else { return Ok(None) };
    let member = state.member(entry.member)?;
    if member.is_none_or(|member| !entry.is_of(entry.member, member.generation)) {
        return Ok(None); // it is gone, or has not come yet
    }
    let is_its = |held: &Attachment| entry.is_of(held.member, held.generation);
    let attachments = state.attachments()?.into_iter();
    let pod = attachments.map(|(_, attachment)| attachment).find(is_its);
    Ok(Some(pod.map_or_else(|| "a pod".into(), |held| name(&held))))
}

/// The pod of an attachment, such as `pod bl07/ioc-0`.
pub fn name(Attachment { namespace, pod, .. }: &Attachment) -> String {
    format!("pod {}/{}", text(namespace), text(pod))
}

/// The number of the domain that gives `address`, whatever the namespace; an error if none does, or a pod on its LAN cannot
/// have it.
pub fn domain(state: &State, address: Ipv4Addr) -> Result<u16, Error> {
    for (number, domain) in state.domains()? {
        if ranges(state, number)?.iter().any(|(range, _)| range.contains(address)) {
            let name = text(&domain.name);
            let refuse = |why: String| Error::Refused(format!("{address} in domain `{name}`: {why}"));
            lan(state, number, name, address)?.admit(address).map_err(refuse)?;
            return Ok(number);
        }
    }
    Err(Error::Refused(format!("{address}: no domain of this node has it among its `addresses`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, pod: &str) -> String {
        parse(text, pod).unwrap_err().to_string()
    }

    fn at(last: u8) -> Ipv4Addr {
        [172, 23, 0, last].into()
    }

    #[test]
    fn an_address_is_for_any_pod() {
        assert_eq!(parse("172.23.0.50", "ioc").unwrap(), at(50));
        assert_eq!(parse(" 172.23.0.50 ", "ioc-7").unwrap(), at(50));
        assert_eq!(parse("172.23.0.50/32", "ioc-7").unwrap(), at(50));
    }

    #[test]
    fn of_a_range_the_ordinal_takes_its_place() {
        for range in ["172.23.0.48-172.23.0.63", "172.23.0.48 - 172.23.0.63", "172.23.0.48/28"] {
            let take = |pod| parse(range, pod).unwrap();
            assert_eq!([take("ioc-0"), take("bl-07-ioc-15")], [at(48), at(63)], "{range}");
            let error = refused(range, "ioc-16");
            assert!(error.contains("has 16 addresses") && error.contains("`ioc-16`"), "{error}");
        }
    }

    #[test]
    fn a_range_is_nothing_for_a_pod_without_an_ordinal() {
        for pod in ["ioc", "ioc-7d9f-2x8zk", "ioc-", "ioc-99999999999", "7"] {
            let error = refused("172.23.0.48/28", pod);
            assert!(error.contains(&format!("`{pod}`")) && error.contains("a single address"), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        let wrong = [
            "",
            "172.23.0",
            "172.23.0.500",
            "172.23.0.50-",
            "172.23.0.50-60",
            "172.23.0.48/33",
            "172.23.0.48/",
            "::1",
            "172.23.0.48/28-172.23.0.50",
            "a.b.c.d",
        ];
        for wrong in wrong {
            let error = refused(wrong, "ioc-0");
            assert!(
                error.starts_with(&format!("annotation iocast.io/address: `{wrong}` is no address")),
                "{error}"
            );
            assert!(error.contains("write 172.23.0.50"), "{error}");
        }
        assert!(refused("172.23.0.59-172.23.0.50", "ioc-0").contains("ends before it begins"));
        assert!(
            refused("172.23.0.50/24", "ioc-0").contains("write 172.23.0.50 for the address, 172.23.0.0/24")
        );
    }

    #[test]
    fn the_largest_range_has_an_end() {
        assert_eq!(parse("0.0.0.0/0", "ioc-4294967295").unwrap(), Ipv4Addr::BROADCAST);
        assert!(refused("255.255.255.254/31", "ioc-2").contains("has 2 addresses"));
    }

    #[test]
    fn a_domain_gives_the_addresses_that_its_admin_has_listed() {
        let range = |text: &str, pattern: &str| (Range::parse(text).unwrap(), pattern.to_owned());
        let ranges =
            vec![range("172.23.0.48/28", "*"), range("172.23.0.230", "bl07-*"), range("172.23.0.230", "vac")];
        let admit = |namespace, last| admit(&ranges, namespace, at(last));
        assert!(admit("any", 50).is_ok() && admit("bl07-a", 230).is_ok() && admit("vac", 230).is_ok());
        let error = admit("any", 64).unwrap_err();
        assert!(error.contains("gives 172.23.0.48-172.23.0.63, 172.23.0.230;"), "{error}");
        let error = admit("bl08", 230).unwrap_err();
        assert!(error.contains("`bl08` may not") && error.contains("bl07-*, vac may"), "{error}");
        assert!(super::admit(&vec![], "any", at(50)).unwrap_err().contains("gives no addresses"));
    }

    #[test]
    fn no_pod_gets_what_the_lan_has_already() {
        let network = Address { address: at(10), prefix: 24, broadcast: Some(at(255)) };
        let lan = |own| Lan { uplink: "eth0".into(), networks: vec![network], gateway: Some(at(1)), own };
        assert_eq!(lan(None).admit(at(50)), Ok(()));
        let own = lan(Some("eth1".into())).admit(at(10)).unwrap_err();
        assert!(own.contains("the node's own, on eth1"), "{own}");
        for (wrong, why) in [
            (at(1), "the node's gateway on eth0"),
            (at(0), "the network address of 172.23.0.0/24"),
            (at(255), "the broadcast address of 172.23.0.0/24"),
            ([172, 24, 0, 50].into(), "outside of 172.23.0.0/24, the network of uplink eth0"),
        ] {
            let found = lan(None).admit(wrong).unwrap_err();
            assert!(found.contains(why) && found.contains("write "), "{found}");
        }
    }

    #[test]
    fn an_odd_broadcast_address_is_not_given_either() {
        let own = |prefix, broadcast| Address { address: at(10), prefix, broadcast };
        assert_eq!(reserved(&own(24, Some(at(0))), at(0)), Some("the broadcast address"));
        assert_eq!(reserved(&own(24, None), at(255)), Some("the broadcast address"));
        assert_eq!(reserved(&own(31, None), at(11)), None);
    }
}
