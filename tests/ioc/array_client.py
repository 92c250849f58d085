"""Monitors the array of array_server.py and checks every element of every update: array_client.py PV BYTES SECONDS.

Prints `updates=N missed=M wrong=W disconnects=D` at the end.
"""

import sys
import time

import numpy
from p4p.client.thread import Context, Disconnected

name, size, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
ramp = numpy.arange(size // 4, dtype=numpy.int32) * 7
seen = {"updates": 0, "missed": 0, "wrong": 0, "disconnects": 0}
last = 0


def take(value):
    global last
    if isinstance(value, Disconnected):
        seen["disconnects"] += 1
        return
    if not isinstance(value, numpy.ndarray):
        seen["wrong"] += 1
        return
    number = int(value[0])
    seen["updates"] += 1
    if number == 0:  # the initial value
        return
    if last and number > last + 1:
        seen["missed"] += number - last - 1
    last = number
    if value.size != size // 4 or not numpy.array_equal(value, ramp + number):
        seen["wrong"] += 1


with Context("pva") as context:
    with context.monitor(name, take, notify_disconnect=True):
        deadline = time.time() + 30
        while not seen["updates"] and time.time() < deadline:
            time.sleep(0.05)
        seen["disconnects"] = 0  # the state before the first connection
        time.sleep(seconds)
print(" ".join(f"{key}={count}" for key, count in seen.items()), flush=True)
