#!/bin/sh
# Makes sure that everything can be built: cargo, a linker, and for the eBPF programs a Rust toolchain with library sources
# (rustup's nightly if it has rust-src, else Debian's rustc-web, which is installed if need be) and bpf-linker in
# target/tools. The latter two are left out where the recorded object will do (see datapath/build.rs).
set -eu
cd "$(dirname "$0")/.."
LINKER_VERSION=0.13.0

say() { echo "toolchain: $*" >&2; }
has_sources() { [ -e "$("$@" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/Cargo.lock" ]; }

command -v cargo >/dev/null || { say "there is no cargo: install Rust 1.95 or newer (rustup.rs)"; exit 1; }
if ! command -v cc >/dev/null; then
    tests/apt.sh gcc libc6-dev
fi
[ "${EBPF_BUILD:-}" = 1 ] || ! sha256sum --check --status ebpf/object/provenance || exit 0

if [ -n "${EBPF_CARGO:-}" ]; then
    rustc="$(dirname "$EBPF_CARGO")/rustc"
elif has_sources rustup run nightly rustc; then
    rustc="$(rustup run nightly rustc --print sysroot)/bin/rustc"
else
    if ! has_sources /usr/bin/rustc; then
        command -v apt-get >/dev/null || {
            say "no toolchain with library sources: rustup component add rust-src --toolchain nightly"
            exit 1
        }
        tests/apt.sh cargo-web rustc-web rust-web-src
    fi
    rustc=/usr/bin/rustc
fi

linker=target/tools/bin/bpf-linker
[ -x $linker ] && exit 0
llvm=$("$rustc" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
say "building bpf-linker $LINKER_VERSION for LLVM $llvm (once, a few minutes)"
# The linker must speak the bitcode of the compiler, so it is linked with the compiler's own LLVM.
library=$(find "$("$rustc" --print sysroot)/lib" /usr/lib/*-linux-gnu -maxdepth 1 -name "libLLVM*.so*$llvm*" 2>/dev/null | head -n 1)
[ -n "$library" ] || { say "the libLLVM of $rustc is not found"; exit 1; }
mkdir -p target/llvm/lib
ln -sfn "$library" target/llvm/lib/libLLVM.so
LLVM_PREFIX="$PWD/target/llvm" cargo install --quiet --locked --root target/tools --target-dir target/bpf-linker \
    bpf-linker --version "$LINKER_VERSION" --no-default-features --features "llvm-$llvm"
rm -rf target/bpf-linker
