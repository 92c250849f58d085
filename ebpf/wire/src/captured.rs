//! Datagrams of PV Access as real peers sent them, for the tests.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

/// The bytes of a hex dump; spaces do not count.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// PVXS searching for `H2:AO` and `H2:STR`, with answers to port 33754 (captured).
pub(crate) const PVXS_SEARCH: &str = "ca02800300000036 66696e64 00 000000 00000000000000000000000000000000 83da \
    01 03746370 0002 12345678 05 48323a414f 12345679 06 48323a535452";
/// pvAccessCPP searching for `H2:AO`, little endian, with answers to port 41277 (captured).
pub(crate) const CPP_SEARCH: &str = "ca0200032b000000 01000000 80 000000 00000000000000000000ffff00000000 3da1 \
    01 03746370 0100 41302010 05 48323a414f";
/// PVXS answering from TCP port 5075 (captured).
pub(crate) const PVXS_REPLY: &str = "ca02c00400000031 51da2895085a1a180d6575ca 66696e64 \
    00000000000000000000ffff00000000 13d3 03746370 01 0002 12345678 12345679";
/// pvAccessCPP answering from TCP port 5075, little endian (captured).
pub(crate) const CPP_REPLY: &str = "ca0240042d000000 59e0016b00000000e7b2412b 01000000 \
    00000000000000000000ffff00000000 d313 03746370 01 0100 41302010";
/// PVXS's beacon (captured).
pub(crate) const PVXS_BEACON: &str = "ca02c00000000027 a6fd40f2016b906abf6e34e9 00 00 0002 \
    00000000000000000000ffff00000000 13d3 03746370 ff";
/// What PVXS forwards to others on its host (captured).
pub(crate) const FORWARDED: &str = "ca02801600000010 00000000000000000000ffff0a580005 \
    ca0280030000002b 00001234 00 000000 00000000000000000000ffff0a630009 9c40 01 03746370 0001 41302010 05 48323a414f";
