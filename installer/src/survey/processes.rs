//! What the kernel tells of processes in /proc. Names that are links are read, never followed: nothing here opens a file that a
//! pod has.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
};

use super::settings;

/// Processes that are looked at, at most, and file descriptors of each.
const MOST: usize = 32_768;
const DESCRIPTORS: usize = 65_536;
/// Devices of a process that are kept.
const DEVICES: usize = 32;
/// Bytes of a file that are read: as many as Linux takes for a process' environment.
const LONGEST: u64 = 2 * 1024 * 1024;
/// Bytes that are kept of a setting.
const SETTING: usize = 4096;
/// Hexadecimal digits of a container's id.
const ID: usize = 64;
/// Devices that every container has.
const COMMON: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"];

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process(u32);

/// What a process has open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    /// Inodes of sockets.
    pub(super) sockets: BTreeSet<u64>,
    /// Devices, by their names.
    pub(super) devices: BTreeSet<String>,
}

/// All that are visible here, but for this one.
pub(super) fn all() -> io::Result<Vec<Process>> {
    let own = std::process::id();
    let names = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found: Vec<_> = names.filter(|id| *id != own).take(MOST + 1).map(Process).collect();
    match found.len() {
        ..=MOST => Ok(found),
        _ => Err(io::Error::other(format!("more than {MOST} processes: not all can be looked at"))),
    }
}

/// The container that this process is in.
pub(super) fn own_container() -> Option<String> {
    Process(std::process::id()).container()
}

/// Whether the kernel's own threads are visible: then all processes of the node are.
pub(super) fn are_all_visible() -> bool {
    Process(2).name() == "kthreadd"
}

/// The range from which the kernel chooses ports, both ends inclusive.
pub(super) fn chosen_ports() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = text.split_whitespace().filter_map(|word| word.parse().ok());
    ports.next().zip(ports.next()).unwrap_or((32_768, 60_999))
}

impl Process {
    /// The id of the container that it is in.
    pub(super) fn container(self) -> Option<String> {
        container(&self.text("cgroup"))
    }

    /// Whether it has the network namespace of this process; an error if that may not be known.
    pub(super) fn has_our_network(self) -> io::Result<bool> {
        Ok(fs::read_link(self.path("ns/net"))? == fs::read_link("/proc/thread-self/ns/net")?)
    }

    /// What its program is called, at most 15 bytes.
    pub(super) fn name(self) -> String {
        self.text("comm").trim_end().into()
    }

    /// Its effective capabilities, a bit each.
    pub(super) fn capabilities(self) -> u64 {
        let status = self.text("status");
        let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        digits.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
    }

    pub(super) fn open(self) -> io::Result<Open> {
        let mut open = Open::default();
        for entry in fs::read_dir(self.path("fd"))?.take(DESCRIPTORS) {
            let link = match entry.and_then(|entry| fs::read_link(entry.path())) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // closed meanwhile
                link => link?,
            };
            open.note(&link.to_string_lossy());
        }
        Ok(open)
    }

    /// Those EPICS settings in its environment that name addresses and ports, and nothing else of it.
    pub(super) fn settings(self) -> io::Result<Vec<(String, String)>> {
        settings_in(BufReader::new(File::open(self.path("environ"))?))
    }

    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    /// A short file about it; empty if it is gone.
    fn text(self, name: &str) -> String {
        let mut text = vec![];
        let read = File::open(self.path(name)).and_then(|file| file.take(LONGEST).read_to_end(&mut text));
        read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&text).into())
    }
}

impl Open {
    /// Notes what a file descriptor refers to.
    fn note(&mut self, link: &str) {
        let inode: Option<u64> =
            link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
        self.sockets.extend(inode);
        let device = link.strip_prefix("/dev/");
        let is_own =
            |name: &&str| !COMMON.contains(name) && !name.starts_with("pts/") && !name.starts_with("shm/");
        let device = device.filter(|name| is_own(name) && self.devices.len() < DEVICES);
        self.devices.extend(device.map(|_| link.to_owned()));
    }
}

/// The id of a container in a list of cgroups, whatever runtime and cgroup driver it is of.
fn container(cgroups: &str) -> Option<String> {
    let mut words = cgroups.split(|c: char| !c.is_ascii_alphanumeric());
    let is_id = |word: &&str| word.len() == ID && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    words.rfind(is_id).map(str::to_owned)
}

/// The settings in an environment. What is no setting is dropped as soon as its name is known.
fn settings_in(environment: impl BufRead) -> io::Result<Vec<(String, String)>> {
    let (mut found, mut entry) = (vec![], vec![]);
    let mut rest = environment.take(LONGEST);
    while rest.read_until(0, &mut entry)? > 0 {
        let text = String::from_utf8_lossy(entry.strip_suffix(&[0]).unwrap_or(&entry));
        let is_new = |name: &str| found.iter().all(|(known, _): &(String, String)| known != name); // as getenv takes it
        let setting = text.split_once('=').filter(|(name, _)| settings::is_known(name) && is_new(name));
        let setting = setting.map(|(name, value)| (name.to_owned(), value.chars().take(SETTING).collect()));
        found.extend(setting);
        entry.clear();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_in_the_cgroups_of_every_runtime_and_driver() {
        let id = "0a".repeat(32);
        for (cgroups, expected) in [
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-{id}.scope"
                ),
                true,
            ),
            (format!("0::/kubepods/burstable/pod12-34/{id}\n"), true),
            (
                format!(
                    "12:pids:/kubepods/besteffort/pod1/{id}\n11:cpu:/kubepods/besteffort/pod1/{id}\n1:name=systemd:/x\n"
                ),
                true,
            ),
            (format!("0::/kubepods.slice/kubepods-pod1.slice/crio-{id}.scope/container"), true),
            (format!("0::/../../burstable/pod1/{id}"), true),
            ("0::/system.slice/softioc.service".into(), false),
            ("0::/".into(), false),
            (format!("0::/{}", &id[1..]), false),
            (String::new(), false),
        ] {
            assert_eq!(container(&cgroups), expected.then(|| id.clone()), "{cgroups}");
        }
    }

    #[test]
    fn nothing_of_an_environment_is_kept_but_addresses_and_ports_of_epics() {
        let environment =
            b"PASSWORD=secret\0EPICS_CA_ADDR_LIST=10.0.0.1 10.0.0.2\0EPICS_PVA_TLS_KEYCHAIN=/key;secret\0\
            =secret\0secret\0EPICS_CAS_SERVER_PORT=5066\0EPICS_CAS_SERVER_PORT=5067\0XEPICS_CA_ADDR_LIST=secret";
        let found = settings_in(&environment[..]).unwrap();
        let expected = [("EPICS_CA_ADDR_LIST", "10.0.0.1 10.0.0.2"), ("EPICS_CAS_SERVER_PORT", "5066")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn an_environment_without_end_is_read_to_a_bound() {
        let endless = io::repeat(b'x').take(8 * LONGEST);
        assert_eq!(settings_in(BufReader::new(endless)).unwrap(), []);
    }

    #[test]
    fn sockets_and_devices_are_told_from_files_and_what_every_container_has() {
        let mut open = Open::default();
        for link in [
            "socket:[17]",
            "/dev/null",
            "/dev/pts/0",
            "/dev/ttyUSB0",
            "/data/socket:[18]",
            "pipe:[19]",
            "socket:[x]",
        ] {
            open.note(link);
        }
        let devices = BTreeSet::from(["/dev/ttyUSB0".to_owned()]);
        assert_eq!(open, Open { sockets: BTreeSet::from([17]), devices });
    }
}
