//! A camera's stream: how many packets a second reach a program before one is lost.

use std::{
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{Error, Result, WORKSTATION, tried};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use super::Settings;
use crate::{
    net::{Listener, Side, at, datagrams, roam},
    row::{Goal, Measure, NATIVE, Row, Section, Trial},
    world::{SEARCH_PORT, Way, World},
};

/// Cameras listen here.
const CAMERA_PORT: u16 = 3956;
/// Where the programs take the streams, a port for each contender.
const STREAM_PORT: u16 = 50_000;
/// Payload of a packet of a stream at MTU 1500: GVSP's header, and pixels.
const PACKET: usize = 1472;
/// Packets a second that fill 1 GbE at MTU 1500.
const LINE_RATE: f64 = 81_000.0;
/// Packets for one system call, at most.
const BATCH: usize = 32;
/// The first rate that is tried, and the factor to the next.
const FIRST: f64 = 50_000.0;
const STEP: f64 = 1.2;
/// No more comes when nothing came for so long.
const QUIET: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(2);

/// A camera on the LAN of a contender that streams, and the program that counts what comes.
struct Pair {
    camera: UdpSocket,
    to: SocketAddrV4,
    received: Arc<AtomicU64>,
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
            _ => at(way.target(), port),
        };
        let received = Arc::new(AtomicU64::new(0));
        let (count, mut placed) = (Arc::clone(&received), false);
        let program = Listener::start(socket, move |_, _, _| {
            if !std::mem::replace(&mut placed, true) {
                Side::Server.keep();
            }
            count.fetch_add(1, Ordering::Relaxed);
        })?;
        let camera = datagrams(sandbox, WORKSTATION, &format!("{}:0", way.client()), None)?;
        Ok(Self { camera, to, received, _program: program })
    }

    /// Streams for a while: packets sent, packets received, and the rate that was reached.
    fn stream(&self, rate: f64, time: Duration) -> Result<(u64, u64, f64)> {
        let before = self.received.load(Ordering::Relaxed);
        let packet = [0x5a; PACKET];
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let (start, mut sent) = (Instant::now(), 0);
        while start.elapsed() < time {
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            let count = BATCH.min(due.saturating_sub(sent) as usize);
            if count == 0 {
                std::hint::spin_loop();
                continue;
            }
            let parts = [[IoSlice::new(&packet)]; BATCH];
            let targets = [Some(SockaddrIn::from(self.to)); BATCH];
            let none: [ControlMessage; 0] = [];
            let done = sendmmsg(
                self.camera.as_raw_fd(),
                &mut headers,
                &parts[..count],
                &targets[..count],
                none,
                MsgFlags::empty(),
            );
            sent += tried("stream", done)?.count() as u64;
        }
        let reached = sent as f64 / start.elapsed().as_secs_f64();
        Ok((sent, self.settled() - before, reached))
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

    /// The highest rate without loss, and packets lost in a million at the line rate of 1 GbE. A rate may fail once: the machine
    /// does other things, too.
    fn measure(&self, time: Duration) -> Result<Vec<f64>> {
        Side::Client.keep();
        let outcome = self.ladder(time);
        let (sent, received, _) = self.stream(LINE_RATE, 2 * time)?;
        roam();
        Ok(vec![outcome?, sent.saturating_sub(received) as f64 * 1e6 / sent as f64])
    }

    fn ladder(&self, time: Duration) -> Result<f64> {
        let (mut best, mut rate) = (0.0, FIRST);
        loop {
            let mut reached = None;
            for _ in 0..2 {
                let (sent, received, at) = self.stream(rate, time)?;
                if sent == received {
                    reached = Some(at);
                    break;
                }
            }
            // More than the sender can do is no higher rate.
            let Some(at) = reached.filter(|at| *at > best) else { return Ok(best) };
            best = at;
            if best < rate * 0.95 {
                return Ok(best);
            }
            rate *= STEP;
        }
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
    let time = Duration::from_millis(settings.pick(300, 150));
    let contender = |way: Way| -> Result<(&'static str, Trial)> {
        let pair = Rc::new(Pair::new(world, way)?);
        Ok((way.name(), Box::new(move || pair.measure(time))))
    };
    let rate = "packets of 1472 bytes, highest rate without loss";
    let lost = "packets lost at 81 000/s, the line rate of 1 GbE";
    let ways = [Way::Iocast, Way::Native, Way::Macvlan, Way::Nft, Way::Address, Way::Direct];
    Ok(vec![Row {
        measures: vec![
            Measure::higher(Section::Stream, rate, "/s", &[Goal::TimesAtLeast(NATIVE, 0.95)]),
            Measure::lower(Section::Stream, lost, "ppm", &[Goal::AtMost(0.0)]),
        ],
        contenders: ways.into_iter().map(contender).collect::<Result<_>>()?,
        repeats: settings.pick(7, 3),
        warm_up: true,
    }])
}
