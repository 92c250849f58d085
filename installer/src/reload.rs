//! The configuration while the agent runs: a changed file takes effect if it is valid, else the previous one stays.

use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError, read_text};

/// A configuration and the file it came from.
#[derive(Debug)]
pub(crate) struct Live {
    /// The last valid one.
    pub(crate) config: Config,
    path: PathBuf,
    /// The file's content when it was last read, valid or not.
    text: String,
    fault: Option<String>,
}

impl Live {
    /// Reads the file at `path`, which must be valid.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        // Without the text, the first refresh reads the file again, and finds no change.
        Ok(Self { config: Config::read(path)?, path: path.into(), text: String::new(), fault: None })
    }

    /// Checks the file again: its content, because a mounted ConfigMap changes through a symbolic link. Returns whether the
    /// configuration has changed.
    pub(crate) fn refresh(&mut self) -> bool {
        let read = read_text(&self.path);
        if read.as_ref().is_ok_and(|text| *text == self.text && self.fault.is_none()) {
            return false;
        }
        let valid = read.and_then(|text| {
            let config = Config::validate(&self.path, &text);
            self.text = text;
            config
        });
        self.fault =
            valid.as_ref().err().map(|error| format!("{error}\nthe previous configuration stays in effect"));
        valid.is_ok_and(|config| std::mem::replace(&mut self.config, config.clone()) != config)
    }

    /// What is wrong with the file.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const ONE: &str = "[domain.one]\nuplink = \"eth0\"\n";
    const TWO: &str = "[domain.two]\nuplink = \"eth0\"\n";

    #[test]
    fn a_config_map_that_changes_is_taken_over_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, text) in [("v1", ONE), ("v2", TWO)] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("config.toml"), text).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/config.toml", at("config.toml")).unwrap();
        let mut live = Live::read(&at("config.toml")).unwrap();
        assert!(!live.refresh());
        symlink("v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(live.refresh());
        assert_eq!((live.config.domains[0].name.as_str(), live.fault()), ("two", None));
        assert!(!live.refresh());
    }

    #[test]
    fn a_faulty_or_missing_file_leaves_the_former_configuration_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, ONE).unwrap();
        let mut live = Live::read(&path).unwrap();
        fs::write(&path, "[domain.a]\nuplink = \"\"\nprotocols = [\"x\"]\n").unwrap();
        assert!(!live.refresh());
        let fault = live.fault().unwrap();
        assert!(
            fault.contains("`uplink`") && fault.contains("`x`") && fault.contains("stays in effect"),
            "{fault}"
        );
        fs::remove_file(&path).unwrap();
        assert!(!live.refresh());
        assert!(live.fault().unwrap().contains("cannot read"), "{live:?}");
        assert_eq!(live.config.domains[0].name, "one");
        fs::write(&path, ONE).unwrap();
        assert!(!live.refresh());
        assert_eq!(live.fault(), None);
    }
}
