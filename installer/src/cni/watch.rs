//! Watches the configuration directory, so that changes are noticed at once.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::Error;

/// A watch on a directory that may not exist yet, and may be replaced by another one.
#[derive(Default)]
pub(crate) struct Watch {
    present: Option<(Inotify, u64)>,
}

impl Watch {
    /// Watches the directory that is now at `path`, and forgets earlier events. Not an error if it does not exist.
    pub(crate) fn renew(&mut self, path: &Path) -> Result<(), Error> {
        let inode = fs::metadata(path).map(|metadata| metadata.ino()).ok();
        if self.present.as_ref().map(|(_, watched)| *watched) != inode {
            self.present = None; // closed before another is opened: a user has few
            let watch = inode.map(|inode| Ok((begin(path)?, inode))).transpose();
            self.present = watch.map_err(|source| Error::Watch { path: path.into(), source })?;
        }
        if let Some((inotify, _)) = &self.present {
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        Ok(())
    }

    /// Readable when something changes.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.present.as_ref().map(|(inotify, _)| inotify.as_fd())
    }
}

fn begin(path: &Path) -> io::Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let events = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_DELETE;
    inotify.add_watch(path, events)?;
    Ok(inotify)
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn heard(watch: &Watch) -> bool {
        let mut ready = [PollFd::new(watch.descriptor().unwrap(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn a_file_moved_in_from_another_directory_is_heard_once() {
        let directory = tempfile::tempdir().unwrap();
        let (inside, outside) = (directory.path().join("net.d"), directory.path().join("x"));
        fs::create_dir(&inside).unwrap();
        let mut watch = Watch::default();
        watch.renew(&inside).unwrap();
        fs::write(&outside, "x").unwrap();
        assert!(!heard(&watch));
        fs::rename(&outside, inside.join("x")).unwrap();
        assert!(heard(&watch));
        watch.renew(&inside).unwrap();
        assert!(!heard(&watch));
    }

    #[test]
    fn a_directory_that_comes_later_or_comes_again_is_watched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("net.d");
        let mut watch = Watch::default();
        watch.renew(&path).unwrap();
        assert!(watch.descriptor().is_none());
        fs::create_dir(&path).unwrap();
        watch.renew(&path).unwrap();
        fs::rename(&path, directory.path().join("old")).unwrap();
        fs::create_dir(&path).unwrap();
        watch.renew(&path).unwrap();
        fs::write(path.join("x"), "x").unwrap();
        assert!(heard(&watch));
    }
}
