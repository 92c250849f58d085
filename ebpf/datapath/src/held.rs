//! What is pinned, held open by the agent: if somebody removes the pins, or mounts another BPF file system, then nothing is
//! lost, not even a link, and all of it can be pinned again.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapData,
    programs::{
        SchedClassifier,
        links::{FdLink, PinnedLink},
    },
};

use crate::{
    Error, Result,
    load::make_directories,
    pinned::{LINKS, MAPS, PROGRAMS, pin_directory},
};

/// Everything pinned, by path.
#[derive(Debug)]
pub struct Held {
    bpffs: PathBuf,
    maps: BTreeMap<PathBuf, (Place, MapData)>,
    programs: BTreeMap<PathBuf, (Place, SchedClassifier)>,
    links: BTreeMap<PathBuf, (Place, FdLink)>,
}

/// Device and inode of a pin: another one at the same path is another pin.
type Place = (u64, u64);

/// What became of the pins since they were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pins {
    /// Nothing.
    Intact,
    /// Some were gone, and are there again.
    Restored,
    /// Others are pinned in their place: the state has to be opened again.
    Replaced,
}

impl Held {
    /// Holds what is pinned under `bpffs`.
    pub fn open(bpffs: &Path) -> Result<Self> {
        let (maps, programs, links) = Default::default();
        let mut held = Self { bpffs: bpffs.into(), maps, programs, links };
        held.take_in()?;
        Ok(held)
    }

    /// Pins again what is no longer pinned, and holds what has been pinned since.
    pub fn keep(&mut self) -> Result<Pins> {
        make_directories(&self.bpffs)?;
        let is_whole = are_pinned(&self.maps)? && are_pinned(&self.programs)?;
        if !is_whole {
            self.pin()?;
        }
        Ok(match (self.take_in()?, is_whole) {
            (true, _) => Pins::Replaced,
            (_, false) => Pins::Restored,
            _ => Pins::Intact,
        })
    }

    /// Pins what is missing: the maps last, because whoever finds them expects the rest.
    fn pin(&mut self) -> Result<()> {
        for (path, (_, link)) in std::mem::take(&mut self.links) {
            if place(&path)?.is_none() {
                link.pin(&path).map_err(|error| cannot_pin(&path, &error))?;
            }
        }
        for (path, (known, program)) in &mut self.programs {
            if place(path)?.is_none() {
                program.pin(path.as_path()).map_err(|error| cannot_pin(path, &error))?;
                *known = place(path)?.unwrap_or_default();
            }
        }
        for (path, (known, map)) in &mut self.maps {
            if place(path)?.is_none() {
                map.pin(path.as_path()).map_err(|error| cannot_pin(path, &error))?;
                *known = place(path)?.unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Holds exactly what is pinned now. Returns whether a map that was held is another one.
    fn take_in(&mut self) -> Result<bool> {
        let directory = pin_directory(&self.bpffs);
        let link = |path: &Path| PinnedLink::from_pin(path).map(FdLink::from);
        renew(&mut self.links, &directory.join(LINKS), link)?;
        renew(&mut self.programs, &directory.join(PROGRAMS), |path: &Path| SchedClassifier::from_pin(path))?;
        renew(&mut self.maps, &directory.join(MAPS), |path: &Path| MapData::from_pin(path))
    }
}

/// Holds exactly what is in `directory`. Returns whether something was replaced.
fn renew<T, E: std::error::Error>(
    held: &mut BTreeMap<PathBuf, (Place, T)>,
    directory: &Path,
    open: impl Fn(&Path) -> Result<T, E>,
) -> Result<bool> {
    let fault = |error| Error::kernel(format!("cannot read {}", directory.display()), error);
    let (mut before, mut replaced) = (std::mem::take(held), false);
    for entry in fs::read_dir(directory).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let Some(now) = place(&path)? else { continue }; // removed meanwhile
        let known = before.remove(&path);
        replaced |= known.as_ref().is_some_and(|(place, _)| *place != now);
        let object = match known {
            Some((place, object)) if place == now => object,
            _ => match open(&path) {
                Err(_) if place(&path)?.is_none() => continue,
                opened => {
                    opened.map_err(|error| Error::bpf(format!("cannot open {}", path.display()), &error))?
                }
            },
        };
        held.insert(path, (now, object));
    }
    Ok(replaced)
}

/// Whether all of these are still pinned somewhere, by us or by others.
fn are_pinned<T>(held: &BTreeMap<PathBuf, (Place, T)>) -> Result<bool> {
    for path in held.keys() {
        if place(path)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where a pin is; `None` if there is none.
fn place(path: &Path) -> Result<Option<Place>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::kernel(format!("cannot look at {}", path.display()), error)),
    }
}

fn cannot_pin(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::bpf(format!("cannot pin {} again", path.display()), error)
}
