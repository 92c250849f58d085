//! What podman says of a container, and how it is called as a member.

use std::fs;

/// The namespace of podman's containers.
pub const NAMESPACE: &str = "podman";
/// The interface of a container's first network.
pub const INTERFACE: &str = "eth0";
/// How far conmon may be from a process among those who started it: it starts the runtime, which starts container and hooks.
const ANCESTORS: usize = 4;

/// The name of the container `id`, which `process` or one of those who started it has, or a short form of the id. No runtime
/// is told the name, but conmon is, which starts the runtime.
pub fn name(id: &str, process: u32) -> String {
    conmons_name(id, process).unwrap_or_else(|| id.chars().take(12).collect())
}

fn conmons_name(id: &str, mut process: u32) -> Option<String> {
    for _ in 0..ANCESTORS {
        let line = fs::read(format!("/proc/{process}/cmdline")).ok()?;
        if let Some(name) = name_in(&String::from_utf8_lossy(&line), id) {
            return Some(name);
        }
        process = parent(process)?;
    }
    None
}

/// The process that started `process`, or has taken its place.
pub fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// The name in a command line of conmon for the container `id`; its words end in zeros.
fn name_in(line: &str, id: &str) -> Option<String> {
    let words: Vec<_> = line.split('\0').collect();
    let value = |option: &str| words.windows(2).find(|pair| pair[0] == option).map(|pair| pair[1]);
    value("-n").filter(|name| !name.is_empty() && value("-c") == Some(id)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conmon_knows_the_name() {
        let line = "/usr/bin/conmon\0--full-attach\0-c\0c0ffee\0-u\0c0ffee\0-n\0ioc-a\0-s\0";
        assert_eq!(name_in(line, "c0ffee").as_deref(), Some("ioc-a"));
        let others = ["crun\0create\0c0ffee\0", "conmon\0-c\0x\0-n\0ioc-b\0", "conmon\0-c\0c0ffee\0-n\0", ""];
        others.iter().for_each(|other| assert_eq!(name_in(other, "c0ffee"), None, "{other}"));
    }

    #[test]
    fn a_container_without_conmon_has_its_short_id() {
        assert_eq!(name("0123456789abcdef", std::process::id()), "0123456789ab");
    }
}
