"""Many TCP connections, more than one process of the lab may have descriptors for, so that several of these are run.

circuits.py serve PORT                       sends back what it gets
circuits.py connect HOST PORT COUNT FROM...  as many connections as come about, from these addresses in turns; SIGUSR1 tries
                                             whether each still answers
"""

import resource
import select
import signal
import socket
import sys

WORD = b"ping"
PATIENCE = 3


def serve(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("0.0.0.0", port))
    listener.listen(4096)
    listener.setblocking(False)
    poll, clients = select.epoll(), {}
    poll.register(listener, select.EPOLLIN)
    print("serving", flush=True)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                accept(listener, poll, clients)
            elif not answer(clients[descriptor]):
                clients.pop(descriptor).close()


def accept(listener, poll, clients):
    try:
        while True:
            client, _ = listener.accept()
            client.setblocking(False)
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLIN)
    except BlockingIOError:
        pass


def answer(client):
    try:
        data = client.recv(64)
        return bool(data) and client.send(data) == len(data)
    except OSError:
        return False


def connect(host, port, count, addresses):
    held = []
    try:
        for number in range(count):
            held.append(connect_one((host, port), addresses[number % len(addresses)]))
    except OSError as error:
        print("the next one:", error)
    print("connected", len(held), flush=True)
    return held


def connect_one(to, address):
    client = socket.socket()
    client.settimeout(PATIENCE)
    client.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    client.bind((address, 0))
    client.connect(to)
    return client


def silent(held):
    for client in held:
        try:
            client.send(WORD)
        except OSError:
            pass
    return sum(1 for client in held if not echoes(client))


def echoes(client):
    try:
        return client.recv(len(WORD)) == WORD
    except OSError:
        return False


limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
connections = connect(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
while True:
    signal.sigwait([signal.SIGUSR1])
    print(silent(connections), "silent", flush=True)
