//! What ADD and DEL ask of the kernel: as much on a node with many members as on an empty one, and of no table that others can fill.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Error, Result as IoResult, Write},
    mem::zeroed,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use abi::{LanAddress, standing};
use datapath::{BPFFS, State};
use lab::{DOMAIN, Lab, NODE, Options, Pod, Result, Topology, tried};
use nix::libc::{self, c_int};

use crate::cni::{configuration, environment, previous_result};

/// Commands of bpf(2) (linux/bpf.h).
const GET_NEXT_KEY: u64 = 4;
const OBJ_GET: u64 = 7;
const LOOKUP_BATCH: u64 = 24;

/// The calls of a program that could become more with what a node has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Calls {
    /// bpf(2) by command, and what is sent to and received from netlink.
    counts: BTreeMap<String, u32>,
    /// The maps of which more than one entry was read at a time, or one after the other.
    walked: BTreeSet<String>,
    /// The maps by descriptor.
    maps: BTreeMap<i64, String>,
    /// What is being opened.
    opening: Option<String>,
}

impl Calls {
    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn enter(&mut self, process: c_int, number: u64, arguments: &[u64; 6]) {
        match number as libc::c_long {
            libc::SYS_bpf => self.enter_bpf(process, arguments),
            libc::SYS_sendto => self.count("sent"),
            libc::SYS_recvfrom => self.count("received"),
            _ => {}
        }
    }

    fn enter_bpf(&mut self, process: c_int, [command, attributes, ..]: &[u64; 6]) {
        self.count(format!("bpf {command}"));
        let word = |number: u64| {
            let mut bytes = [0; 8];
            read(process, attributes + 8 * number, &mut bytes).map(|_| u64::from_le_bytes(bytes)).unwrap()
        };
        match *command {
            OBJ_GET => self.opening = Some(name(process, word(0))),
            GET_NEXT_KEY => self.walk(word(0) as u32),
            LOOKUP_BATCH => self.walk((word(4) >> 32) as u32),
            _ => {}
        }
    }

    fn walk(&mut self, map: u32) {
        self.walked.insert(self.maps[&i64::from(map)].clone());
    }

    fn leave(&mut self, result: i64) {
        if let Some(opened) = self.opening.take() {
            self.maps.insert(result, opened);
        }
    }
}

/// The last part of a path in a process's memory.
fn name(process: c_int, address: u64) -> String {
    let mut bytes = [0; 256];
    let length = read(process, address, &mut bytes).unwrap();
    let path = bytes[..length].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(path).rsplit('/').next().unwrap_or_default().into()
}

/// Reads a process's memory, and returns how much there is.
fn read(process: c_int, address: u64, bytes: &mut [u8]) -> IoResult<usize> {
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let there = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
    // SAFETY: it writes to `bytes` only, and no more than there is room for.
    let length = unsafe { libc::process_vm_readv(process, &raw const here, 1, &raw const there, 1, 0) };
    usize::try_from(length).map_err(|_| Error::last_os_error())
}

fn ptrace(request: libc::c_uint, process: c_int, address: usize, data: usize) -> IoResult<()> {
    // SAFETY: where a request writes, the caller has given it the address and the size of a place.
    let result = unsafe { libc::ptrace(request, process, address, data) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Waits until a process stops or ends.
fn wait(process: c_int) -> IoResult<c_int> {
    let mut status = 0;
    // SAFETY: the status is ours.
    let found = unsafe { libc::waitpid(process, &raw mut status, 0) };
    if found < 0 { Err(Error::last_os_error()) } else { Ok(status) }
}

/// Runs a program with this input, and counts its calls; an error if it fails.
fn traced(mut command: Command, input: &str) -> IoResult<Calls> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // SAFETY: it makes one call, which takes nothing.
    unsafe { command.pre_exec(|| ptrace(libc::PTRACE_TRACEME, 0, 0, 0)) };
    let mut child = command.spawn()?;
    child.stdin.take().unwrap().write_all(input.as_bytes())?; // a pipe has room for it
    let process = child.id().cast_signed();
    wait(process)?; // it stops as it begins
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, process, 0, options as usize)?;
    let (mut calls, mut signal) = (Calls::default(), 0);
    loop {
        ptrace(libc::PTRACE_SYSCALL, process, 0, signal)?;
        let status = wait(process)?;
        if !libc::WIFSTOPPED(status) {
            let is_well = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
            return if is_well { Ok(calls) } else { Err(Error::other(format!("status {status:#x}"))) };
        }
        let stopped = libc::WSTOPSIG(status);
        if stopped != libc::SIGTRAP | 0x80 {
            signal = stopped as usize; // it is the program's own
            continue;
        }
        signal = 0;
        // SAFETY: numbers, for all of which zero is a value; the kernel writes no more than there is room for.
        let mut info: libc::ptrace_syscall_info = unsafe { zeroed() };
        ptrace(libc::PTRACE_GET_SYSCALL_INFO, process, size_of_val(&info), &raw mut info as usize)?;
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY => {
                // SAFETY: which is what `op` says that the kernel has written.
                let entry = unsafe { info.u.entry };
                calls.enter(process, entry.nr, &entry.args);
            }
            libc::PTRACE_SYSCALL_INFO_EXIT => {
                // SAFETY: as above.
                calls.leave(unsafe { info.u.exit.sval });
            }
            _ => {}
        }
    }
}

/// The calls of a verb of the plugin, for a pod that asks for the domain.
fn calls(lab: &Lab, pod: &Pod, verb: &str) -> Result<Calls> {
    let mut command = Command::new(lab::binary("iocast")?);
    command.env_clear().envs(environment(verb, &pod.attachment));
    let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), Some(DOMAIN), "");
    tried("trace the plugin", lab.sandbox.run_in(NODE, move || traced(command, &stdin))?)
}

#[test]
fn add_and_del_ask_no_more_of_the_kernel_where_there_are_more_members() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.plain_pod("asked")?;
    let of_both = || -> Result<_> { Ok((calls(&lab, &pod, "ADD")?, calls(&lab, &pod, "DEL")?)) };
    of_both()?; // the veth keeps the qdisc that the first one makes
    let (add, del) = of_both()?;
    for number in 0..12 {
        lab.pod(&format!("member-{number}"))?;
    }
    of_both()?; // the first one in a place makes the roster longer
    let among = of_both()?;
    assert_eq!((&add.counts, &del.counts), (&among.0.counts, &among.1.counts));
    // Of these, the configuration has few entries, and the roster is an array.
    let walked: Vec<_> = add.walked.iter().map(String::as_str).collect();
    assert_eq!(walked, ["DOMAINS", "NAMESPACES", "ROSTER"]);
    assert_eq!(del.walked, BTreeSet::new());
    Ok(())
}

#[test]
fn a_map_of_several_batches_is_read_to_its_end_and_each_entry_once() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let entry = LanAddress { member: 1, generation: 2, since: 3, domain: 0, standing: standing::LOST };
    let wanted: BTreeSet<[u8; 4]> =
        (0..3000u32).map(|number| (0x0a_00_00_00 + number).to_be_bytes()).collect();
    let addresses = wanted.clone();
    let found = lab.sandbox.run(move || {
        let mut state = State::open(Path::new(BPFFS)).unwrap();
        let _lock = state.lock().unwrap(); // or the agent would tidy up
        for address in &addresses {
            state.set_lan_address(*address, entry).unwrap();
        }
        let found = state.lan_addresses().unwrap();
        for address in &addresses {
            state.remove_lan_address(*address).unwrap();
        }
        assert!(state.lan_addresses().unwrap().is_empty());
        found
    });
    assert_eq!(found.len(), wanted.len());
    assert!(found.iter().all(|(_, found)| *found == entry));
    assert_eq!(found.into_iter().map(|(address, _)| address).collect::<BTreeSet<_>>(), wanted);
    Ok(())
}
