//! A lab whose node is one of an administrator's: the files of the primary CNI are where a runtime looks for them, and
//! iocast-node runs with its defaults and has installed the plugin beside it.
//!
//! The machine's own `/etc` and `/opt` are under layers that only the lab sees.

use std::{fs, os::unix::fs::symlink, path::Path};

use nix::mount::{MsFlags, mount};

use crate::{
    Error, Lab, Options, Result,
    cni::{Conflist, Executor},
    node::{conflist, plugin_path},
    tried,
};

const CONFLIST: &str = "/etc/cni/net.d/10-lab.conflist";
const PLUGINS: &str = "/opt/cni/bin";

impl Lab {
    /// A lab of one node on which iocast is installed; pods come by what is installed.
    pub fn installed(options: Options) -> Result<Self> {
        let mut primary = conflist(&options, 0);
        primary.0["plugins"].as_array_mut().and_then(Vec::pop); // ours, which the agent adds
        let mut lab = Self::without_agent(options)?;
        lab.sandbox.run(|| ["/etc", "/opt"].into_iter().try_for_each(cover))?;
        lab.sandbox.run(link_plugins)?;
        lab.sandbox.write(CONFLIST, primary.0.to_string())?;
        lab.sandbox.write("/etc/iocast/config.toml", lab.configuration())?;
        lab.start_agent_by("run")?;
        let chained = lab.sandbox.run(|| tried(format!("read {CONFLIST}"), fs::read_to_string(CONFLIST)))?;
        let chained = serde_json::from_str(&chained)
            .map_err(|error| Error::Missing(format!("{CONFLIST}: {error}: {chained}")))?;
        lab.execute(|executor| *executor = Executor::new(Conflist(chained), vec![PLUGINS.into()]));
        Ok(lab)
    }
}

/// Lays an empty layer over a directory, which takes what is written there.
fn cover(directory: &str) -> Result<()> {
    let layer = format!("/run/layers{directory}");
    for part in ["upper", "work"] {
        tried("create a layer", fs::create_dir_all(format!("{layer}/{part}")))?;
    }
    let options = format!("lowerdir={directory},upperdir={layer}/upper,workdir={layer}/work");
    let mounted = mount(Some("layer"), directory, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    tried(format!("mount a layer over {directory}"), mounted)?;
    let cni = Path::new(directory).join("cni");
    match fs::remove_dir_all(&cni) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tried(format!("empty {}", cni.display()), Err(error))
        }
        _ => Ok(()),
    }
}

/// Gives the runtime the plugins of the primary CNI.
fn link_plugins() -> Result<()> {
    tried(format!("create {PLUGINS}"), fs::create_dir_all(PLUGINS))?;
    let [debian, labs, _] = plugin_path()?;
    for directory in [debian, labs] {
        for entry in tried(format!("read {directory}"), fs::read_dir(&directory))?.flatten() {
            let link = Path::new(PLUGINS).join(entry.file_name());
            tried(format!("create {}", link.display()), symlink(entry.path(), &link))?;
        }
    }
    Ok(())
}
