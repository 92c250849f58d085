//! Membership policy: what a pod requests with its annotations, and whether it gets it.
//!
//! `datapath` makes pods members and asks [`Admission`] under its lock; nothing here attaches a program or writes a map.
#![forbid(unsafe_code)]

pub mod annotation;
mod error;
pub mod namespace;
pub mod pins;

pub use error::Error;
pub use pins::Pin;

use datapath::{
    State,
    member::{Joining, Policy, Port},
};

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Admits a pod that pins these ports, if its namespace may join the domain and the domain may assign the ports.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    /// The external ports that the pod pins.
    pub ports: &'a [Pin],
}

impl Policy for Admission<'_> {
    type Error = Error;

    fn admit(&self, state: &State, domain: u16, joining: &Joining<'_>) -> Result<Vec<Port>> {
        namespace::check(&state.namespaces(domain)?, joining)?;
        pins::check(state, domain, self.ports)
    }
}
