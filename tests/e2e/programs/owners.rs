//! Cases of pods that say how the names of their PVs begin.

use abi::{Protocol, Verdict};
use lab::ca::{message, search};

use super::{
    cases::{CLIENT, Case, DROP, IOC, LAN, PODS, PVA_SEARCH, REDIRECT, fan, pva},
    frame::{BROADCAST, Frame, udp},
    rig::TICKET,
};

pub(super) fn cases() -> Vec<Case> {
    use Verdict::{Delivered, Overrun};
    let asked = |names: &[&str]| udp(CLIENT, LAN, &search(names)).mac_to(BROADCAST);
    let pva_asked = |name: u8| {
        let body = PVA_SEARCH.replace(" 01 41", &format!(" 01 {name:02x}"));
        udp(CLIENT, "172.23.0.255:5076", &pva(&body)).mac_to(BROADCAST)
    };
    let discovery = udp(CLIENT, "172.23.0.255:5076", &pva(&nothing_asked())).mac_to(BROADCAST);
    let beacon = udp(CLIENT, LAN, &message(13, 13, 5064, 1, 0, &[])).mac_to(BROADCAST);
    let only_a = |name, frame: Frame| {
        Case::new(name, fan(1, 0, frame)).with(|setup| setup.pvs = [&["A:", "BL07I-"], &[]])
    };
    let gets = |case: Case, frame: Frame| case.becomes(REDIRECT, frame.to(PODS)).ca(&[Delivered]);
    let gets_pva =
        |case: Case, frame: Frame| case.becomes(REDIRECT, frame.to("10.244.1.255:5076")).pva(&[Delivered]);
    let not = |case: Case, frame: Frame| case.becomes(DROP, frame.mac_from(TICKET));
    let begins = |name: &'static str, names: &[&str]| gets(only_a(name, asked(names)), asked(names));
    let differs = |name: &'static str, names: &[&str]| not(only_a(name, asked(names)), asked(names));
    let both = |name, remaining, frame: Frame| {
        Case::new(name, fan(remaining, 0, frame)).with(|setup| setup.pvs = [&["B"], &["B:X", "B:XYZ"]])
    };
    let long = "A".repeat(100);
    vec![
        begins("a name that begins as the pod says", &["A:NAME"]),
        begins("the beginning itself", &["A:"]),
        begins("one of several beginnings", &["BL07I-EA-X"]),
        begins("one of several names", &["C:NAME", "A:NAME", "D:NAME"]),
        begins("the last of many names", &[&["C:NAME"; 30][..], &["A:NAME"]].concat()),
        differs("a name that begins differently", &["C:NAME"]),
        differs("one that is only as long as the beginning", &["B:"]),
        differs("a part of the beginning", &["A"]),
        differs("another case", &["a:NAME"]),
        differs("a longer name than any beginning", &[&long]),
        differs("many names that begin differently", &["C:NAME"; 30]),
        gets_pva(
            only_a("a name of PV Access that begins differently, for the other", pva_asked(b'C'))
                .with(|setup| setup.pvs = [&[], &["A:"]]),
            pva_asked(b'C'),
        ),
        not(only_a("a name of PV Access that begins differently", pva_asked(b'C')), pva_asked(b'C')),
        gets_pva(only_a("a search for all servers", discovery.clone()), discovery),
        gets(only_a("a beacon", beacon.clone()), beacon),
        gets(
            only_a("a search of another pod", asked(&["A:NAME"]).from("10.244.1.3:40000")),
            asked(&["A:NAME"]).from("10.244.1.3:40000"),
        ),
        Case::new("a name for the one that says nothing", fan(2, 0, asked(&["C:NAME"])))
            .with(|setup| setup.pvs = [&["A:"], &[]])
            .becomes(REDIRECT, asked(&["C:NAME"]).to(PODS))
            .ca(&[Delivered]),
        both("a name that begins as both say", 2, asked(&["B:XYZ1"]))
            .becomes(REDIRECT, asked(&["B:XYZ1"]).to(PODS))
            .fans(|copy| copy.mac_from(TICKET))
            .ca(&[Delivered]),
        gets(both("a name that begins as only the first says", 1, asked(&["B:Y"])), asked(&["B:Y"])),
        Case::new("a name that begins as only the first says, for the second", fan(1, 1, asked(&["B:Y"])))
            .with(|setup| setup.pvs = [&["B"], &["B:X", "B:XYZ"]])
            .becomes(DROP, asked(&["B:Y"]).mac_from(TICKET)),
        Case::new("a copy whose place the queue has not", fan(2, 0, asked(&["A:NAME"])))
            .with(|setup| {
                setup.pvs = [&["A:"], &["A:"]];
                setup.fan = false;
            })
            .becomes(REDIRECT, asked(&["A:NAME"]).to(PODS))
            .counts(Protocol::Ca, &[Delivered, Overrun]),
        not(only_a("what the pod sent itself", asked(&["C:NAME"]).from(IOC)), asked(&["C:NAME"]).from(IOC)),
    ]
}

/// A search of PV Access that asks for no name.
fn nothing_asked() -> String {
    PVA_SEARCH.replace("ca02800300000027", "ca02800300000021").replace("0001 12345678 01 41", "0000")
}
