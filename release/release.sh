#!/bin/sh
# release.sh VERSION: makes everything that is published of a version, target/release-VERSION. The same commit, compilers and
# tools give the same bytes in any directory (release/check.sh tries that). TRIAL=1 makes target/trial-VERSION, also of a tree with
# changes. REGISTRY is where image and chart will be: the repository owner's on ghcr.io, if nothing else is said.
set -eu
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C TZ=UTC
ARCHITECTURES="amd64 arm64" BINARIES="iocast iocast-node kubectl-iocast"
PLACEHOLDER=registry.example/iocast-node
# Ours, the eBPF object's, the C library's. LICENSES-OF-OTHERS has the rest, which is permissive (deny.toml).
LICENSES="Apache-2.0 AND (MIT OR GPL-2.0-only) AND LGPL-2.1-or-later"
to=target/release-part work=target/release-work
tree=$work/tree/iocast

say() { echo "release: $*" >&2; }
fail() { say "$*"; exit 1; }
python() { PYTHONPATH=target/lab/kubernetes PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$@"; }
triple() { case $1 in amd64) echo x86_64-unknown-linux-gnu ;; arm64) echo aarch64-unknown-linux-gnu ;; esac; }
digest() { sha256sum "$1" | cut -d ' ' -f 1; }

# The files of directory $1 as an archive, always the same bytes.
tarred() {
    # shellcheck disable=SC2046 # no name has a space
    tar --create --directory "$1" --format ustar --sort name --mtime "@$SOURCE_DATE_EPOCH" --mode u=rwX,go=rX \
        --owner 0 --group 0 --numeric-owner $(ls "$1")
}
packed() { tarred "$1" | gzip -9n; }

# What image or chart, called $1, says about itself.
annotations() {
    printf '{"org.opencontainers.image.%s":"%s"' title "$1"
    printf ',"org.opencontainers.image.%s":"%s"' description "Broadcast for Kubernetes pods, without hostNetwork" \
        version "$version" revision "$REVISION" source "$repository" url "$repository" \
        documentation "$repository/blob/v$version/docs/admin.md" licenses "$LICENSES"
    echo '}'
}

# What CHANGELOG.md says of this version.
changes() {
    awk -v "heading=## [$version]" '/^## /{on = index($0, heading) == 1; next} /^\[.*\]: /{on = 0} on' CHANGELOG.md |
        sed '/./,$!d'
}

binaries() {
    for architecture in $ARCHITECTURES; do
        say "binaries for $architecture (minutes, the first time)"
        built=$(release/binaries.sh "$(triple "$architecture")")
        mkdir "$work/$architecture"
        for name in $BINARIES; do
            ! readelf --program-headers "$built/$name" | grep -q INTERP || fail "$name for $architecture is not static"
            install "$built/$name" "$work/$architecture"/
        done
        python -c 'import sys; part, all = (open(name, "rb").read() for name in sys.argv[1:]); sys.exit(part not in all)' \
            ebpf/object/iocast.o "$built/iocast-node" || fail "iocast-node for $architecture has another eBPF object"
    done
}

# The compilers and the C library as the binaries name them, and what else the bytes depend on.
built_with() {
    for architecture in $ARCHITECTURES; do
        echo "linux-$architecture"
        readelf --string-dump .comment "$work/$architecture/iocast-node" | sed -n 's/^ *\[ *[0-9a-f]*\] */  /p'
        grep -aoE 'GNU C Library \([^)]*\)' "$work/$architecture/iocast-node" | sed 's/^/  /'
    done
    echo "eBPF object, the same in both"
    sed -n '/^# from/q; 2,$ s/^# /  /p' ebpf/object/provenance
    echo "  SHA256 $(digest ebpf/object/iocast.o)"
    echo "tools"
    dpkg-query --show --showformat '  ${Package} ${Version}\n' gzip libc6-dev tar
    sed -n 's/^\(KUBECTL\|HELM\)_VERSION=\([^ ]*\).*/  \1 \2/p' tests/tools.sh
}

licenses() {
    mkdir $work/licenses
    cp LICENSE ebpf/LICENSE-GPL-2.0 ebpf/LICENSE-MIT $work/licenses/
    # shellcheck disable=SC2046 # a list
    python release/parts.py licenses $(for architecture in $ARCHITECTURES; do triple "$architecture"; done) \
        >$work/licenses/LICENSES-OF-OTHERS
    cp $work/licenses/* $to/
}

archives() {
    for architecture in $ARCHITECTURES; do
        all=$work/all-$architecture plugin=$work/plugin-$architecture
        mkdir "$all" "$plugin"
        cp "$work/$architecture"/* $work/licenses/* manifests/podman/iocast.service "$all/"
        packed "$all" >"$to/iocast-$version-linux-$architecture.tar.gz"
        cp "$work/$architecture/kubectl-iocast" $work/licenses/* "$plugin/"
        packed "$plugin" >"$to/kubectl-iocast-linux-$architecture.tar.gz"
    done
}

# What manifests/Containerfile says, and the licences. Prints the image's digest.
image() {
    layers=
    for architecture in $ARCHITECTURES; do
        root=$work/root-$architecture
        mkdir -p "$root/licenses"
        # shellcheck disable=SC2013 # words
        for name in $(sed -n 's,^COPY \(.*\) /$,\1,p' manifests/Containerfile); do cp "$work/$architecture/$name" "$root/"; done
        cp $work/licenses/* "$root/licenses/"
        packed "$root" >"$work/layer-$architecture.tar.gz"
        layers="$layers $architecture=$work/layer-$architecture.tar.gz"
    done
    # shellcheck disable=SC2086 # a list
    ANNOTATIONS=$(annotations iocast-node) python release/oci.py image $work/image "$image:$version" \
        manifests/Containerfile $layers
    tarred $work/image >"$to/iocast-node-$version.oci.tar"
}

parts() {
    for architecture in $ARCHITECTURES; do
        python release/parts.py spdx "$architecture" "$(triple "$architecture")" "$work/$architecture" "$image" "$image_digest" \
            >"$to/iocast-$version-linux-$architecture.spdx.json"
    done
}

# The manifests with the image by tag and digest, the chart with its digest: rendered, where users apply them as they are, and all of
# them for kustomizations.
manifests() {
    mkdir -p $tree
    cp -a LICENSE manifests $tree/
    rm -r $tree/manifests/krew
    grep -rl $PLACEHOLDER $tree/manifests |
        xargs sed -i "s,$PLACEHOLDER:$version\$,&@$image_digest,; s,$PLACEHOLDER,$image,"
    sed -i "s,^  digest: \"\"\$,  digest: $image_digest," $tree/manifests/helm/iocast/values.yaml
    sed -i "s,^\(| .image.digest. | .\)\"\",\1\"$image_digest\"," $tree/manifests/helm/iocast/README.md
    for overlay in manifests/overlays/*; do
        name=${overlay##*/}
        rendered "overlays/$name" >"$to/install-$name.yaml"
        rendered "uninstall/$name" >"$to/uninstall-$name.yaml"
    done
    for name in kubectl monitoring policy survey; do rendered "$name" >"$to/$name.yaml"; done
    packed $work/tree >"$to/iocast-$version-manifests.tar.gz"
}
rendered() {
    echo "# iocast $version"
    target/lab/kubernetes/bin/kubectl kustomize "$tree/manifests/$1"
}

# Helm's archive, which has the times of the files. Prints the digest of the chart in a registry.
chart() {
    cp -rL $tree/manifests/helm/iocast $work/chart
    find $work/chart -exec touch --date "@$SOURCE_DATE_EPOCH" {} +
    python tests/kubernetes.py package $work/chart $to >$work/log
    ANNOTATIONS=$(annotations iocast) python release/oci.py chart $work/oci "$chart:$version" "$to/iocast-$version.tgz"
    tarred $work/oci >"$to/iocast-chart-$version.oci.tar"
}

krew() {
    for architecture in $ARCHITECTURES; do
        sum=$(digest "$to/kubectl-iocast-linux-$architecture.tar.gz")
        echo "s/SHA256-LINUX-$(echo "$architecture" | tr '[:lower:]' '[:upper:]')/$sum/"
    done | sed -f - -e '/^#/d' -e "s/VERSION/$version/" manifests/krew/iocast.yaml
}

# Links lead to this version's files, wherever the notes are read.
notes() {
    sed -E "s,\]\(([^:)]+)\),](${repository}/blob/v$version/\1),g" $work/changes
    echo
    echo "Image: \`$image:$version@$image_digest\`"
    echo
    echo "Chart: \`oci://$chart:$version@$chart_digest\`"
}

version=${1:-} present=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
[ -n "$version" ] || fail "which version? make release VERSION=$present"
[ "$version" = "$present" ] || fail "VERSION is $version, but Cargo.toml has $present"
kind=release REVISION=$(git rev-parse HEAD)
[ "${TRIAL:-}" != 1 ] || kind=trial
if [ -n "$(git status --porcelain)" ]; then
    [ $kind = trial ] || fail "there are changes that are not committed; TRIAL=1 makes a trial with them"
    REVISION=$REVISION-changed
fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export REVISION SOURCE_DATE_EPOCH
repository=$(sed -n 's/^repository = "\(.*\)"$/\1/p' Cargo.toml)
registry=${REGISTRY:-$(echo "${repository%/*}" | sed 's,https://github.com,ghcr.io,')}
image=$registry/iocast-node chart=$registry/charts/iocast
grep -q "image: $PLACEHOLDER:$version\$" manifests/base/daemonset.yaml || fail "manifests/base names no image of $version"

mkdir -p target
exec 9>target/release.lock
flock --nonblock 9 || fail "another release is being made in this directory"
rm -rf $to $work
trap 'rm -rf $to $work' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p $to $work
changes >$work/changes
[ -s $work/changes ] || [ $kind = trial ] || fail "CHANGELOG.md says nothing of $version"
tests/tools.sh release
binaries
built_with >$to/built-with
licenses
say "archives, image, chart"
archives
image_digest=$(image)
parts
manifests
chart_digest=$(chart)
krew >$to/iocast.yaml
notes >$to/release-notes.md
(cd $to && sha256sum -- *) >$work/sums
mv $work/sums $to/SHA256SUMS
rm -rf "target/$kind-$version"
mv $to "target/$kind-$version"
say "target/$kind-$version, $(du -sh "target/$kind-$version" | cut -f 1)"
