//! Attaches programs to interfaces, so that they outlive the process and are replaced without a gap (only a filter that must
//! become a link is missing for a few milliseconds).
//!
//! Ours come first: other programs, such as Cilium's, end the chain for packets that they accept.
//!
//! Uplinks and the fan device use TCX if the kernel has it: a link pinned next to the maps. On a pod's veth a classic filter
//! of the clsact qdisc does the same in a tenth of the time (TCX waits for an RCU grace period), unless another program or
//! filter is attached: a TCX program may end the chain before a classic filter runs, and a filter of another kind may have
//! the priority that ours needs. If such a program is attached later, ours moves to TCX.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use abi::names;
use aya::programs::{SchedClassifier, TcAttachType};
use netlink_packet_route::tc::TcHandle;
use nix::errno::Errno;

use crate::{
    Error, Result,
    bpf::{self, Side},
    filter::{self, Filter, Place, filters},
    link::{Link, is_one_of},
    pinned::{LINKS, PROGRAMS, pin_directory},
};

/// Priority of our classic filters: the first.
const PRIORITY: u16 = 1;
/// Handle of our classic filters, which identifies them ("ioca").
const HANDLE: TcHandle = TcHandle { major: 0x696f, minor: 0x6361 };

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `from_lan`: ingress of an uplink.
    FromLan,
    /// `to_lan`: egress of an uplink.
    ToLan,
    /// `from_pod`: ingress of a member's host-side veth.
    FromPod,
    /// `to_bridge`: egress of a bridge that connects pods.
    ToBridge,
    /// `fan`: ingress of the fan device.
    Fan,
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.program())
    }
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::FromLan, Self::ToLan, Self::FromPod, Self::ToBridge, Self::Fan];

    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::FromLan => names::FROM_LAN,
            Self::ToLan => names::TO_LAN,
            Self::FromPod => names::FROM_POD,
            Self::ToBridge => names::TO_BRIDGE,
            Self::Fan => names::FAN,
        }
    }

    fn is_egress(self) -> bool {
        matches!(self, Self::ToLan | Self::ToBridge)
    }

    fn side(self) -> Side {
        if self.is_egress() { Side::Egress } else { Side::Ingress }
    }

    /// Whether TCX is worth its cost here if nobody else uses it.
    fn prefers_tcx(self) -> bool {
        self != Self::FromPod
    }

    fn parent(self) -> TcHandle {
        let minor = if self.is_egress() { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS };
        TcHandle { minor, ..TcHandle::CLSACT }
    }

    /// Where our filter is on a device.
    fn place(self, device: u32) -> Place {
        Place { device, parent: self.parent(), priority: PRIORITY, handle: HANDLE }
    }
}

/// Attaches the pinned program of `hook` to `device`; replaces one that is already attached in place.
pub fn attach(bpffs: &Path, hook: Hook, device: &Link) -> Result<()> {
    let fault = |error| Error::kernel(format!("cannot attach {hook} to {}", device.name), error);
    let path = pin_directory(bpffs).join(PROGRAMS).join(hook.program());
    let program = match bpf::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::NotLoaded(path)),
        opened => opened.map_err(fault)?,
    };
    let pin = link_pin(bpffs, hook, device.index);
    if replace_link(&program, &pin).map_err(fault)? {
        return Ok(());
    }
    let filters = filters(device.index, hook.parent())?;
    let others = has_links(hook, device.index);
    let place = hook.place(device.index);
    match (filters.iter().any(is_ours), others) {
        (true, false) => return filter::replace(&place, hook.program(), &program).map_err(fault),
        (true, true) => detach_filter(hook, device.index)?, // or packets would pass ours twice
        (false, _) => {}
    }
    if hook.prefers_tcx() || !filters.is_empty() || others {
        match attach_link(&program, hook, device.index, &pin) {
            Ok(()) => return Ok(()),
            Err(error) if lacks_tcx(&error) => {}
            Err(error) => return Err(fault(error)),
        }
    }
    filter::add(&place, hook.program(), &program).map_err(fault)
}

/// Whether the program of `hook` is attached to `device`, and no TCX program of others can hide packets from it.
pub fn is_attached(bpffs: &Path, hook: Hook, device: &Link) -> Result<bool> {
    Ok(link_pin(bpffs, hook, device.index).exists() || is_filter(hook, device.index)?)
}

/// Whether the program of `hook` is attached to device `index`, and as a filter, so that the device is there, too: nobody has
/// to look it up, which is most of what a pass over many members takes.
pub fn is_filter(hook: Hook, index: u32) -> Result<bool> {
    Ok(filters(index, hook.parent())?.iter().any(is_ours) && !has_links(hook, index))
}

/// Detaches the program of `hook` from device `index`; not an error if it is not attached, or if the device is gone.
pub fn detach(bpffs: &Path, hook: Hook, index: u32) -> Result<()> {
    let pin = link_pin(bpffs, hook, index);
    match fs::remove_file(&pin) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::kernel(format!("cannot remove {}", pin.display()), error));
        }
        _ => {}
    }
    if filters(index, hook.parent())?.iter().any(is_ours) { detach_filter(hook, index) } else { Ok(()) }
}

fn detach_filter(hook: Hook, index: u32) -> Result<()> {
    filter::remove(&hook.place(index))
        .map_err(|error| Error::kernel(format!("cannot detach {hook} from interface number {index}"), error))
}

/// Whether we attached this filter.
fn is_ours(filter: &Filter) -> bool {
    filter.handle == HANDLE && filter.priority == u32::from(PRIORITY) && filter.kind == "bpf"
}

fn link_pin(bpffs: &Path, hook: Hook, index: u32) -> PathBuf {
    pin_directory(bpffs).join(LINKS).join(format!("{hook}-{index}"))
}

/// Replaces the program of the link pinned at `pin`. False if there is no link, or only the dead link of a removed device,
/// which is deleted.
fn replace_link(program: &OwnedFd, pin: &Path) -> io::Result<bool> {
    let link = match bpf::open(pin) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    match bpf::update(&link, program) {
        Err(error) if is_one_of(&error, &[Errno::ENOLINK]) => fs::remove_file(pin).map(|()| false),
        outcome => outcome.map(|()| true),
    }
}

/// Whether TCX programs are attached, or may be: the kernel counts them only with CAP_NET_ADMIN.
fn has_links(hook: Hook, index: u32) -> bool {
    match bpf::attached(index, hook.side()) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

/// The names of the TCX programs on a hook, in order; none on a kernel without TCX. `None` if they are hidden.
fn tcx_programs(hook: Hook, device: &Link) -> Option<Vec<String>> {
    let side = if hook.is_egress() { TcAttachType::Egress } else { TcAttachType::Ingress };
    match SchedClassifier::query_tcx(&device.name, side) {
        Ok((_, programs)) => {
            Some(programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned()).collect())
        }
        Err(error) if Error::bpf("", &error).is_not_permitted() => None,
        Err(_) => Some(vec![]),
    }
}

/// A program or filter on a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Its name for people.
    pub name: String,
    /// Whether it is iocast's.
    pub ours: bool,
}

/// What is attached to `hook` of `device`, in the order in which packets pass it. `None` if the kernel hides it: seeing TCX
/// programs requires CAP_SYS_ADMIN.
pub fn occupants(hook: Hook, device: &Link) -> Result<Option<Vec<Occupant>>> {
    let Some(programs) = tcx_programs(hook, device) else { return Ok(None) };
    let mut filters = filters(device.index, hook.parent())?;
    filters.sort_by_key(|filter| filter.priority);
    let programs = programs
        .into_iter()
        .map(|name| Occupant { ours: name == hook.program(), name: format!("program {name}") });
    let filters =
        filters.iter().filter(|filter| filter.handle != TcHandle::default()).map(|filter| Occupant {
            ours: is_ours(filter),
            name: format!("{} filter of priority {}", filter.kind, filter.priority),
        });
    let mut found: Vec<_> = programs.chain(filters).collect();
    found.dedup(); // a filter may be reported in several parts
    Ok(Some(found))
}

fn attach_link(program: &OwnedFd, hook: Hook, index: u32, pin: &Path) -> io::Result<()> {
    bpf::pin(&bpf::link(program, index, hook.side())?, pin)
}

/// Whether a TCX attach failed because the kernel has no TCX (before 6.6 the call returns "invalid argument").
fn lacks_tcx(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::EINVAL, Errno::EOPNOTSUPP])
}
