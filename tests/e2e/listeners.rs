//! Whoever begins to listen is found: after a silence by the first datagram, in a storm within a tenth of a second.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use lab::{Dice, Lab, Options, Pod, Result, Topology, WORKSTATION, ca, udp::Socket};

use crate::edges::pod_broadcast;

const LAN_BROADCAST: &str = "172.23.0.255:5064";
const PODS: usize = 5;
const ROUNDS: usize = 50;
/// Searches that a listener has to hear without a gap.
const RUN: usize = 20;
/// What is sent has come by then, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// In a storm, what is sent so long after a socket was bound is heard there.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

lab::in_both_topologies! {
    a_new_listener_hears_all_of_the_first_burst_after_a_silence
    a_new_listener_hears_a_storm_within_a_tenth_of_a_second_and_all_of_it_from_then_on
}

/// Pods in which now one, then another socket listens.
struct Scene {
    lab: Lab,
    pods: Vec<Pod>,
    client: Socket,
    ways: [String; 2],
}

impl Scene {
    fn raise(topology: Topology) -> Result<Self> {
        let lab = Lab::up(Options::new(topology))?;
        let pods = (0..PODS).map(|number| lab.pod(&format!("pod-{number}"))).collect::<Result<_>>()?;
        let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
        Ok(Self { lab, pods, client, ways: ["0.0.0.0:5064".into(), pod_broadcast(topology, 5064)] })
    }

    /// A socket like an IOC's in one of the pods, bound in one of the ways that hear a broadcast, after a moment.
    fn listen(&self, dice: &mut Dice) -> Result<Socket> {
        sleep(Duration::from_millis(dice.below(60) as u64));
        let pod = &self.pods[dice.below(PODS)];
        Socket::bind(&self.lab.sandbox, &pod.netns, &self.ways[dice.below(2)])
    }

    fn search(&self, number: usize) -> Result<()> {
        self.client.send(&ca::search(&[&format!("T{number:07}")]), LAN_BROADCAST)
    }
}

/// The numbers of the next searches that a socket hears.
fn hear(listener: &Socket, count: usize) -> Vec<usize> {
    (0..count).map_while(|_| listener.receive(PATIENCE)).map(|(search, _)| number(&search)).collect()
}

/// The number in the name that a search asks for.
fn number(search: &[u8]) -> usize {
    let name = search.split(|byte| *byte == b'T').next_back().unwrap_or_default();
    let digits: String = name.iter().map(|byte| char::from(*byte)).take(7).collect();
    digits.parse().unwrap_or_else(|_| panic!("{digits:?} in a search of this test"))
}

fn a_new_listener_hears_all_of_the_first_burst_after_a_silence(topology: Topology) -> Result<()> {
    let (scene, mut dice) = (Scene::raise(topology)?, Dice(5));
    for round in 0..ROUNDS {
        let listener = scene.listen(&mut dice)?;
        sleep(LONGEST_WAIT); // since the last datagram
        (0..RUN).try_for_each(|number| scene.search(number))?;
        assert_eq!(hear(&listener, RUN), (0..RUN).collect::<Vec<_>>(), "round {round}");
    }
    Ok(())
}

fn a_new_listener_hears_a_storm_within_a_tenth_of_a_second_and_all_of_it_from_then_on(
    topology: Topology,
) -> Result<()> {
    let (scene, mut dice) = (Scene::raise(topology)?, Dice(6));
    let (over, sent) = (AtomicBool::new(false), Mutex::new(vec![]));
    let sent = || sent.lock().unwrap_or_else(PoisonError::into_inner);
    let storm = || -> Result<()> {
        for number in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
            sent().push(Instant::now());
            scene.search(number)?;
            sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    let mut begin = |round| -> Result<()> {
        let listener = scene.listen(&mut dice)?;
        let bound = Instant::now();
        let heard = hear(&listener, RUN);
        let first = *heard.first().unwrap_or_else(|| panic!("round {round}: nothing heard"));
        let passed_over = sent()[..first].last().map(|sent| sent.saturating_duration_since(bound));
        assert!(passed_over < Some(LONGEST_WAIT), "round {round}: {passed_over:?}");
        assert_eq!(heard, (first..first + RUN).collect::<Vec<_>>(), "round {round}");
        Ok(())
    };
    scope(|scope| {
        let storm = scope.spawn(storm);
        let begun = (0..ROUNDS).try_for_each(&mut begin);
        over.store(true, Ordering::Relaxed);
        storm.join().unwrap_or_else(|_| panic!("the storm has failed")).and(begun)
    })?;
    assert_eq!(scene.lab.counter("ca", "overrun")?, 0);
    Ok(())
}
