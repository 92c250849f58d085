//! A camera's stream: how many packets a second reach a program before one is lost.

use std::{
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{Error, Result, WORKSTATION, tried};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use super::Settings;
use crate::{
    cpu::Spent,
    net::{Listener, Side, at, datagrams, roam},
    row::{Goal, Measure, NATIVE, Row, Section, Trial},
    stats::{quantile, sorted},
    world::{SEARCH_PORT, Way, World},
};

/// Cameras listen here.
const CAMERA_PORT: u16 = 3956;
/// Where the programs take the streams, a port for each contender.
const STREAM_PORT: u16 = 50_000;
/// Payload of a packet of a stream at MTU 1500: GVSP's header, and pixels.
const PACKET: usize = 1472;
/// The same at MTU 9000.
const JUMBO: usize = 8972;
/// Packets a second that fill 1 GbE at MTU 1500.
const LINE_RATE: f64 = 81_000.0;
/// Packets for one system call, at most.
const BATCH: usize = 32;
/// The first rate that is tried, and the factor to the next.
const FIRST: f64 = 50_000.0;
const STEP: f64 = 1.25;
/// The factor where the first rate that is too high is known.
const FINE: f64 = 1.05;
/// No more comes when nothing came for so long.
const QUIET: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(2);

/// A camera on the LAN of a contender that streams, and the program that counts what comes.
struct Pair {
    camera: UdpSocket,
    to: SocketAddrV4,
    received: Arc<AtomicU64>,
    /// Whether the program is to run on the camera's processor.
    together: Arc<AtomicBool>,
    _program: Listener,
}

impl Pair {
    fn new(world: &World, way: Way) -> Result<Self> {
        // Two contenders have their programs in one pod.
        let port = if way == Way::Nft { SEARCH_PORT } else { STREAM_PORT + way as u16 };
        let sandbox = &world.lab.sandbox;
        let server = world.server(way, 0);
        let socket = datagrams(sandbox, &server, &format!("0.0.0.0:{port}"), None)?;
        let to = match way {
            Way::Iocast => told(world, port)?,
            _ => at(world.target(way), port),
        };
        let received = Arc::new(AtomicU64::new(0));
        let together = Arc::new(AtomicBool::new(false));
        let (count, wanted) = (Arc::clone(&received), Arc::clone(&together));
        let mut now = None;
        let program = Listener::start(socket, move |_, _, _| {
            let together = wanted.load(Ordering::Relaxed);
            if now.replace(together) != Some(together) {
                (if together { Side::Both } else { Side::Server }).keep();
            }
            count.fetch_add(1, Ordering::Relaxed);
        })?;
        let camera = datagrams(sandbox, WORKSTATION, &format!("{}:0", way.client()), None)?;
        Ok(Self { camera, to, received, together, _program: program })
    }

    /// Streams for a while: packets sent, packets received, and the rate that was reached.
    fn stream(&self, rate: f64, size: usize, time: Duration) -> Result<(u64, u64, f64)> {
        let before = self.received.load(Ordering::Relaxed);
        let packet = vec![0x5a; size];
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let (start, mut sent) = (Instant::now(), 0);
        while start.elapsed() < time {
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            let count = BATCH.min(due.saturating_sub(sent) as usize);
            if count == 0 {
                std::hint::spin_loop();
                continue;
            }
            sent += self.send(&packet, count, &mut headers)?;
        }
        let reached = sent as f64 / start.elapsed().as_secs_f64();
        Ok((sent, self.settled() - before, reached))
    }

    /// Sends so many packets by one system call; how many the kernel took.
    fn send(&self, packet: &[u8], count: usize, headers: &mut MultiHeaders<SockaddrIn>) -> Result<u64> {
        let parts = [[IoSlice::new(packet)]; BATCH];
        let targets = [Some(SockaddrIn::from(self.to)); BATCH];
        let none: [ControlMessage; 0] = [];
        let (parts, targets) = (&parts[..count], &targets[..count]);
        let done = sendmmsg(self.camera.as_raw_fd(), headers, parts, targets, none, MsgFlags::empty());
        Ok(tried("stream", done)?.count() as u64)
    }

    /// Sends a batch and waits for it, again and again, on one processor: thousands of packets a second, and nanoseconds of
    /// processor time for each.
    fn closely(&self, size: usize, time: Duration) -> Result<[f64; 2]> {
        let packet = vec![0x5a; size];
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let before = self.settled();
        let (spent, start, mut sent, mut times) = (Spent::now(), Instant::now(), 0, vec![]);
        while start.elapsed() < time {
            let since = Instant::now();
            sent += self.send(&packet, BATCH, &mut headers)?;
            while self.received.load(Ordering::Relaxed) < before + sent && since.elapsed() < QUIET {
                std::thread::yield_now();
            }
            times.push(since.elapsed().as_secs_f64());
        }
        let spent = spent.elapsed();
        let received = (self.received.load(Ordering::Relaxed) - before) as f64;
        Ok([BATCH as f64 / 1e3 / quantile(&sorted(&times), 0.5), spent / received])
    }

    /// How many came so far, when no more comes.
    fn settled(&self) -> u64 {
        let mut seen = self.received.load(Ordering::Relaxed);
        loop {
            sleep(QUIET);
            let now = self.received.load(Ordering::Relaxed);
            if now == seen {
                return now;
            }
            seen = now;
        }
    }

    /// The highest rate without loss, packets lost in a million at the line rate of 1 GbE, and what packets cost.
    fn measure(&self, time: Duration) -> Result<Vec<f64>> {
        Side::Client.keep();
        self.together.store(false, Ordering::Relaxed);
        let rate = self.highest(time);
        let (sent, received, _) = self.stream(LINE_RATE, PACKET, 2 * time)?;
        Side::Both.keep();
        self.together.store(true, Ordering::Relaxed);
        let costs: Result<Vec<_>> = [PACKET, JUMBO].iter().map(|size| self.closely(*size, time)).collect();
        roam();
        let ([packets, cost], [_, jumbo]) = costs.map(|costs| (costs[0], costs[1]))?;
        Ok(vec![rate?, sent.saturating_sub(received) as f64 * 1e6 / sent as f64, packets, cost, jumbo])
    }

    /// The highest rate at which nothing is lost: in large steps until something is, then in small ones.
    fn highest(&self, time: Duration) -> Result<f64> {
        let mut best = 0.0;
        let mut rate = FIRST;
        for step in [STEP, FINE] {
            while let Some(reached) = self.lossless(rate, time)?.filter(|reached| *reached > best) {
                best = reached;
                // More than the sender can do is no higher rate.
                if best < rate * 0.95 {
                    return Ok(best);
                }
                rate *= step;
            }
            rate = best * FINE;
        }
        Ok(best)
    }

    /// The rate that was reached, if nothing was lost. A rate may fail once: the machine does other things, too.
    fn lossless(&self, rate: f64, time: Duration) -> Result<Option<f64>> {
        for _ in 0..2 {
            let (sent, received, reached) = self.stream(rate, PACKET, time)?;
            if sent == received {
                return Ok(Some(reached));
            }
        }
        Ok(None)
    }
}

/// Where the camera is told to stream to, when the program in the pod has written its registers.
fn told(world: &World, port: u16) -> Result<SocketAddrV4> {
    let sandbox = &world.lab.sandbox;
    let camera = datagrams(sandbox, WORKSTATION, &format!("{}:{CAMERA_PORT}", Way::Iocast.client()), None)?;
    let program = datagrams(sandbox, &world.pods[0].netns, "0.0.0.0:0", None)?;
    let pod: Ipv4Addr = world.pods[0].address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
    // WRITEREG of the first stream channel's address and port.
    let mut command = vec![0x42, 1, 0, 0x82, 0, 16, 0, 1];
    command.extend(0x0d18u32.to_be_bytes());
    command.extend(pod.octets());
    command.extend(0x0d00u32.to_be_bytes());
    command.extend(u32::from(port).to_be_bytes());
    tried("command", program.send_to(&command, at(Way::Iocast.client(), CAMERA_PORT)))?;
    tried("set a timeout", camera.set_read_timeout(Some(PATIENCE)))?;
    let mut heard = [0; 64];
    let length = tried("hear the command", camera.recv(&mut heard))?;
    let [a, b, c, d] = heard[12..16] else { return Err(Error::Missing("an address".into())) };
    if length != command.len() {
        return Err(Error::Missing(format!("{length} bytes of a command of {}", command.len())));
    }
    Ok(at(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([heard[22], heard[23]])))
}

/// From a camera on the LAN to a program in a pod.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    const WAYS: [Way; 7] =
        [Way::Iocast, Way::Nft, Way::Native, Way::Macvlan, Way::Direct, Way::Address, Way::Routed];
    let pair = |way: Way| -> Result<_> { Ok((way, Rc::new(Pair::new(world, way)?))) };
    let pairs = WAYS.into_iter().map(pair).collect::<Result<Vec<_>>>()?;
    let row = |section, ways: &[Way], goals: [&[Goal]; 4]| {
        let contender = |(way, pair): &(Way, Rc<Pair>)| -> (&'static str, Trial) {
            let (pair, time) = (Rc::clone(pair), Duration::from_millis(settings.pick(100, 60)));
            (way.name(), Box::new(move || pair.measure(time)))
        };
        let of = |way: &Way| pairs.iter().find(|(other, _)| other == way).map(contender);
        Row {
            measures: measures(section, goals),
            contenders: ways.iter().filter_map(of).collect(),
            repeats: settings.pick(7, 3),
            warm_up: true,
        }
    };
    let nft = Way::Nft.name();
    let cheap = |beside, times| [Goal::TimesAtMost(beside, times)];
    let many = |beside, times| [Goal::TimesAtLeast(beside, times)];
    Ok(vec![
        row(
            Section::Stream,
            &[Way::Iocast, Way::Nft, Way::Native, Way::Macvlan],
            [&[], &many(nft, 0.98), &cheap(nft, 1.02), &cheap(nft, 1.02)],
        ),
        row(
            Section::DirectStream,
            &[Way::Direct, Way::Native, Way::Macvlan],
            [&many(NATIVE, 0.9), &[], &cheap(NATIVE, 1.1), &cheap(NATIVE, 1.1)],
        ),
        row(
            Section::AddressStream,
            &[Way::Address, Way::Routed],
            [
                &[],
                &many(Way::Routed.name(), 0.98),
                &cheap(Way::Routed.name(), 1.02),
                &cheap(Way::Routed.name(), 1.02),
            ],
        ),
    ])
}

/// With goals for the rate without loss, for packets a second, and for the costs of small and of large packets.
fn measures(section: Section, [rate, packets, small, large]: [&[Goal]; 4]) -> Vec<Measure> {
    let lost = "lost at 81 000/s, the line rate of 1 GbE";
    vec![
        Measure::higher(section, "highest rate without loss, 1472 bytes", "/s", rate),
        Measure::lower(section, lost, "ppm", &[Goal::AtMost(0.0)]),
        Measure::higher(section, "packets of 1472 bytes", "1000/s", packets),
        Measure::lower(section, "processor time for a packet of 1472 bytes", "ns", small),
        Measure::lower(section, "processor time for a packet of 8972 bytes", "ns", large),
    ]
}
