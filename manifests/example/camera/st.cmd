# The camera's address on the LAN, or its name: MANUFACTURER-SERIAL.
epicsEnvSet("CAMERA", "172.23.0.129")

epicsEnvSet("EPICS_DB_INCLUDE_PATH", "/epics/support/ADCore/db:/epics/support/ADGenICam/db:/epics/support/ADAravis/db")
dbLoadDatabase("/epics/ioc/dbd/ioc.dbd")
ioc_registerRecordDeviceDriver(pdbbase)
# Port, camera, whether its registers are cached, memory (-1: no limit), priority, stack size.
aravisConfig("CAM", "$(CAMERA)", 1, -1, 0, 1)
dbLoadRecords("/epics/support/ADAravis/db/aravisCamera.template", "P=EXAMPLE:,R=CAM:,PORT=CAM,ADDR=0,TIMEOUT=1")
iocInit()
