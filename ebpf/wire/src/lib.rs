//! Wire formats: which bytes of a datagram name a port or an address, and what they become.
//!
//! Pure and `no_std`: the programs in the kernel walk packets with the same steps that the tests in user space take over
//! byte slices. Nothing here reads a map, a socket or a clock, and nothing here changes a length.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod ca;
