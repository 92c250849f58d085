//! The pins are root's alone: nobody else can open, lock or replace them, and who keeps them locked is named.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown, symlink},
};

use lab::{Lab, NODE, Options, Result, Topology};

const PARENT: &str = "/sys/fs/bpf/iocast";
const PINS: &str = "/sys/fs/bpf/iocast/v4";
const NOBODY: u32 = 65534;
const RUN_ONCE: &str = "run --no-cni --once --config /run/iocast/config.toml";

fn lab() -> Result<Lab> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    lab.configure("[domain.lab]\nuplink = \"eth0\"\n")?;
    Ok(lab)
}

/// What a user without rights is told; an error if it was let.
fn refused(lab: &Lab, line: &str) -> Result<String> {
    let nobody = format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups {line}");
    match lab.sandbox.sh(NODE, &nobody) {
        Err(error) => Ok(error.to_string()),
        Ok(said) => panic!("nobody may: {line}: {said}"),
    }
}

fn modes(lab: &Lab) -> Vec<(String, u32)> {
    lab.sandbox.run(|| {
        let parts = ["", "/v4", "/v4/maps", "/v4/programs", "/v4/links"].map(|part| PARENT.to_owned() + part);
        parts.map(|path| (path.clone(), fs::metadata(path).unwrap().permissions().mode() & 0o7777)).into()
    })
}

#[test]
fn nobody_but_root_can_list_lock_link_or_rename_the_pins() -> Result<()> {
    let lab = lab()?;
    lab.agent_command(RUN_ONCE)?.finish()?.success()?;
    for line in [
        format!("ls {PINS}"),
        format!("flock --nonblock {PINS} true"),
        format!("flock --nonblock {PARENT} true"),
        format!("ln {PINS}/maps/MEMBERS /sys/fs/bpf/mine"),
        format!("mv {PARENT} /sys/fs/bpf/mine"),
        format!("mv {PINS} /sys/fs/bpf/mine"),
        format!("mkdir {PARENT}/v4"),
        format!("rmdir {PINS}/links"),
        format!("chmod 777 {PARENT}"),
    ] {
        let said = refused(&lab, &line)?;
        let whys = ["Permission denied", "Operation not permitted"];
        assert!(whys.iter().any(|why| said.contains(why)), "{line}: {said}");
    }
    lab.pod("ioc-a").map(drop)
}

#[test]
fn pins_that_everybody_could_open_are_closed_by_the_next_agent() -> Result<()> {
    let lab = lab()?;
    lab.agent_command(RUN_ONCE)?.finish()?.success()?;
    lab.sandbox.run(|| {
        for path in [PARENT, PINS, "/sys/fs/bpf/iocast/v4/maps"] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
    });
    lab.agent_command(RUN_ONCE)?.finish()?.success()?;
    for (path, mode) in modes(&lab) {
        assert_eq!(mode, 0o700, "{path}");
    }
    refused(&lab, &format!("flock --nonblock {PINS} true")).map(drop)
}

#[test]
fn what_somebody_else_put_in_the_place_of_the_pins_is_refused_and_named() -> Result<()> {
    for (prepare, expected) in [
        (
            (|| fs::create_dir(PARENT).and_then(|()| chown(PARENT, Some(NOBODY), None))) as fn() -> _,
            "/sys/fs/bpf/iocast belongs to user 65534",
        ),
        (
            || fs::create_dir("/sys/fs/bpf/x").and_then(|()| symlink("/sys/fs/bpf/x", PARENT)),
            "/sys/fs/bpf/iocast is no directory",
        ),
        (
            || fs::create_dir_all(PINS).and_then(|()| chown(PINS, Some(NOBODY), None)),
            "/sys/fs/bpf/iocast/v4 belongs to user 65534",
        ),
    ] {
        let lab = lab()?;
        lab.sandbox.run(prepare).unwrap();
        let finished = lab.agent_command(RUN_ONCE)?.finish()?;
        let said = finished.output;
        assert!(!finished.status.success() && said.contains(expected), "{said}");
        assert!(said.contains("remove it") && said.contains("mode=0700"), "{said}");
    }
    Ok(())
}

#[test]
fn who_keeps_the_pins_locked_is_named() -> Result<()> {
    let lab = lab()?;
    lab.agent_command(RUN_ONCE)?.finish()?.success()?;
    let mut flock = lab::program("flock", &[PINS, "sleep", "60"])?;
    flock.env("PATH", "/usr/bin:/bin");
    let hung = lab.sandbox.spawn(NODE, flock)?;
    std::thread::sleep(std::time::Duration::from_millis(300)); // it has the lock by now
    let error = lab.pod("ioc-a").map(drop).unwrap_err().to_string();
    assert!(
        error.contains("code 11") && error.contains("(flock) keeps /sys/fs/bpf/iocast/v4 locked"),
        "{error}"
    );
    drop(hung);
    Ok(())
}
