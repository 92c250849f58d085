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
    io::ErrorKind,
    path::{Path, PathBuf},
};

use abi::names;
use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use netlink_packet_route::tc::TcHandle as NetlinkHandle;
use nix::errno::Errno;

use crate::{
    Error, Result,
    link::{self, Filter, Link},
    pinned::{LINKS, PROGRAMS, pin_directory},
};

/// Priority of our classic filters: the first.
const PRIORITY: u16 = 1;
/// Handle of our classic filters, which identifies them ("ioca").
const HANDLE: (u16, u16) = (0x696f, 0x6361);

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

    fn direction(self) -> TcAttachType {
        if self.is_egress() { TcAttachType::Egress } else { TcAttachType::Ingress }
    }

    /// Whether TCX is worth its cost here if nobody else uses it.
    fn prefers_tcx(self) -> bool {
        self != Self::FromPod
    }

    fn parent(self) -> NetlinkHandle {
        let minor = if self.is_egress() { 0xfff3 } else { 0xfff2 };
        NetlinkHandle { major: 0xffff, minor }
    }
}

/// Attaches the pinned program of `hook` to `device`; replaces one that is already attached in place.
pub fn attach(bpffs: &Path, hook: Hook, device: &Link) -> Result<()> {
    let what = format!("cannot attach {} to {}", hook.program(), device.name);
    let fault = |error: &ProgramError| Error::bpf(what.clone(), error);
    let path = pin_directory(bpffs).join(PROGRAMS).join(hook.program());
    if !path.exists() {
        return Err(Error::NotLoaded(path));
    }
    let mut program = SchedClassifier::from_pin(path).map_err(|error| fault(&error))?;
    let pin = link_pin(bpffs, hook, device.index);
    if replace_link(&mut program, &pin).map_err(|error| fault(&error))? {
        return Ok(());
    }
    let filters = link::filters(device.index, hook.parent())?;
    let others = has_links(hook, device);
    match (filters.iter().any(is_ours), others) {
        (true, false) => return replace_filter(&mut program, hook, device).map_err(|error| fault(&error)),
        (true, true) => detach_filter(hook, device)?, // or packets would pass ours twice
        (false, _) => {}
    }
    if hook.prefers_tcx() || !filters.is_empty() || others {
        match attach_link(&mut program, hook, device, &pin) {
            Ok(()) => return Ok(()),
            Err(error) if lacks_tcx(&error) => {}
            Err(error) => return Err(fault(&error)),
        }
    }
    attach_filter(&mut program, hook, device).map_err(|error| fault(&error))
}

/// Whether the program of `hook` is attached to `device`, and no TCX program of others can hide packets from it.
pub fn is_attached(bpffs: &Path, hook: Hook, device: &Link) -> Result<bool> {
    if link_pin(bpffs, hook, device.index).exists() {
        return Ok(true);
    }
    Ok(link::filters(device.index, hook.parent())?.iter().any(is_ours) && !has_links(hook, device))
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
    let Some(device) = link::by_index(index)? else { return Ok(()) };
    if !link::filters(index, hook.parent())?.iter().any(is_ours) {
        return Ok(());
    }
    match detach_filter(hook, &device) {
        Err(_) if link::by_index(index)?.is_none() => Ok(()), // the device is gone meanwhile, and its filters with it
        outcome => outcome,
    }
}

fn detach_filter(hook: Hook, device: &Link) -> Result<()> {
    let what = format!("cannot detach {} from {}", hook.program(), device.name);
    let filter = known_filter(hook, device).map_err(|error| Error::kernel(what.clone(), error))?;
    aya::programs::links::Link::detach(filter).map_err(|error| Error::bpf(what, &error))
}

/// Whether we attached this filter.
fn is_ours(filter: &Filter) -> bool {
    let (major, minor) = HANDLE;
    filter.handle == NetlinkHandle { major, minor }
        && filter.priority == u32::from(PRIORITY)
        && filter.kind == "bpf"
}

/// Our filter on `device`, from what identifies it.
fn known_filter(hook: Hook, device: &Link) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(&device.name, hook.direction(), PRIORITY, handle(), None)
}

fn handle() -> TcHandle {
    TcHandle::new(HANDLE.0, HANDLE.1)
}

fn link_pin(bpffs: &Path, hook: Hook, index: u32) -> PathBuf {
    pin_directory(bpffs).join(LINKS).join(format!("{}-{index}", hook.program()))
}

/// Replaces the program of the link pinned at `pin`. False if there is no link, or only the dead link of a removed device,
/// which is deleted.
fn replace_link(program: &mut SchedClassifier, pin: &Path) -> Result<bool, ProgramError> {
    if !pin.exists() {
        return Ok(false);
    }
    let dead = |_| ProgramError::NotAttached;
    let link = PinnedLink::from_pin(pin).map_err(dead)?;
    let link = SchedClassifierLink::try_from(FdLink::from(link)).map_err(dead)?;
    match program.attach_to_link(link) {
        Ok(id) => program.take_link(id).map(|_| true), // the pin keeps it attached
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(Errno::ENOLINK as i32) =>
        {
            fs::remove_file(pin).map_err(ProgramError::IOError)?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn replace_filter(program: &mut SchedClassifier, hook: Hook, device: &Link) -> Result<(), ProgramError> {
    let id = program.attach_to_link(known_filter(hook, device).map_err(TcError::IoError)?)?;
    keep(program.take_link(id)?);
    Ok(())
}

/// A classic filter stays in the kernel until it is deleted; aya would delete it when its handle is dropped.
fn keep(filter: SchedClassifierLink) {
    std::mem::forget(filter);
}

/// Whether TCX programs are attached, or may be.
fn has_links(hook: Hook, device: &Link) -> bool {
    tcx_programs(hook, device).is_none_or(|others| !others.is_empty())
}

/// The names of the TCX programs on a hook, in order; none on a kernel without TCX. `None` if they are hidden: the kernel
/// shows them only with CAP_SYS_ADMIN.
fn tcx_programs(hook: Hook, device: &Link) -> Option<Vec<String>> {
    match SchedClassifier::query_tcx(&device.name, hook.direction()) {
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
    let mut filters = link::filters(device.index, hook.parent())?;
    filters.sort_by_key(|filter| filter.priority);
    let programs = programs
        .into_iter()
        .map(|name| Occupant { ours: name == hook.program(), name: format!("program {name}") });
    let filters =
        filters.iter().filter(|filter| filter.handle != NetlinkHandle::default()).map(|filter| Occupant {
            ours: is_ours(filter),
            name: format!("{} filter of priority {}", filter.kind, filter.priority),
        });
    let mut found: Vec<_> = programs.chain(filters).collect();
    found.dedup(); // a filter may be reported in several parts
    Ok(Some(found))
}

fn attach_link(
    program: &mut SchedClassifier,
    hook: Hook,
    device: &Link,
    pin: &Path,
) -> Result<(), ProgramError> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&device.name, hook.direction(), options)?;
    let link: FdLink = program.take_link(id)?.try_into().map_err(|_| ProgramError::NotAttached)?;
    match link.pin(pin) {
        Ok(_) => Ok(()),
        Err(error) => Err(ProgramError::IOError(std::io::Error::other(error))),
    }
}

/// Whether a TCX attach failed because the kernel has no TCX (before 6.6 the call returns "invalid argument").
fn lacks_tcx(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error)
        if matches!(error.io_error.raw_os_error(), Some(code) if code == Errno::EINVAL as i32 || code == Errno::EOPNOTSUPP as i32))
}

fn attach_filter(program: &mut SchedClassifier, hook: Hook, device: &Link) -> Result<(), ProgramError> {
    match tc::qdisc_add_clsact(&device.name) {
        // A qdisc that somebody else created works just as well.
        Err(TcError::AlreadyAttached) | Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
        Err(error) => return Err(error.into()),
    }
    let options = NlOptions { priority: PRIORITY, handle: handle(), classid: None };
    let id =
        program.attach_with_options(&device.name, hook.direction(), TcAttachOptions::Netlink(options))?;
    keep(program.take_link(id)?);
    Ok(())
}
