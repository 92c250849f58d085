#!/bin/sh
# Builds the release before this one from history, and tries the upgrade from it (tests/e2e/upgrade.rs).
set -eu
cd "$(dirname "$0")/.."
# 0.1.0. Each release sets this to the one before it.
FORMER=07e012960e05986dd94f3f6ac9995c10731b36e6
directory=$PWD/target/upgrade/$FORMER

say() { echo "upgrade: $*" >&2; }

# Builds it in a directory of its own, with the tools of this one.
build() {
    git cat-file -e "$FORMER^{commit}" 2>/dev/null || {
        say "the history of this clone does not have $FORMER: git fetch --unshallow"
        exit 1
    }
    say "building $FORMER (once, a few minutes)"
    rm -rf "$directory"
    mkdir -p "$directory/source/target" "$directory/bin"
    git archive "$FORMER" | tar -x -C "$directory/source"
    ln -s "$PWD/target/tools" "$PWD/target/llvm" "$directory/source/target/"
    (cd "$directory/source" && cargo build --quiet --locked --target-dir target/build -p iocast -p iocast-node)
    find "$directory/source/target/build" -path '*/debug/iocast*' -maxdepth 3 -type f -perm -1 -exec mv {} "$directory/bin/" \;
    rm -rf "$directory/source"
}

[ -x "$directory/bin/iocast-node" ] || build
IOCAST_FORMER="$directory/bin" cargo test --locked -p iocast-tests --test e2e -- --ignored --nocapture upgrade::
