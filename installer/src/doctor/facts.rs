//! What the doctor checks: each fact is read separately, so that one that cannot be read does not hide another.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use abi::{LanAddress, NO_ADDRESS};
use datapath::{
    FAN_DEVICE, Hook, Occupant, State, check_bpffs, check_kernel,
    firewall::{self, Chain},
    is_attached, lan_address,
    link::{self, Link},
    node_ports::{Departure, NodePorts},
    occupants, pin_directory, printable,
};
use nix::sys::utsname::uname;
use view::Duplicates;

use crate::{
    absent::{self, Absent, Runtime},
    addresses,
    adopt::lacks_broadcast,
    cni::{
        conflist::{PLUGIN, choose},
        net_d,
    },
    config::{Config, DomainConfig, Ports},
    conflicts, ready,
    relay::{self, Report},
    uplink::Fault,
};

/// Where to look.
#[derive(clap::Args)]
pub(crate) struct Places {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
    config: PathBuf,
    /// Leave out the plugin and its chain, where the agent runs with --no-cni.
    #[arg(long)]
    pub(super) no_cni: bool,
    #[command(flatten)]
    cni: crate::cni::Options,
    #[command(flatten)]
    runtime: Runtime,
    /// Where the agent listens, as it was told by --listen; it is asked only if it looks for duplicates.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9402")]
    listen: SocketAddr,
}

/// A fact, or a text that says why it is unknown.
pub(super) type Fact<T> = Result<T, String>;

/// Everything that a diagnosis is based on.
#[derive(Debug)]
pub(super) struct Facts {
    /// The kernel's release.
    pub(super) release: String,
    /// Whether it has all required helpers.
    pub(super) kernel: Fact<()>,
    /// Whether the BPF file system is mounted.
    pub(super) bpffs: Fact<()>,
    /// Whether the datapath's maps can be opened.
    pub(super) datapath: Fact<()>,
    /// Names of the pin directories of other schemas.
    pub(super) other_schemas: Vec<String>,
    /// The fan device, and whether its program is attached.
    pub(super) fan: Fact<Option<(bool, bool)>>,
    pub(super) config: Fact<Config>,
    /// The configured domains' uplinks.
    pub(super) uplinks: Vec<Uplink>,
    /// The kernel's range of ports for sockets bound without one.
    pub(super) local_ports: Fact<Ports>,
    /// Ports that are never assigned to such a socket, as the sysctl lists them.
    pub(super) reserved_ports: Fact<String>,
    /// Whether the node forwards IPv4.
    pub(super) forwarding: Fact<bool>,
    /// nf_tables' chains at the forward hook.
    pub(super) forward_chains: Fact<Vec<Chain>>,
    /// Whether legacy iptables has a filter table, whose policy cannot be read without it.
    pub(super) legacy_filter: bool,
    /// Pinned ports that the node uses itself.
    pub(super) conflicts: Fact<Vec<String>>,
    /// What is wrong with LAN addresses of pods.
    pub(super) addresses: Fact<Vec<String>>,
    pub(super) members: Fact<Vec<Member>>,
    /// Pods that ask for a domain and are no members.
    pub(super) absent: Fact<Vec<Absent>>,
    /// What the agent's look for duplicates has found; `None` if it does not look, or not yet.
    pub(super) duplicates: Fact<Option<Duplicates>>,
    /// What the agent says of other subnets of its domains.
    pub(super) subnets: Vec<Report>,
    /// The network that the runtime uses; `None` while there is none.
    pub(super) network: Fact<Option<Network>>,
    /// Where the plugin should be.
    pub(super) plugin: PathBuf,
    /// The version of the installed plugin, if it answers VERSION.
    pub(super) plugin_version: Fact<String>,
}

/// An uplink of a configured domain.
#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) domain: String,
    /// The configured interface.
    pub(super) name: String,
    /// What was found; `None` if there is no such interface.
    pub(super) found: Fact<Option<Interface>>,
}

/// An interface that is an uplink.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    /// Why it carries nothing.
    pub(super) fault: Option<Fault>,
    pub(super) address: Option<Ipv4Addr>,
    /// For each hook whether our program is attached, and everything attached, in order, if that is visible.
    pub(super) hooks: Vec<(Hook, bool, Option<Vec<Occupant>>)>,
    /// The effective reverse path filter: 0 off, 1 strict, 2 loose.
    pub(super) rp_filter: Fact<u8>,
    /// Whether it is a bridge, and conntrack sees packets at its ports.
    pub(super) tracked_bridge: bool,
    /// LAN addresses that the node would answer through another interface, with its name.
    pub(super) elsewhere: Vec<(Ipv4Addr, String)>,
}

/// The configuration that the runtime uses for pods.
#[derive(Debug)]
pub(super) struct Network {
    /// Its file.
    pub(super) path: PathBuf,
    /// The types of its plugins, in their order.
    pub(super) plugins: Vec<String>,
    /// The configuration file of Multus, if that delegates to it.
    pub(super) multus: Option<String>,
    /// Invalid files, because of which containerd uses none.
    pub(super) malformed: Vec<String>,
}

/// A member pod.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) domain: String,
    /// `namespace/name`.
    pub(super) pod: String,
    /// Its host-side veth and whether `from_pod` is attached; `None` if it is gone.
    pub(super) veth: Option<(String, u32, bool)>,
    /// Whether its address has a broadcast address.
    pub(super) has_broadcast: bool,
    /// Whether it declares names for which there was no room.
    pub(super) lacks_room: bool,
    /// What concerns its LAN address; `None` if it has none.
    pub(super) addressed: Option<Addressed>,
}

/// How packets of a LAN address come to its pod, and from it.
#[derive(Clone, Debug)]
pub(super) struct Addressed {
    pub(super) address: Ipv4Addr,
    /// Whether they pass by the node's stack.
    pub(super) direct: bool,
    /// The device through which the node would send packets to it if that does not lead to the pod.
    pub(super) elsewhere: Option<String>,
    /// The chain of the node's NAT rules that gives what it sends to the LAN another source.
    pub(super) masquerade: Option<String>,
    /// Programs of others on the veth that see what the pod sends, if they are visible.
    pub(super) others: Vec<String>,
}

/// Reads all facts.
pub(super) fn gather(bpffs: &Path, places: &Places) -> Facts {
    let config = Config::read(&places.config).map_err(|error| error.to_string());
    let domains = config.as_ref().map(|config| config.domains.as_slice()).unwrap_or_default();
    let state = State::open(bpffs);
    let plugin = places.cni.cni_bin_dir.join(PLUGIN);
    Facts {
        release: uname().map_or_else(|_| "?".into(), |name| name.release().to_string_lossy().into()),
        kernel: fact(check_kernel()),
        bpffs: fact(check_bpffs(bpffs)),
        other_schemas: other_schemas(bpffs),
        fan: fact(fan(bpffs)),
        uplinks: domains.iter().map(|domain| uplink(bpffs, domain)).collect(),
        local_ports: sysctl("ipv4/ip_local_port_range").and_then(|text| range(&text)),
        reserved_ports: sysctl("ipv4/ip_local_reserved_ports"),
        forwarding: sysctl("ipv4/ip_forward").map(|value| value == "1"),
        forward_chains: fact(firewall::forward_chains()),
        legacy_filter: fs::read_to_string("/proc/net/ip_tables_names")
            .is_ok_and(|names| names.lines().any(|name| name == "filter")),
        // Without a datapath there is neither; `datapath` reports that.
        conflicts: state.as_ref().map_or(Ok(vec![]), conflicts::look),
        addresses: state.as_ref().map_or(Ok(vec![]), |state| fact(addresses::problems(state))),
        members: state.as_ref().map_or(Ok(vec![]), |state| fact(members(bpffs, state))),
        absent: state.as_ref().map_or(Ok(vec![]), |state| {
            absent::look(&places.runtime, state).map_err(|error| error.to_string())
        }),
        datapath: fact(state.map(|_| ())),
        duplicates: match &config {
            Ok(config) if config.duplicates.rate > 0 => duplicates(places.listen),
            _ => Ok(None),
        },
        subnets: relay::ask(),
        network: network(&places.cni.cni_conf_dir),
        plugin_version: plugin_version(&plugin),
        plugin,
        config,
    }
}

fn duplicates(agent: SocketAddr) -> Fact<Option<Duplicates>> {
    match ready::get(agent, "/duplicates") {
        Ok((200, text)) => serde_json::from_str(&text).map(Some).map_err(|error| error.to_string()),
        Ok((204, _)) => Ok(None),
        Ok((status, _)) => Err(format!("the agent at {agent} answers {status}")),
        Err(error) => Err(format!("the agent does not answer at {agent}: {error}")),
    }
}

fn fact<T>(result: datapath::Result<T>) -> Fact<T> {
    result.map_err(|error| error.to_string())
}

fn sysctl(name: &str) -> Fact<String> {
    let path = format!("/proc/sys/net/{name}");
    fs::read_to_string(&path)
        .map(|text| text.trim().into())
        .map_err(|error| format!("cannot read {path}: {error}"))
}

/// Two ports separated by whitespace.
fn range(text: &str) -> Fact<Ports> {
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(Ports { first, last }),
        _ => Err(format!("ip_local_port_range is `{text}`")),
    }
}

fn other_schemas(bpffs: &Path) -> Vec<String> {
    let ours = pin_directory(bpffs);
    let directories = ours.parent().and_then(|parent| fs::read_dir(parent).ok());
    let directories = directories.into_iter().flatten().flatten();
    let others = directories.filter(|entry| entry.path() != ours);
    others.map(|entry| entry.file_name().to_string_lossy().into()).collect()
}

/// The fan device: whether it is up, and whether its program is attached; `None` if there is none.
pub(crate) fn fan(bpffs: &Path) -> datapath::Result<Option<(bool, bool)>> {
    let Some(device) = link::by_name(FAN_DEVICE)? else { return Ok(None) };
    Ok(Some((device.is_up, is_attached(bpffs, Hook::Fan, &device)?)))
}

fn uplink(bpffs: &Path, domain: &DomainConfig) -> Uplink {
    let found = crate::uplink::find(&domain.uplink)
        .and_then(|device| device.map(|device| interface(bpffs, domain, &device)).transpose());
    Uplink { domain: domain.name.clone(), name: domain.uplink.clone(), found: fact(found) }
}

fn interface(bpffs: &Path, domain: &DomainConfig, device: &Link) -> datapath::Result<Interface> {
    let addresses = link::addresses(device.index)?;
    let mut hooks = vec![];
    for hook in [Hook::FromLan, Hook::ToLan] {
        hooks.push((hook, is_attached(bpffs, hook, device)?, occupants(hook, device)?));
    }
    let connected = addresses.iter().map(|address| (address.address.octets(), address.prefix));
    let configured = domain.lan.iter().map(|network| (network.address, network.prefix));
    let hosts = connected.chain(configured).filter_map(|(address, prefix)| some_host(address, prefix));
    let mut elsewhere = vec![];
    for host in hosts.filter(|host| addresses.iter().all(|own| own.address != *host)) {
        if let Some(other) = link::towards(host)?.filter(|other| *other != device.index) {
            let name = link::by_index(other)?.map(|other| other.name);
            elsewhere.push((host, name.unwrap_or_else(|| other.to_string())));
        }
    }
    Ok(Interface {
        name: device.name.clone(),
        fault: Fault::of(device, !addresses.is_empty()),
        address: addresses.first().map(|address| address.address),
        hooks,
        rp_filter: rp_filter(&device.name),
        tracked_bridge: device.kind == "bridge"
            && sysctl("bridge/bridge-nf-call-iptables").is_ok_and(|value| value == "1"),
        elsewhere,
    })
}

/// An address in the middle of the network, to look up the route to its hosts.
fn some_host(address: [u8; 4], prefix: u8) -> Option<Ipv4Addr> {
    let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    (hosts > 4).then(|| Ipv4Addr::from(u32::from_be_bytes(address) & !hosts | (hosts / 2)))
}

/// The kernel uses the larger of the interface's value and the one for all.
fn rp_filter(device: &str) -> Fact<u8> {
    let value = |name: &str| {
        let text = sysctl(&format!("ipv4/conf/{name}/rp_filter"))?;
        text.parse::<u8>().map_err(|_| format!("rp_filter of {name} is `{text}`"))
    };
    Ok(value("all")?.max(value(device)?))
}

fn members(bpffs: &Path, state: &State) -> datapath::Result<Vec<Member>> {
    let (mut found, domains) = (vec![], state.domains()?);
    let mut node = NodePorts::default();
    for (_, attachment) in state.attachments()? {
        let device = link::by_index(attachment.member)?;
        let addressed = device.as_ref().map_or(Ok(None), |veth| addressed(state, veth, &mut node))?;
        let veth = match device {
            Some(veth) => {
                let attached = is_attached(bpffs, Hook::FromPod, &veth)?;
                Some((veth.name, veth.mtu, attached))
            }
            None => None,
        };
        let pod = printable(&format!("{}/{}", abi::text(&attachment.namespace), abi::text(&attachment.pod)));
        let domain = domains.iter().find(|(number, _)| *number == attachment.domain);
        let domain = domain.map(|(_, domain)| abi::text(&domain.name).to_owned()).unwrap_or_default();
        found.push(Member {
            domain,
            pod,
            veth,
            has_broadcast: !lacks_broadcast(state, &attachment),
            lacks_room: state.lacks_room(&attachment)?,
            addressed,
        });
    }
    Ok(found)
}

/// What concerns the LAN address of the member behind `veth`, if it has one that the node answers for.
fn addressed(state: &State, veth: &Link, node: &mut NodePorts) -> datapath::Result<Option<Addressed>> {
    let member = state.member(veth.index)?.filter(|member| member.lan_address != NO_ADDRESS);
    let Some(member) = member else { return Ok(None) };
    let entry = state.lan_address(member.lan_address)?;
    if entry.filter(LanAddress::is_answered).is_none_or(|entry| entry.generation != member.generation) {
        return Ok(None);
    }
    let domains = state.domains()?;
    let domain = domains.iter().find(|(number, _)| *number == member.domain);
    let uplink = domain.map_or(0, |(_, domain)| domain.uplink);
    let address = member.lan_address.into();
    let device = lan_address::bridge_of(veth)?.map_or(veth.index, |bridge| bridge.index);
    let towards = link::towards(address)?.filter(|found| *found != device);
    let others = occupants(Hook::FromPod, veth)?.unwrap_or_default();
    Ok(Some(Addressed {
        address,
        direct: domain.is_some_and(|(_, domain)| domain.direct != 0),
        elsewhere: towards.map(link::by_index).transpose()?.flatten().map(|device| device.name),
        masquerade: masquerade(node, uplink, member.lan_address)?,
        others: others.into_iter().filter(|other| !other.ours).map(|other| other.name).collect(),
    }))
}

/// The chain that gives what `source` sends to the LAN behind `uplink` another source.
fn masquerade(node: &mut NodePorts, uplink: u32, source: [u8; 4]) -> datapath::Result<Option<String>> {
    let device = if uplink == 0 { None } else { link::by_index(uplink)? };
    let Some(Link { index, name, .. }) = device else { return Ok(None) };
    let addresses = link::addresses(index)?;
    let hosts = addresses.iter().filter_map(|own| some_host(own.address.octets(), own.prefix));
    for destination in hosts.map(|host| host.octets()) {
        if let Some(chain) = node.masquerade(Departure { index, uplink: &name, source, destination })? {
            return Ok(Some(chain.to_string()));
        }
    }
    Ok(None)
}

fn network(directory: &Path) -> Fact<Option<Network>> {
    let files = net_d::read(directory).map_err(|error| error.to_string())?;
    let choice = choose(&files);
    Ok(choice.target.map(|target| Network {
        path: directory.join(&target.name),
        plugins: plugins(&target.text),
        multus: choice.multus.map(|file| file.name.clone()),
        malformed: choice
            .malformed
            .iter()
            .map(|(file, reason)| printable(&format!("{}: {reason}", file.name)))
            .collect(),
    }))
}

/// The types of the plugins of a list, or of a single configuration.
fn plugins(text: &str) -> Vec<String> {
    let network: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let alone = [network.clone()];
    let plugins = network["plugins"].as_array().map_or(alone.as_slice(), Vec::as_slice);
    plugins.iter().filter_map(|plugin| plugin["type"].as_str()).map(printable).collect()
}

/// Calls the plugin as a runtime does at start, and then as a person does, because the answer to a runtime does not include
/// the plugin's version.
fn plugin_version(plugin: &Path) -> Fact<String> {
    let ask = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(format!("{}: {text}", output.status)) }
    };
    let answer = ask(Command::new(plugin).env("CNI_COMMAND", "VERSION"))?;
    let versions: serde_json::Value =
        serde_json::from_str(&answer).map_err(|_| format!("it answered `{answer}`"))?;
    if !versions["supportedVersions"].is_array() {
        return Err(format!("it answered `{answer}`"));
    }
    let help = ask(Command::new(plugin).arg("--help"))?;
    let version = help.strip_prefix("iocast ").and_then(|rest| rest.split(':').next());
    version.map(str::to_owned).ok_or_else(|| "it is not iocast's plugin".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_taken_from_the_middle_of_a_network() {
        assert_eq!(some_host([172, 23, 0, 10], 24), Some(Ipv4Addr::new(172, 23, 0, 127)));
        assert_eq!(some_host([172, 24, 0, 0], 16), Some(Ipv4Addr::new(172, 24, 127, 255)));
        assert_eq!(some_host([172, 23, 0, 10], 32), None);
        assert_eq!(some_host([0; 4], 0), Some(Ipv4Addr::new(127, 255, 255, 255)));
    }

    #[test]
    fn the_plugins_of_a_network_are_listed_in_their_order() {
        assert_eq!(plugins(r#"{"plugins":[{"type":"calico"},{"type":"iocast"}]}"#), ["calico", "iocast"]);
        assert_eq!(plugins(r#"{"type":"bridge"}"#), ["bridge"]);
    }

    #[test]
    fn the_kernels_range_is_two_numbers() {
        assert_eq!(range("32768\t60999"), Ok(Ports { first: 32768, last: 60999 }));
        assert!(range("32768").is_err());
    }
}
