//! Each program on its own: packets made by hand, run through it by the kernel's `BPF_PROG_TEST_RUN`, and what it makes of
//! them. Cases are data (`cases.rs`); what they run in is `rig.rs`.
#![allow(clippy::unwrap_used)] // a test's helper fails its test
mod attach;
mod cases;
mod circuits;
pub(crate) mod frame;
mod groups;
mod icmp;
mod lan_address;
mod owners;
mod pieces;
pub(crate) mod rig;
mod taking_over;
mod times;

use abi::Verdict;
use cases::{Case, cases};
use lab::Result;
use rig::{Outcome, Rig};

#[test]
fn every_packet_becomes_what_is_written() -> Result<()> {
    let rig = Rig::new()?;
    let wanted = std::env::var("CASE").unwrap_or_default(); // a part of a name
    let (mut faults, mut tried) = (vec![], 0);
    for case in cases().into_iter().filter(|case| case.name.contains(&wanted)) {
        tried += 1;
        let outcome = rig.run(&case)?;
        faults.extend(judge(&case, &outcome).iter().map(|fault| format!("{}: {fault}", case.name)));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert!(tried > 0, "no case has `{wanted}` in its name");
    Ok(())
}

#[test]
fn every_verdict_has_a_case() {
    let cases = cases();
    let counted = |verdict| cases.iter().any(|case| case.counts.iter().any(|(_, found)| *found == verdict));
    let never = |verdict| verdict == Verdict::Direct; // of events only
    let missing: Vec<_> =
        Verdict::ALL.iter().filter(|verdict| !counted(**verdict) && !never(**verdict)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Where an outcome is not what the case says.
fn judge(case: &Case, outcome: &Outcome) -> Vec<String> {
    let mut faults = vec![];
    if outcome.verdict != case.verdict {
        faults.push(format!("verdict {}, not {}", outcome.verdict, case.verdict));
    }
    if outcome.mark != 0 && outcome.verdict != cases::DROP {
        faults.push(format!("mark {:#x}", outcome.mark));
    }
    if outcome.packet != case.becomes.bytes() {
        faults.push(format!("packet\n{}\n not\n{}", hex(&outcome.packet), hex(&case.becomes.bytes())));
    }
    let mut expected: Vec<_> = case.copies.iter().map(|(place, frame)| (*place, frame.bytes())).collect();
    expected.sort();
    if outcome.copies != expected {
        let list = |copies: &[(cases::Where, Vec<u8>)]| -> String {
            copies.iter().map(|(place, bytes)| format!("\n{place:?} {}", hex(bytes))).collect()
        };
        faults.push(format!("copies{}\n not{}", list(&outcome.copies), list(&expected)));
    }
    let mut counts = case.counts.clone();
    counts.sort_by_key(|(protocol, verdict)| (*protocol as u8, *verdict as u8));
    if outcome.counted != counts {
        faults.push(format!("counted {:?}, not {counts:?}", outcome.counted));
    }
    faults
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
