//! `iocast hook`: makes a container of podman a member, as an OCI hook.
//!
//! The OCI runtime (crun, runc) runs it at two stages and passes the container's state on stdin (OCI runtime-spec, "State"): at
//! `createRuntime`, when the container has its network and its program does not run yet, it does what ADD does; at `poststop`,
//! what DEL does.

use std::{
    fs, io,
    os::unix::{net::UnixDatagram, process::parent_id},
    path::{Path, PathBuf},
};

use abi::AttachmentKey;
use datapath::{BPFFS, Netns, Pod, State, printable::json};
use membership::podman::{self, INTERFACE, NAMESPACE};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    add::{self, Candidate},
    annotations::Annotations,
    check, del,
    error::CniError,
    request,
};

/// Where the system's log listens.
const LOG: &str = "/dev/log";

/// The state of a container, as far as it is needed.
#[derive(Deserialize)]
struct Container {
    id: String,
    status: String,
    /// The number of its first process; 0 once it has ended.
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    annotations: Value,
}

/// Does what the state on stdin calls for.
pub(crate) fn run(input: &str) -> Result<(), CniError> {
    let container: Container = serde_json::from_str(input).map_err(|error| {
        CniError::decode(format!(
            "the state of the container on stdin is not valid: {error}; an OCI runtime passes it"
        ))
    })?;
    if container.status == "stopped" {
        return container.leave();
    }
    container.join().inspect_err(|error| add::count(Path::new(BPFFS), error))
}

impl Container {
    fn join(&self) -> Result<(), CniError> {
        let annotations = Annotations(&self.annotations);
        let Some(domain) = annotations.domain()? else { return Ok(()) };
        if is_rootless() {
            return Err(CniError::pod(
                "rootless podman: the kernel lets nobody attach programs from a user namespace; start the container as root, \
                 by `sudo podman`",
            ));
        }
        let (bpffs, key) = (Path::new(BPFFS), self.key()?);
        let netns = &PathBuf::from(format!("/proc/{}/ns/net", self.pid));
        if is_member_by_another(bpffs, &key, netns, &suited(netns)?) {
            return Ok(());
        }
        let name = &podman::name(&self.id, parent_id());
        // By no CNI network, whose GC knows nothing of it.
        let (network, namespace) = ("", NAMESPACE);
        add::join(&Candidate { bpffs, key, netns, network, namespace, name, annotations }, domain)
    }

    fn leave(&self) -> Result<(), CniError> {
        del::leave(Path::new(BPFFS), &self.key()?)
    }

    fn key(&self) -> Result<AttachmentKey, CniError> {
        request::key(&self.id, INTERFACE)
    }
}

/// The container with this network namespace, if its network is one that a member can have.
fn suited(netns: &Path) -> Result<Pod, CniError> {
    let found = Netns::open(netns).and_then(|netns| Pod::find(&netns, INTERFACE));
    found.map_err(|error| {
        CniError::pod(format!(
            "{error}; a container that joins needs a bridge network of podman's, such as `--network podman`"
        ))
    })
}

/// Whether another container with the same network made it a member already, as one of the same pod may; or CNI, in CRI-O.
fn is_member_by_another(bpffs: &Path, key: &AttachmentKey, netns: &Path, pod: &Pod) -> bool {
    let attachments = State::open(bpffs).and_then(|state| state.attachments()).unwrap_or_default();
    let others = attachments.iter().filter(|(other, held)| other != key && held.member == pod.veth.index);
    others.into_iter().any(|(other, _)| check::check(bpffs, other, netns).is_ok())
}

/// Tells the system's log: what a hook prints, crun (1.8) shows to nobody.
pub(crate) fn log(message: &str) {
    let _ = send(&record(message)); // whether or not there is one
}

fn send(record: &[u8]) -> io::Result<usize> {
    let log = UnixDatagram::unbound()?;
    log.set_nonblocking(true)?; // a log that is stuck holds up no container
    log.send_to(record, LOG)
}

/// A record of the system's log (RFC 3164): an error (3) of a user's program (1).
fn record(message: &str) -> Vec<u8> {
    format!("<{}>{message}", (1 << 3) | 3).into_bytes()
}

/// Whether this runs in a user namespace, as all of rootless podman does: user ids are not what they are on the node.
fn is_rootless() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map");
    map.is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// What podman is to be told in its directory of hooks: to run this program, where it is, for containers that ask for a domain.
pub(crate) fn configuration(program: &Path) -> String {
    let configuration = serde_json::json!({
        "version": "1.0.0",
        "hook": { "path": program, "args": ["iocast", "hook"] },
        "when": { "annotations": { r"^iocast\.io/(domain|address)$": "" } },
        "stages": ["createRuntime", "poststop"],
    });
    json(&format!("{configuration:#}")) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_state_is_refused() {
        for wrong in ["", "[]", "{}", r#"{"id":1,"status":"created"}"#] {
            let error = run(wrong).unwrap_err();
            assert!(
                error.code == 6 && error.message.contains("the state of the container on stdin"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn the_systems_log_gets_an_error() {
        assert_eq!(record("iocast: no"), b"<11>iocast: no");
    }

    #[test]
    fn podman_is_told_where_the_program_is() {
        let told: Value = serde_json::from_str(&configuration(Path::new("/usr/local/bin/iocast"))).unwrap();
        assert_eq!(told["hook"]["path"], "/usr/local/bin/iocast");
        assert_eq!(told["stages"], serde_json::json!(["createRuntime", "poststop"]));
    }
}
