#!/bin/sh
# Unpacks Debian's containerd and runc into directory $1: installed, they would be started.
set -eu
[ ! -x "$1/usr/bin/containerd" ] || exit 0
echo "unpacking containerd and runc" >&2
rm -rf "$1"
mkdir -p "$1/packages"
cd "$1/packages"
apt-cache show containerd runc >/dev/null 2>&1 || apt-get -q update >&2
apt-get -q -o APT::Sandbox::User=root download containerd runc >&2
for package in *.deb; do dpkg-deb -x "$package" ..; done
rm -r ../packages
