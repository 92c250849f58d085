//! The node's container runtime: what it knows of pods, whichever it is.

use std::path::PathBuf;

use abi::{Attachment, text};
use membership::podman::NAMESPACE;

use crate::{
    cri::{Cri, Sandbox},
    error::Error,
    podman,
};

/// Where it is asked.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// At this socket, over CRI.
    Cri(PathBuf),
    /// In what crun records for podman.
    Podman,
}

impl Place {
    /// Whether the runtime knows the pod of this attachment while it exists: each knows its own.
    pub(crate) fn knows(&self, attachment: &Attachment) -> bool {
        let is_podmans = text(&attachment.namespace) == NAMESPACE && text(&attachment.network).is_empty();
        is_podmans == matches!(self, Self::Podman)
    }

    /// Whether a pod that is not known there is gone: podman may run others by another runtime than crun.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self, Self::Cri(_))
    }
}

/// A runtime that can be asked.
pub(crate) enum Runtime {
    Cri(Cri),
    Podman(PathBuf),
}

impl Runtime {
    /// The one that is asked at `place`.
    pub(crate) fn open(place: &Place) -> Result<Self, Error> {
        Ok(match place {
            Place::Cri(socket) => Self::Cri(Cri::connect(socket)?),
            Place::Podman => Self::Podman(podman::RECORDS.into()),
        })
    }

    /// All pods that it knows, ready or not.
    pub(crate) fn sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        match self {
            Self::Cri(cri) => cri.sandboxes(),
            Self::Podman(records) => Ok(podman::containers(records)),
        }
    }

    /// The network namespace of the pod with this id; none if it uses the node's.
    pub(crate) fn netns(&self, id: &str) -> Result<Option<PathBuf>, Error> {
        match self {
            Self::Cri(cri) => cri.netns(id),
            Self::Podman(records) => Ok(podman::netns(records, id)),
        }
    }
}
