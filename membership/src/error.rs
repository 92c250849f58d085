//! Why a pod does not become a member.

/// A pod that is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An annotation is invalid, or requests something that the domain does not allow.
    #[error("{0}")]
    Refused(String),
    /// A domain without an uplink cannot give external ports.
    #[error(
        "the domain `{0}` has no uplink at the moment, so it has no ports to pin; see `iocast-node doctor`"
    )]
    NoUplink(String),
    /// The datapath failed.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
}
