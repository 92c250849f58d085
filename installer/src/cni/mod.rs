//! The plugin on the node: its binary, and its place in the primary CNI's chain.
//!
//! Invariants: the binary is installed, and has answered VERSION, before a chain refers to it; no file is ever half written
//! or missing; stopping this process changes nothing, only `uninstall` does.

mod atomic_file;
mod backoff;
mod binary;
pub(crate) mod conflist;
mod keeper;
pub(crate) mod net_d;
mod options;
mod watch;

pub(crate) use keeper::Keeper;
pub(crate) use options::Options;

use std::{error::Error, fs, io::ErrorKind, path::Path, thread::sleep, time::Duration};

use conflist::PLUGIN;

use crate::say::say;

/// By then a runtime has read a changed configuration.
const RELOAD: Duration = Duration::from_secs(2);

/// `iocast-node install`: installs the plugin and chains it, once.
pub(crate) fn install(options: &Options, bpffs: &Path) -> Result<(), Box<dyn Error>> {
    let mut keeper = Keeper::new(options, bpffs);
    let problems = keeper.pass_until_settled();
    if !keeper.is_chained() {
        return Err(problems.join("\n").into());
    }
    say(format!("the plugin is chained in {}", options.cni_conf_dir.display()));
    Ok(())
}

/// `iocast-node uninstall`: removes the plugin from every chain, then the datapath, then the binary if requested. In this
/// order pods can be created and deleted at any time; the first failure stops it.
pub(crate) fn uninstall(options: &Options, bpffs: &Path, remove_plugin: bool) -> Result<(), Box<dyn Error>> {
    let directory = &options.cni_conf_dir;
    let changed = if directory.exists() { net_d::unchain(directory)? } else { vec![] };
    if !changed.is_empty() {
        say(format!("removed the plugin from {} in {}", changed.join(", "), directory.display()));
        sleep(RELOAD);
    }
    let faults: Vec<_> = datapath::unload(bpffs).iter().map(ToString::to_string).collect();
    if !faults.is_empty() {
        return Err(faults.join("\n").into());
    }
    say("removed the datapath");
    let plugin = options.cni_bin_dir.join(PLUGIN);
    if remove_plugin {
        return remove_binary(&plugin);
    }
    if plugin.exists() {
        // CRI-O deletes a pod with the chain that it was created with.
        say(format!("kept {} for pods that were created with it", plugin.display()));
    }
    Ok(())
}

fn remove_binary(plugin: &Path) -> Result<(), Box<dyn Error>> {
    match fs::remove_file(plugin) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", plugin.display()).into())
        }
        _ => Ok(()),
    }
}
