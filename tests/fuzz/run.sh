#!/bin/sh
# Builds the fuzz targets for libFuzzer with the stable toolchain, and runs each with the arguments given, or for so many
# inputs: tests/fuzz/run.sh [-runs=N | -max_total_time=SECONDS ...]. Found inputs stay in target/fuzz/corpus; one that
# makes a target fail is written to target/fuzz, and belongs into a test with a name.
set -eu
cd "$(dirname "$0")"
../apt.sh g++
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
target=$(cd ../.. && pwd)/target/fuzz
# A target: only what is fuzzed is compiled with counters, not build scripts.
RUSTFLAGS="$coverage -Ccodegen-units=1" \
    cargo build --locked --quiet --release --target "$host" --target-dir "$target"
export target host
# As many at once as there are processors.
# shellcheck disable=SC2016 # for the other shell
printf '%s\n' ca pva circuit gvcp data config conflist request | xargs -P "$(nproc)" -I NAME sh -euc '
    name=$1 log=$target/$1.log seeds=
    shift
    mkdir -p "$target/corpus/$name"
    [ ! -d "seeds/$name" ] || seeds=seeds/$name
    # shellcheck disable=SC2086 # none or one
    if ! "$target/$host/release/$name" -artifact_prefix="$target/$name-" "$@" "$target/corpus/$name" $seeds >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        exit 1
    fi
    tail -n 1 "$log" | sed "s/^/fuzz $name: /"' sh NAME "$@"
