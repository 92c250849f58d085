#!/bin/sh
# release.sh VERSION: makes everything that is published of a version, target/release-VERSION. The same commit, compilers and
# tools give the same bytes in any directory (release/check.sh tries that). With TRIAL=1 it also takes a tree with changes, into
# target/trial-VERSION.
set -eu
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C TZ=UTC

say() { echo "release: $*" >&2; }
fail() { say "$*"; exit 1; }
python() { PYTHONPATH=target/lab/kubernetes PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$@"; }

version=${1:-} present=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
[ -n "$version" ] || fail "which version? make release VERSION=$present"
[ "$version" = "$present" ] || fail "VERSION is $version, but Cargo.toml has $present"
REVISION=$(git rev-parse HEAD) final=target/release-$version
if [ -n "$(git status --porcelain)" ]; then
    [ "${TRIAL:-}" = 1 ] || fail "there are changes that are not committed; TRIAL=1 makes a trial with them"
    REVISION=$REVISION-changed final=target/trial-$version
fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export REVISION SOURCE_DATE_EPOCH

tests/tools.sh release
to=target/release-part work=target/release-work
rm -rf "$to" $work
trap 'rm -rf "$to" $work' EXIT
mkdir -p "$to" $work/licenses $work/image
awk -v "heading=## [$version]" '/^## /{on = index($0, heading) == 1; next} /^\[.*\]: /{on = 0} on' CHANGELOG.md |
    sed '/./,$!d' >$work/changes
[ -s $work/changes ] || [ "$final" != "target/release-$version" ] || fail "CHANGELOG.md says nothing of $version"

image=$(sed -n "s/^ *image: \(.*\):$version\$/\1/p" manifests/base/daemonset.yaml)
[ -n "$image" ] || fail "manifests/base/daemonset.yaml names no image of $version"
repository=$(sed -n 's/^repository = "\(.*\)"$/\1/p' Cargo.toml)
kubectl=target/lab/kubernetes/bin/kubectl

# What an image or the chart says about itself: title, description.
annotations() {
    printf '{"org.opencontainers.image.%s":"%s"' title "$1"
    printf ',"org.opencontainers.image.%s":"%s"' description "$2" version "$version" revision "$REVISION" \
        source "$repository" url "$repository" documentation "$repository/blob/v$version/docs/admin.md" \
        licenses "Apache-2.0 AND (MIT OR GPL-2.0-only)"
    echo '}'
}

# Packs what is in directory $1 for standard output, always the same bytes.
tarred() {
    # shellcheck disable=SC2046 # no name has a space
    tar --create --directory "$1" --format ustar --sort name --mtime "@$SOURCE_DATE_EPOCH" --mode u=rwX,go=rX \
        --owner 0 --group 0 --numeric-owner $(ls "$1")
}
packed() { tarred "$1" | gzip -9n; }

triple() { case $1 in amd64) echo x86_64-unknown-linux-gnu ;; arm64) echo aarch64-unknown-linux-gnu ;; esac; }
ARCHITECTURES="amd64 arm64"

say "binaries"
triples=
for architecture in $ARCHITECTURES; do
    triple=$(triple "$architecture") triples="$triples $(triple "$architecture")"
    built=$(release/binaries.sh "$triple")
    mkdir $work/"$architecture"
    for name in iocast iocast-node kubectl-iocast; do
        readelf --program-headers "$built/$name" | grep -q INTERP && fail "$name for $architecture is not static"
        install "$built/$name" $work/"$architecture"/
    done
    python -c 'import sys; object, binary = (open(name, "rb").read() for name in sys.argv[1:]); sys.exit(object not in binary)' \
        ebpf/object/iocast.o "$built/iocast-node" || fail "iocast-node for $architecture has not the recorded eBPF object"
    {
        echo "linux-$architecture"
        for name in iocast iocast-node kubectl-iocast; do
            readelf --string-dump .comment "$built/$name" | sed -n "s/^ *\[ *[0-9a-f]*\]  */  $name: /p"
        done
    } >>"$to/built-with"
done
{
    echo "eBPF object"
    sed -n '/^# from/q; 2,$ s/^# /  /p' ebpf/object/provenance
    echo "  $(sha256sum ebpf/object/iocast.o | cut -d ' ' -f 1), in iocast-node of $(echo "$ARCHITECTURES" | sed 's/ / and /g')"
    echo "tools"
    dpkg-query --show --showformat '  ${Package} ${Version}\n' binutils coreutils gzip libc6-dev libc6-dev-arm64-cross tar 2>/dev/null
    sed -n 's/^\(KUBECTL\|HELM\)_VERSION=\([^ ]*\).*/  \1 \2/p' tests/tools.sh
} >>"$to/built-with"

say "licences"
cp LICENSE ebpf/LICENSE-GPL-2.0 ebpf/LICENSE-MIT $work/licenses/
# shellcheck disable=SC2086 # a list
python release/parts.py licenses $triples >$work/licenses/LICENSES-OF-OTHERS
cp $work/licenses/* "$to/"

say "archives, image"
layers=
for architecture in $ARCHITECTURES; do
    files=$work/$architecture image_root=$work/image/$architecture plugin=$work/plugin-$architecture
    mkdir -p "$image_root/licenses" "$plugin"
    # shellcheck disable=SC2046 # a list of names
    (cd "$files" && cp $(sed -n 's,^COPY \(.*\) /$,\1,p' ../../../manifests/Containerfile) "../image/$architecture/")
    cp $work/licenses/* "$image_root/licenses/"
    packed "$image_root" >"$work/layer-$architecture.tar.gz"
    layers="$layers $architecture=$work/layer-$architecture.tar.gz"
    cp "$files/kubectl-iocast" $work/licenses/* "$plugin/"
    packed "$plugin" >"$to/kubectl-iocast-linux-$architecture.tar.gz"
    cp $work/licenses/* manifests/podman/iocast.service "$files/"
    packed "$files" >"$to/iocast-$version-linux-$architecture.tar.gz"
done
ANNOTATIONS=$(annotations iocast-node "Broadcast for Kubernetes pods, without hostNetwork")
export ANNOTATIONS
# shellcheck disable=SC2086 # a list
digest=$(python release/oci.py image $work/oci-image "$image:$version" manifests/Containerfile $layers)
tarred $work/oci-image >"$to/iocast-node-$version.oci.tar"

say "what they are made of"
for architecture in $ARCHITECTURES; do
    python release/parts.py spdx "$architecture" "$(triple "$architecture")" $work/"$architecture" "$image" "$digest" \
        >"$to/iocast-$version-linux-$architecture.spdx.json"
done

say "manifests"
cp -a manifests $work/
grep -rl "image: $image:$version\$" $work/manifests | xargs sed -i "s,image: $image:$version\$,&@$digest,"
# Renders what is to be applied as it is: directory, name.
rendered() {
    echo "# iocast $version"
    $kubectl kustomize "$work/manifests/$1"
}
for directory in $work/manifests/overlays/*; do
    overlay=$(basename "$directory")
    rendered "overlays/$overlay" >"$to/install-$overlay.yaml"
    rendered "uninstall/$overlay" >"$to/uninstall-$overlay.yaml"
done
for directory in kubectl monitoring policy survey; do rendered $directory >"$to/$directory.yaml"; done
mkdir $work/tree
mv $work/manifests $work/tree/
cp LICENSE $work/tree/
packed $work/tree >"$to/iocast-$version-manifests.tar.gz"

say "chart"
cp -rL manifests/helm/iocast $work/chart
find $work/chart -exec touch --date "@$SOURCE_DATE_EPOCH" {} +
python tests/kubernetes.py package $work/chart "$to" >/dev/null
ANNOTATIONS=$(annotations iocast "The Helm chart of iocast")
python release/oci.py chart $work/oci-chart "${image%/*}/charts/iocast:$version" "$to/iocast-$version.tgz" >$work/chart-digest
tarred $work/oci-chart >"$to/iocast-chart-$version.oci.tar"

say "kubectl plugin, notes"
{
    for architecture in $ARCHITECTURES; do
        sum=$(sha256sum "$to/kubectl-iocast-linux-$architecture.tar.gz" | cut -d ' ' -f 1)
        echo "s/SHA256-LINUX-$(echo "$architecture" | tr a-z A-Z)/$sum/"
    done
    echo "s/VERSION/$version/"
} | sed -f - manifests/krew/iocast.yaml | grep -v '^#' >"$to/krew-iocast.yaml"
{
    cat $work/changes
    echo
    echo "Image: \`$image:$version@$digest\`"
    echo
    echo "Chart: \`${image%/*}/charts/iocast:$version@$(cat $work/chart-digest)\`"
} >"$to/release-notes.md"

(cd "$to" && sha256sum -- *) >$work/sums
mv $work/sums "$to/SHA256SUMS"
rm -rf "$final"
mv "$to" "$final"
say "$final, $(du -sh "$final" | cut -f 1)"
