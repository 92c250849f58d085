//! Where everything is pinned.

use std::path::{Path, PathBuf};

/// Directory of pinned maps inside the pin directory.
pub(crate) const MAPS: &str = "maps";
/// Directory of pinned programs inside the pin directory.
pub(crate) const PROGRAMS: &str = "programs";
/// Directory of pinned links inside the pin directory.
pub(crate) const LINKS: &str = "links";

/// Where the BPF file system is mounted unless somebody says otherwise.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Where everything of this ABI is pinned, under the BPF file system at `bpffs`.
pub fn pin_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("iocast").join(format!("v{}", abi::SCHEMA))
}
