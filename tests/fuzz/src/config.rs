//! The agent's configuration, of which every fault is told.
#![no_main]
#![allow(dead_code)] // the agent uses the rest

#[path = "../../../installer/src/allowed.rs"]
mod allowed;
#[path = "../../../installer/src/config.rs"]
mod config;
#[path = "../../../installer/src/groups.rs"]
mod groups;
#[path = "../../../installer/src/places.rs"]
mod places;
#[path = "../../../installer/src/protocol.rs"]
mod protocol;

use config::{Config, ConfigError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    match Config::validate("config.toml".as_ref(), input) {
        Ok(config) => assert!(!config.domains.is_empty()),
        Err(ConfigError::Form { reason, .. }) => assert!(!reason.is_empty()),
        Err(ConfigError::Faults { faults, .. }) => assert!(!faults.is_empty()),
        Err(ConfigError::Unreadable { .. }) => unreachable!("nothing is read"),
    }
});
