#!/bin/sh
# check.sh VERSION: tries the release target/release-VERSION as its users do, and builds it again in a fresh clone at another path
# (TRIAL=1: target/trial-VERSION, which cannot be built again).
set -eu
cd "$(dirname "$0")/.."
say() { echo "release-check: $*" >&2; }

version=${1:?which version? make release-check VERSION=...}
kind=release
[ "${TRIAL:-}" != 1 ] || kind=trial
release=$PWD/target/$kind-$version
[ -e "$release/SHA256SUMS" ] || { say "there is no $release: make release VERSION=$version"; exit 1; }
tests/tools.sh check
work=$(mktemp -d /var/tmp/iocast-release.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "sums, contents"
(cd "$release" && sha256sum --check --quiet SHA256SUMS)
PYTHONPATH=target/lab/kubernetes:target/lab/spdx PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 release/check.py "$release"

say "a registry takes image and chart, and Helm the chart from there"
unshare --net release/registry.sh "$release" "$version" "$work"

say "the DaemonSet runs from the image"
make --no-print-directory lab
RELEASE=$release cargo test --locked -p iocast-tests --test e2e the_daemonset_needs_no_more >"$work/tested" ||
    { cat "$work/tested"; exit 1; }
grep -q ' [1-9][0-9]* passed' "$work/tested" || { say "no such test was run"; exit 1; }

[ "$kind" = release ] || exit 0
say "the same bytes from another directory"
git clone --quiet . "$work/again"
git -C "$work/again" checkout --quiet --detach "$(git rev-parse HEAD)"
make --no-print-directory -C "$work/again" release VERSION="$version"
diff "$release/SHA256SUMS" "$work/again/target/release-$version/SHA256SUMS"
say "$(wc -l <"$release/SHA256SUMS") files, the same twice"
