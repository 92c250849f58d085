//! A server's half of a circuit of PV Access, cut into segments: what is found must not depend on the cuts.
//! The first byte is the length of the segments, the next four the first sequence number.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{circuit::Stream, pva::HEADER};

fuzz_target!(|input: &[u8]| {
    let Some(([length, first @ ..], bytes)) = input.split_first_chunk::<5>() else { return };
    let first = u32::from_be_bytes(*first);
    let whole = ports(bytes, first, bytes.len().max(1));
    assert_eq!(ports(bytes, first, usize::from(*length).max(1)), whole);
    assert!(whole.iter().all(|at| *at >= 40 && *at < bytes.len()));
});

/// Where ports stand in a stream that comes in segments of this length.
fn ports(bytes: &[u8], first: u32, length: usize) -> Vec<usize> {
    let mut stream = Stream::UNKNOWN;
    stream.begin(first);
    let (mut found, mut end) = (vec![], 0);
    while end < bytes.len() {
        end = (end + length).min(bytes.len());
        loop {
            let at = stream.next.wrapping_sub(first) as usize;
            if stream.is_lost() || at >= end {
                break;
            }
            match bytes[at..end].first_chunk::<{ HEADER as usize }>() {
                Some(header) if stream.at_header() => stream.take_header(header),
                _ if stream.take(bytes[at]) => found.push(at),
                _ => {}
            }
        }
    }
    found
}
