//! Files that are replaced atomically: nobody ever reads a partial one, not even after a power cut.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

/// A complete file under a name that no runtime reads, in its target directory: containerd does not notice a rename from
/// another directory, and a rename cannot cross file systems. Removed when dropped.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    path: PathBuf,
}

impl AtomicFile {
    /// Writes `content` for `name` in `directory`, and syncs it to disk.
    pub(crate) fn new(directory: &Path, name: &str, content: &[u8], mode: u32) -> io::Result<Self> {
        let this = Self { path: directory.join(temporary(name)) };
        let mut file = OpenOptions::new().write(true).create_new(true).open(&this.path)?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode & 0o7777))?; // regardless of the umask
        file.sync_all()?;
        Ok(this)
    }

    /// The same, with mode and owner of another file.
    pub(crate) fn like(
        metadata: &Metadata,
        directory: &Path,
        name: &str,
        content: &[u8],
    ) -> io::Result<Self> {
        let this = Self::new(directory, name, content, metadata.mode())?;
        let file = File::open(&this.path)?;
        let present = file.metadata()?;
        // Only if it differs: this requires a capability.
        if (present.uid(), present.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        Ok(this)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the file to `path`, in the same directory, replacing what is there.
    pub(crate) fn publish(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        sync_directory_of(path)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // already renamed if it was published
    }
}

/// Removes the file at `path`, durably.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_directory_of(path)
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// A temporary name for `name` that is unique: even against our other processes, and killed ones whose pid was reused.
fn temporary(name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!(".{name}.{}-{}.tmp", process::id(), now.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_published_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let unpublished = AtomicFile::new(directory.path(), "a.conflist", b"x", 0o600).unwrap();
        let name = unpublished.path().file_name().unwrap().display().to_string();
        assert!(name.starts_with(".a.conflist.") && name.ends_with(".tmp"), "{name}");
        drop(unpublished);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_published_file_has_the_mode_it_was_given_whatever_the_umask() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "old").unwrap();
        AtomicFile::new(directory.path(), "a", b"new", 0o666).unwrap().publish(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o666);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
