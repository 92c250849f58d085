//! What this node answers. It looks, and never asks others or changes anything.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use view::{Answer as _, Asked, Members, why::Report};

use crate::{absent::Runtime, why};

/// This node.
pub(super) struct Local {
    bpffs: PathBuf,
    config: PathBuf,
    runtime: Runtime,
    pub(super) node: String,
}

impl Local {
    pub(super) fn new(bpffs: &Path, config: &Path, cri: Option<&Path>, node: String) -> Self {
        Self { bpffs: bpffs.into(), config: config.into(), runtime: Runtime::at(cri), node }
    }

    /// Why a client cannot see a PV, as far as it can be seen in 3 s.
    pub(super) fn why(
        &self,
        pv: &str,
        from: Option<Ipv4Addr>,
        protocol: Option<abi::Protocol>,
    ) -> Result<Report, String> {
        let options = why::Options::passive(pv, from, protocol, &self.config, self.runtime.clone());
        why::look(&self.bpffs, &options).map_err(|error| error.to_string())
    }

    /// The pods that joined.
    pub(super) fn members(&self) -> Result<Members, String> {
        Ok(Members::nothing(vec![Asked::answered(&self.node)]))
    }

    /// What was seen of searches, answers and connections.
    pub(super) fn seen(&self) -> Result<Members, String> {
        self.members()
    }
}
