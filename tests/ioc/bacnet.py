"""A BACnet/IP device, or a client that finds one by Who-Is and reads its name: bacnet.py device|client ADDRESS/PREFIX INSTANCE"""

import asyncio
import sys

from bacpypes3.ipv4.app import NormalApplication
from bacpypes3.local.device import DeviceObject
from bacpypes3.pdu import IPv4Address


async def main():
    role, address, instance = sys.argv[1], sys.argv[2], int(sys.argv[3])
    own = instance if role == "device" else instance + 1000
    device = DeviceObject(objectIdentifier=("device", own), objectName=f"the-{role}-{own}", vendorIdentifier=999)
    application = NormalApplication(device, IPv4Address(address))
    await asyncio.sleep(0.5)  # its sockets are bound by tasks of their own
    print("serving", flush=True)
    if role == "device":
        await asyncio.Future()
    for answer in await application.who_is(instance, instance, timeout=3):
        name = await application.read_property(answer.pduSource, answer.iAmDeviceIdentifier, "object-name")
        print("found", answer.iAmDeviceIdentifier[1], name, "at", answer.pduSource, flush=True)


asyncio.run(main())
