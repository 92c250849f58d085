#!/bin/sh
# Checks deny.toml by cargo-deny, which is built once. Advisories are left out, and it says so, where their list, a repository on
# GitHub, cannot be fetched. In CI it fails then.
set -eu
cd "$(dirname "$0")/.."
DENY_VERSION=0.20.2

deny=target/tools/bin/cargo-deny
if ! $deny --version 2>/dev/null | grep -q " $DENY_VERSION\$"; then
    echo "building cargo-deny $DENY_VERSION (once, some minutes)" >&2
    cargo install --quiet --locked --root target/tools --target-dir target/deny cargo-deny --version "$DENY_VERSION"
    rm -rf target/deny
fi
what="bans licenses sources"
if $deny --config deny.toml fetch db >/dev/null 2>&1; then
    what="$what advisories"
else
    echo "the list of advisories cannot be fetched: they are not checked" >&2
    [ -z "${CI:-}" ] || exit 1
fi
for manifest in Cargo.toml ebpf/programs/Cargo.toml tests/fuzz/Cargo.toml; do
    # shellcheck disable=SC2086 # a list of words
    $deny --manifest-path $manifest --config deny.toml --locked check --hide-inclusion-graph $what
done
