"""An IOC whose PV Access server is PVXS: pvxs_ioc.py PREFIX DATABASE. Prints a line when it serves."""

import os
import sys
import time

os.environ["PVXS_QSRV_ENABLE"] = "YES"

import pvxslibs.path
from epicscorelibs import ioc

prefix, database = sys.argv[1:]
ioc.start_ioc(
    database=database,
    macros="P=" + prefix,
    extra_dbd_load=(("pvxsIoc.dbd", pvxslibs.path.dbd_path),),
    extra_dso_load=("pvxslibs.lib.pvxsIoc",),
)
print("iocRun: All initialization complete", flush=True)
while True:
    time.sleep(60)
