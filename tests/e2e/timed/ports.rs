//! What an answer costs that gets an external port, and one that gets none; what ADD and DEL cost where there are many.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::time::{Duration, Instant};

use abi::{Claim, EXTERNALS, Endpoint, TCP, hold};
use aya::maps::{HashMap, Map};
use lab::{
    DOMAIN, Lab, NODE, Options, Pod, Result, Topology, WORKSTATION, bpf,
    ca::{reply, search},
    turn,
    udp::Socket,
};

use crate::{
    cni::{configuration, environment, plugin, previous_result},
    programs::rig::pinned,
};

const ANSWERS: u16 = 2000;

/// Gives the first ports of the domain, or all that the table holds, to nobody, pinned.
fn fill(lab: &Lab, count: u32) -> Result<()> {
    lab.sandbox.run_in(NODE, move || {
        let mut externals: HashMap<_, Endpoint, Claim> =
            Map::HashMap(pinned("EXTERNALS")).try_into().unwrap();
        let (_, any) = externals.iter().next().unwrap().unwrap();
        for number in 0..count {
            let [high, low] = ((number / 4000) as u16).to_be_bytes();
            let address = if number < 4000 { [172, 23, 0, 10] } else { [10, 0, high, low] };
            let external = Endpoint { address, port: 61000 + (number % 4000) as u16, protocol: TCP.into() };
            let pod = Endpoint { port: number as u16, ..any.pod };
            // Of a member that is there, and of no domain with an uplink: neither programs nor agent end it.
            let _ = externals.insert(external, Claim { hold: hold::PINNED, domain: 15, pod, ..any }, 1);
        }
    })
}

/// Microseconds that `from_pod` and what it calls take for a datagram while `work` sends some.
fn cost(lab: &Lab, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let program = lab.sandbox.run(|| bpf::open("/sys/fs/bpf/iocast/v4/programs/from_pod".as_ref()).unwrap());
    let _statistics = bpf::enable_statistics().unwrap();
    let (time, count) = bpf::runs(&program).unwrap();
    work()?;
    let (later, counted) = bpf::runs(&program).unwrap();
    Ok((later - time) as f64 / (counted - count) as f64 / 1e3)
}

#[test]
fn an_answer_that_gets_no_port_costs_no_more_than_one_that_does() -> Result<()> {
    turn::take(turn::Kind::Alone);
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "172.23.0.2:0")?;
    client.send(&search(&["A:NAME"]), "172.23.0.255:5064")?;
    let to = client.address().to_string();
    let socket = |pod: &Pod| Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:5064");
    let answers = |socket: &Socket, port: &dyn Fn(u16) -> u16| -> Result<f64> {
        cost(&lab, || (0..ANSWERS).try_for_each(|number| socket.send(&reply(port(number)), &to)))
    };
    let (greedy, modest) = (socket(&lab.pod("greedy")?)?, socket(&lab.pod("modest")?)?);
    let usual = answers(&greedy, &|_| 5064)?;
    let others = answers(&greedy, &|number| 20000 + number)?;
    let pod = lab.pod("clients")?;
    let ask = || -> Result<Socket> {
        let client = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?;
        client.send(&search(&["A:NAME"]), "172.23.0.2:5064")?;
        Ok(client)
    };
    let _open = (1..250).map(|_| ask()).collect::<Result<Vec<_>>>()?;
    let regained = cost(&lab, || (0..200).try_for_each(|_| ask().map(drop)))?;
    fill(&lab, 4000)?;
    let full = answers(&modest, &|number| 20000 + number)?;
    let one = answers(&modest, &|_| 5064)?;
    lab::report(
        "from_pod, microseconds for an answer",
        &format!(
            "{usual:.1} where its port is known, {others:.1} naming other ports than its pod may have, {full:.1} and {one:.1} \
             where no port is left; {regained:.1} for the search of a client whose pod has only one to give back"
        ),
    );
    for refused in [others, full, one] {
        assert!(refused < 3.0 * usual, "{refused:.1} us, not about {usual:.1}");
    }
    Ok(())
}

#[test]
fn adding_and_deleting_a_pod_takes_as_long_with_a_full_table_of_ports() -> Result<()> {
    turn::take(turn::Kind::Alone);
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let ioc = lab.pod("ioc-a")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "172.23.0.2:0")?;
    client.send(&search(&["A:NAME"]), "172.23.0.255:5064")?;
    let socket = Socket::bind(&lab.sandbox, &ioc.netns, "0.0.0.0:5064")?;
    socket.send(&reply(5064), &client.address().to_string())?;
    let pod = lab.plain_pod("pod")?;
    let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), Some(DOMAIN), "");
    let time = |verb: &str| -> Result<f64> {
        let begin = Instant::now();
        let (success, stdout) = plugin(&lab.sandbox, &environment(verb, &pod.attachment), &stdin)?;
        assert!(success, "{verb}: {stdout}");
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    };
    // Longer than a pass of the agent, which holds the lock meanwhile.
    let rounds = || -> Result<[f64; 3]> {
        let (begin, mut added, mut deleted) = (Instant::now(), vec![], vec![]);
        while begin.elapsed() < Duration::from_secs(6) {
            added.push(time("ADD")?);
            deleted.push(time("DEL")?);
        }
        added.sort_by(f64::total_cmp);
        deleted.sort_by(f64::total_cmp);
        let worst = added[added.len() - 1].max(deleted[deleted.len() - 1]);
        Ok([added[added.len() / 2], deleted[deleted.len() / 2], worst])
    };
    let empty = rounds()?;
    fill(&lab, EXTERNALS)?;
    let full = rounds()?;
    lab::report(
        "plugin wall time, median ADD and DEL, and the longest of all, with an empty and with a full table of external ports",
        &format!("{empty:.1?} ms and {full:.1?} ms"),
    );
    assert!(full[1] < 2.0 * empty[1] && full[2] < 1000.0, "{full:?}");
    Ok(())
}
