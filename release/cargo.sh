#!/bin/sh
# cargo.sh TARGET ARGS...: runs cargo for x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu, on a host of either, after
# making sure that there are the target's standard library and a C compiler.
#
# The library is the present toolchain's, if that has it (`rustup target add`). Else it is of Debian's rustc-web, which then
# compiles: its package for the target's architecture is unpacked into target/sysroot, beside a link to the host's own.
set -eu
cd "$(dirname "$0")/.."

say() { echo "cargo.sh: $*" >&2; }

# Makes sure that target/sysroot has the libraries of the host and of target $1, which Debian calls $2.
sysroot() {
    command -v apt-get >/dev/null || { say "no standard library for $1: rustup target add $1"; exit 1; }
    tests/apt.sh cargo-web rustc-web
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    tests/cluster/debian.sh target/sysroot "$suite:$2" "libstd-rust-web-dev=$(dpkg-query -W -f '${Version}' rustc-web)"
    ln -sfn "/usr/lib/rustlib/$host" "target/sysroot/usr/lib/rustlib/$host"
}

target=${1:-}
case $target in
    x86_64-unknown-linux-gnu) debian=amd64 c=x86_64-linux-gnu ;;
    aarch64-unknown-linux-gnu) debian=arm64 c=aarch64-linux-gnu ;;
    *) say "TARGET is x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu"; exit 2 ;;
esac
shift
ebpf/toolchain.sh
export CARGO_BUILD_TARGET="$target"
host=$(rustc -vV | sed -n 's/^host: //p')
[ "$host" != "$target" ] || exec cargo "$@"

tests/apt.sh "gcc-$(echo $c | tr _ -)" "libc6-dev-$debian-cross"
linker=CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER
export "$linker=$c-gcc"
[ ! -d "$(rustc --print target-libdir --target "$target")" ] || exec cargo "$@"
sysroot "$target" "$debian"
RUSTC=$PWD/release/rustc exec /usr/bin/cargo "$@"
