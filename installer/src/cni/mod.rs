//! The plugin on the node: its binary, and its place in the primary CNI's chain.
//!
//! Rules that everything here keeps: the binary is there, and has answered, before a chain names it; no file is ever
//! half written, nor missing for a moment; the end of this process changes nothing, only `uninstall` does.

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

/// A runtime has read a changed configuration by then.
const RELOAD: Duration = Duration::from_secs(2);

/// `iocast-node install`: the plugin in place and chained, once.
pub(crate) fn install(options: &Options, bpffs: &Path) -> Result<(), Box<dyn Error>> {
    let mut keeper = Keeper::new(options, bpffs);
    let problems = keeper.pass_until_settled();
    if !keeper.is_chained() {
        return Err(problems.join("\n  ").into());
    }
    println!("iocast-node: the plugin is chained in {}", options.cni_conf_dir.display());
    Ok(())
}

/// `iocast-node uninstall`: out of every chain, then the datapath down, then, if asked, the binary away. In this order
/// every pod can be created and deleted at any time; what cannot be done ends it where it is.
pub(crate) fn uninstall(options: &Options, bpffs: &Path, remove_plugin: bool) -> Result<(), Box<dyn Error>> {
    let directory = &options.cni_conf_dir;
    let changed = if directory.exists() { net_d::unchain(directory)? } else { vec![] };
    if !changed.is_empty() {
        println!("iocast-node: no longer in {} of {}", changed.join(", "), directory.display());
        sleep(RELOAD);
    }
    let faults: Vec<_> = datapath::unload(bpffs).iter().map(ToString::to_string).collect();
    if !faults.is_empty() {
        return Err(faults.join("\n  ").into());
    }
    println!("iocast-node: the datapath is taken down");
    let plugin = options.cni_bin_dir.join(PLUGIN);
    if remove_plugin {
        return remove_binary(&plugin);
    }
    if plugin.exists() {
        // CRI-O deletes a pod by the chain it was created with.
        println!("iocast-node: {} stays, for pods that were created with it", plugin.display());
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
