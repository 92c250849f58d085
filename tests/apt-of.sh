#!/bin/sh
# apt-of.sh SUITE ARCHITECTURE TOOL ARGS...: a tool of apt on a Debian suite and an architecture, whichever the machine has,
# security updates included: with lists and settings of its own in target/apt, and as if nothing were installed.
set -eu
suite=$1 architecture=$2 tool=$3
shift 3
state=$(cd "$(dirname "$0")/.." && pwd)/target/apt/$suite-$architecture
# The machine's own mirror of $1.
mirror() {
    # shellcheck disable=SC2016 # apt's own variable
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 "/$1/*\$" || echo "http://deb.debian.org/$1"
}
source_of() { echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror "$1") $2 main"; }

mkdir -p "$state/lists/partial" "$state/archives/partial"
{
    source_of debian "$suite"
    [ "$suite" = sid ] || { source_of debian "$suite-updates" && source_of debian-security "$suite-security"; }
} >"$state/sources.list"
exec "$tool" -qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o APT::Sandbox::User=root \
    -o Acquire::Languages=none -o Dir::State="$state" -o Dir::State::status=/dev/null -o Dir::Cache="$state" \
    -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/nonexistent "$@"
