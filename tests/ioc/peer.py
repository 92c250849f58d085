"""A peer of the protocols that use multicast groups, by libraries that others use: peer.py ROLE NAME OWN NAMED.

OWN is the address of the interface whose groups are joined. Role `hear` prints who is named in what is sent to a group; `serve` announces a
service NAME at the address NAMED and answers who looks for it; `ask` looks for all services for some seconds, and prints
each with the address that it names and whether a connection to this one succeeds.
"""

import socket
import sys
import threading
import time

ROLE, NAME, OWN, NAMED = sys.argv[1:]
NAMES = ["addressed", "plain", "lan", "remote"]
GROUPS = {
    "mdns": ("224.0.0.251", 5353),
    "ssdp": ("239.255.255.250", 1900),
    "ws-discovery": ("239.255.255.250", 3702),
    "pva": ("224.0.2.3", 5076),
}
PORT = 9000  # of the service
TYPE = "_iocast._tcp.local."
SECONDS = 4


def say(*words):
    print(*words, flush=True)


def hear(protocol):
    group, port = GROUPS[protocol]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing:
        hearing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        hearing.bind(("", port))
        membership = socket.inet_aton(group) + socket.inet_aton(OWN)
        hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        say("ready")
        while True:
            payload, (source, _) = hearing.recvfrom(9000)
            if protocol == "pva" and payload[3] == 0:  # a beacon, which names a port
                say("heard", protocol, f"{source}:{int.from_bytes(payload[40:42], 'big')}")
            for name in NAMES:
                if name.encode() in payload:
                    say("heard", protocol, name)


def accept():
    with socket.create_server(("", PORT), backlog=64) as service:
        while True:
            service.accept()[0].close()


def found(protocol, name, address):
    try:
        socket.create_connection((address, PORT), 1).close()
        say("found", protocol, name, "reached")
    except OSError:
        say("found", protocol, name, "unreached")


def serve_mdns():
    from zeroconf import ServiceInfo, Zeroconf

    addresses = [socket.inet_aton(NAMED)]
    info = ServiceInfo(TYPE, f"{NAME}.{TYPE}", PORT, addresses=addresses, server=f"{NAME}.local.")
    Zeroconf(interfaces=[OWN]).register_service(info)


def ask_mdns():
    from zeroconf import ServiceBrowser, ServiceListener, Zeroconf

    names = set()

    class Listener(ServiceListener):
        def add_service(self, _, __, name):
            names.add(name)

        def update_service(self, *_):
            pass

        def remove_service(self, *_):
            pass

    asking = Zeroconf(interfaces=[OWN])
    ServiceBrowser(asking, TYPE, Listener())
    time.sleep(SECONDS)
    for name in names:
        info = asking.get_service_info(TYPE, name, 1000)
        if info and info.addresses:
            found("mdns", name.split(".")[0], socket.inet_ntoa(info.addresses[0]))


def serve_ssdp():
    from ssdpy import SSDPServer
    from ssdpy.protocol import create_notify_payload

    location = f"http://{NAMED}:{PORT}/"
    server = SSDPServer(NAME, device_type="iocast", location=location, address=OWN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    group, port = GROUPS["ssdp"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as announcing:
        announcing.bind((OWN, 0))
        notify = create_notify_payload(f"{group}:{port}", "iocast", NAME, location=location)
        announcing.sendto(notify, (group, port))


def ask_ssdp():
    from ssdpy import SSDPClient

    for answer in SSDPClient(address=OWN, timeout=SECONDS).m_search(st="iocast"):
        found("ssdp", answer["usn"], answer["location"].split("/")[2].split(":")[0])


def serve_ws_discovery():
    from wsdiscovery import QName
    from wsdiscovery.publishing import ThreadedWSPublishing

    publishing = ThreadedWSPublishing()
    publishing.start()
    publishing.publishService([QName("urn:iocast", "device")], [], [f"http://{NAMED}:{PORT}/{NAME}"])


def ask_ws_discovery():
    from wsdiscovery import QName, WSDiscovery

    asking = WSDiscovery()
    asking.start()
    for service in asking.searchServices([QName("urn:iocast", "device")], timeout=SECONDS):
        _, _, host, name = service.getXAddrs()[0].split("/")
        found("ws-discovery", name, host.split(":")[0])


def serve_pva():
    from p4p.nt import NTScalar
    from p4p.server import Server
    from p4p.server.thread import SharedPV

    group, _ = GROUPS["pva"]
    settings = {
        "EPICS_PVAS_INTF_ADDR_LIST": f"{group}@eth0",
        "EPICS_PVAS_BEACON_ADDR_LIST": f"{group},1@eth0",
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
    }
    return Server([{NAME: SharedPV(nt=NTScalar("i"), initial=1)}], conf=settings, useenv=False)


def ask_pva():
    from p4p.client.thread import Context

    group, _ = GROUPS["pva"]
    settings = {"EPICS_PVA_ADDR_LIST": f"{group},1@eth0", "EPICS_PVA_AUTO_ADDR_LIST": "NO"}
    asking = Context("pva", conf=settings, useenv=False)
    for name, value in zip(NAMES, asking.get(NAMES, timeout=SECONDS, throw=False)):
        if not isinstance(value, Exception):
            say("found", "pva", name, "reached")


def of_all(work):
    """Does it for every protocol, all at once."""
    threads = [threading.Thread(target=of, daemon=True) for of in work]
    for thread in threads:
        thread.start()
    return threads


if ROLE == "hear":
    of_all([lambda protocol=protocol: hear(protocol) for protocol in GROUPS])
    time.sleep(600)
elif ROLE == "serve":
    import ssdpy, wsdiscovery.publishing, zeroconf  # noqa: E401, F401

    of_all([accept])
    server = serve_pva()
    for thread in of_all([serve_mdns, serve_ssdp, serve_ws_discovery]):
        thread.join()
    time.sleep(1)  # what is announced is repeated
    say("serving")
    time.sleep(600)
else:
    # Here, because threads that import at once wait for each other.
    import p4p.client.thread, ssdpy, wsdiscovery, zeroconf  # noqa: E401, F401

    for thread in of_all([ask_mdns, ask_ssdp, ask_ws_discovery, ask_pva]):
        thread.join()
    say("asked")
