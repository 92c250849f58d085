#!/bin/sh
# debian.sh DIRECTORY SUITE PACKAGE...: unpacks packages of a Debian suite, whichever the machine has, into a directory.
# They are not installed: their daemons would be started, and the machine's own packages would change.
set -eu
directory=$1 suite=$2
shift 2
[ "$(cat "$directory/packages" 2>/dev/null)" != "$suite $*" ] || exit 0
echo "unpacking $* of Debian's $suite" >&2
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/*$')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} $suite main" \
    >"$work/sources"
privately() {
    apt-get -qq -o Dir::Etc::sourcelist="$work/sources" -o Dir::Etc::sourceparts=/nonexistent \
        -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work" \
        -o APT::Sandbox::User=root "$@"
}
if ! (cd "$work" && privately update && privately download "$@") >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
fi
rm -rf "$directory"
mkdir -p "$directory"
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$directory"; done
echo "$suite $*" >"$directory/packages"
