//! Attaching, replacing and detaching, by what this kernel has.

use std::{
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use datapath::{Hook, link};
use lab::{NODE, Result, Sandbox};

use super::rig::BPFFS;

/// The first kernel with TCX.
const TCX: (u32, u32) = (6, 6);
/// Where each program is tried.
const HOOKS: [(Hook, &str, TcAttachType); 4] = [
    (Hook::FromLan, "eth0", TcAttachType::Ingress),
    (Hook::ToLan, "eth0", TcAttachType::Egress),
    (Hook::FromPod, "pod", TcAttachType::Ingress),
    (Hook::Fan, "fan", TcAttachType::Ingress),
];

const PATIENCE: Duration = Duration::from_secs(10);

/// How many links and filters there are.
type Places = (usize, usize);

#[test]
fn programs_are_attached_replaced_in_place_and_detached_as_this_kernel_can() -> Result<()> {
    let sandbox = Sandbox::new()?;
    sandbox.add_netns(NODE)?;
    for device in ["eth0", "pod", "fan"] {
        sandbox.sh(NODE, &format!("ip link add {device} type veth peer name {device}-peer"))?;
    }
    let [first, again, gone] = sandbox.run_in(NODE, || [attach(), attach(), detach()])?;
    let uplink = if kernel() < TCX { (0, 1) } else { (1, 0) };
    assert_eq!(first, [uplink, uplink, (0, 1), uplink], "links, filters");
    assert_eq!(again, first, "in place");
    assert_eq!(gone, [(0, 0); 4]);
    lab::report("programs at an uplink are attached by", if uplink == (1, 0) { "TCX" } else { "clsact" });
    Ok(())
}

/// Loads the programs, and attaches each.
fn attach() -> [Places; 4] {
    datapath::load(Path::new(BPFFS)).unwrap();
    HOOKS.map(|(hook, device, direction)| {
        let link = link::by_name(device).unwrap().unwrap();
        datapath::attach(Path::new(BPFFS), hook, &link).unwrap();
        assert!(datapath::is_attached(Path::new(BPFFS), hook, &link).unwrap(), "{hook:?}");
        places(device, direction)
    })
}

fn detach() -> [Places; 4] {
    HOOKS.map(|(hook, device, direction)| {
        let link = link::by_name(device).unwrap().unwrap();
        datapath::detach(Path::new(BPFFS), hook, link.index).unwrap();
        assert!(!datapath::is_attached(Path::new(BPFFS), hook, &link).unwrap(), "{hook:?}");
        // The kernel lets go of a link a little later.
        let start = Instant::now();
        while places(device, direction) != (0, 0) && start.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10));
        }
        places(device, direction)
    })
}

/// What is attached on one side of `device`, as the kernel and tc(8) tell it.
fn places(device: &str, direction: TcAttachType) -> Places {
    let links = SchedClassifier::query_tcx(device, direction).map_or(0, |(_, programs)| programs.len());
    let side = if direction == TcAttachType::Ingress { "ingress" } else { "egress" };
    let shown = lab::output_of(Command::new("tc").args(["filter", "show", "dev", device, side])).unwrap();
    (links, String::from_utf8(shown.stdout).unwrap().matches("direct-action").count())
}

/// The first two numbers of the kernel's version.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}
