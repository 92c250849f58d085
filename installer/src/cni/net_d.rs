//! The runtime's configuration directory: reads it, and replaces a file in it so that the runtime never finds it missing or
//! half written.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::libc::{O_NOCTTY, O_NONBLOCK};

use super::{
    atomic_file::{AtomicFile, remove},
    conflist::{File, is_configuration, unchained},
};
use crate::error::Error;

/// The longest configuration that is read, in bytes: theirs have a few KiB.
const LONGEST: u64 = 1 << 20;

/// The configurations in `directory`.
pub(crate) fn read(directory: &Path) -> Result<Vec<File>, Error> {
    let fault = |path: &Path, source| Error::Read { path: path.into(), source };
    let mut files = vec![];
    for entry in fs::read_dir(directory).map_err(|error| fault(directory, error))? {
        let path = entry.map_err(|error| fault(directory, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !is_configuration(&name) || path.is_dir() {
            continue;
        }
        match text(&path) {
            Ok(text) => files.push(File::new(name, text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // removed meanwhile
            Err(error) => files.push(File { unreadable: Some(error.to_string()), ..File::new(name, "") }),
        }
    }
    Ok(files)
}

/// The text of a regular file of a sensible length. Decoded as in Go, so that both accept the same files.
fn text(path: &Path) -> io::Result<String> {
    // A FIFO would wait for its other end.
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = vec![];
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("it is longer than {} KiB", LONGEST >> 10)));
    }
    Ok(String::from_utf8_lossy(&bytes).into())
}

/// Replaces `before` with `after`. Does nothing and returns false if the file has changed meanwhile: that change must not be
/// lost.
pub(crate) fn replace(directory: &Path, before: &File, after: &File) -> Result<bool, Error> {
    try_replace(directory, before, after)
        .map_err(|source| Error::Write { path: directory.join(&after.name), source })
}

fn try_replace(directory: &Path, before: &File, after: &File) -> io::Result<bool> {
    let (old, new) = (directory.join(&before.name), directory.join(&after.name));
    let unchanged = || text(&old).is_ok_and(|text| text == before.text);
    let metadata = match fs::metadata(&old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        metadata => metadata?,
    };
    let file = AtomicFile::like(&metadata, directory, &after.name, after.text.as_bytes())?;
    if !unchanged() {
        return Ok(false);
    }
    file.publish(&new)?;
    // A single configuration hides the list with its stem until it is removed, so that one of them is always in use.
    if old != new {
        if !unchanged() {
            return Ok(false);
        }
        remove(&old)?;
    }
    Ok(true)
}

/// Removes us from every chain in `directory`. Returns the names of the changed files; an error if we are still in one.
pub(crate) fn unchain(directory: &Path) -> Result<Vec<String>, Error> {
    let mut changed = vec![];
    for _ in 0..10 {
        let edits: Vec<_> =
            read(directory)?.into_iter().filter_map(|file| Some((unchained(&file)?, file))).collect();
        if edits.is_empty() {
            return Ok(changed);
        }
        for (after, before) in edits {
            if replace(directory, &before, &after)? {
                changed.push(after.name);
            }
        }
    }
    Err(Error::PutBack(directory.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn file(name: &str, text: &str) -> File {
        File::new(name, text)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().display().to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_a_runtime_reads_is_read() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a.conflist", "b.conf", "c.json", ".a.conflist.1.tmp", "kubeconfig", "d.conflist.bak"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        fs::create_dir(directory.path().join("multus.conf")).unwrap();
        std::os::unix::fs::symlink("/nowhere", directory.path().join("e.conf")).unwrap();
        let mut read: Vec<_> = read(directory.path()).unwrap().into_iter().map(|file| file.name).collect();
        read.sort();
        assert_eq!(read, ["a.conflist", "b.conf", "c.json"]);
    }

    #[test]
    fn what_is_no_configuration_is_told_and_holds_up_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        nix::unistd::mkfifo(&at("00-fifo.conf"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("01-endless.conf")).unwrap();
        std::os::unix::fs::symlink("02-loop.conf", at("02-loop.conf")).unwrap();
        fs::File::create(at("03-long.conf")).unwrap().set_len(1 << 40).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("04-socket.conf")).unwrap();
        fs::write(at("05-number.conf"), r#"{"type":"a","x":1e400}"#).unwrap();
        fs::write(at("06-deep.conf"), "[".repeat(100_000)).unwrap();
        fs::write(at("10-a.conflist"), r#"{"name":"n","plugins":[{"type":"a"}]}"#).unwrap();
        let files = read(directory.path()).unwrap();
        let choice = super::super::conflist::choose(&files);
        assert_eq!(choice.target.unwrap().name, "10-a.conflist");
        let told = [
            "no regular file",
            "no regular file",
            "Too many levels of symbolic links",
            "longer than 1024 KiB",
            "No such device", // as if nobody listened
            "number out of range",
            "expected a map",
        ];
        for ((file, reason), expected) in choice.malformed.iter().zip(told) {
            assert!(reason.contains(expected), "{}: {reason}", file.name);
        }
        assert_eq!(choice.malformed.len(), told.len());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = read(Path::new("/nowhere/net.d")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/net.d"), "{error}");
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_leaves_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.conflist");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let (before, after) = (file("a.conflist", "old"), file("a.conflist", "new"));
        assert!(replace(directory.path(), &before, &after).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(directory.path()), ["a.conflist"]);
    }

    #[test]
    fn a_change_by_somebody_else_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.conflist");
        let (before, after) = (file("a.conflist", "old"), file("a.conflist", "new"));
        fs::write(&path, "theirs").unwrap();
        assert!(!replace(directory.path(), &before, &after).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        fs::remove_file(&path).unwrap();
        assert!(!replace(directory.path(), &before, &after).unwrap(), "nor a removal");
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn a_list_takes_the_place_of_the_single_configuration_that_hid_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.conf"), "old").unwrap();
        assert!(replace(directory.path(), &file("a.conf", "old"), &file("a.conflist", "new")).unwrap());
        assert_eq!(names(directory.path()), ["a.conflist"]);
    }

    #[test]
    fn unchaining_takes_us_out_of_every_file_and_is_done_once() {
        let directory = tempfile::tempdir().unwrap();
        let with = r#"{"name":"n","plugins":[{"type":"a"},{"type":"iocast"}]}"#;
        for name in ["a.conflist", "b.conflist"] {
            fs::write(directory.path().join(name), with).unwrap();
        }
        fs::write(directory.path().join("c.conflist"), "{").unwrap();
        let mut changed = unchain(directory.path()).unwrap();
        changed.sort();
        assert_eq!(changed, ["a.conflist", "b.conflist"]);
        assert!(!fs::read_to_string(directory.path().join("b.conflist")).unwrap().contains("iocast"));
        assert_eq!(unchain(directory.path()).unwrap(), [""; 0]);
    }
}
