//! Files that take another's place in one step: nobody ever reads half of one, not even after a power cut.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

/// A complete file under a name that no runtime reads, in the directory where it is to be: a rename from another one goes
/// unnoticed by containerd, and is none across file systems. Removed when dropped.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    path: PathBuf,
}

impl AtomicFile {
    /// Writes `content` for `name` in `directory`, and has it on the disk.
    pub(crate) fn new(directory: &Path, name: &str, content: &[u8], mode: u32) -> io::Result<Self> {
        let this = Self { path: directory.join(temporary(name)) };
        let mut file = OpenOptions::new().write(true).create_new(true).open(&this.path)?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode & 0o7777))?; // past the umask
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
        // Only where it differs: it takes a capability of its own.
        if (present.uid(), present.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        Ok(this)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file at `path`, in its own directory, in place of what is there.
    pub(crate) fn publish(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        sync_directory_of(path)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // not there any more if it was published
    }
}

/// Removes the file at `path`, for good.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_directory_of(path)
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// A name beside `name` that nobody uses: not another process of ours, nor a killed one whose number came again.
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
