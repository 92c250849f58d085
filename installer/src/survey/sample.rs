//! A node to judge pods of, in tests: eth0 on the LAN of domain `bl07`, eth1 on a network of cameras.

use super::{
    facts::{Facts, Holder, Lan, Own},
    sockets::{Kind, Socket},
};

pub(super) fn lan() -> Lan {
    Lan {
        domain: "bl07".into(),
        interface: "eth0".into(),
        address: [172, 23, 0, 10].into(),
        broadcast: [172, 23, 0, 255].into(),
        networks: vec![([172, 23, 0, 10].into(), 24)],
        protocols: vec!["ca".into(), "pva".into()],
        ports: [(5064, "ca"), (5065, "ca"), (5076, "pva"), (8064, "ca")]
            .map(|(port, name)| (port, name.to_owned()))
            .into(),
        groups: [([224, 0, 5, 5].into(), 5076)].into(),
        pins: Some((65000, 65535)),
        gives_addresses: false,
    }
}

pub(super) fn facts() -> Facts {
    let own = |interface: &str, address: [u8; 4]| Own {
        interface: interface.into(),
        address: datapath::link::Address { address: address.into(), prefix: 24, broadcast: None },
    };
    Facts {
        lans: vec![lan()],
        own: vec![own("eth0", [172, 23, 0, 10]), own("eth1", [192, 168, 250, 1])],
        interfaces: [(1, "eth0".to_owned()), (2, "eth1".to_owned())].into(),
        chosen: (32768, 60999),
        known: [(3956, "gvcp"), (5064, "ca"), (5065, "ca"), (5076, "pva"), (48899, "ads")]
            .map(|(port, name)| (port, name.to_owned()))
            .into(),
        holders: vec![],
    }
}

pub(super) fn holder(pod: &str, program: &str, sockets: Vec<Socket>) -> Holder {
    Holder { pod: Some(pod.into()), programs: [program.to_owned()].into(), sockets, ..Holder::default() }
}

pub(super) fn bound(local: &str) -> Socket {
    socket(Kind::Bound(local.parse().unwrap()))
}

pub(super) fn listens(local: &str) -> Socket {
    socket(Kind::Listens(local.parse().unwrap()))
}

pub(super) fn connected(local: &str, remote: &str) -> Socket {
    socket(Kind::Connected { tcp: true, local: local.parse().unwrap(), remote: remote.parse().unwrap() })
}

pub(super) fn raw(protocol: u16) -> Socket {
    socket(Kind::Raw { protocol })
}

pub(super) fn packet(ethertype: u16, interface: u32) -> Socket {
    socket(Kind::Packet { ethertype, interface })
}

fn socket(kind: Kind) -> Socket {
    Socket { inode: 0, kind }
}
