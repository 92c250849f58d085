"""Monitors a PV with PVXS: pvxs_monitor.py PV. Prints `PV VALUE` for each update, `PV disconnected` when it is lost."""

import sys
import time

from p4p.client.thread import Context, Disconnected

name = sys.argv[1]


def take(value):
    print(name, "disconnected" if isinstance(value, Disconnected) else value, flush=True)


with Context("pva", nt=False, unwrap={}) as context:
    with context.monitor(name, lambda value: take(value if isinstance(value, Exception) else value.value), notify_disconnect=True):
        while True:
            time.sleep(60)
