//! What this node answers. It looks, and never asks others or changes anything.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use view::{Members, Seen, why::Report};

use super::viewer::Viewer;
use crate::{absent::Runtime, members, seen::Watch, why};

/// This node.
pub(super) struct Local {
    bpffs: PathBuf,
    config: PathBuf,
    runtime: Runtime,
    viewer: Viewer,
    pub(super) node: String,
}

impl Local {
    pub(super) fn new(bpffs: &Path, config: &Path, cri: Option<&Path>, node: String) -> Self {
        Self {
            bpffs: bpffs.into(),
            config: config.into(),
            runtime: Runtime::at(cri),
            viewer: Viewer::new(bpffs),
            node,
        }
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

    /// The pods that joined, and those that ask to.
    pub(super) fn members(&self) -> Result<Members, String> {
        let looked = members::look(&self.bpffs, &self.runtime).map_err(|error| error.to_string());
        looked.map(|(members, _)| members)
    }

    /// What was seen of searches, answers and connections since somebody looks.
    pub(super) fn seen(&self) -> Result<Seen, String> {
        self.viewer.seen::<Watch>()
    }
}
