//! GigE Vision with real peers: aravis' camera and clients, on either side.

use std::time::{Duration, Instant};

use lab::{Lab, NATIVE, Options, Process, Result, Topology, WORKSTATION, epics::PATIENCE, turn};

lab::in_both_topologies! {
    a_client_in_a_pod_finds_a_camera_on_the_lan_and_gets_its_stream
    a_client_on_the_lan_finds_a_camera_in_a_pod_and_gets_its_stream
    two_clients_in_pods_have_a_camera_each
    a_client_restarts_and_a_deleted_pod_leaves_the_camera_to_the_next
    plain_sockets_and_packet_sockets_both_work
    a_camera_that_is_not_the_domains_is_not_commanded
    a_stream_too_big_for_the_pod_is_reported
    jumbo_packets_arrive_where_all_links_take_them
}

/// A camera whose client is gone frees its control after 3 s without a heartbeat, when it looks.
const FREED: Duration = Duration::from_secs(6);
/// Packets of an image at a client's defaults: 512 x 512 bytes, 1364 a packet, a leader and a trailer.
pub(super) const PACKETS: u32 = 195;
/// Options of a client with a plain socket, whose buffer has no room for one of the larger images, which come at once.
const PLAIN_SOCKET: [&str; 5] = ["--no-packet-socket", "-w", "256", "-h", "256"];
/// Options of a client that wants packets of 8000 bytes.
const JUMBO: [&str; 4] = ["-i", "8000", "-j", "never"];

/// A lab whose domain has cameras.
fn lab_with(topology: Topology, more: &str) -> Result<Lab> {
    lab_of(Options::new(topology), more)
}

fn lab_of(options: Options, more: &str) -> Result<Lab> {
    turn::take(turn::Kind::KeepsUp);
    let mut lab = Lab::without_agent(options)?;
    lab.start_agent_with(&format!(
        "[domain.{}]\nuplink = \"eth0\"\nprotocols = [\"gvcp\"]\n{more}\n",
        lab::DOMAIN
    ))?;
    Ok(lab)
}

/// A camera in `netns` with this serial number.
fn camera(lab: &Lab, netns: &str, serial: &str) -> Result<Process> {
    camera_at(lab, netns, "eth0", serial)
}

/// The same at an interface or an address.
pub(super) fn camera_at(lab: &Lab, netns: &str, place: &str, serial: &str) -> Result<Process> {
    let command = lab::program("arv-fake-gv-camera-0.8", &["-i", place, "-s", serial])?;
    let camera = lab.sandbox.spawn(netns, command)?;
    std::thread::sleep(Duration::from_millis(500)); // it says nothing when it listens
    Ok(camera)
}

/// What discovery finds from `netns`.
pub(super) fn discover(lab: &Lab, netns: &str) -> Result<String> {
    lab.sandbox.spawn(netns, lab::program("arv-tool-0.8", &[])?)?.finish()?.success()
}

/// What a client says that takes the stream of a camera for so many seconds: images at 25 Hz.
pub(super) fn stream(
    lab: &Lab,
    netns: &str,
    camera: &str,
    seconds: u32,
    options: &[&str],
) -> Result<Process> {
    let duration = format!("--duration={seconds}");
    let mut arguments = vec!["-n", camera, "-f", "25", duration.as_str()];
    arguments.extend(options);
    lab.sandbox.spawn(netns, lab::program("arv-camera-test-0.8", &arguments)?)
}

/// What a client says of its stream at the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stream {
    /// Complete images.
    complete: u32,
    /// Images that were not.
    failures: u32,
    /// Packets that an image lacked when the client gave it up.
    missing: u32,
    /// Packets that came when their image had been given up: to a client that did not get the processor for its 200 ms of
    /// patience, all packets since are late.
    late: u32,
}

impl Stream {
    /// Packets that never came.
    fn lost(&self) -> u32 {
        self.missing.saturating_sub(self.late)
    }

    /// Whether all packets came, and images at this rate or faster.
    pub(super) fn is_whole(&self, seconds: u32, rate: u32) -> bool {
        self.complete > rate * seconds && self.lost() == 0
    }
}

/// Waits for the end of a client of [`stream`].
pub(super) fn result(mut client: Process, seconds: u32) -> Result<Stream> {
    let patience = Duration::from_secs(u64::from(seconds)) + PATIENCE;
    client.wait_for("end of the stream", patience, |output| output.contains("n_ignored_bytes"))?;
    let output = client.finish()?.success()?;
    let number = |key: &str| {
        let line = output.lines().find(|line| line.contains(key));
        let found = line.and_then(|line| line.rsplit('=').next()?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no `{key}` in {output}"))
    };
    println!("{output}"); // shown if the test fails
    Ok(Stream {
        complete: number("n_completed_buffers"),
        failures: number("n_failures"),
        missing: number("n_missing_packets"),
        late: number("n_ignored_packets"),
    })
}

/// A stream that is to be as the camera sends it, but for what came to a plain socket of the client that had no room for it.
pub(super) fn watch(lab: &Lab, netns: &str, camera: &str, seconds: u32, options: &[&str]) -> Result<()> {
    let before = lab.full_buffers(netns)?;
    let stream = result(stream(lab, netns, camera, seconds, options)?, seconds)?;
    let refused = u32::try_from(lab.full_buffers(netns)? - before).unwrap_or(u32::MAX);
    assert!(stream.complete > 20 * seconds, "{stream:?} in {seconds} s");
    assert!(
        stream.lost() <= refused && stream.failures <= stream.missing,
        "{stream:?}; the client's buffer had no room for {refused} packets"
    );
    Ok(())
}

fn a_client_in_a_pod_finds_a_camera_on_the_lan_and_gets_its_stream(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "")?;
    let pod = lab.pod("client")?;
    let _camera = camera(&lab, NATIVE, "LAN1")?;
    let found = discover(&lab, &pod.netns)?;
    assert!(found.contains("LAN1") && found.contains("172.23.0.3"), "{found}");
    const SECONDS: u32 = 60;
    let client = stream(&lab, &pod.netns, "Aravis-Fake-LAN1", SECONDS, &[])?;
    let stream = result(client, SECONDS)?;
    let Stream { complete, failures, missing, late } = stream;
    lab::report(
        &format!("a camera's stream into a pod, {SECONDS} s at 25 Hz ({topology:?})"),
        &format!("{complete} images, {failures} failures, {missing} missing packets, {late} late"),
    );
    assert!(stream.is_whole(SECONDS, 20), "{stream:?}");
    Ok(())
}

fn a_client_on_the_lan_finds_a_camera_in_a_pod_and_gets_its_stream(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "")?;
    let pod = lab.pod("camera")?;
    let _camera = camera(&lab, &pod.netns, "POD1")?;
    let found = discover(&lab, WORKSTATION)?;
    assert!(found.contains("POD1") && found.contains("172.23.0.10"), "{found}");
    watch(&lab, WORKSTATION, "Aravis-Fake-POD1", 10, &[])?;
    let client = lab.pod("client")?;
    let found = discover(&lab, &client.netns)?;
    assert!(found.contains(&pod.address), "another pod finds it by its own address: {found}");
    watch(&lab, &client.netns, "Aravis-Fake-POD1", 5, &[])
}

fn two_clients_in_pods_have_a_camera_each(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "")?;
    let (a, b) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let _cameras = [camera(&lab, NATIVE, "LAN1")?, camera(&lab, WORKSTATION, "LAN2")?];
    let clients = [
        stream(&lab, &a.netns, "Aravis-Fake-LAN1", 5, &[])?,
        stream(&lab, &b.netns, "Aravis-Fake-LAN2", 5, &[])?,
    ];
    for client in clients {
        let stream = result(client, 5)?;
        assert!(stream.is_whole(5, 20), "{stream:?}");
    }
    Ok(())
}

/// A client in `netns` gets the stream of one that vanished while it streamed. Now and then aravis' camera sends nothing to
/// it: it starts again then, three times at most. The camera streams on without a client, so the image that is under way when
/// the next one opens its socket can lack its beginning.
fn inherit(lab: &Lab, netns: &str, from: &str) -> Result<()> {
    std::thread::sleep(FREED);
    let mut got: Vec<Stream> = vec![];
    while got.len() < 3 && got.last().is_none_or(|stream| stream.complete <= 60) {
        got.push(result(stream(lab, netns, "Aravis-Fake-LAN1", 3, &[])?, 3)?);
    }
    lab::report(
        &format!("starts of a client until it has the stream {from} ({:?})", lab.options.topology),
        &got.len().to_string(),
    );
    let last = got.last().copied().unwrap_or_default();
    assert!(last.complete > 60 && last.lost() <= PACKETS, "{got:?}");
    Ok(())
}

fn a_client_restarts_and_a_deleted_pod_leaves_the_camera_to_the_next(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "")?;
    let pod = lab.pod("client-a")?;
    let _camera = camera(&lab, NATIVE, "LAN1")?;
    let killed = stream(&lab, &pod.netns, "Aravis-Fake-LAN1", 60, &[])?;
    std::thread::sleep(Duration::from_secs(2));
    killed.kill();
    inherit(&lab, &pod.netns, "that it had when it was killed")?;
    let _streaming = stream(&lab, &pod.netns, "Aravis-Fake-LAN1", 60, &[])?;
    std::thread::sleep(Duration::from_secs(2));
    lab.delete_pod(&pod)?;
    assert_eq!(lab.leftovers()?.external_ports, 0, "a deleted pod gives its ports back");
    let next = lab.pod("client-b")?;
    inherit(&lab, &next.netns, "of a pod that was deleted")
}

fn plain_sockets_and_packet_sockets_both_work(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "")?;
    let pod = lab.pod("client")?;
    let _camera = camera(&lab, NATIVE, "LAN1")?;
    for options in [&PLAIN_SOCKET[..], &[], &["-i", "1200"], &["-j", "always"]] {
        watch(&lab, &pod.netns, "Aravis-Fake-LAN1", 3, options)?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn a_camera_that_is_not_the_domains_is_not_commanded(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "cameras = [\"172.23.0.128/25\"]")?;
    let pod = lab.pod("client")?;
    let _camera = camera(&lab, NATIVE, "LAN1")?;
    let client = stream(&lab, &pod.netns, "172.23.0.3", 3, &[])?;
    let output = client.finish()?.output;
    assert!(!output.contains("n_completed_buffers"), "{output}");
    assert!(lab.counter("gvcp", "denied")? > 0);
    Ok(())
}

fn a_stream_too_big_for_the_pod_is_reported(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "")?;
    lab.set_lan_mtu(9000)?;
    let pod = lab.pod("client")?;
    let _camera = camera(&lab, NATIVE, "LAN1")?;
    let _client = stream(&lab, &pod.netns, "Aravis-Fake-LAN1", 60, &JUMBO)?;
    let deadline = Instant::now() + PATIENCE;
    while !lab.agent_output().contains("too big") {
        assert!(Instant::now() < deadline, "{}{}", lab.agent_output(), lab.status()?);
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = lab.agent_output();
    assert!(said.contains("beamline/client") && said.contains("172.23.0.3"), "{said}");
    assert!(lab.counter("gvsp", "too_big")? > 0);
    assert!(lab.status()?.to_string().contains("too big"), "{}", lab.status()?);
    Ok(())
}

fn jumbo_packets_arrive_where_all_links_take_them(topology: Topology) -> Result<()> {
    let lab = lab_of(Options { mtu: 9000, ..Options::new(topology) }, "")?;
    let pod = lab.pod("client")?;
    let _camera = camera(&lab, NATIVE, "LAN1")?;
    watch(&lab, &pod.netns, "Aravis-Fake-LAN1", 3, &JUMBO)
}
