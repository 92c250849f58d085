//! Clients that watch something for as long as nothing breaks, and what they have said of it.

use std::time::{Duration, Instant};

use crate::{Error, Lab, Process, Result, epics::PATIENCE};

/// The clients that monitor a PV.
pub const CLIENTS: [&str; 3] = ["camonitor", "pvmonitor", "PVXS"];

/// How often a client is started at most that [fails at its start](Monitor::fails_to_begin).
const STARTS: usize = 12;

/// A client that watches, and what it has printed until now.
#[derive(Debug)]
pub struct Monitor {
    /// Which client it is.
    pub client: &'static str,
    process: Process,
    /// Bytes of its output that are counted.
    read: u64,
    values: usize,
    losses: Vec<String>,
}

impl Lab {
    /// A monitor of `pv` by each client, in this namespace.
    pub fn monitors(&self, netns: &str, pv: &str) -> Result<Vec<Monitor>> {
        CLIENTS.iter().map(|client| self.monitor(client, netns, pv)).collect()
    }

    /// The same, and each has values.
    pub fn begun_monitors(&self, netns: &str, pv: &str) -> Result<Vec<Monitor>> {
        let mut monitors = self.monitors(netns, pv)?;
        begin(&mut monitors, |which| self.monitor(CLIENTS[which], netns, pv))?;
        Ok(monitors)
    }

    /// A monitor of `pv` by one of [`CLIENTS`].
    pub fn monitor(&self, client: &'static str, netns: &str, pv: &str) -> Result<Monitor> {
        Ok(Monitor::new(
            client,
            match client {
                "PVXS" => self.python(netns, "pvxs_monitor.py", pv)?,
                program => self.epics(netns, &format!("{program} {pv}"), &[])?,
            },
        ))
    }
}

impl Monitor {
    /// A program that prints a line for each value and for each loss.
    pub fn new(client: &'static str, process: Process) -> Self {
        Self { client, process, read: 0, values: 0, losses: vec![] }
    }

    /// How many values it has had.
    pub fn values(&mut self) -> usize {
        self.listen();
        self.values
    }

    /// What it has said of lost connections, images and the like since its first value.
    pub fn losses(&mut self) -> &[String] {
        self.listen();
        &self.losses
    }

    /// The error that it has no new values.
    fn silence(&mut self, waited: Duration) -> Error {
        self.process.timeout("new values", waited)
    }

    /// Whether it has failed at its start as its like do, without any fault of its server or the way there. pvAccessCPP's
    /// crashes or loses its first value for ever if that comes before its callback is ready, as every third does on a busy
    /// machine; and it may have the UDP port of another, which gets the answers of both: each allows that (`SO_REUSEADDR`),
    /// and the kernel chooses. aravis' gets no image of a camera that has streamed to another before.
    fn fails_to_begin(&mut self) -> bool {
        match self.client {
            "pvmonitor" if self.process.shares_a_port() => true,
            "pvmonitor" => self.values == 0 && (self.is_stuck() || self.process.has_crashed()),
            "arv-camera-test" => self.values == 0,
            _ => false,
        }
    }

    /// Whether it says that it has lost its first value.
    fn is_stuck(&self) -> bool {
        self.values == 0 && self.process.output().contains("bad_weak_ptr")
    }

    /// Counts what it has printed since the last time.
    fn listen(&mut self) {
        let output = self.process.output_from(self.read);
        let whole = output.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        for line in output[..whole].lines() {
            if is_loss(line) {
                // PVXS says that it is not connected before it ever was.
                self.losses.extend((self.values > 0).then(|| line.to_owned()));
            } else {
                self.values += usize::from(is_value(line));
            }
        }
    }
}

/// A line of a client of EPICS that ends in a number, or of one of aravis that tells how many images came in a second.
fn is_value(line: &str) -> bool {
    let number = |word: &str| word.parse::<f64>().is_ok();
    line.contains(" frame") || line.split_whitespace().last().is_some_and(number)
}

/// A line that tells of a lost connection, or of a second with images that are not complete, or without any.
fn is_loss(line: &str) -> bool {
    let no_image = line.split_once(" frame").is_some_and(|(images, _)| images.trim() == "0");
    no_image
        || line.to_lowercase().contains("disconnect")
        || line.contains(" error")
        || line.contains("Control lost")
}

/// Waits until each monitor has a few values more; how long each took, in seconds, if it was in time. Those
/// that will never have one are not waited for.
pub fn values_within<'a>(
    monitors: impl IntoIterator<Item = &'a mut Monitor>,
    patience: Duration,
) -> Vec<Option<f64>> {
    let begin = Instant::now();
    let mut waiting: Vec<_> = monitors.into_iter().map(|monitor| (monitor.values() + 2, monitor)).collect();
    let mut took = vec![None; waiting.len()];
    let mut open = true;
    while open && begin.elapsed() < patience {
        open = false;
        for ((enough, monitor), took) in waiting.iter_mut().zip(&mut took) {
            if took.is_none() && monitor.values() > *enough {
                *took = Some(begin.elapsed().as_secs_f64());
            }
            open |= took.is_none() && monitor.process.is_running() && !monitor.is_stuck();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    took
}

/// The same, and an error if one was not in time.
pub fn wait_for_values(monitors: &mut [Monitor], patience: Duration) -> Result<Vec<f64>> {
    let start = Instant::now();
    let took = values_within(&mut *monitors, patience);
    match took.iter().position(Option::is_none) {
        Some(which) => Err(monitors[which].silence(start.elapsed())),
        None => Ok(took.into_iter().flatten().collect()),
    }
}

/// Waits until each monitor has values; makes one again that [fails at its start](Monitor::fails_to_begin), a few times.
pub fn begin(monitors: &mut [Monitor], again: impl Fn(usize) -> Result<Monitor>) -> Result<()> {
    for _ in 1..STARTS {
        let start = Instant::now();
        let took = values_within(&mut *monitors, PATIENCE);
        // All are looked at before one ends: two may share something.
        let failed: Vec<_> = monitors.iter_mut().map(Monitor::fails_to_begin).collect();
        for which in 0..took.len() {
            if failed[which] {
                println!("{} is started again", monitors[which].client);
                monitors[which] = again(which)?;
            } else if took[which].is_none() {
                return Err(monitors[which].silence(start.elapsed()));
            }
        }
        if !failed.contains(&true) {
            return Ok(());
        }
    }
    wait_for_values(monitors, PATIENCE).map(|_| ())
}

/// What each of [`CLIENTS`] took, in seconds, for a report.
pub fn clients_took(took: &[f64]) -> String {
    let parts: Vec<_> =
        CLIENTS.iter().zip(took).map(|(client, took)| format!("{client} {took:.1} s")).collect();
    parts.join(", ")
}

/// Asserts that no monitor was ever disconnected since it had its first value.
pub fn assert_unbroken(monitors: &mut [Monitor]) {
    for monitor in monitors {
        let client = monitor.client;
        assert_eq!(monitor.losses(), [""; 0], "{client}");
    }
}
