#!/bin/sh
# The version stands in Cargo.toml; this writes it there, and wherever else it has to be: the locks, the chart, and what names
# the image.
#   version.sh             prints it
#   version.sh 1.2.3       changes it
set -eu
cd "$(dirname "$0")/.."

now=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
if [ $# = 0 ]; then
    echo "$now"
    exit
fi
printf '%s\n' "$1" | grep -Eqx '[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?' || { echo "version.sh: $1 is no version" >&2; exit 2; }

sed -i "s/^version = \".*\"$/version = \"$1\"/" Cargo.toml
sed -i -E "s/^((app)?[vV]ersion:) .*/\1 $1/" manifests/helm/iocast/Chart.yaml
# shellcheck disable=SC2046 # no name has a space
sed -i -E "s/(iocast-node:)[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?/\1$1/g" $(git grep -lE 'iocast-node:[0-9]' -- ':!CHANGELOG.md')
for manifest in Cargo.toml tests/fuzz/Cargo.toml; do
    cargo update --quiet --workspace --manifest-path $manifest
done
echo "$now is now $1"
