"""Reads the datagrams in a file with caproto: caproto_reader.py FILE. A line there is `ca announce HEX`, `pva answer HEX` and so
on; printed is a line of JSON for each, the messages in it that name something."""

import ipaddress
import json
import sys

import caproto
from caproto import _commands, pva


BEACON = 13
# In a reply of Channel Access, where everybody else has zeros.
FROM_SOURCE = 0xFFFFFFFF


def read_ca(datagram, role):
    for message in _commands.read_datagram(datagram, ("0.0.0.0", 0), role):
        if isinstance(message, caproto.SearchRequest):
            yield ["search", message.cid, message.name.rstrip("\0")]
        elif isinstance(message, caproto.SearchResponse):
            address = message.header.parameter1
            address = 0 if address == FROM_SOURCE else address
            yield ["reply", message.cid, message.port, address.to_bytes(4, "big").hex()]
        elif isinstance(message, caproto.Beacon):
            yield ["beacon", message.header.data_count, message.header.parameter2.to_bytes(4, "big").hex()]


def read_pva(datagram, role):
    for message in pva.read_datagram(datagram, ("0.0.0.0", 0), role=role).data:
        if isinstance(message, pva.SearchRequest):
            yield ["search to", message.response_port, last_bytes(message.response_address)]
            for channel in message.channels:
                yield ["search", channel["id"], channel["channel_name"]]
        elif isinstance(message, pva.SearchResponse):
            yield ["server", message.server_port, last_bytes(message.server_address)]
            if message.found:
                for number in message.search_instance_ids:
                    yield ["reply", number]
        elif isinstance(message, pva.BeaconMessage):
            yield ["server", message.server_port, last_bytes(message.server_address)]


def last_bytes(address):
    return ipaddress.ip_address(address).packed[-4:].hex()


READERS = {"ca": read_ca, "pva": read_pva}

for line in open(sys.argv[1]):
    protocol, direction, *payload = line.split()
    datagram = bytes.fromhex("".join(payload))
    from_server = datagram[2] & 0x40 if protocol == "pva" else direction == "answer" or datagram[1] == BEACON
    role = caproto.SERVER if from_server else caproto.CLIENT
    try:
        print(json.dumps(list(READERS[protocol](datagram, role))))
    except Exception as error:
        print(json.dumps([["error", repr(error)]]))
