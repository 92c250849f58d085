//! What is watched: IOCs in pods, each by all clients on the LAN; an IOC on the LAN by clients in a pod; a camera on the LAN
//! by a client in another pod.

use std::process::Command;

use lab::{
    DOMAIN, Lab, Leftovers, NATIVE, Options, Pod, Process, Result, WORKSTATION,
    epics::Server,
    monitors::{CLIENTS, Monitor, begin},
};

/// Pods with an IOC.
pub(crate) const IOCS: usize = 6;
/// The first of them that have an address on the LAN.
pub(crate) const ADDRESSED: usize = 4;
/// Where the agent listens.
pub(crate) const AGENT: &str = "127.0.0.1:9402";
const AGENT_LINE: &str = "run --no-cni --config /run/iocast/config.toml --listen 127.0.0.1:9402";
/// The client of the camera.
const CAMERA_CLIENT: &str = "arv-camera-test";

/// Whom a trouble concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The IOC in the pod with this number.
    Ioc(usize),
    /// The IOC on the LAN.
    Native,
    /// The camera on the LAN.
    Camera,
}

/// A pod with an IOC.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) pod: Pod,
    pub(crate) ioc: Option<Process>,
}

/// A client and what it watches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    pub(crate) subject: Subject,
    pub(crate) client: &'static str,
}

/// All of it.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) places: Vec<Place>,
    watched: Vec<Watched>,
    monitors: Vec<Monitor>,
    /// The pods of clients.
    clients: Vec<Pod>,
    /// What need only run.
    others: Vec<Process>,
}

impl Scene {
    /// Raises a lab with all of it, and waits until every client has values.
    pub(crate) fn raise(options: Options) -> Result<Self> {
        let mut lab = Lab::without_agent(options)?;
        lab.configure(&configuration(false))?;
        lab.start_agent_by(AGENT_LINE)?;
        let clients = ["reader", "viewer"].map(|name| lab.pod(name));
        let clients = clients.into_iter().collect::<Result<_>>()?;
        let camera = lab::program("arv-fake-gv-camera-0.8", &["-i", "eth0", "-s", "SOAK"])?;
        let others = vec![lab.ioc_of(Server::Pvxs, NATIVE, "N")?, lab.sandbox.spawn(NATIVE, camera)?];
        let (watched, monitors) = (vec![], vec![]);
        let mut scene = Self { lab, places: vec![], watched, monitors, clients, others };
        for number in 0..IOCS {
            scene.place(number)?;
        }
        for subject in (0..IOCS).map(Subject::Ioc).chain([Subject::Native]) {
            scene.watched.extend(CLIENTS.map(|client| Watched { subject, client }));
        }
        scene.watched.push(Watched { subject: Subject::Camera, client: CAMERA_CLIENT });
        for watched in scene.watched.clone() {
            let monitor = scene.watch(watched)?;
            scene.monitors.push(monitor);
        }
        scene.begin()?;
        Ok(scene)
    }

    /// Starts the agent as it was.
    pub(crate) fn start_agent(&mut self) -> Result<()> {
        self.lab.configure(&configuration(false))?;
        self.lab.start_agent_by(AGENT_LINE)
    }

    /// Waits until every client has values.
    fn begin(&mut self) -> Result<()> {
        let mut monitors = std::mem::take(&mut self.monitors);
        let begun = begin(&mut monitors, |which| self.watch(self.watched[which]));
        self.monitors = monitors;
        begun
    }

    /// Starts those monitors again, if there are any, and waits until every client has values.
    pub(crate) fn begin_again(&mut self, which: impl Fn(usize) -> bool) -> Result<()> {
        let again: Vec<_> = (0..self.monitors.len()).filter(|number| which(*number)).collect();
        if again.is_empty() {
            return Ok(());
        }
        for number in again {
            self.monitors[number] = self.watch(self.watched[number])?;
        }
        self.begin()
    }

    /// Creates pod `number` with an IOC, anew if it was there.
    pub(crate) fn place(&mut self, number: usize) -> Result<()> {
        let address = (number >= ADDRESSED).then(|| format!("172.23.0.{}", 40 + number));
        let pod = self.lab.pod_at(0, &format!("ioc-{number}"), address.as_deref())?;
        let place = Place { pod, ioc: None };
        if number < self.places.len() {
            self.places[number] = place;
        } else {
            self.places.push(place);
        }
        self.start_ioc(number)
    }

    /// Starts the IOC of pod `number`; every other has PV Access by PVXS.
    pub(crate) fn start_ioc(&mut self, number: usize) -> Result<()> {
        let server = if number.is_multiple_of(2) { Server::Pvxs } else { Server::PvAccessCpp };
        let ioc = self.lab.ioc_of(server, &self.places[number].pod.netns, &prefix(number))?;
        self.places[number].ioc = Some(ioc);
        Ok(())
    }

    fn watch(&self, Watched { subject, client }: Watched) -> Result<Monitor> {
        match subject {
            Subject::Ioc(number) => {
                self.lab.monitor(client, WORKSTATION, &format!("{}:COUNT", prefix(number)))
            }
            Subject::Native => self.lab.monitor(client, &self.clients[0].netns, "N:COUNT"),
            Subject::Camera => {
                let client = self.lab.sandbox.spawn(&self.clients[1].netns, camera_client()?)?;
                Ok(Monitor::new(CAMERA_CLIENT, client))
            }
        }
    }

    pub(crate) fn watched(&self) -> &[Watched] {
        &self.watched
    }

    pub(crate) fn monitors(&mut self) -> &mut [Monitor] {
        &mut self.monitors
    }

    /// How much each monitor has lost since it was started.
    pub(crate) fn losses(&mut self) -> Vec<usize> {
        self.monitors.iter_mut().map(|monitor| monitor.losses().len()).collect()
    }

    /// Ends all clients and pods; what of ours is left then.
    pub(crate) fn empty(&mut self) -> Result<Leftovers> {
        self.monitors.clear();
        self.others.clear();
        let iocs = self.places.drain(..).map(|place| place.pod); // which ends the IOC
        for pod in iocs.chain(self.clients.drain(..)) {
            self.lab.delete_pod(&pod)?;
        }
        self.lab.leftovers()
    }
}

/// How the PVs of pod `number` begin.
pub(crate) fn prefix(number: usize) -> String {
    format!("S{number}")
}

/// What the node is configured to be; another one on demand.
pub(crate) fn configuration(other: bool) -> String {
    let more = if other { ", \"recsync\"]\nrates = { host = 20000 }" } else { "]" };
    format!(
        "[domain.{DOMAIN}]\nuplink = \"eth0\"\naddresses = [\"172.23.0.40/29\"]\nprotocols = [\"ca\", \"pva\", \"gvcp\"{more}\n"
    )
}

/// Images at 25 Hz without an end, and a line each second.
fn camera_client() -> Result<Command> {
    let client = "/usr/bin/arv-camera-test-0.8";
    lab::program("stdbuf", &["-oL", client, "-n", "Aravis-Fake-SOAK", "-f", "25"])
}
