//! What the programs run in: maps filled as agent and plugin fill them, two pods that listen, an uplink and a fan device
//! whose packets are caught, and `BPF_PROG_TEST_RUN`.
//!
//! ```text
//!   172.23.0.10 eth0 ----- lan                     pod-a 10.244.1.2    pod-b 10.244.1.3
//!                                                  both with sockets on 5064 and 5076, and on 7064
//!                                                  the one at its own address, the other at 10.244.1.255;
//!                                                  pod-a with one on TCP port 5075, too; on 5353 one at any
//!                                                  address, the other at 224.0.0.251
//! ```

use std::{
    io::IoSliceMut,
    net::{TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use abi::{
    Attachment, AttachmentKey, Config, Described, Domain, GroupKey, Member, Protocol, Relay, RelayKey,
    Verdict, paths,
};
use aya::{
    TestRun as _, TestRunOptions,
    maps::{Array, HashMap, Map, MapData},
    programs::{ProgramInfo, SchedClassifier},
};
use datapath::{State, link, pin_directory};
use lab::{NODE, Result, Sandbox, udp::Socket};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, socket,
};
use wire::data::{Bytes, Descriptor, FIELDS, Field, kind};

use super::cases::{Case, Run, Setup, Where};

pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// The uplink's MAC address, and those of the pods' host-side veths.
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
pub(crate) const POD_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 2, 0], [2, 0, 0, 0, 2, 1]];
/// Pods, their addresses, and their sockets on 7064 and 5353.
const PODS: [(&str, &str, &str, &str); 2] = [
    ("pod-a", "10.244.1.2", "10.244.1.2:7064", "0.0.0.0:5353"),
    ("pod-b", "10.244.1.3", "10.244.1.255:7064", "224.0.0.251:5353"),
];
const UPLINK: [u8; 4] = [172, 23, 0, 10];
const NETWORK: [u8; 4] = [172, 23, 0, 0];
const UPLINK_BROADCAST: [u8; 4] = [172, 23, 0, 255];
pub(crate) const POD_BROADCAST: [u8; 4] = [10, 244, 1, 255];
/// The LAN address of the first pod, where it has one.
const LAN_ADDRESS: [u8; 4] = [172, 23, 0, 50];
/// The only external port.
const PORT: u16 = 61000;
/// A ticket in place of a source MAC address.
pub(crate) const TICKET: [u8; 6] = abi::ticket_mac(0);
/// An interface index that no device has.
const NOWHERE: u32 = 0x7fff;
/// Relayed ports: in pods, on the LAN.
const RELAYS: &[(u16, u16, Protocol, u16)] = &[
    (5000, 5000, Protocol::Other, paths::SEARCH), // a number that no program knows
    (5049, 5049, Protocol::Described1, paths::ANNOUNCE),
    (5064, 5064, Protocol::Ca, paths::SEARCH),
    (5065, 5065, Protocol::Ca, paths::ANNOUNCE),
    (5076, 5076, Protocol::Pva, paths::SEARCH),
    (7064, 8064, Protocol::Ca, paths::SEARCH),
    (3956, 3956, Protocol::Gvcp, paths::SEARCH | paths::CAMERAS),
    (5353, 5353, Protocol::Described2, paths::SEARCH | paths::SYMMETRIC),
];
/// Groups, and the ports at which they are relayed: in pods, on the LAN.
const GROUPS: &[([u8; 4], u16, u16)] = &[
    ([224, 0, 0, 251], 5353, 5353),
    ([239, 129, 2, 3], 5064, 5064),
    ([239, 129, 2, 3], 5076, 5076),
    ([239, 129, 2, 3], 7064, 8064),
];
/// Copies are there at once; this is for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// A copy that should not be there is there by then.
const QUIET: Duration = Duration::from_millis(5);
/// Offset of the mark, and the size up to the interface index, in the context of a program (`__sk_buff`, linux/bpf.h).
const MARK: usize = 8;
const CONTEXT: usize = 44;

/// A datapath of its own, and what stands around it.
pub(crate) struct Rig {
    pub(crate) sandbox: Sandbox,
    _sockets: Vec<Socket>,
    _server: TcpListener,
}

/// What a program made of a packet.
pub(crate) struct Outcome {
    pub(crate) verdict: i32,
    pub(crate) mark: u32,
    pub(crate) packet: Vec<u8>,
    pub(crate) copies: Vec<(Where, Vec<u8>)>,
    pub(crate) counted: Vec<(Protocol, Verdict)>,
}

impl Rig {
    /// Loads the programs in a sandbox.
    pub(crate) fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        add_netns(&sandbox, NODE)?;
        add_pair(&sandbox, "eth0", "lan")?;
        sandbox.sh(NODE, "ip address add 172.23.0.10/24 broadcast + dev eth0")?;
        sandbox.sh(NODE, "sysctl -q -w net.ipv4.ip_forward=1")?;
        sandbox.sh(NODE, "ip link set eth0 address 02:00:00:00:00:01")?; // whom frames are for
        let mut sockets = vec![];
        for (pod, address, at_7064, at_5353) in PODS {
            add_pair(&sandbox, pod, pod)?;
            sandbox.sh(pod, &format!("ip address add {address}/24 broadcast + dev eth0"))?;
            for socket in ["0.0.0.0:5064", "0.0.0.0:5076", at_7064, at_5353] {
                sockets.push(Socket::bind(&sandbox, pod, socket)?);
            }
        }
        sandbox.run_in(NODE, || {
            datapath::load(Path::new(BPFFS)).unwrap();
            datapath::ensure_fan().unwrap();
        })?;
        let server = sandbox.run_in(PODS[0].0, || TcpListener::bind("0.0.0.0:5075").unwrap())?;
        Ok(Self { sandbox, _sockets: sockets, _server: server })
    }

    /// Runs a case: fills the maps anew, lets pass what came before, and then the packet.
    pub(crate) fn run(&self, case: &Case) -> Result<Outcome> {
        let Case { setup, before, run, copies, .. } = case.clone();
        let expected = copies.len();
        self.sandbox.run_in(NODE, move || {
            let mut state = State::open(Path::new(BPFFS)).unwrap();
            fill(&mut state, &setup);
            let socket = setup.node_listens.map(|address| UdpSocket::bind(address).unwrap());
            set_fan(&mut state, NOWHERE, false); // copies of what came before would come late
            for run in before {
                test_run(&run);
            }
            age_circuits(setup.silence);
            set_fan(&mut state, if setup.fan { index("iocast-fan") } else { NOWHERE }, setup.taking_over);
            let counted = count(&state);
            let tap = Tap::new();
            let (verdict, mark, mut packet) = test_run(&run);
            let mut copies = tap.take(expected);
            if setup.pvs != [&[] as &[&str]; 2] {
                let copies = copies.iter_mut().map(|(_, copy)| copy);
                copies.chain([&mut packet]).for_each(|frame| hide_ticket(frame));
            }
            let counted = difference(&counted, &count(&state));
            drop(socket);
            lab::settle(); // or its port would be taken in the next case
            Outcome { verdict, mark, packet, copies, counted }
        })
    }

    /// How many instructions the kernel looked at to verify each program; none where it does not say.
    pub(crate) fn verified(&self) -> Result<Vec<(String, u32)>> {
        self.sandbox.run_in(NODE, || {
            let pins = std::fs::read_dir(pin_directory(Path::new(BPFFS)).join("programs")).unwrap();
            let count = |pin: std::io::Result<std::fs::DirEntry>| {
                let info = ProgramInfo::from_pin(pin.as_ref().unwrap().path()).ok()?;
                Some((info.name_as_str()?.to_owned(), info.verified_instruction_count()?))
            };
            pins.filter_map(count).collect()
        })
    }

    /// Fills the maps, lets pass what came before, and runs the packet so many times: what the program returned last, and the
    /// mean time of a run, several times.
    pub(crate) fn time(&self, case: &Case, repeat: u32, rounds: u32) -> Result<Vec<(i32, Duration)>> {
        let Case { setup, before, run, .. } = case.clone();
        self.sandbox.run_in(NODE, move || {
            let mut state = State::open(Path::new(BPFFS)).unwrap();
            fill(&mut state, &setup);
            set_fan(&mut state, NOWHERE, false);
            for run in before {
                test_run(&run);
            }
            let program = Program::of(&run);
            (0..rounds).map(|_| program.run(repeat)).map(|ran| (ran.verdict, ran.time)).collect()
        })
    }
}

/// A namespace that sends no frames of its own.
fn add_netns(sandbox: &Sandbox, name: &str) -> Result<()> {
    sandbox.add_netns(name)?;
    sandbox.sh(name, "sysctl -q -w net.ipv6.conf.default.disable_ipv6=1").map(|_| ())
}

/// A veth pair: `name` on the node, and `eth0` in a namespace `there` of its own.
fn add_pair(sandbox: &Sandbox, name: &str, there: &str) -> Result<()> {
    add_netns(sandbox, there)?;
    sandbox.sh(NODE, &format!("ip link add {name} type veth peer name eth0 netns {there}"))?;
    sandbox.sh(NODE, &format!("ip link set {name} up"))?;
    sandbox.sh(there, "ip link set eth0 up").map(|_| ())
}

/// Makes the maps hold what `setup` says, and nothing from the case before.
fn fill(state: &mut State, setup: &Setup) {
    let uplink = index("eth0");
    let name = abi::field("lab").unwrap();
    let domain = Domain {
        uplink: if setup.uplink { uplink } else { 0 },
        first_port: PORT,
        last_port: PORT,
        first_pin: 0,
        last_pin: 0,
        ports_per_pod: setup.ports_per_pod,
        ports: setup.ports,
        circuits: setup.circuits,
        direct: u32::from(setup.direct),
        limits: [abi::Limit { interval: setup.interval, burst: 1 }; abi::limited::KINDS],
        name,
    };
    state.set_domain(0, domain).unwrap();
    let entry = abi::Uplink { address: UPLINK, broadcast: UPLINK_BROADCAST, mac: UPLINK_MAC, domain: 0 };
    state.set_uplinks(&[(uplink, entry)]).unwrap();
    state.set_networks(&[(0, NETWORK, 24, abi::lan::HOSTS | setup.cameras)]).unwrap();
    let relays = |scope: u32, lan: bool| {
        let relay = |&(in_pods, on_lan, protocol, flags): &(u16, u16, Protocol, u16)| {
            let (from, to) = if lan { (on_lan, in_pods) } else { (in_pods, on_lan) };
            let key = RelayKey { scope, port: from, reserved: 0 };
            (key, Relay { domain: 0, port: to, protocol: protocol as u16, flags })
        };
        RELAYS.iter().map(relay).collect::<Vec<_>>()
    };
    let groups = GROUPS.iter().flat_map(|&(group, in_pods, on_lan)| {
        [GroupKey::of_pods(0, group, in_pods), GroupKey::on_lan(uplink, group, on_lan)]
    });
    state.set_groups(&groups.collect::<Vec<_>>()).unwrap();
    state.set_described(&[described(), anything()]).unwrap();
    state.set_relays(&relays(uplink, true), &relays(0, false)).unwrap();
    for (key, attachment) in state.attachments().unwrap() {
        state.leave(&key, &attachment).unwrap();
    }
    forget::<abi::SearcherKey, abi::Searcher>("SEARCHERS", Map::LruHashMap);
    forget::<abi::FlowKey, abi::Endpoint>("SENDERS", Map::LruHashMap);
    forget::<abi::BucketKey, u64>("BUCKETS", Map::LruHashMap);
    forget::<abi::Endpoint, abi::Claim>("EXTERNALS", Map::HashMap);
    forget::<abi::Owner, abi::Endpoint>("INTERNALS", Map::HashMap);
    forget::<u32, abi::Share>("PORT_COUNTS", Map::HashMap);
    forget_circuits();
    forget::<abi::Address, abi::LanAddress>("LAN_ADDRESSES", Map::HashMap);
    forget::<abi::Address, abi::Rival>("RIVALS", Map::LruHashMap);
    forget::<abi::ListenersKey, abi::Listeners>("LISTENERS", Map::LruHashMap);
    forget::<abi::BroadcasterKey, abi::Broadcast>("BROADCASTS", Map::LruHashMap);
    for (number, (pod, ..)) in (0..).zip(PODS) {
        let lan_address = if number == 0 && setup.standing.is_some() { LAN_ADDRESS } else { abi::NO_ADDRESS };
        let pvs: Vec<_> = setup.pvs[usize::from(number)].iter().map(|pv| String::from(*pv)).collect();
        join(state, number, pod, lan_address, &pvs);
    }
    if let Some(standing) = setup.standing {
        have_lan_address(standing);
    }
    state.tend_ports(&[], &[(PORT, PORT), (3956, 3956)]).unwrap();
}

/// Replaces a ticket in place of a frame's source MAC address by that of [`TICKET`].
fn hide_ticket(frame: &mut [u8]) {
    if frame[6..8] == TICKET[..2] {
        frame[6..12].copy_from_slice(&TICKET);
    }
}

/// A protocol whose datagrams begin with "RC", and name an address at 4 and a TCP port at 8.
fn described() -> Described {
    let field = |kind, at| Field { kind, at, when: Bytes::ANY };
    let must = Bytes { at: 0, reserved: 0, mask: 0xffff_0000, value: 0x5243_0000 };
    let mut fields = [Field::NONE; FIELDS];
    fields[..2].copy_from_slice(&[field(kind::ADDRESS, 4), field(kind::PORT, 8)]);
    Described { descriptor: Descriptor { must, search: 0, fields }, name: abi::field("recsync").unwrap() }
}

/// A protocol of any bytes, in which everybody asks.
fn anything() -> Described {
    let descriptor = Descriptor { must: Bytes::ANY, search: 1, fields: [Field::NONE; FIELDS] };
    Described { descriptor, name: abi::field("mdns").unwrap() }
}

fn set_fan(state: &mut State, fan: u32, taking_over: bool) {
    let taking_over = if taking_over { u32::MAX } else { 0 };
    state.set_config(Config { fan, circuit_idle: 180 * 60, taking_over }).unwrap();
}

/// Gives the first pod its LAN address.
fn have_lan_address(standing: u16) {
    let mut map: HashMap<_, abi::Address, abi::LanAddress> =
        Map::HashMap(pinned("LAN_ADDRESSES")).try_into().unwrap();
    let member = index(PODS[0].0);
    let entry = abi::LanAddress { member, generation: 1, since: 1, domain: 0, standing };
    map.insert(LAN_ADDRESS, entry, 0).unwrap();
}

fn join(state: &mut State, number: u8, pod: &str, lan_address: abi::Address, pvs: &[String]) {
    let device = link::by_name(pod).unwrap().unwrap();
    let address = [10, 244, 1, 2 + number];
    let key = AttachmentKey { container: abi::field(pod).unwrap(), interface: abi::field("eth0").unwrap() };
    let member = Member {
        address,
        broadcast: POD_BROADCAST,
        lan_address,
        generation: 1,
        netns: device.peer_netns.unwrap(),
        identity: abi::identity("bl07", pod),
        mac: POD_MACS[usize::from(number)],
        domain: 0,
        mtu: 1500,
        prefixes: 0,
    };
    let attachment = Attachment {
        member: device.index,
        generation: 1,
        domain: 0,
        slot: 0,
        address,
        network: [0; 64],
        namespace: abi::field("bl07").unwrap(),
        pod: abi::field(pod).unwrap(),
    };
    state.join(key, attachment, member, pvs).unwrap();
}

/// Empties a map that the programs fill by themselves.
fn forget<K: aya::Pod, V: aya::Pod>(name: &str, kind: fn(MapData) -> Map) {
    let mut map: HashMap<_, K, V> = kind(pinned(name)).try_into().unwrap();
    let keys: Vec<_> = map.keys().map(std::result::Result::unwrap).collect();
    for key in keys {
        map.remove(&key).unwrap();
    }
}

fn forget_circuits() {
    forget::<abi::FlowKey, abi::Opening>("OPENINGS", Map::LruHashMap);
    forget::<abi::FlowKey, abi::Followed>("STREAMS", Map::LruHashMap);
    forget::<abi::FlowKey, abi::Circuit>("CIRCUITS", Map::HashMap);
    forget::<abi::BucketKey, i64>("SHARES", Map::LruHashMap);
    reset("CIRCUIT_COUNTS", 1);
    reset("NEXT_PLACE", 1);
    reset("ENDED_COUNTS", 2);
}

/// Sets the first numbers of an array to 0.
fn reset(name: &str, count: u32) {
    let mut numbers: Array<_, i64> = Map::Array(pinned(name)).try_into().unwrap();
    (0..count).for_each(|index| numbers.set(index, 0, 0).unwrap());
}

/// Lets so many seconds pass for all circuits, and the next look begin where the first one did.
fn age_circuits(seconds: u32) {
    let mut circuits: HashMap<_, abi::FlowKey, abi::Circuit> =
        Map::HashMap(pinned("CIRCUITS")).try_into().unwrap();
    let all: Vec<_> = circuits.iter().map(std::result::Result::unwrap).collect();
    for (key, circuit) in all {
        circuits
            .insert(key, abi::Circuit { seen: circuit.seen.wrapping_sub(seconds), ..circuit }, 0)
            .unwrap();
    }
    reset("NEXT_PLACE", 1);
}

/// A map of the datapath of the namespaces that the thread is in.
pub(crate) fn pinned(name: &str) -> MapData {
    MapData::from_pin(pin_directory(Path::new(BPFFS)).join("maps").join(name)).unwrap()
}

/// The index of an interface of the sandbox.
fn index(name: &str) -> u32 {
    link::by_name(name).unwrap().unwrap_or_else(|| panic!("no interface {name}")).index
}

/// Runs a program on a packet: its verdict, and the mark and the packet afterwards.
fn test_run(run: &Run) -> (i32, u32, Vec<u8>) {
    let Ran { verdict, mark, packet, .. } = Program::of(run).run(1);
    (verdict, mark, packet)
}

/// A program, and a packet for it in its context.
struct Program {
    program: SchedClassifier,
    context: [u8; CONTEXT],
    packet: Vec<u8>,
}

/// What came of it.
struct Ran {
    verdict: i32,
    mark: u32,
    packet: Vec<u8>,
    time: Duration,
}

impl Program {
    fn of(run: &Run) -> Self {
        let pin = pin_directory(Path::new(BPFFS)).join("programs").join(run.program);
        let program = SchedClassifier::from_pin(pin).unwrap();
        let mut context = [0; CONTEXT];
        context[MARK..MARK + 4].copy_from_slice(&run.mark.to_ne_bytes());
        context[CONTEXT - 4..].copy_from_slice(&index(run.interface).to_ne_bytes());
        Self { program, context, packet: run.packet.bytes() }
    }

    /// So many runs of the same packet, and the mean time of one.
    fn run(&self, repeat: u32) -> Ran {
        let (mut after, mut packet) = ([0; 512], vec![0; 4096]);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.packet);
        options.data_out = Some(&mut packet);
        options.ctx_in = Some(&self.context);
        options.ctx_out = Some(&mut after);
        options.repeat = repeat;
        let result = self.program.test_run(options).unwrap();
        packet.truncate(result.data_size_out as usize);
        let mark = u32::from_ne_bytes(*after[MARK..].first_chunk().unwrap());
        Ran { verdict: result.return_value.cast_signed(), mark, packet, time: result.duration }
    }
}

fn count(state: &State) -> Vec<((Protocol, Verdict), u64)> {
    let counters = state.counters().unwrap();
    counters.iter().map(|counter| ((counter.protocol, counter.verdict), counter.packets)).collect()
}

/// What was counted in between, as often as it was.
fn difference(
    before: &[((Protocol, Verdict), u64)],
    after: &[((Protocol, Verdict), u64)],
) -> Vec<(Protocol, Verdict)> {
    let old = |what| before.iter().find(|(known, _)| *known == what).map_or(0, |(_, packets)| *packets);
    after.iter().flat_map(|&(what, packets)| (old(what)..packets).map(move |_| what)).collect()
}

/// A socket that sees every frame that leaves by the uplink or arrives at the fan.
struct Tap(OwnedFd);

impl Tap {
    fn new() -> Self {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        Self(socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap())
    }

    /// The `expected` frames, and any that came beside them, sorted: the fan's queue takes its time.
    fn take(&self, expected: usize) -> Vec<(Where, Vec<u8>)> {
        let mut found = vec![];
        let start = Instant::now();
        while found.len() < expected && start.elapsed() < PATIENCE {
            found.extend(self.drain());
        }
        std::thread::sleep(QUIET);
        found.extend(self.drain());
        found.sort();
        found
    }

    fn drain(&self) -> Vec<(Where, Vec<u8>)> {
        let mut found = vec![];
        let mut buffer = [0; 4096];
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let Ok(message) = recvmsg::<LinkAddr>(self.0.as_raw_fd(), &mut parts, None, MsgFlags::empty())
            else {
                return found;
            };
            let (length, at) = (message.bytes, message.address.unwrap().ifindex() as u32);
            let place = [("eth0", Where::Uplink), ("iocast-fan", Where::Fan)];
            if let Some((_, place)) = place.into_iter().find(|(name, _)| index(name) == at) {
                found.push((place, buffer[..length].to_vec()));
            }
        }
    }
}
