//! The lab for people: it comes up, can be used by name, and is gone after `down` and after a kill.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use lab::{epics::shows, turn};

/// A name for a lab that no other run uses.
fn name(letter: char) -> String {
    format!("{letter}{}", std::process::id())
}

fn run(arguments: &[&str]) -> Output {
    lab::output_of(Command::new(env!("CARGO_BIN_EXE_iocast-lab")).args(arguments))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Runs words without quoting on a host of a lab.
fn exec(name: &str, host: &str, line: &str) -> Output {
    run(&["exec", "--name", name, host].into_iter().chain(line.split(' ')).collect::<Vec<_>>())
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What is left of the lab: published names and files.
fn left(name: &str) -> Vec<PathBuf> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    let files =
        std::fs::read_dir("/run/iocast-lab").into_iter().flatten().flatten().map(|entry| entry.path());
    names.chain(files).filter(|path| path.to_string_lossy().contains(name)).collect()
}

fn up(name: &str, topology: &str) {
    turn::take(turn::Kind::Waits);
    let raised = run(&["up", "--name", name, "--topology", topology, "--pods", "2"]);
    assert!(raised.status.success(), "{}", text(&raised));
    assert!(Path::new("/run/netns").join(format!("iocast-{name}-ws")).exists());
    let doctor = exec(name, "node", "iocast-node doctor");
    let healthy = String::from_utf8_lossy(&doctor.stdout).lines().all(|line| line.starts_with("OK "));
    assert!(healthy && doctor.status.success(), "{}", text(&doctor));
}

#[test]
fn a_lab_is_used_by_name_and_gone_after_down() {
    let name = name('d');
    up(&name, "routed");
    let read = exec(&name, "ws", "caget -t IOC1:NAME IOC2:NAME NATIVE:NAME");
    assert_eq!(String::from_utf8_lossy(&read.stdout), "IOC1\nIOC2\nNATIVE\n", "{}", text(&read));
    for (host, iocs) in [("ws", "IOC1 NATIVE"), ("native", "IOC2 NATIVE"), ("pod-ioc1", "IOC1 IOC2 NATIVE")] {
        for ioc in iocs.split(' ') {
            let read = exec(&name, host, &format!("pvget -w 5 {ioc}:NAME"));
            assert!(shows(&text(&read), ioc), "{host}: {}", text(&read));
        }
    }
    let again = run(&["up", "--name", &name]);
    assert!(!again.status.success() && text(&again).contains("is up already"), "{}", text(&again));
    let down = run(&["down", "--name", &name]);
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(left(&name), Vec::<PathBuf>::new());
    assert!(text(&run(&["exec", "--name", &name, "ws", "true"])).contains("is not up"));
}

#[test]
fn a_lab_is_gone_after_its_holder_is_killed() {
    let name = name('k');
    up(&name, "bridge");
    let guard = std::fs::read_to_string(format!("/run/iocast-lab/{name}/guard"))
        .unwrap_or_else(|error| panic!("{error}"));
    let first = std::fs::read_to_string(format!("/run/iocast-lab/{name}/first"))
        .unwrap_or_else(|error| panic!("{error}"));
    let holder = lab::output_of(Command::new("pkill").args(["-KILL", "-P", &guard]));
    assert!(holder.is_ok_and(|killed| killed.status.success()));
    wait_until(|| left(&name).is_empty() && is_dead(&first));
    assert_eq!(left(&name), Vec::<PathBuf>::new());
    assert!(is_dead(&first), "the lab's first process lives on");
}

fn wait_until(test: impl Fn() -> bool) {
    let start = Instant::now();
    while !test() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the process is gone, or only waits to be noticed by its parent.
fn is_dead(pid: &str) -> bool {
    let state = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    state.map_or(true, |state| state.contains(") Z "))
}
