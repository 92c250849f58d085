"""Counts values with PVXS: pvxs_rate.py PREFIX IOCS RECORDS. Monitors PREFIX0:0, PREFIX0:1 and so on; once it has had a value of
each, counts for a second and prints how many there were."""

import sys
import threading
import time

from p4p.client.thread import Context

prefix, iocs, records = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
names = [f"{prefix}{ioc}:{record}" for ioc in range(iocs) for record in range(records)]
counts = [0] * len(names)
missing = threading.Semaphore(0)


def taker(number):
    def take(_):
        counts[number] += 1
        if counts[number] == 1:
            missing.release()

    return take


with Context("pva", nt=False) as context:
    monitors = [context.monitor(name, taker(number)) for number, name in enumerate(names)]
    for monitor in monitors:
        monitor._Q.push(monitor._handle)  # p4p loses an event that comes before monitor() has returned, and all after it
    for _ in names:
        if not missing.acquire(timeout=30):
            sys.exit(f"{counts.count(0)} channels have no value")
    before, start = sum(counts), time.monotonic()
    time.sleep(1)
    print((sum(counts) - before) / (time.monotonic() - start), flush=True)
