#!/bin/sh
# registry.sh RELEASE VERSION WORK: puts image and chart of a release into a registry of its own, as a release does, and takes
# them from there. In a network namespace of its own: check.sh calls it.
set -eu
release=$1 version=$2 work=$3
tools=target/lab/registry/usr/bin
ip link set lo up
cat >"$work/registry.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:5000"}
END
setpriv --pdeathsig TERM $tools/docker-registry serve "$work/registry.yml" >"$work/log" 2>&1 &
registry=$!
trap 'kill $registry' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
for _ in $(seq 100); do
    ! curl --silent --fail http://127.0.0.1:5000/v2/ >/dev/null || break
    sleep 0.1
done

copy() {
    $tools/skopeo copy --quiet --all --preserve-digests --insecure-policy --dest-tls-verify=false "oci-archive:$release/$1" \
        "docker://127.0.0.1:5000/$2:$version"
}
copy "iocast-node-$version.oci.tar" iocast-node
copy "iocast-chart-$version.oci.tar" charts/iocast

# The digests are those that the notes name.
for name in iocast-node charts/iocast; do
    digest=$($tools/skopeo inspect --raw --tls-verify=false "docker://127.0.0.1:5000/$name:$version" | sha256sum | cut -d ' ' -f 1)
    grep -q "$name:$version@sha256:$digest" "$release/release-notes.md"
done
PYTHONPATH=target/lab/kubernetes /usr/bin/python3 -c '
import sys, helm_python
helm_python.pull("oci://127.0.0.1:5000/charts/iocast", version=sys.argv[1], destination=sys.argv[2], plain_http=True)
' "$version" "$work"
cmp "$work/iocast-$version.tgz" "$release/iocast-$version.tgz"
