//! Why a pod does not become a member.

/// A pod that is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An annotation is invalid, or requests something that the domain does not allow.
    #[error("{0}")]
    Refused(String),
    /// It would be admitted if another pod were gone.
    #[error("{0}")]
    Taken(String),
    /// A domain without an uplink can give neither external ports nor LAN addresses.
    #[error(
        "the domain `{0}` has no uplink at the moment, so it has no ports to pin and no addresses to give; see \
         `iocast-node doctor`"
    )]
    NoUplink(String),
    /// The datapath failed.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
}
