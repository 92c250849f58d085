//! Monitors of all three clients, which go on for as long as nothing breaks.

use std::time::{Duration, Instant};

use crate::{Error, Lab, Process, Result};

/// The clients.
pub const CLIENTS: [&str; 3] = ["camonitor", "pvmonitor", "PVXS"];

impl Lab {
    /// A monitor of `A:COUNT` by each client, in this namespace.
    pub fn monitors(&self, netns: &str) -> Result<Vec<Process>> {
        let start = |client: &&str| match *client {
            "PVXS" => self.python(netns, "pvxs_monitor.py", "A:COUNT"),
            program => self.epics(netns, &format!("{program} A:COUNT"), &[]),
        };
        CLIENTS.iter().map(start).collect()
    }
}

/// Values that a monitor has printed: lines that end in a number.
fn values(output: &str) -> usize {
    let number = |word: &str| word.parse::<f64>().is_ok();
    output.lines().filter(|line| line.split_whitespace().last().is_some_and(number)).count()
}

/// Waits until each monitor has a few values more; how long each took, in seconds.
pub fn wait_for_values(monitors: &[Process], patience: Duration) -> Result<Vec<f64>> {
    let begin = Instant::now();
    let seen: Vec<_> = monitors.iter().map(|monitor| values(&monitor.output())).collect();
    let mut took = vec![f64::NAN; monitors.len()];
    while took.iter().any(|took| took.is_nan()) && begin.elapsed() < patience {
        for ((monitor, seen), took) in monitors.iter().zip(&seen).zip(&mut took) {
            if took.is_nan() && values(&monitor.output()) > seen + 2 {
                *took = begin.elapsed().as_secs_f64();
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match took.iter().position(|took| took.is_nan()) {
        Some(which) => Err(Error::Timeout(format!(
            "{} has no new values after {} s; it printed:\n{}",
            CLIENTS[which % CLIENTS.len()],
            patience.as_secs(),
            monitors[which].output()
        ))),
        None => Ok(took),
    }
}

/// Asserts that no monitor was ever disconnected since it had its first value.
pub fn assert_unbroken(monitors: &[Process]) {
    for (client, monitor) in CLIENTS.iter().zip(monitors) {
        let output = monitor.output();
        // PVXS says so before it has connected, too.
        let since_connected = output.lines().skip_while(|line| values(line) == 0);
        let lost: Vec<_> =
            since_connected.filter(|line| line.to_lowercase().contains("disconnect")).collect();
        assert_eq!(lost, [""; 0], "{client}");
    }
}
