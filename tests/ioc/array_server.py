"""A PV Access server (PVXS) of one big array: array_server.py PV BYTES HERTZ.

Each update holds its number, and after that numbers that follow from it, so that a reader can check every byte.
"""

import sys
import time

import numpy
from p4p.nt import NTScalar
from p4p.server import Server
from p4p.server.thread import SharedPV

name, size, hertz = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
ramp = numpy.arange(size // 4, dtype=numpy.int32)
pv = SharedPV(nt=NTScalar("ai"), initial=ramp)
with Server(providers=[{name: pv}]):
    print("serving", flush=True)
    number = 0
    while True:
        number += 1
        pv.post(ramp * 7 + number)
        time.sleep(1 / hertz)
