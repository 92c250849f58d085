#!/bin/sh
# cargo.sh TARGET ARGS...: runs cargo for x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu, on a host of either, after
# making sure that there are the target's standard library, a C compiler and the C library.
#
# The standard library is the present toolchain's, if that has it (`rustup target add`). Else it is of Debian's rustc-web, which then
# compiles: its package for the target's architecture is unpacked into target/sysroot, beside a link to the host's own.
set -eu
cd "$(dirname "$0")/.."

say() { echo "cargo.sh: $*" >&2; }

# Unpacks Debian's package $2 of the target's architecture into directory $1, of the version that the host has of package $3.
# Mirrors keep only the newest: if that is another, $3 and what else is named are upgraded, and it is asked for again.
unpack() {
    directory=$1 package=$2
    shift 2
    exactly "$1" || {
        say "upgrading $*"
        { apt-get -q update && apt-get -q install --yes --only-upgrade "$@"; } >&2
        exactly "$1"
    }
}
exactly() {
    version=$(dpkg-query -W -f '${Version}' "$1:$(dpkg --print-architecture)")
    tests/cluster/debian.sh "$directory" "$suite:$debian" "$package=$version"
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

tests/apt.sh "gcc-$(echo $c | tr _ -)" libc6-dev "libc6-dev-$debian-cross"
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
# What is linked is the target's own C library, as the cross compiler's gets no security updates. By a relative path, which is the
# same in every checkout.
libc=target/libc-$debian
unpack "$libc" libc6-dev libc6-dev
settings=CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)
flags="$(printenv "${settings}_RUSTFLAGS" || true) -Clink-arg=-B$libc/usr/lib/$c -Clink-arg=-Wl,--sysroot=$libc"
export "${settings}_LINKER=$c-gcc" "${settings}_RUSTFLAGS=$flags"
[ ! -d "$(rustc --print target-libdir --target "$target")" ] || exec cargo "$@"

tests/apt.sh cargo-web rustc-web
say "Debian's $(/usr/bin/rustc --version) compiles, as the present toolchain has no library for $target (rustup target add $target)"
unpack target/sysroot libstd-rust-web-dev rustc-web cargo-web
ln -sfn "/usr/lib/rustlib/$host" "target/sysroot/usr/lib/rustlib/$host"
RUSTC=$PWD/release/rustc exec /usr/bin/cargo "$@"
