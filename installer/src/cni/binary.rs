//! The plugin's binary: installed atomically, and only after it has answered VERSION.

use std::{
    fs::{self, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use serde::Deserialize;

use super::{atomic_file::AtomicFile, conflist::PLUGIN};
use crate::error::Error;

const MODE: u32 = 0o755;

/// A plugin that is installed and has answered VERSION.
#[derive(Debug)]
pub(crate) struct Installed {
    /// CNI versions that it supports.
    pub(crate) versions: Vec<String>,
    path: PathBuf,
    stamp: Stamp,
}

/// Identifies a file's state without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64, u32);

/// The part of its answer to VERSION that is needed.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "supportedVersions")]
    versions: Vec<String>,
}

impl Installed {
    /// Whether the binary is unchanged.
    pub(crate) fn is_intact(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| Stamp::of(&metadata) == self.stamp)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self(
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.mode() & 0o7777,
        )
    }
}

/// Installs the binary at `source` as the plugin in `directory`; writes nothing if it is already there.
pub(crate) fn install(source: &Path, directory: &Path) -> Result<Installed, Error> {
    let path = directory.join(PLUGIN);
    let content = fs::read(source).map_err(|error| Error::NoPlugin { path: source.into(), source: error })?;
    // Only a file that may be it is read: whatever else is there could be endless.
    let may_be_it = |found: Metadata| {
        found.is_file() && (found.len(), found.mode() & 0o7777) == (content.len() as u64, MODE)
    };
    let is_there =
        fs::metadata(&path).is_ok_and(may_be_it) && fs::read(&path).is_ok_and(|present| present == content);
    let fault = |source: io::Error| Error::NotInstalled { directory: directory.into(), source };
    let versions = if is_there {
        ask(&path)?
    } else {
        let file = AtomicFile::new(directory, PLUGIN, &content, MODE).map_err(fault)?;
        // Before it can be called for a pod: one that does not run here would fail every pod on the node.
        let versions = ask(file.path())?;
        file.publish(&path).map_err(fault)?;
        versions
    };
    let stamp = Stamp::of(&fs::metadata(&path).map_err(fault)?);
    Ok(Installed { versions, path, stamp })
}

/// The CNI versions that the plugin at `path` reports.
fn ask(path: &Path) -> Result<Vec<String>, Error> {
    let fault =
        |found: &dyn std::fmt::Display| Error::NoAnswer { path: path.into(), found: found.to_string() };
    let output = run(path).map_err(|error| fault(&error))?;
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|error| fault(&error))?;
    Ok(answer.versions)
}

fn run(path: &Path) -> io::Result<Output> {
    let mut command = Command::new(path);
    command.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::null());
    // A process that another thread forks holds our descriptors until it calls exec, including that of the new binary.
    for _ in 0..20 {
        match command.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => sleep(Duration::from_millis(10)),
            outcome => return outcome,
        }
    }
    command.output()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ANSWERS: &str =
        "#!/bin/sh\ntest $CNI_COMMAND = VERSION && echo '{\"supportedVersions\":[\"1.0.0\"]}'\n";

    fn directories(plugin: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let (source, bin) = (directory.path().join("built"), directory.path().join("bin"));
        fs::write(&source, plugin).unwrap();
        fs::create_dir(&bin).unwrap();
        (directory, source, bin)
    }

    #[test]
    fn an_installed_plugin_is_executable_and_is_written_once() {
        let (_directory, source, bin) = directories(ANSWERS);
        let first = install(&source, &bin).unwrap();
        assert_eq!(first.versions, ["1.0.0"]);
        assert_eq!(fs::metadata(bin.join("iocast")).unwrap().mode() & 0o7777, 0o755);
        let second = install(&source, &bin).unwrap();
        assert_eq!(first.stamp, second.stamp);
        assert!(first.is_intact());
        fs::set_permissions(bin.join("iocast"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!first.is_intact());
        assert!(install(&source, &bin).unwrap().is_intact());
    }

    #[test]
    fn a_plugin_that_does_not_answer_does_not_take_the_place_of_one_that_does() {
        let (_directory, source, bin) = directories(ANSWERS);
        install(&source, &bin).unwrap();
        for broken in ["#!/bin/sh\nexit 1\n", "\x7fELF of another machine"] {
            fs::write(&source, broken).unwrap();
            let error = install(&source, &bin).unwrap_err().to_string();
            assert!(error.contains("does not answer CNI_COMMAND=VERSION"), "{error}");
            assert_eq!(fs::read_to_string(bin.join("iocast")).unwrap(), ANSWERS);
            assert_eq!(fs::read_dir(&bin).unwrap().count(), 1, "nothing is left of it");
        }
    }

    #[test]
    fn what_is_no_file_in_the_plugins_place_is_replaced() {
        let (_directory, source, bin) = directories(ANSWERS);
        nix::unistd::mkfifo(&bin.join("iocast"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(install(&source, &bin).unwrap().versions, ["1.0.0"]);
    }

    #[test]
    fn a_plugin_that_runs_is_replaced_all_the_same() {
        let (_directory, source, bin) = directories("");
        // By a process of its own: what this one writes a test that forks meanwhile has open, and it cannot be run.
        let copied = Command::new("cp").arg("/bin/sleep").arg(bin.join("iocast")).status().unwrap();
        assert!(copied.success());
        let mut running = Command::new(bin.join("iocast")).arg("60").spawn().unwrap();
        fs::write(&source, ANSWERS).unwrap();
        let installed = install(&source, &bin);
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(installed.unwrap().versions, ["1.0.0"]);
    }

    #[test]
    fn what_is_missing_is_named_with_its_option() {
        let (_directory, source, bin) = directories(ANSWERS);
        let error = install(Path::new("/nowhere/iocast"), &bin).unwrap_err().to_string();
        assert!(error.contains("/nowhere/iocast") && error.contains("--plugin"), "{error}");
        let error = install(&source, Path::new("/nowhere/bin")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/bin") && error.contains("--cni-bin-dir"), "{error}");
    }
}
