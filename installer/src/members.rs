//! `iocast-node members`: the pods that are members, and those that ask to be and are not, with the reason.

use std::{collections::HashMap, error::Error, path::Path};

use abi::{Attachment, text};
use datapath::{External, State, link};
use view::{Address, Answer as _, Asked, Member, Members, Port};

use crate::{
    absent::{self, Absent, Runtime},
    say::{complain, node_name, show},
    status::{self, LanAddressStatus, PortStatus},
};

/// What the command may be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print JSON: see docs/seeing.md.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: Runtime,
}

pub(crate) fn run(bpffs: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
    let (members, trouble) = look(bpffs, &options.runtime)?;
    trouble.iter().for_each(complain);
    Ok(show(&members, options.json)?)
}

/// The members, and those that ask to be; or why those are not known.
pub(crate) fn look(
    bpffs: &Path,
    runtime: &Runtime,
) -> datapath::Result<(Members, Option<crate::error::Error>)> {
    let state = State::open(bpffs)?;
    let mut members = read(&state)?;
    let trouble = match absent::look(runtime, &state) {
        Ok(absent) => {
            members.merge(unjoined(absent));
            None
        }
        Err(error) => Some(error),
    };
    Ok((members, trouble))
}

/// The members, as the maps have them.
pub(crate) fn read(state: &State) -> datapath::Result<Members> {
    let maps = Maps::read(state)?;
    let mut found = Members::nothing(vec![Asked::answered(node_name())]);
    for (_, attachment) in state.attachments()? {
        if let Some(member) = state.member(attachment.member)? {
            found.members.push(maps.member(&attachment, &member)?);
        }
    }
    found.members.sort();
    Ok(found)
}

/// What is read once for all members.
struct Maps<'a> {
    state: &'a State,
    domains: HashMap<u16, String>,
    externals: Vec<External>,
    /// By member and generation.
    circuits: HashMap<(u32, u32), u32>,
}

impl<'a> Maps<'a> {
    fn read(state: &'a State) -> datapath::Result<Self> {
        let domains = state.domains()?.into_iter();
        let domains = domains.map(|(number, domain)| (number, text(&domain.name).to_owned())).collect();
        let mut circuits: HashMap<_, u32> = HashMap::new();
        for (_, circuit) in state.established()? {
            *circuits.entry((circuit.member, circuit.generation)).or_default() += 1;
        }
        Ok(Self { state, domains, externals: state.externals()?, circuits })
    }

    fn member(&self, attachment: &Attachment, member: &abi::Member) -> datapath::Result<Member> {
        let ports = status::external_ports(&self.externals, attachment);
        let lan_address = status::lan_address(self.state, member, attachment)?;
        let is_gone = link::by_index(attachment.member)?.is_none();
        let whose = (attachment.member, attachment.generation);
        Ok(Member {
            node: node_name(),
            domain: self.domains.get(&member.domain).cloned().unwrap_or_default(),
            namespace: text(&attachment.namespace).into(),
            pod: text(&attachment.pod).into(),
            address: Some(member.address.into()),
            problem: problem(is_gone, lan_address.as_ref(), &ports),
            lan_address: lan_address
                .map(|lan| Address { address: lan.address, standing: lan.standing.into() }),
            ports: ports.iter().map(port).collect(),
            circuits: self.circuits.get(&whose).copied().unwrap_or(0),
        })
    }
}

/// What is wrong with a member.
fn problem(is_gone: bool, lan_address: Option<&LanAddressStatus>, ports: &[PortStatus]) -> Option<String> {
    let gone = is_gone.then(|| "its interface is gone".to_owned());
    let claimed =
        lan_address.and_then(|lan| Some(format!("{} claims {}", lan.claimed_by.as_ref()?, lan.address)));
    let streams = ports.iter().filter_map(|port| Some(format!("port {}: {}", port.external, port.problem?)));
    let all: Vec<_> = gone.into_iter().chain(claimed).chain(streams).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn port(port: &PortStatus) -> Port {
    Port { protocol: port.protocol.into(), external: port.external, pod: port.pod }
}

/// Pods that are no members.
fn unjoined(absent: Vec<Absent>) -> Members {
    let members = absent.into_iter().map(|Absent { namespace, pod, domain, why }| Member {
        node: node_name(),
        domain,
        namespace,
        pod,
        address: None,
        lan_address: None,
        ports: vec![],
        circuits: 0,
        problem: Some(why),
    });
    Members { members: members.collect(), ..Members::nothing(vec![]) }
}
