//! Why a pod does not become a member.

/// A pod that is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What a pod's annotation asks for makes no sense, or is not the domain's to give.
    #[error("{0}")]
    Refused(String),
    /// A domain without an uplink cannot give external ports.
    #[error(
        "the domain `{0}` has no uplink now, whose ports the pod's annotation asks for; see iocast-node doctor"
    )]
    NoUplink(String),
    /// The datapath failed.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
}
