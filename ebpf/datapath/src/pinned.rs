//! Where maps, programs and links are pinned.

use std::path::{Path, PathBuf};

/// Directory of the pin directories of all schemas.
pub(crate) const PARENT: &str = "iocast";
/// Directory of pinned maps inside the pin directory.
pub(crate) const MAPS: &str = "maps";
/// Directory of pinned programs inside the pin directory.
pub(crate) const PROGRAMS: &str = "programs";
/// Directory of pinned links inside the pin directory.
pub(crate) const LINKS: &str = "links";

/// The default mount point of the BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Where everything of this schema is pinned, under the BPF file system at `bpffs`.
pub fn pin_directory(bpffs: &Path) -> PathBuf {
    directory_of(bpffs, abi::SCHEMA)
}

/// The same of any schema.
pub(crate) fn directory_of(bpffs: &Path, schema: u32) -> PathBuf {
    bpffs.join(PARENT).join(format!("v{schema}"))
}
