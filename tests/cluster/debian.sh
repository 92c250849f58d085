#!/bin/sh
# debian.sh DIRECTORY SUITE[:ARCHITECTURE] [--all] PACKAGE...: unpacks packages of a Debian suite into a directory, whatever
# the machine itself has; with all that they depend on, if so wanted.
# They are not installed: their daemons would be started, and the machine's own packages would change.
set -eu
directory=$1 suite=${2%:*}
case $2 in *:*) architecture=${2#*:} ;; *) architecture=$(dpkg --print-architecture) ;; esac
shift
[ "$(cat "$directory/packages" 2>/dev/null)" != "$*" ] || exit 0
echo "unpacking $* of Debian" >&2
wanted=$*
shift
apt_get=$(cd "$(dirname "$0")/.." && pwd)/apt-of.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
apt_get() { "$apt_get" "$suite" "$architecture" apt-get "$@"; }
fetch() {
    apt_get update
    if [ "$1" != --all ]; then
        apt_get download "$@"
    else
        shift
        mkdir partial
        apt_get -o Dir::Cache::archives="$work" --download-only --no-install-recommends --yes install "$@"
    fi
}
if ! (cd "$work" && fetch "$@") >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
fi
rm -rf "$directory"
mkdir -p "$directory"
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$directory"; done
echo "$wanted" >"$directory/packages"
