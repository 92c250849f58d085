//! ARP at an uplink: answers for the LAN addresses of pods, notices other hosts that claim one, and defends it.
//!
//! The kernel would delay such answers at random, up to a second, and defends no address that is not its own. User space only
//! sends: what comes is noted here (`RIVALS`), while it looks whether an address is free as well as later (RFC 5227).

use abi::{Address, LanAddress, NO_ADDRESS, Rival, Uplink, rival, standing};

use crate::{
    lan_address,
    maps::{LAN_ADDRESSES, RIVALS, UPLINKS, contains, lookup},
    packet::{BROADCAST_MAC, MAC_DESTINATION, MAC_SOURCE},
    skb::{DROP, NEXT, Skb, now},
};

const ARP: u32 = 14;
/// Offset of the operation, and of all that follows.
const OPERATION: u32 = ARP + 6;
/// What follows an ARP packet over Ethernet.
const TRAILER: u32 = ARP + 28;
/// How an ARP packet begins: the kinds of the addresses, and their lengths.
const IPV4_OVER_ETHERNET: [u16; 3] = [1, 0x0800, 0x0604];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// How long nobody is told again whose address it is, in nanoseconds (`DEFEND_INTERVAL`).
const DEFENCE_NS: u64 = 10_000_000_000;
/// How long a host that says that it has an address is not forgotten for one that only asks, in nanoseconds.
const CLAIM_NS: u64 = 1_000_000_000;

/// An ARP packet for IPv4 over Ethernet (RFC 826).
struct Arp {
    skb: Skb,
    operation: u16,
    mac: [u8; 6],
    sender: Address,
    target: Address,
}

impl Arp {
    #[inline(always)]
    fn parse(skb: Skb) -> Option<Self> {
        let front = skb.front::<TRAILER>()?;
        let kind = [ARP, ARP + 2, ARP + 4].map(|at| front.number(at));
        (kind == IPV4_OVER_ETHERNET).then(|| Self {
            skb,
            operation: front.number(OPERATION),
            mac: front.bytes(OPERATION + 2),
            sender: front.address(OPERATION + 8),
            target: front.address(OPERATION + 18),
        })
    }

    /// Makes it another one, `from` whom it now comes, and sends it out of the interface that it came from.
    #[inline(always)]
    fn send(&self, operation: u16, from: [u8; 6], to: [u8; 6], addresses: [Address; 2]) -> i32 {
        let [[s0, s1, s2, s3], target] = addresses;
        let [m0, m1, m2, m3, m4, m5] = from;
        self.skb.store(MAC_DESTINATION, to);
        self.skb.store(MAC_SOURCE, from);
        self.skb.store(OPERATION, operation.to_be_bytes());
        self.skb.store(OPERATION + 2, [m0, m1, m2, m3, m4, m5, s0, s1, s2, s3]);
        self.skb.store(OPERATION + 12, to);
        self.skb.store(OPERATION + 18, target);
        self.skb.store(TRAILER, [0; 8]); // if it overruled us, we overrule nobody
        self.skb.redirect_out(self.skb.interface())
    }
}

/// `from_lan` for an ARP packet.
#[inline(always)]
pub fn arrive(skb: Skb) -> i32 {
    let Some(arp) = Arp::parse(skb) else { return NEXT };
    if !contains(&LAN_ADDRESSES, arp.sender) && !contains(&LAN_ADDRESSES, arp.target) {
        return NEXT; // nearly all that a node hears
    }
    let interface = skb.interface();
    let Some(uplink) = lookup(&UPLINKS, interface) else { return NEXT };
    if arp.mac == uplink.mac {
        return NEXT;
    }
    if let Some(ours) = lan_address::at(arp.sender, interface) {
        return claimed(&arp, &uplink, &ours);
    }
    let Some(ours) = lan_address::at(arp.target, interface).filter(|_| arp.operation == REQUEST) else {
        return NEXT;
    };
    if ours.standing == standing::RESERVED && arp.sender == NO_ADDRESS {
        note(&arp, arp.target, rival::PROBES);
    }
    if !lan_address::is_held(&ours) {
        return NEXT;
    }
    // The kernel does not see the question. What it knows of the host that asks, it finds out as of all others.
    arp.send(REPLY, uplink.mac, arp.mac, [arp.target, arp.sender])
}

/// `from_pod` for an ARP packet: on a bridge a pod could say that another's address is its own.
#[inline(always)]
pub fn depart(skb: Skb) -> i32 {
    match Arp::parse(skb) {
        Some(arp) if lan_address::is_of_another(arp.sender, skb.interface()) => DROP,
        _ => NEXT,
    }
}

/// Another host says that it has a pod's address. The rule by which one of two nodes keeps it needs no message: the lower MAC
/// address wins, unless an admin took the address to the other one.
#[inline(always)]
fn claimed(arp: &Arp, uplink: &Uplink, ours: &LanAddress) -> i32 {
    let overruled = arp.skb.load(TRAILER) == Some(rival::OVERRULES);
    let last = note(arp, arp.sender, if overruled { rival::OVERRULED } else { 0 });
    let lower = number(arp.mac) < number(uplink.mac);
    let loses = match ours.standing {
        standing::HELD => lower || overruled,
        standing::TAKEN => overruled, // the last command counts
        _ => return NEXT,
    };
    if loses {
        lose(arp.sender);
        return NEXT;
    }
    if !lan_address::is_held(ours) || now() < last.saturating_add(DEFENCE_NS) {
        return NEXT;
    }
    if let Some(rival) = RIVALS.get_ptr_mut(arp.sender) {
        // SAFETY: the memory stays a rival; if it becomes another's, that one is defended against later.
        unsafe { (*rival).defended = now() };
    }
    arp.send(REQUEST, uplink.mac, BROADCAST_MAC, [arp.sender, arp.sender])
}

/// Nobody else wants an address.
const NOBODY: Rival = Rival { seen: 0, defended: 0, mac: [0; 6], flags: 0 };

/// Notes who else wants the address. Returns when it was defended last.
#[inline(always)]
fn note(arp: &Arp, address: Address, flags: u16) -> u64 {
    let known = lookup(&RIVALS, address).unwrap_or(NOBODY);
    let claims = known.seen != 0 && known.flags & rival::PROBES == 0;
    if flags & rival::PROBES != 0 && claims && now() < known.seen.saturating_add(CLAIM_NS) {
        return known.defended;
    }
    let defended = known.defended;
    let rival = Rival { seen: now(), defended, mac: arp.mac, flags };
    let _ = RIVALS.insert(address, rival, 0);
    defended
}

/// Leaves the address to the other host: who connects must not reach now one, now the other.
#[inline(always)]
fn lose(address: Address) {
    if let Some(ours) = LAN_ADDRESSES.get_ptr_mut(address) {
        // SAFETY: the memory stays a LAN address; if it becomes another one, that one is claimed again by user space.
        unsafe { (*ours).standing = standing::LOST };
    }
}

#[inline(always)]
fn number(mac: [u8; 6]) -> u64 {
    mac.iter().fold(0, |number, byte| number << 8 | *byte as u64)
}
