#!/bin/sh
# binaries.sh TARGET: builds what is released for a target, static, with bytes that depend on no path of this machine.
# Prints the directory that they are in. They share no build directory with `make build`, whose flags are others.
set -eu
cd "$(dirname "$0")/.."
target=$1
directory=$PWD/target/release-build

# From a path of this machine to what stands for it in messages of a panic. The library's sources are there or not.
sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
library=$(rustc --print sysroot)/lib/rustlib/src/rust hash=$(rustc -vV | sed -n 's/^commit-hash: //p')
flags="--remap-path-prefix=$PWD=. --remap-path-prefix=$sources=registry --remap-path-prefix=$library=/rustc/$hash"
variable=CARGO_TARGET_$(echo "$target" | tr '[:lower:]-' '[:upper:]_')_RUSTFLAGS

env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_RUSTFLAGS -u RUSTC_WRAPPER -u CFLAGS -u TARGET_CFLAGS \
    CARGO_INCREMENTAL=0 "$variable=$flags" \
    release/cargo.sh "$target" build --quiet --locked --release --target-dir "$directory" \
    -p iocast -p iocast-node -p iocast-kubectl >&2
echo "$directory/$target/release"
