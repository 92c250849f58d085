#!/bin/sh
# Becomes a node of the lab, in the mount and network namespaces it is started in: with a root of its own, an overlay
# over the machine's, so that every path is the one of a real node. What it changes is gone with the namespaces.
#
# node.sh NAME BPFFS PROJECT RUNTIME: PROJECT is this project's directory, RUNTIME the name of an unpacked containerd, or podman.
set -eu
name=$1 bpffs=$2 project=$3 runtime=$3/target/lab/$4
node=/run/nodes/$name
mkdir -p "$node/upper" "$node/work" "$node/root"
mount -t overlay -o "lowerdir=/,upperdir=$node/upper,workdir=$node/work" "$name" "$node/root"
cd "$node/root"
# Only a shared mount can be given to a container so that later mounts below it appear there.
mount --make-shared .
mount --rbind /proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --bind "$bpffs" sys/fs/bpf
mount --rbind /dev dev
mkdir -p "./$project"
mount --bind "$project" "./$project"
# Empty, whatever the machine has there. The snapshotter refuses an overlay.
for directory in run etc/cni etc/containerd etc/iocast opt/cni var/lib/cni var/lib/containerd var/lib/containers var/log/pods; do
    mkdir -p $directory
    mount -t tmpfs "$name" $directory
done
mkdir -p run/netns run/lock etc/cni/net.d opt/cni/bin
if [ "$4" = podman ]; then
    cp -rsf "$runtime"/etc "$runtime"/usr .
    cp --remove-destination "$project"/tests/cluster/podman/* etc/containers/
    mount -t tmpfs "$name" dev/shm # for its locks
    mount -t cgroup2 "$name" sys/fs/cgroup # crun takes no mixture of both versions
else
    if [ -d "$runtime/usr/lib/cni" ]; then plugins=$runtime/usr/lib/cni; else plugins=/usr/lib/cni; fi
    ln -s "$plugins"/* opt/cni/bin/
    # One runc serves all: later ones want a later libc.
    ln -sf "$project/target/lab/containerd-1.6/usr/sbin/runc" usr/bin/
    ln -sf "$runtime"/usr/bin/containerd* "$runtime/usr/bin/ctr" usr/bin/
    cp "$project/tests/cluster/containerd.toml" etc/containerd/config.toml
fi
hostname "$name"
# shellcheck disable=SC2016 # for the other shell
exec chroot . sh -c 'cd / && echo "the node is there" && exec sleep infinity'
