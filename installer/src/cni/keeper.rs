//! Keeps the plugin in the chain of the network that the runtime uses, against installers that rewrite their file.

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use datapath::printable;

use super::{
    backoff::{Backoff, PAUSE},
    binary::{self, Installed},
    conflist::{Choice, File, Ours, chained, choose, entry},
    net_d,
    options::Options,
    watch::Watch,
};
use crate::error::Error;

/// How long a file must be malformed before it is reported: a file written in place is malformed for a moment.
const SETTLED: Duration = Duration::from_secs(2);
/// How long a single run waits for files that are being written.
const LONGEST: Duration = Duration::from_secs(30);
/// How often an edit is retried at once because the file has changed meanwhile.
const ATTEMPTS: usize = 3;

/// Makes sure, pass by pass, that the plugin is installed and chained.
pub(crate) struct Keeper {
    options: Options,
    source: PathBuf,
    entry: serde_json::Value,
    installed: Option<Installed>,
    watch: Watch,
    backoff: Backoff,
    /// The files that are malformed, and since when.
    malformed: Option<(Vec<File>, Instant)>,
    /// What the last pass found that may be over in a moment: files that are being written.
    unsettled: Vec<String>,
    /// The last configuration that we were to be chained into.
    target: Option<PathBuf>,
    chained: bool,
    writes: u64,
}

impl Keeper {
    /// A keeper of the plugin, in the directories of `options`, for a datapath pinned under `bpffs`.
    pub(crate) fn new(options: &Options, bpffs: &Path) -> Self {
        Self {
            source: options.source(),
            options: options.clone(),
            entry: entry(bpffs),
            installed: None,
            watch: Watch::default(),
            backoff: Backoff::default(),
            malformed: None,
            unsettled: vec![],
            target: None,
            chained: false,
            writes: 0,
        }
    }

    /// Whether the runtime's network had the plugin in its chain in the last pass.
    pub(crate) fn is_chained(&self) -> bool {
        self.chained
    }

    /// Whether the plugin is in place and has answered.
    pub(crate) fn is_installed(&self) -> bool {
        self.installed.is_some()
    }

    /// How often a configuration was written.
    pub(crate) fn writes(&self) -> u64 {
        self.writes
    }

    /// Readable when the next pass should not wait.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watch.descriptor()
    }

    /// Passes until we are chained, or until that is unlikely to happen soon. Returns what is in the way.
    pub(crate) fn pass_until_settled(&mut self) -> Vec<String> {
        self.pass_within(LONGEST)
    }

    fn pass_within(&mut self, longest: Duration) -> Vec<String> {
        let start = Instant::now();
        loop {
            let mut problems = self.pass();
            let patience = if self.unsettled.is_empty() { SETTLED } else { longest };
            if self.chained || start.elapsed() > patience {
                problems.append(&mut self.unsettled);
                return problems;
            }
            sleep(SETTLED / 10);
        }
    }

    /// One pass. Returns what is in the way, each with what to do about it.
    pub(crate) fn pass(&mut self) -> Vec<String> {
        self.chained = false;
        self.unsettled.clear();
        let mut problems = vec![];
        // First, so that later changes are noticed.
        problems.extend(self.watch.renew(&self.options.cni_conf_dir).err().map(|error| error.to_string()));
        let done = self.install().and_then(|()| self.chain(&mut problems));
        problems.extend(done.err().map(|error| error.to_string()));
        problems
            .extend(self.target.iter().filter(|_| self.backoff.is_contended()).map(|path| contention(path)));
        problems
    }

    /// Installs the plugin, before chaining: a chain that refers to a missing plugin fails every pod.
    fn install(&mut self) -> Result<(), Error> {
        if !self.installed.as_ref().is_some_and(Installed::is_intact) {
            self.installed = None;
            self.installed = Some(binary::install(&self.source, &self.options.cni_bin_dir)?);
        }
        Ok(())
    }

    fn chain(&mut self, problems: &mut Vec<String>) -> Result<(), Error> {
        let directory = self.options.cni_conf_dir.clone();
        let waiting = |why| Error::NoNetwork { directory: directory.clone(), why };
        if !directory.is_dir() {
            return Err(waiting("does not exist; pass the runtime's directory with --cni-conf-dir"));
        }
        for _ in 0..ATTEMPTS {
            let files = net_d::read(&directory)?;
            let choice = choose(&files);
            if !self.is_settled(&choice) {
                self.unsettled = obstacles(&directory, &choice); // when that ends, the watch wakes us
                return Ok(());
            }
            let outcome = match choice.target {
                Some(target) => self.put_into(target, &files, &choice),
                None => Err(waiting("has no network configuration")),
            };
            if matches!(outcome, Ok(Put::Changed)) {
                continue;
            }
            let obstacles = obstacles(&directory, &choice);
            self.chained = matches!(outcome, Ok(Put::Chained)) && obstacles.is_empty();
            problems.extend(obstacles);
            return outcome.map(drop);
        }
        self.unsettled = self.target.iter().map(|path| changing(path)).collect(); // the next change wakes us
        Ok(())
    }

    /// Whether all malformed files have been unchanged for a while.
    fn is_settled(&mut self, choice: &Choice<'_>) -> bool {
        let found: Vec<File> = choice.malformed.iter().map(|(file, _)| (*file).clone()).collect();
        match &self.malformed {
            Some((known, since)) if *known == found => found.is_empty() || since.elapsed() >= SETTLED,
            _ => {
                let settled = found.is_empty();
                self.malformed = Some((found, Instant::now()));
                settled
            }
        }
    }

    /// Makes sure that we are in the chain of `target`.
    fn put_into(&mut self, target: &File, files: &[File], choice: &Choice<'_>) -> Result<Put, Error> {
        let path = self.options.cni_conf_dir.join(&target.name);
        self.target = Some(path.clone());
        let fault = |reason: String| Error::NotChained { path: path.clone(), reason };
        let versions = self.installed.iter().flat_map(|installed| installed.versions.clone()).collect();
        let ours = Ours { entry: self.entry.clone(), versions };
        let now = Instant::now();
        let edit = chained(target, files, &ours).map_err(|error| fault(error.to_string()))?;
        let Some(edit) = edit else {
            self.backoff.undisturbed(now);
            return Ok(Put::Chained);
        };
        if let Some(multus) = choice.multus.filter(|_| edit.name != target.name) {
            let name = &multus.name;
            return Err(fault(format!(
                "it is not a list, and {name} refers to it by name; convert it to a .conflist"
            )));
        }
        if !self.backoff.may_write(now) {
            return Ok(Put::BackedOff);
        }
        if !net_d::replace(&self.options.cni_conf_dir, target, &edit)? {
            return Ok(Put::Changed);
        }
        self.backoff.wrote(now);
        self.writes += 1;
        Ok(Put::Chained)
    }
}

/// The outcome of an attempt to be in a chain.
enum Put {
    /// We are in it.
    Chained,
    /// Another program changed the file meanwhile.
    Changed,
    /// Another program keeps removing us, so we wait.
    BackedOff,
}

/// What keeps the runtime from using `choice.target`, or the plugin from working there.
fn obstacles(directory: &Path, choice: &Choice<'_>) -> Vec<String> {
    let path = |file: &File| printable(&directory.join(&file.name).display().to_string());
    let malformed = choice.malformed.iter().map(|(file, reason)| {
        format!(
            "{} is not a valid network configuration: {reason}; because of it, containerd uses none at all: fix or remove it",
            path(file)
        )
    });
    let multus = choice.multus.map(|file| {
        format!(
            "{}: Multus does not pass a pod's annotations on to the network it delegates to, so no pod can join a \
             domain; turn its configuration into a list (.conflist), so that iocast can come after it",
            path(file)
        )
    });
    malformed.chain(multus).collect()
}

fn changing(path: &Path) -> String {
    format!("{} is being rewritten all the time, so iocast cannot be added to it", path.display())
}

fn contention(path: &Path) -> String {
    format!(
        "another program keeps rewriting {} without iocast, so pods created meanwhile do not join; configure it to keep \
         other plugins (Cilium: cni.exclusive=false); retrying every {} s",
        path.display(),
        PAUSE.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PRIMARY: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;
    const MULTUS: &str = r#"{"cniVersion":"1.0.0","name":"m","type":"multus"}"#;
    const PLUGIN: &str = "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n";

    struct Node {
        directory: tempfile::TempDir,
        keeper: Keeper,
    }

    impl Node {
        /// A node with a plugin to install, and nothing else yet.
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| directory.path().join(name);
            fs::create_dir(at("bin")).unwrap();
            fs::write(at("built"), PLUGIN).unwrap();
            let options =
                Options { cni_conf_dir: at("net.d"), cni_bin_dir: at("bin"), plugin: Some(at("built")) };
            Self { keeper: Keeper::new(&options, Path::new("/sys/fs/bpf")), directory }
        }

        /// A node with these configurations.
        fn with(files: &[(&str, &str)]) -> Self {
            let node = Self::new();
            fs::create_dir(node.directory.path().join("net.d")).unwrap();
            files.iter().for_each(|(name, text)| node.write(name, text));
            node
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join("net.d").join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn is_in(&self, name: &str) -> bool {
            fs::read_to_string(self.path(name)).unwrap().contains("\"iocast\"")
        }
    }

    #[test]
    fn the_primary_plugin_is_waited_for() {
        let mut node = Node::new();
        let problems = node.keeper.pass();
        assert!(
            problems[0].contains("waiting for the primary CNI") && problems[0].contains("--cni-conf-dir")
        );
        fs::create_dir(node.path("")).unwrap();
        assert!(node.keeper.pass()[0].contains("has no network configuration"));
        assert!(node.keeper.is_installed() && !node.keeper.is_chained());
        node.write("10-a.conflist", PRIMARY);
        assert_eq!(node.keeper.pass(), [""; 0]);
        assert!(node.keeper.is_chained() && node.is_in("10-a.conflist"));
    }

    #[test]
    fn what_is_as_it_should_be_is_not_written_again() {
        let mut node = Node::with(&[("10-a.conflist", PRIMARY)]);
        (0..5).for_each(|_| assert!(node.keeper.pass().is_empty()));
        assert_eq!(node.keeper.writes(), 1);
        node.write("10-a.conflist", PRIMARY);
        assert!(node.keeper.pass().is_empty());
        assert_eq!(node.keeper.writes(), 2);
    }

    #[test]
    fn a_primary_plugin_that_renames_its_file_is_followed() {
        let mut node = Node::with(&[("10-a.conf", r#"{"cniVersion":"1.0.0","name":"n","type":"bridge"}"#)]);
        assert!(node.keeper.pass().is_empty());
        assert!(node.is_in("10-a.conflist") && !node.path("10-a.conf").exists());
        fs::remove_file(node.path("10-a.conflist")).unwrap();
        node.write("05-b.conflist", PRIMARY);
        assert!(node.keeper.pass().is_empty() && node.is_in("05-b.conflist"));
    }

    #[test]
    fn nothing_is_chained_before_the_plugin_answers() {
        let mut node = Node::with(&[("10-a.conflist", PRIMARY)]);
        fs::write(node.directory.path().join("built"), "#!/bin/sh\nexit 1\n").unwrap();
        assert!(node.keeper.pass()[0].contains("does not answer"));
        assert!(!node.keeper.is_chained() && !node.is_in("10-a.conflist"));
    }

    #[test]
    fn a_plugin_that_was_deleted_or_replaced_is_installed_again() {
        let mut node = Node::with(&[("10-a.conflist", PRIMARY)]);
        let plugin = node.directory.path().join("bin/iocast");
        assert!(node.keeper.pass().is_empty());
        fs::remove_file(&plugin).unwrap();
        assert!(node.keeper.pass().is_empty() && plugin.exists());
        fs::write(&plugin, "other").unwrap();
        assert!(node.keeper.pass().is_empty());
        assert_eq!(fs::read_to_string(&plugin).unwrap(), PLUGIN);
    }

    #[test]
    fn a_malformed_file_is_named_when_it_stays_so() {
        let mut node = Node::with(&[("05-bad.conflist", "{"), ("10-a.conflist", PRIMARY)]);
        assert!(node.keeper.pass().is_empty(), "it may be half written");
        assert!(!node.keeper.is_chained() && !node.is_in("10-a.conflist"));
        let problems = node.keeper.pass_until_settled();
        assert!(problems[0].contains("05-bad.conflist is not a valid network configuration"), "{problems:?}");
        assert!(!node.keeper.is_chained(), "containerd uses none");
        assert!(node.is_in("10-a.conflist"), "CRI-O uses the next");
        fs::remove_file(node.path("05-bad.conflist")).unwrap();
        assert!(node.keeper.pass().is_empty() && node.keeper.is_chained());
    }

    #[test]
    fn a_slow_machine_is_given_the_time_to_find_out_what_is_in_the_way() {
        let mut node = Node::with(&[("05-bad.conflist", "{")]);
        let slow = PLUGIN.replace("echo", "sleep 1\necho");
        fs::write(node.directory.path().join("built"), slow).unwrap();
        let problems = node.keeper.pass_until_settled();
        assert!(problems.concat().contains("05-bad.conflist is not a valid"), "{problems:?}");
    }

    #[test]
    fn a_file_that_is_still_being_written_in_the_end_is_named() {
        let mut node = Node::with(&[("05-bad.conflist", "{")]);
        let problems = node.keeper.pass_within(Duration::ZERO);
        assert!(problems.concat().contains("05-bad.conflist is not a valid"), "{problems:?}");
    }

    #[test]
    fn behind_multus_we_are_of_no_use_and_say_so() {
        let mut node = Node::with(&[("00-multus.conf", MULTUS), ("10-a.conflist", PRIMARY)]);
        let problems = node.keeper.pass();
        assert!(problems[0].contains("00-multus.conf: Multus does not pass"), "{problems:?}");
        assert!(node.is_in("10-a.conflist") && !node.keeper.is_chained());
        let single = r#"{"cniVersion":"1.0.0","name":"n","type":"bridge"}"#;
        let mut node = Node::with(&[("00-multus.conf", MULTUS), ("10-a.conf", single)]);
        assert!(node.keeper.pass().concat().contains("00-multus.conf refers to it by name"));
        assert!(node.path("10-a.conf").exists() && !node.path("10-a.conflist").exists());
    }

    #[test]
    fn contention_for_the_file_makes_us_back_off() {
        let mut node = Node::with(&[("10-cilium.conflist", PRIMARY)]);
        for _ in 0..5 {
            assert!(node.keeper.pass().is_empty());
            node.write("10-cilium.conflist", PRIMARY);
        }
        assert!(node.keeper.pass().concat().contains("10-cilium.conflist without iocast"));
        assert!(node.keeper.is_chained());
        for _ in 0..5 {
            node.write("10-cilium.conflist", PRIMARY);
            assert!(node.keeper.pass().concat().contains("retrying every 30 s"));
        }
        assert_eq!((node.keeper.writes(), node.keeper.is_chained()), (6, false));
    }

    #[test]
    fn two_agents_make_one_entry() {
        let mut node = Node::with(&[("10-a.conflist", PRIMARY)]);
        let mut other = Keeper::new(&node.keeper.options, Path::new("/sys/fs/bpf"));
        for _ in 0..3 {
            assert!(node.keeper.pass().is_empty() && other.pass().is_empty());
        }
        assert_eq!(node.keeper.writes() + other.writes(), 1);
    }
}
