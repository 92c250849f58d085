"""A server or a client in pure Python, by caproto: caproto_peer.py ROLE PROTOCOL PV. Role `serve` has this one PV, whose value is
its own name; `read` prints the value."""

import asyncio
import logging
import sys

import caproto

ROLE, PROTOCOL, PV = sys.argv[1:]
PATIENCE = 60  # s; emulated machines are slow


# caproto is of a time when Python 3.9 was new, and 3.10 and 3.11 changed two things that it relies on: asyncio takes no loops any
# more, and these values are formatted in another way.
def without_loop(method):
    return lambda *arguments, loop=None, **named: method(*arguments, **named)


for name in ["Condition", "Event", "Queue"]:
    base = getattr(asyncio, name)
    setattr(asyncio, name, type(name, (base,), {"__init__": without_loop(base.__init__)}))
asyncio.wait_for = without_loop(asyncio.wait_for)
caproto.Protocol.__format__ = lambda self, _: self.value


def serve_ca():
    from caproto.asyncio.server import run

    run({PV: caproto.ChannelString(value=[PV])})


def serve_pva():
    from caproto.pva.asyncio.server import run
    from caproto.pva.server import PVAGroup, pva_dataclass, pvaproperty

    @pva_dataclass
    class Text:
        value: str

    class Server(PVAGroup):
        pv = pvaproperty(value=Text(value=PV), name=PV)

    run(Server(prefix="").pvdb)


def read_ca():
    from caproto.sync.client import read

    return read(PV, timeout=PATIENCE, repeater=False).data[0].decode()


def read_pva():
    from caproto.pva.sync.client import read

    _, data = read(pv_name=PV, timeout=PATIENCE)
    return data.value


if ROLE == "serve":
    logging.basicConfig(level=logging.INFO)  # says when it has started
    {"ca": serve_ca, "pva": serve_pva}[PROTOCOL]()
else:
    print({"ca": read_ca, "pva": read_pva}[PROTOCOL]())
