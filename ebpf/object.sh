#!/bin/sh
# The recorded eBPF object, ebpf/object/iocast.o, with which nobody needs the toolchain of the programs but who changes
# them. ebpf/object/provenance has the versions that built it, its hash, and those of what it was built from.
#   object.sh record   builds the programs and records the object
#   object.sh check    fails if it is not of the present sources, or if these versions build another one from them
set -eu
cd "$(dirname "$0")/.."
object=ebpf/object/iocast.o provenance=ebpf/object/provenance

say() { echo "object: $*" >&2; }

# Builds the programs; prints the directory of what came out.
build() {
    messages=$(EBPF_BUILD=1 cargo check --quiet --locked --package iocast-datapath \
        --message-format json-render-diagnostics)
    printf "%s\n" "$messages" | sed -n 's/.*"build-script-executed".*iocast-datapath.*"out_dir":"\([^"]*\)".*/\1/p'
}

sources() {
    echo ebpf/Cargo.lock ebpf/Cargo.toml ebpf/datapath/build.rs
    for crate in abi programs wire; do
        echo "ebpf/$crate/Cargo.toml"
        find "ebpf/$crate/src" -name '*.rs'
    done
}

record() {
    built=$(build)
    mkdir -p ebpf/object
    cp "$built/iocast" $object
    {
        echo "# Written by \`make object\`. The object was built by"
        sed 's/^/# /' "$built/toolchain"
        echo "# from these sources:"
        # shellcheck disable=SC2046 # no name has a space
        sha256sum $object $(sources | tr ' ' '\n' | LC_ALL=C sort)
    } >$provenance
}

# Whether two objects are the same but for .BTF, whose forward declarations LLVM numbers by the addresses that their
# descriptions had in the linker (FixupDerivedTypes in its BTFDebug.h): same sources, same tools, another heap.
same() {
    without_btf "$1" "$built/one"
    without_btf "$2" "$built/other"
    cmp "$built/one" "$built/other"
}

# The tool is rustup's, with which the object was stripped, too.
without_btf() {
    sysroot=$(rustc --print sysroot)
    objcopy=$(echo "$sysroot"/lib/rustlib/*/bin/rust-objcopy)
    LD_LIBRARY_PATH="$sysroot/lib" "$objcopy" --remove-section .BTF "$1" "$2"
}

check() {
    sha256sum --check --quiet $provenance || { say "the programs have changed: run \`make object\`"; exit 1; }
    built=$(build)
    if [ "$(sed -n '/^# from/q; 2,$ s/^# //p' $provenance)" != "$(cat "$built/toolchain")" ]; then
        say "not compared: this toolchain is not the recorded one"
    elif ! same "$built/iocast" $object; then
        say "the recorded object is not what its sources give: run \`make object\`"
        exit 1
    fi
}

case ${1:-} in
    record) record ;;
    check) check ;;
    *) sed -n 's/^# *\(object\.sh\)/\1/p' "$0" >&2; exit 2 ;;
esac
