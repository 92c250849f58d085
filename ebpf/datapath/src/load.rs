//! Loads the object into the kernel, and pins its maps and programs so that they outlive the process.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use abi::{
    DESCRIBED, DESCRIPTORS, FROM_LAN_RELAYED, FROM_POD_DESCRIBED, PARSED, Parsed, RELAYED_PLACE, next_place,
};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::ProgramArray,
    programs::{ProgramType, SchedClassifier},
    sys::{BpfHelper, is_helper_supported},
};
use nix::{
    sys::statfs::{FsType, statfs},
    unistd::geteuid,
};

use crate::{
    Error, Hook, Result, State,
    former::refuse_later,
    link::{self, Link},
    pinned::{LINKS, MAPS, PARENT, PROGRAMS, pin_directory},
};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/iocast"));

/// Magic number of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);

/// The mode of pin directories.
const PRIVATE: u32 = 0o700;

/// Helpers that only recent kernels have, by name.
const HELPERS: [(BpfHelper, &str); 7] = [
    (BpfHelper::BPF_FUNC_sk_lookup_udp, "bpf_sk_lookup_udp (4.20)"),
    (BpfHelper::BPF_FUNC_sk_lookup_tcp, "bpf_sk_lookup_tcp (4.20)"),
    (BpfHelper::BPF_FUNC_skc_lookup_tcp, "bpf_skc_lookup_tcp (5.2)"),
    (BpfHelper::BPF_FUNC_redirect_neigh, "bpf_redirect_neigh (5.10)"),
    (BpfHelper::BPF_FUNC_redirect_peer, "bpf_redirect_peer (5.10)"),
    (BpfHelper::BPF_FUNC_ktime_get_coarse_ns, "bpf_ktime_get_coarse_ns (5.11)"),
    (BpfHelper::BPF_FUNC_loop, "bpf_loop (5.17)"),
];

/// The fan device: the end that the programs use, and the unused end.
pub(crate) const FAN: (&str, &str) = (FAN_DEVICE, "iocast-fan-peer");
/// The end of the fan device that programs use.
pub const FAN_DEVICE: &str = "iocast-fan";

/// Loads the programs and pins them, and maps that do not exist yet, under `bpffs`.
///
/// Existing maps are kept with their contents; programs are replaced.
pub fn load(bpffs: &Path) -> Result<State> {
    let directory = prepare(bpffs)?;
    let fault = |what: &str, error: &dyn std::error::Error| Error::bpf(what, error);
    let mut loader = EbpfLoader::new();
    let mut object = loader
        .default_map_pin_directory(directory.join(MAPS))
        .load(OBJECT)
        .map_err(|error| fault("cannot create the maps", &error))?;
    let entered = Hook::ALL.map(Hook::program);
    let called = PARSED.iter().flat_map(|parsed| parsed.from_pod.iter().chain(parsed.from_lan)).copied();
    for name in called.chain([FROM_POD_DESCRIBED, FROM_LAN_RELAYED]).chain(entered) {
        let what = format!("cannot load the program {name}");
        let program = object.program_mut(name).ok_or_else(|| Error::Bpf {
            what: what.clone(),
            reason: "missing from the eBPF object".into(),
        })?;
        let program: &mut SchedClassifier = program.try_into().map_err(|error| fault(&what, &error))?;
        program.load().map_err(|error| fault(&what, &error))?;
        pin_program(&directory, name, program)?;
    }
    let parts: Vec<_> = places(|parsed| parsed.from_pod).chain(described()).collect();
    fill_program_array(&mut object, "FROM_POD", &parts)?;
    let parts: Vec<_> = places(|parsed| parsed.from_lan).chain([(FROM_LAN_RELAYED, RELAYED_PLACE)]).collect();
    fill_program_array(&mut object, "FROM_LAN", &parts)?;
    State::open(bpffs)
}

/// Programs and their indexes in a program array: the first of each protocol at its number, then the one that it tail-calls.
fn places(programs: fn(&Parsed) -> &'static [&'static str]) -> impl Iterator<Item = (&'static str, u32)> {
    PARSED.iter().flat_map(move |parsed| {
        programs(parsed).iter().copied().zip([parsed.protocol as u32, next_place(parsed.protocol)])
    })
}

fn described() -> impl Iterator<Item = (&'static str, u32)> {
    (DESCRIBED..DESCRIBED + DESCRIPTORS).map(|place| (FROM_POD_DESCRIBED, place))
}

/// Pins `program`, replacing the one that an earlier load pinned.
fn pin_program(directory: &Path, name: &str, program: &mut SchedClassifier) -> Result<()> {
    let pin = directory.join(PROGRAMS).join(name);
    let new = directory.join(PROGRAMS).join(format!("{name}_new")); // no dots: bpffs reserves them
    let _ = fs::remove_file(&new); // left by an interrupted load
    program.pin(&new).map_err(|error| Error::bpf(format!("cannot pin {}", new.display()), &error))?;
    fs::rename(&new, &pin).map_err(|error| Error::kernel(format!("cannot pin {}", pin.display()), error))
}

/// Puts the programs that another one tail-calls into its map.
fn fill_program_array(object: &mut Ebpf, map: &str, programs: &[(&str, u32)]) -> Result<()> {
    let what = format!("cannot fill the map {map}");
    let fault = |error: &dyn std::error::Error| Error::bpf(&what, error);
    let missing = || Error::Bpf { what: what.clone(), reason: "missing from the eBPF object".into() };
    let mut array =
        ProgramArray::try_from(object.take_map(map).ok_or_else(missing)?).map_err(|error| fault(&error))?;
    for (name, place) in programs {
        let program: &SchedClassifier =
            object.program(name).ok_or_else(missing)?.try_into().map_err(|error| fault(&error))?;
        let fd = program.fd().map_err(|error| fault(&error))?;
        array.set(*place, fd, 0).map_err(|error| fault(&error))?;
    }
    Ok(())
}

/// Checks the preconditions, and creates the pin directories.
fn prepare(bpffs: &Path) -> Result<PathBuf> {
    check_kernel()?;
    check_bpffs(bpffs)?;
    make_private(&bpffs.join(PARENT))?;
    refuse_later(bpffs)?;
    let directory = make_directories(bpffs)?;
    // aya accepts a pinned map of any layout, so check first; it creates those that are missing.
    match State::open(bpffs) {
        Ok(_) | Err(Error::NotLoaded(_)) => Ok(directory),
        Err(error) => Err(error),
    }
}

/// Creates the pin directories that are missing, and returns the one that has the others.
pub(crate) fn make_directories(bpffs: &Path) -> Result<PathBuf> {
    check_bpffs(bpffs)?;
    let directory = pin_directory(bpffs);
    make_private(&bpffs.join(PARENT))?;
    make_private(&directory)?;
    for part in [MAPS, PROGRAMS, LINKS] {
        make_private(&directory.join(part))?;
    }
    Ok(directory)
}

/// Makes sure that `path` is a directory of ours that nobody else can enter or open: whoever opens the pin directory can lock
/// it. BPF file systems are writable for everybody unless mounted otherwise, so it may be somebody else's.
fn make_private(path: &Path) -> Result<()> {
    let fault = |error| Error::kernel(format!("cannot create {}", path.display()), error);
    match DirBuilder::new().mode(PRIVATE).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(fault(error)),
        _ => {}
    }
    let present = fs::symlink_metadata(path).map_err(fault)?;
    let foreign = |found: String| Err(Error::ForeignDirectory { path: path.into(), found });
    if !present.is_dir() {
        return foreign("is no directory".into());
    }
    if present.uid() != geteuid().as_raw() {
        return foreign(format!("belongs to user {}", present.uid()));
    }
    if present.mode() & 0o7777 == PRIVATE {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(PRIVATE)).map_err(fault)
}

/// Checks that `bpffs` is a BPF file system.
pub fn check_bpffs(bpffs: &Path) -> Result<()> {
    let found =
        statfs(bpffs).map_err(|error| Error::kernel(format!("cannot use {}", bpffs.display()), error))?;
    if found.filesystem_type() == BPF_FS_MAGIC { Ok(()) } else { Err(Error::NotBpffs(bpffs.into())) }
}

/// Checks that the kernel has all helpers that the programs call.
pub fn check_kernel() -> Result<()> {
    let missing = missing_helpers(|helper| is_helper_supported(ProgramType::SchedClassifier, helper))?;
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingFeatures(missing)) }
}

/// The helpers that the kernel lacks according to `probe`.
fn missing_helpers<E: std::error::Error>(
    probe: impl Fn(BpfHelper) -> Result<bool, E>,
) -> Result<Vec<&'static str>> {
    let mut missing = vec![];
    for (helper, name) in HELPERS {
        if !probe(helper).map_err(|error| Error::bpf("cannot query the kernel's BPF helpers", &error))? {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// Creates the fan device if it is missing, and brings it up. Returns the end that the programs use.
pub fn ensure_fan() -> Result<Link> {
    let (name, peer) = FAN;
    link::create_veth(name, peer)?;
    bring_up(peer)?;
    bring_up(name)
}

fn bring_up(name: &str) -> Result<Link> {
    let device = link::by_name(name)?.ok_or_else(|| Error::Bpf {
        what: format!("cannot bring {name} up"),
        reason: "it disappeared right after it was created".into(),
    })?;
    link::set_up(device.index)?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_helper_is_named() {
        let old = |helper| Ok::<_, std::io::Error>(!matches!(helper, BpfHelper::BPF_FUNC_loop));
        let missing = missing_helpers(old).unwrap();
        assert_eq!(missing, ["bpf_loop (5.17)"]);
        let message = Error::MissingFeatures(missing).to_string();
        assert!(message.contains("bpf_loop (5.17)") && message.contains("5.17 or newer"), "{message}");
    }

    #[test]
    fn a_user_without_rights_is_advised_to_be_root() {
        let denied = |_| Err(std::io::Error::from_raw_os_error(1));
        let error = missing_helpers(denied).map_err(|error| error.to_string());
        assert!(
            error
                .as_ref()
                .is_err_and(|text| text.contains("Operation not permitted") || text.contains("run as root")),
            "{error:?}"
        );
    }
}
