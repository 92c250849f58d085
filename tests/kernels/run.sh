#!/bin/sh
# run.sh [KERNEL | ARCHITECTURE]...: boots kernels of Debian suites, each in a virtual machine, and runs there the tests listed
# in `cases`; writes docs/kernels.md if none was named, which means all, and each that booted came to its end. Fails if a test does.
#
# The machine's root is this one's, read-only (9p), below a layer in memory: nothing that happens there stays, and the
# tests find all they need. A machine of arm64 has Debian's programs of arm64 above that root, and finds no others that it can
# run. qemu translates every instruction: slow, but it works wherever qemu does.
set -eu
cd "$(dirname "$0")/../.."
WORK=$PWD/target/kernels
SUITES="bookworm trixie sid"
# For the longest time that one kernel may take, in seconds.
PATIENCE=2400
# What tests run on arm64, of the suite that this root is of.
PROGRAMS="bash busybox-static containernetworking-plugins coreutils dash ethtool findutils grep iproute2 iptables kmod mawk \
mount nftables procps python3 python3-netifaces sed util-linux"
PATH=$PATH:/usr/sbin:/sbin

say() { echo "kernels: $*" >&2; }

# All kernels of architecture $1: the suite, and the architecture if it is not this one.
kernels_of() { for suite in $SUITES; do [ "$1" = amd64 ] && echo "$suite" || echo "$suite-$1"; done; }

# Says what kernel $1 is, and the machine for it.
machine() {
    kernel=$1 suite=${1%-arm64} directory=$WORK/$1
    case $1 in
        *-arm64)
            architecture=arm64 target=aarch64-unknown-linux-gnu above=$WORK/arm64 slowness=12
            qemu="qemu-system-aarch64 -machine virt -cpu max,pauth-impdef=on"
            console=ttyAMA0 results=ttyS0 stdio="-chardev stdio,id=results -device pci-serial,chardev=results"
            ;;
        *)
            architecture=amd64 target=x86_64-unknown-linux-gnu above='' slowness=6
            qemu="qemu-system-x86_64 -cpu max"
            console=ttyS0 results=ttyS1 stdio="-serial stdio"
            ;;
    esac
}

# A tool of apt for the kernel.
apt() { tests/apt-of.sh "$suite" $architecture "$@"; }

# What a package depends on.
depends() { apt apt-cache depends "$1" | sed -n 's/^ *|\{0,1\}\(Pre\)\{0,1\}Depends: //p'; }

# Makes sure that the directory holds the suite's newest kernel.
unpack() {
    apt apt-get update
    image=$(depends linux-image-$architecture | grep '^linux-image-[0-9]')
    release=${image#linux-image-}
    # Newer ones have their modules in packages of their own.
    parts=$(depends "$image" | grep -e "-$release\$" || true)
    # shellcheck disable=SC2086 # a list of names
    tests/cluster/debian.sh "$directory" "$suite:$architecture" "$image" $parts
    base=$directory
    [ ! -d "$base/usr/lib/modules" ] || base=$base/usr
    [ -e "$base/lib/modules/$release/modules.dep.bin" ] || depmod -b "$base" "$release"
}

# Makes sure that the programs of the architecture are there, all below usr, as they are on this root.
programs() {
    [ -n "$above" ] || return 0
    # shellcheck disable=SC2086 # a list of names
    tests/cluster/debian.sh "$above" "bookworm:$architecture" --all $PROGRAMS
    for part in bin lib sbin; do
        [ ! -d "$above/$part" ] || { cp -a "$above/$part/." "$above/usr/$part/" && rm -r "${above:?}/$part"; }
    done
    ln -sf mawk "$above/usr/bin/awk"
}

# Builds the tests, and what they try.
build() {
    log=$WORK/build-$architecture
    release/cargo.sh $target build --locked --quiet -p iocast -p iocast-node
    release/cargo.sh $target test --locked -p iocast-tests --no-run >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
    executable=$(sed -n 's|^ *Executable e2e/main.rs (\(.*\))$|\1|p' "$log")
}

# The first file system, which finds this machine's.
initramfs() {
    into=$directory/initramfs
    rm -rf "$into"
    mkdir -p "$into/bin" "$into/modules"
    cp "$above/usr/bin/busybox" "$into/bin/"
    cp tests/kernels/init "$into/init"
    modprobe -d "$base" -S "$release" --show-depends --all virtio_pci 9pnet_virtio 9p overlay |
        sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r module; do
        name=$(basename "$module" .xz)
        case $module in *.xz) xz -dc "$module" ;; *) cat "$module" ;; esac >"$into/modules/$name"
        echo "$name" >>"$into/modules/order"
    done
    cat >"$into/variables" <<END
ROOT=$PWD
MODULES=$base/lib/modules
SHARES="host${above:+ above}"
LOWER=${above:+/above:}/host
CONSOLE=/dev/$console
RESULTS=/dev/$results
EXECUTABLE=$executable
LAB_SLOWNESS=$slowness
END
    (cd "$into" && find . | cpio --quiet -o -H newc | gzip -1)
}

# What gives the machine directory $1 by the name $2.
share() { echo "-virtfs local,path=$1,mount_tag=$2,security_model=none,readonly=on,multidevs=remap"; }

# Runs the cases on the kernel; shows and keeps its results.
boot() {
    say "booting $release"
    initramfs >"$directory/initramfs.gz"
    image=$(find "$directory/boot" "$base/lib/modules" -maxdepth 2 -name 'vmlinuz*' 2>/dev/null | head -n 1)
    # The machine ends with this script, however that does.
    # shellcheck disable=SC2046,SC2086 # words
    setpriv --pdeathsig TERM timeout --foreground "$PATIENCE" $qemu \
        -accel tcg -smp 2 -m 1024 -nodefaults -no-reboot -display none \
        -kernel "$image" -initrd "$directory/initramfs.gz" -append "console=$console quiet panic=-1 mitigations=off" \
        $(share / host) ${above:+$(share "$above" above)} \
        -serial "file:$directory/log" $stdio </dev/null | tee "$directory/results"
}

# Whether all cases passed; says where to look if not.
judge() {
    wanted=$(grep -c '^[a-z]' tests/kernels/cases)
    passed=$(grep -c -e '^ok' -e '^skipped' "$directory/results" || true)
    [ "$passed" != "$wanted" ] || return 0
    say "$kernel: $passed of $wanted passed; $directory/log ends:"
    tail -n 30 "$directory/log" >&2
    return 1
}

# Whether the results in the files given are all that there will be: those of kernels that booted have an end.
are_whole() {
    for results in "$@"; do
        ! grep -q '^kernel' "$results" || grep -q '^done' "$results" || { say "$results has no end"; return 1; }
    done
}

# The results in the files given, as a table.
table() {
    cat <<'END'
# Which kernels

Generated by `make kernels`, which boots Debian's kernels of amd64 and arm64 in virtual machines and runs these tests of `tests/e2e`
there (`tests/kernels/cases`). qemu emulates the processors (TCG): no hardware of arm64 was tried. EPICS's programs are there for amd64
only; on arm64 Channel Access and PV Access are spoken by caproto, which is Python.

END
    awk '
        # A kernel that did not boot has said nothing.
        BEGIN {
            for (kernels = 0; kernels < ARGC - 1;) {
                parts = split(ARGV[++kernels], path, "/")
                column[ARGV[kernels]] = kernels; name[kernels] = path[parts - 1]
                head[kernels] = "did not boot (" name[kernels] ")"; missing[kernels] = "**no**"
            }
        }
        $1 == "kernel" { k = column[FILENAME]; head[k] = $2 " (" name[k] ")"; missing[k] = "not run" }
        $1 == "ok" || $1 == "FAILED" || $1 == "skipped" {
            if (!(($4, $5) in row)) { row[$4, $5] = ++rows; suite[rows] = $4; test[rows] = $5 }
            note = ""; for (word = 6; word <= NF; word++) note = note " " $word
            cell[row[$4, $5], k] = ($1 == "ok" ? "yes" : $1 == "skipped" ? "not run" : "**no**") (note ? "," note : "")
        }
        END {
            printf "| suite | test |"; for (k = 1; k <= kernels; k++) printf " %s |", head[k]
            printf "\n|---|---|"; for (k = 1; k <= kernels; k++) printf "---|"
            for (r = 1; r <= rows; r++) {
                pods = test[r] ~ /^bridge::/ ? ", bridge" : test[r] ~ /^routed::/ ? ", routed" : ""
                sub(/.*::/, "", test[r]); gsub("_", " ", test[r])
                printf "\n| %s%s | %s |", suite[r], pods, test[r]
                for (k = 1; k <= kernels; k++) printf " %s |", cell[r, k] ? cell[r, k] : missing[k]
            }
            print ""
        }' "$@"
}

mkdir -p "$WORK"
tests/apt.sh busybox-static cpio debian-archive-keyring kmod qemu-system-x86 qemu-system-arm util-linux xz-utils
names=
# shellcheck disable=SC2048 # words
for name in ${*:-amd64 arm64}; do
    case $name in amd64 | arm64) names="$names $(kernels_of "$name")" ;; *) names="$names $name" ;; esac
done
failed=0 tables=
for name in $names; do
    machine "$name"
    unpack
    programs
    build
    boot
    judge || failed=1
    tables="$tables $directory/results"
done
if [ $# = 0 ]; then
    # shellcheck disable=SC2086 # a list of names
    if are_whole $tables; then table $tables >docs/kernels.md; else failed=1; fi
fi
exit $failed
