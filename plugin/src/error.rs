//! Errors as the CNI specification requires them: a code and a message, as JSON on stdout.

use abi::refused::{FAILED, INVALID, LATER};
use datapath::{Error, printable};
use membership::annotation::{ADDRESS, DOMAIN};

/// A failure to report to the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    /// A code of the CNI specification (below 100) or one of ours.
    pub(crate) code: u32,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

/// Our own code: iocast does not support the pod's kind of network.
const UNSUPPORTED_POD: u32 = 100;
/// Our own code: what an earlier ADD set up is missing.
const NOT_AS_ADDED: u32 = 101;

impl CniError {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Code 1: a CNI version, or a verb in one, that is not supported.
    pub(crate) fn version(message: impl Into<String>) -> Self {
        Self::new(1, message)
    }

    /// Code 4: an environment variable is missing or wrong.
    pub(crate) fn environment(message: impl Into<String>) -> Self {
        Self::new(4, message)
    }

    /// Code 5: a failure of the kernel or the file system.
    pub(crate) fn io(message: impl Into<String>) -> Self {
        Self::new(5, message)
    }

    /// Code 6: stdin is not the expected JSON.
    pub(crate) fn decode(message: impl Into<String>) -> Self {
        Self::new(6, message)
    }

    /// Code 7: the configuration or an annotation is invalid.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(7, message)
    }

    /// Code 11: the runtime should try again later.
    pub(crate) fn later(message: impl Into<String>) -> Self {
        Self::new(11, message)
    }

    /// Code 100: iocast does not support the pod's kind of network.
    pub(crate) fn pod(message: impl Into<String>) -> Self {
        Self::new(UNSUPPORTED_POD, message)
    }

    /// Code 101: what an earlier ADD set up is missing.
    pub(crate) fn not_as_added(message: impl Into<String>) -> Self {
        Self::new(NOT_AS_ADDED, message)
    }

    /// Why the pod does not start, from [`abi::refused`].
    pub(crate) fn reason(&self) -> u32 {
        match self.code {
            4 | 7 | UNSUPPORTED_POD => INVALID,
            11 => LATER,
            _ => FAILED,
        }
    }

    /// The error as the specification's JSON object. `kubectl describe` shows the message.
    pub(crate) fn to_json(&self, version: &str) -> String {
        serde_json::json!({ "cniVersion": version, "code": self.code, "msg": printable(&self.message) })
            .to_string()
    }
}

impl From<Error> for CniError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoSuchDomain { .. } => Self::config(format!("annotation {DOMAIN}: {error}")),
            Error::NotNetns { .. } => Self::environment(format!("CNI_NETNS: {error}")),
            Error::UnsuitedPod(_) => Self::pod(error.to_string()),
            Error::AddressInUse { .. } | Error::AddressGone { .. } | Error::RouteTaken { .. } => {
                Self::later(format!("annotation {ADDRESS}: {error}"))
            }
            Error::NotLoaded(_)
            | Error::NotConfigured
            | Error::NoUplink(_)
            | Error::Busy { .. }
            | Error::DomainFull { .. }
            | Error::PortTaken { .. }
            | Error::PortKept { .. }
            | Error::PinsTaken { .. } => Self::later(error.to_string()),
            _ => Self::io(error.to_string()),
        }
    }
}

impl From<membership::Error> for CniError {
    fn from(error: membership::Error) -> Self {
        match error {
            membership::Error::Refused(_) => Self::config(error.to_string()),
            membership::Error::Taken(_) | membership::Error::NoUplink(_) => Self::later(error.to_string()),
            membership::Error::Datapath(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_has_yet_to_do_is_tried_again_and_a_wrong_name_is_not() {
        let wrong = Error::NoSuchDomain { name: "lb".into(), known: "lab".into() };
        assert_eq!(CniError::from(wrong).code, 7);
        for error in [Error::NotConfigured, Error::NotLoaded("/nowhere".into())] {
            assert_eq!(CniError::from(error).code, 11);
        }
    }
}
