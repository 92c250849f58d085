//! A connection request in a client's name: put in at the uplink, it goes the client's way through the node's stack and its
//! rules to the pod. How far it and its answer come is seen at the pod's veth and at the uplink. A connection of the node's
//! own would take another way, and prove nothing.

use std::{
    net::SocketAddrV4,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use datapath::{Arrival, Result, Tap, Whose, link::Link};

use super::facts::Outcome;
use crate::{
    ask::wait::wait,
    frame::{self, ACK, Passed, RST, SYN},
};

/// How long an answer is waited for, and after which part of it the request is sent again.
const PATIENCE: Duration = Duration::from_millis(800);
const REPETITION: Duration = Duration::from_millis(250);

/// What to try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) uplink: &'a Link,
    /// The pod's host-side veth.
    pub(super) veth: u32,
    /// The client, from a port that it does not use.
    pub(super) from: SocketAddrV4,
    /// What the client would connect to.
    pub(super) to: SocketAddrV4,
    /// The same in the pod.
    pub(super) inside: SocketAddrV4,
    /// The sequence number of the request.
    pub(super) sequence: u32,
}

/// Tries it, and takes it back.
pub(super) fn attempt(attempt: &Attempt<'_>) -> Result<Outcome> {
    let host = Whose::Host(*attempt.from.ip());
    let taps = [Tap::open(attempt.uplink.index, &host)?, Tap::open(attempt.veth, &host)?];
    let arrival = Arrival::at(attempt.uplink.index)?;
    let frame = |flags, sequence| frame::tcp(attempt.uplink.mac, attempt.from, attempt.to, flags, sequence);
    let began = Instant::now();
    let (mut course, mut sent) = (Course::default(), None::<Instant>);
    while course.outcome.is_none() && began.elapsed() < PATIENCE {
        if sent.is_none_or(|sent| sent.elapsed() >= REPETITION) {
            arrival.put(&frame(SYN, attempt.sequence))?;
            sent = Some(Instant::now());
        }
        wait(&taps.each_ref().map(Tap::as_fd), REPETITION / 10);
        for (tap, place) in taps.iter().zip([Place::Uplink, Place::Veth]) {
            while let Some(passed) = tap.take() {
                course.note(
                    attempt,
                    place,
                    passed.outgoing,
                    frame::read(&passed.bytes).as_ref(),
                    began.elapsed(),
                );
            }
        }
    }
    arrival.put(&frame(RST, attempt.sequence.wrapping_add(1)))?;
    Ok(course.end())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Uplink,
    Veth,
}

/// How far the request and its answer have come.
#[derive(Debug, Default)]
struct Course {
    arrived: bool,
    answered: bool,
    outcome: Option<Outcome>,
}

impl Course {
    /// Takes in a frame that has passed.
    fn note(
        &mut self,
        attempt: &Attempt<'_>,
        at: Place,
        outgoing: bool,
        passed: Option<&Passed>,
        after: Duration,
    ) {
        let Some(&Passed::Tcp { from, to, flags, .. }) = passed else { return };
        let accepts = flags & (SYN | ACK | RST) == SYN | ACK;
        let refuses = flags & RST != 0;
        if at == Place::Veth && outgoing && (from, to) == (attempt.from, attempt.inside) && flags & SYN != 0 {
            self.arrived = true;
        }
        if to != attempt.from || outgoing != (at == Place::Uplink) {
            return;
        }
        match at {
            Place::Veth if accepts && from == attempt.inside => self.answered = true,
            Place::Uplink if accepts && from == attempt.to => self.outcome = Some(Outcome::Accepted(after)),
            _ if refuses && self.outcome.is_none() => self.outcome = Some(Outcome::Refused),
            _ => {}
        }
    }

    /// What became of it when nothing more is waited for.
    fn end(self) -> Outcome {
        self.outcome.unwrap_or(match (self.arrived, self.answered) {
            (_, true) => Outcome::AnswerLost,
            (true, false) => Outcome::Silent,
            (false, false) => Outcome::Dropped,
        })
    }
}

/// Three ports in a row that clients hardly use, outside the ranges from which systems choose: for a search in each protocol,
/// because a searcher has one, and for a connection.
pub(super) fn ports(random: u32) -> [u16; 3] {
    let first = 20_000 + (random % 10_000) as u16;
    [first, first + 1, first + 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "172.23.0.2:20001";
    const EXTERNAL: &str = "172.23.0.10:61000";
    const INSIDE: &str = "10.244.1.2:5064";

    fn outcome(frames: &[(Place, bool, &str, &str, u8)]) -> Outcome {
        let uplink = Link::default();
        let socket = |text: &str| text.parse().unwrap();
        let (from, to, inside) = (socket(CLIENT), socket(EXTERNAL), socket(INSIDE));
        let attempt = Attempt { uplink: &uplink, veth: 7, from, to, inside, sequence: 1 };
        let mut course = Course::default();
        for (at, outgoing, from, to, flags) in frames {
            let passed = Passed::Tcp { from: socket(from), to: socket(to), flags: *flags };
            course.note(&attempt, *at, *outgoing, Some(&passed), Duration::ZERO);
        }
        course.end()
    }

    #[test]
    fn how_far_it_came_is_the_outcome() {
        use Place::{Uplink, Veth};
        let put_in = (Uplink, false, CLIENT, EXTERNAL, SYN);
        let arrived = (Veth, true, CLIENT, INSIDE, SYN);
        let answered = (Veth, false, INSIDE, CLIENT, SYN | ACK);
        let left = (Uplink, true, EXTERNAL, CLIENT, SYN | ACK);
        let untranslated = (Uplink, true, INSIDE, CLIENT, SYN | ACK);
        for (frames, expected) in [
            (&[put_in][..], Outcome::Dropped),
            (&[put_in, arrived], Outcome::Silent),
            (&[put_in, arrived, answered], Outcome::AnswerLost),
            (&[put_in, arrived, answered, untranslated], Outcome::AnswerLost),
            (&[put_in, arrived, answered, left], Outcome::Accepted(Duration::ZERO)),
            (&[put_in, left], Outcome::Accepted(Duration::ZERO)),
            (&[put_in, arrived, (Veth, false, INSIDE, CLIENT, RST | ACK)], Outcome::Refused),
            (&[put_in, (Uplink, true, EXTERNAL, CLIENT, RST | ACK)], Outcome::Refused),
            (&[(Veth, false, INSIDE, "172.23.0.2:9", SYN | ACK)], Outcome::Dropped),
            (&[(Uplink, false, CLIENT, EXTERNAL, RST)], Outcome::Dropped),
        ] {
            assert_eq!(outcome(frames), expected, "{frames:?}");
        }
    }
}
