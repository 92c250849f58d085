//! The matrix: every client, wherever it runs, reads every server, wherever it runs, by every way of finding it.
//!
//! What cannot work is in the table with the reason, and is tested to fail: nothing is left out.

use std::{collections::BTreeMap, fmt::Write, panic::resume_unwind, path::Path, thread};

use lab::{
    Lab, NATIVE, NODE, Options, Process, Result, Topology, WORKSTATION,
    epics::{Client, Server, shows},
};

lab::in_both_topologies! {
    every_client_reads_every_rsrv_as_the_table_says
    every_client_reads_every_pvaccesscpp_as_the_table_says
    every_client_reads_every_pvxs_as_the_table_says
}

/// Where a program runs: as the table calls it, the host of the lab, that host's node, and its address on the LAN: the node's
/// for a pod that has none.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(&'static str, &'static str, Option<usize>, &'static str);

/// A client in a pod with a LAN address is on one node: for one on the other, the servers' nodes would only change places.
const CLIENT_PLACES: [Place; 5] = [
    Place("LAN", WORKSTATION, None, "172.23.0.2"),
    Place("pod", "pod-client", Some(0), NODE_ADDRESS),
    Place("pod on the other node", "pod-client2", Some(1), NODE2_ADDRESS),
    Place("pod with a LAN address", "pod-client3", Some(0), "172.23.0.53"),
    Place("node process", NODE, Some(0), NODE_ADDRESS),
];
const SERVER_PLACES: [Place; 6] = [
    Place("pod", "pod-server", Some(0), NODE_ADDRESS),
    Place("pod on the other node", "pod-server2", Some(1), NODE2_ADDRESS),
    Place("pod with a LAN address", "pod-server3", Some(0), "172.23.0.51"),
    Place("pod with a LAN address on the other node", "pod-server4", Some(1), "172.23.0.52"),
    Place("LAN", NATIVE, None, "172.23.0.3"),
    Place("node process", NODE, Some(0), NODE_ADDRESS),
];
const NODE_ADDRESS: &str = "172.23.0.10";
const NODE2_ADDRESS: &str = "172.23.0.11";

impl Place {
    /// The pod's name, if it is one.
    fn pod(self) -> Option<&'static str> {
        self.1.strip_prefix("pod-")
    }

    /// Whether it is a pod that is known on the LAN by its node's address.
    fn has_ports(self) -> bool {
        self.pod().is_some() && [NODE_ADDRESS, NODE2_ADDRESS].contains(&self.3)
    }
}
const CLIENTS: [(&str, Option<Client>); 3] =
    [("libca", None), ("pvAccessCPP", Some(Client::PvAccessCpp)), ("PVXS", Some(Client::Pvxs))];
const SERVERS: [(&str, Server); 3] =
    [("RSRV", Server::Rsrv), ("pvAccessCPP", Server::PvAccessCpp), ("PVXS", Server::Pvxs)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Broadcast,
    List,
    NameServer,
}

const WAYS: [(&str, Way); 3] =
    [("broadcast", Way::Broadcast), ("address list", Way::List), ("name server", Way::NameServer)];

/// Why a client cannot read a server, by the number of a note under the table; 0 if it can.
fn why_not(client: (Place, Option<Client>), way: Way, server: (Place, Server)) -> usize {
    let ((client_place, client), (server_place, server)) = (client, server);
    let pva_names = client.is_some() && way == Way::NameServer;
    let own_node = server_place.has_ports() && client_place.2 == server_place.2;
    let from_node_to_its_pod = own_node && client_place.1 == NODE && way != Way::Broadcast;
    if pva_names && (client == Some(Client::PvAccessCpp) || server == Server::PvAccessCpp) {
        1
    } else if from_node_to_its_pod || (own_node && way == Way::NameServer) {
        2
    } else {
        0
    }
}

const NOTES: [&str; 2] = [
    "pvAccessCPP has no name servers, neither as client nor as server.",
    "The node's own address and its external ports are for the LAN: a process on the node, or a pod on it, uses the pod's \
     address, as broadcast finds it. A pod with a LAN address can be named by that from everywhere.",
];

/// A lab of two nodes with a server of one kind in each place, whose records begin with `S0`, `S1` and so on.
struct Bench {
    lab: Lab,
    _iocs: Vec<Process>,
}

impl Bench {
    fn new(topology: Topology, server: Server) -> Result<Self> {
        let lab = Lab::up(Options { nodes: 2, ..Options::new(topology) })?;
        for place in SERVER_PLACES.iter().chain(&CLIENT_PLACES) {
            if let Place(_, _, Some(node), address) = *place
                && let Some(name) = place.pod()
            {
                let address = Some(address).filter(|_| !place.has_ports());
                lab.pod_at(node, name, address)?;
            }
        }
        let serve = |(number, place): (usize, &Place)| lab.ioc_of(server, place.1, &format!("S{number}"));
        let iocs = SERVER_PLACES.iter().enumerate().map(serve).collect::<Result<_>>()?;
        Ok(Self { lab, _iocs: iocs })
    }

    /// What a client's environment says of where to look, for the server number `number`.
    fn variables(&self, client: Option<Client>, way: Way, number: usize) -> Result<Vec<(String, String)>> {
        let protocol = if client.is_none() { "CA" } else { "PVA" };
        let place = SERVER_PLACES[number];
        let value = match way {
            Way::Broadcast => return Ok(vec![]),
            Way::List => ("ADDR_LIST", place.3.to_owned()),
            Way::NameServer => {
                ("NAME_SERVERS", format!("{}:{}", place.3, self.circuit_port(client, number)?))
            }
        };
        Ok(vec![
            (format!("EPICS_{protocol}_AUTO_ADDR_LIST"), "NO".into()),
            (format!("EPICS_{protocol}_{}", value.0), value.1),
        ])
    }

    /// The port at which a circuit reaches the server from the LAN.
    fn circuit_port(&self, client: Option<Client>, number: usize) -> Result<u16> {
        let port = if client.is_none() { 5064 } else { 5075 };
        let place = SERVER_PLACES[number];
        let external = match (place.pod(), place.2) {
            (Some(pod), Some(node)) if place.has_ports() => {
                self.lab.external_port_on(node, pod, "tcp", port)?
            }
            _ => None,
        };
        Ok(external.unwrap_or(port))
    }

    /// Whether a client reads each of the servers; all at the same time, as what cannot work takes its time. Not those that
    /// search by pvAccessCPP: two on a host may have the same UDP port, and one of them the answers of both.
    fn reads_each(&self, client: (Place, Option<Client>), way: Way) -> Result<Vec<bool>> {
        let numbers = 0..SERVER_PLACES.len();
        if client.1 == Some(Client::PvAccessCpp) && way != Way::NameServer {
            return numbers.map(|number| self.reads(client, way, number)).collect();
        }
        thread::scope(|scope| {
            let running: Vec<_> =
                numbers.map(|number| scope.spawn(move || self.reads(client, way, number))).collect();
            running.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        })
    }

    /// Whether a client reads the server number `number`, once, and without a complaint of two answers.
    fn reads(&self, client: (Place, Option<Client>), way: Way, number: usize) -> Result<bool> {
        let (place, client) = client;
        let variables = self.variables(client, way, number)?;
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let pv = format!("S{number}:NAME");
        let output = match client {
            None => {
                let process = self.lab.epics(place.1, &format!("caget -t -w 2 {pv}"), &variables)?;
                process.finish()?.output
            }
            Some(client) => self.lab.pvget_within(2, client, place.1, &pv, &variables)?,
        };
        // A client beside its server on a host with several interfaces hears it on each of them, iocast or not.
        let beside = place.1 == NODE && SERVER_PLACES[number].1 == NODE;
        for complaint in ["Identical process variable", "More than one channel", "Duplicate PV name"] {
            assert!(beside || !output.contains(complaint), "{}: {output}", place.0);
        }
        Ok(shows(&output, &format!("S{number}")))
    }
}

type Row = (usize, usize, usize);

fn every_client_reads_every_rsrv_as_the_table_says(topology: Topology) -> Result<()> {
    try_each(topology, SERVERS[0])
}

fn every_client_reads_every_pvaccesscpp_as_the_table_says(topology: Topology) -> Result<()> {
    try_each(topology, SERVERS[1])
}

fn every_client_reads_every_pvxs_as_the_table_says(topology: Topology) -> Result<()> {
    try_each(topology, SERVERS[2])
}

/// Tries every cell of the table with servers of one kind.
fn try_each(topology: Topology, (server_name, server): (&str, Server)) -> Result<()> {
    let bench = Bench::new(topology, server)?;
    let mut wrong = vec![];
    for (row, client, way) in rows(server) {
        let reads = bench.reads_each(client, way)?;
        for (number, server_place) in SERVER_PLACES.iter().enumerate() {
            let expected = why_not(client, way, (*server_place, server));
            if reads[number] != (expected == 0) {
                let (place, ways) = (client.0.0, WAYS[row.2].0);
                let client = CLIENTS[row.1].0;
                wrong.push(format!(
                    "{client} in {place} by {ways}, {server_name} in {}: expected {}",
                    server_place.0,
                    if expected == 0 { "to work" } else { NOTES[expected - 1] }
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{topology:?}:\n{}", wrong.join("\n"));
    Ok(())
}

/// The number of a note for each place and kind of a server, by the row of the client.
fn cells() -> BTreeMap<Row, BTreeMap<(usize, usize), usize>> {
    let mut cells: BTreeMap<Row, BTreeMap<_, _>> = BTreeMap::new();
    for (kind, (_, server)) in SERVERS.iter().enumerate() {
        for (row, client, way) in rows(*server) {
            for (number, place) in SERVER_PLACES.iter().enumerate() {
                cells.entry(row).or_default().insert((number, kind), why_not(client, way, (*place, *server)));
            }
        }
    }
    cells
}

/// The rows in which a client of this server's protocol stands.
fn rows(server: Server) -> Vec<(Row, (Place, Option<Client>), Way)> {
    let mut rows = vec![];
    for (p, place) in CLIENT_PLACES.iter().enumerate() {
        for (c, (_, client)) in CLIENTS.iter().enumerate() {
            for (w, (_, way)) in WAYS.iter().enumerate() {
                if client.is_none() == (server == Server::Rsrv) {
                    rows.push(((p, c, w), (*place, *client), *way));
                }
            }
        }
    }
    rows
}

fn table(cells: &BTreeMap<Row, BTreeMap<(usize, usize), usize>>) -> String {
    let mut out = String::from("| client | runs in | finds by |");
    let servers: Vec<_> = SERVER_PLACES.iter().map(|place| format!(" server in {} |", place.0)).collect();
    out += &format!("{}\n|---|---|---|{}\n", servers.concat(), "---|".repeat(SERVER_PLACES.len()));
    for ((p, c, w), row) in cells {
        let _ = write!(out, "| {} | {} | {} |", CLIENTS[*c].0, CLIENT_PLACES[*p].0, WAYS[*w].0);
        for place in 0..SERVER_PLACES.len() {
            let kinds = row.iter().filter(|((number, _), _)| *number == place);
            let texts = kinds.map(|((_, kind), note)| match note {
                0 => format!("{} yes", SERVERS[*kind].0),
                note => format!("{} no ({note})", SERVERS[*kind].0),
            });
            let _ = write!(out, " {} |", texts.collect::<Vec<_>>().join(", "));
        }
        out.push('\n');
    }
    out.push('\n');
    for (number, note) in NOTES.iter().enumerate() {
        let _ = writeln!(out, "{}. {note}", number + 1);
    }
    out
}

/// The table in the docs is the one that is tried; UPDATE_GOLDEN=1 writes it anew.
#[test]
fn the_table_is_that_of_the_documentation() {
    let table = table(&cells());
    println!("{table}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/matrix.md");
    let text = format!(
        "# Who reads whom\n\nGenerated by `make matrix`, which tries every cell, in a bridged and in a routed pod network of two \
         nodes.\n\n{table}"
    );
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, recorded, "docs/matrix.md differs; UPDATE_GOLDEN=1 make matrix writes it anew");
}
