//! Pods that ask for a domain and are no members, as far as the container runtime knows them, and why.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use datapath::{
    Netns, Pod, State,
    member::{Joining, Policy},
};
use membership::{Admission, pins};

use crate::{
    adopt::{self, INTERFACE},
    cri::Sandbox,
    error::Error,
    podman,
    runtime::{self, Place},
};

/// Where runtimes listen: in the DaemonSet's container, and on nodes.
const SOCKETS: [&str; 5] = [
    "/run/cri/containerd.sock",
    "/run/cri/crio.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
];

/// The runtime to ask.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Runtime {
    /// CRI socket of the container runtime, to find pods that ask for a domain and are no members [default: where
    /// containerd, CRI-O or k3s has it]; what podman runs is looked at, too.
    #[arg(long, value_name = "SOCKET")]
    cri: Option<PathBuf>,
}

impl Runtime {
    /// The one that listens at `socket`, or where one usually does.
    pub(crate) fn at(socket: Option<&Path>) -> Self {
        Self { cri: socket.map(Path::to_owned) }
    }

    /// Its socket; `None` if there is none to be found.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        let usual = || SOCKETS.iter().map(PathBuf::from).find(|path| path.exists());
        self.cri.clone().or_else(usual)
    }

    /// Where runtimes are asked.
    fn places(&self) -> Vec<Place> {
        let podman = Path::new(podman::RECORDS).exists().then_some(Place::Podman);
        self.socket().map(Place::Cri).into_iter().chain(podman).collect()
    }
}

/// A pod that asks for a domain and is no member of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Absent {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) domain: String,
    pub(crate) why: String,
}

/// All of them; none if no runtime is known.
pub(crate) fn look(runtime: &Runtime, state: &State) -> Result<Vec<Absent>, Error> {
    of_all(runtime, |place| absent_at(place, state))
}

/// What all runtimes say. One that does not answer is no fault beside another: Docker's containerd is asked, too, on a laptop with podman.
fn of_all<T>(runtime: &Runtime, ask: impl Fn(&Place) -> Result<Vec<T>, Error>) -> Result<Vec<T>, Error> {
    let (answers, mut faults): (Vec<_>, Vec<_>) = runtime.places().iter().map(ask).partition(Result::is_ok);
    match faults.pop() {
        Some(fault) if answers.is_empty() => Err(fault.err().unwrap_or(Error::LongId)),
        _ => Ok(answers.into_iter().flatten().flatten().collect()),
    }
}

fn absent_at(place: &Place, state: &State) -> Result<Vec<Absent>, Error> {
    let runtime = runtime::Runtime::open(place)?;
    let (sandboxes, recorded) = (runtime.sandboxes()?, state.attachments()?);
    let (members, held): (Vec<_>, _) =
        (recorded.iter().map(|(key, _)| *key).collect(), adopt::held(&sandboxes, &recorded));
    let is_alone =
        |sandbox: &&Sandbox| pod(&runtime, sandbox).is_none_or(|pod| !held.contains(&pod.veth.index));
    let absent = adopt::absent(&sandboxes, &members).into_iter().filter(is_alone).map(|sandbox| Absent {
        namespace: sandbox.namespace.clone(),
        pod: sandbox.name.clone(),
        domain: sandbox.domain.clone().unwrap_or_default(),
        why: why(&runtime, state, sandbox),
    });
    Ok(absent.collect())
}

/// A pod that is no member, as the runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unjoined {
    /// `namespace/name`.
    pub(crate) pod: String,
    /// Its address; none if it uses the node's network.
    pub(crate) address: Option<Ipv4Addr>,
    /// The domain that it asks for.
    pub(crate) domain: Option<String>,
    /// Why it is not in that.
    pub(crate) why: Option<String>,
}

/// All pods that run and are no members; none if no runtime is known.
pub(crate) fn unjoined(runtime: &Runtime, state: &State) -> Result<Vec<Unjoined>, Error> {
    of_all(runtime, |place| unjoined_at(place, state))
}

fn unjoined_at(place: &Place, state: &State) -> Result<Vec<Unjoined>, Error> {
    let runtime = runtime::Runtime::open(place)?;
    let members: Vec<_> = state.attachments()?.into_iter().map(|(key, _)| key).collect();
    let sandboxes = runtime.sandboxes()?;
    let others = sandboxes.iter().filter(|sandbox| sandbox.ready && !adopt::is_member(sandbox, &members));
    let unjoined = others.map(|sandbox| Unjoined {
        pod: format!("{}/{}", sandbox.namespace, sandbox.name),
        address: address(&runtime, sandbox),
        domain: sandbox.domain.clone(),
        why: sandbox.domain.is_some().then(|| why(&runtime, state, sandbox)),
    });
    Ok(unjoined.collect())
}

fn address(runtime: &runtime::Runtime, sandbox: &Sandbox) -> Option<Ipv4Addr> {
    pod(runtime, sandbox).map(|pod| pod.address.address)
}

fn pod(runtime: &runtime::Runtime, sandbox: &Sandbox) -> Option<Pod> {
    let netns = runtime.netns(&sandbox.id).ok()??;
    Pod::find(&Netns::open(&netns).ok()?, INTERFACE).ok()
}

/// Why a pod is no member: what keeps it from joining, or that nobody tried.
fn why(runtime: &runtime::Runtime, state: &State, sandbox: &Sandbox) -> String {
    match runtime.netns(&sandbox.id) {
        Ok(None) => "it uses the node's network, and is on the node's LAN already".into(),
        Ok(Some(netns)) => obstacle(&netns, state, sandbox).err().map_or_else(
            || "it started before iocast; an agent with --cri or --podman adopts it within 30 s, or delete it to have it recreated".into(),
            |error| error.to_string(),
        ),
        Err(error) => error.to_string(),
    }
}

/// What the plugin would check.
fn obstacle(netns: &Path, state: &State, sandbox: &Sandbox) -> Result<(), Error> {
    Pod::find(&Netns::open(netns)?, INTERFACE)?;
    let domain = sandbox.domain.as_deref().unwrap_or_default();
    let (pins, prefixes) = (pins::parse(&sandbox.ports)?, sandbox.prefixes()?);
    let joining = Joining {
        domain,
        network: "",
        namespace: &sandbox.namespace,
        pod: &sandbox.name,
        address: sandbox.address()?,
        prefixes: &prefixes,
    };
    let admission = Admission::new(state, domain, &pins)?;
    admission.admit(state, state.domain_number(domain)?, &joining)?;
    Ok(())
}
