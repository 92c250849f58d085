//! Membership policy: what a pod requests with its annotations, and whether it gets it.
//!
//! `datapath` makes pods members and asks [`Admission`] under its lock; nothing here attaches a program or writes a map.
#![forbid(unsafe_code)]

pub mod address;
pub mod annotation;
mod error;
pub mod namespace;
pub mod pins;
pub mod podman;
pub mod prefixes;

pub use error::Error;
pub use pins::Pin;

use datapath::{
    State,
    member::{Joining, Policy, Port},
};

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Admits a pod that pins these ports, if its namespace may join the domain and the domain may assign the ports, and the
/// address that the pod asks for.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    pins: &'a [Pin],
}

impl<'a> Admission<'a> {
    /// The admission of a pod with `pins` to the domain called `domain`; an error if the node uses one of the ports itself.
    /// To be made without the lock: a node may have many rules to read.
    pub fn new(state: &State, domain: &str, pins: &'a [Pin]) -> Result<Self> {
        pins::check_node(state, state.domain_number(domain)?, pins)?;
        Ok(Self { pins })
    }
}

impl Policy for Admission<'_> {
    type Error = Error;

    fn admit(&self, state: &State, domain: u16, joining: &Joining<'_>) -> Result<Vec<Port>> {
        namespace::check(&state.namespaces(domain)?, joining)?;
        if let Some(address) = joining.address {
            address::check(state, domain, joining, address)?;
        }
        pins::check(state, domain, self.pins)
    }
}
