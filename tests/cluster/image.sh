#!/bin/sh
# Makes the image of the lab's pods, $2, without a registry: EPICS as unpacked in directory $1 with all that its programs
# are linked with, and `sleep`, which is all that a pod's sandbox needs.
set -eu
epics=$1 work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$work/image" "$work/root/ioc"
for directory in dev etc proc run sys tmp; do mkdir "$work/root/$directory"; done
cp -a "$epics/dbd" "$epics/usr" "$work/root/"
cp /bin/sleep "$work/root/usr/bin/"
cp "$(dirname "$0")/../ioc/demo.db" "$work/root/ioc/"
# The system's libraries, where the programs look for them: what is not in the directory of EPICS already.
ldd "$epics/usr/bin/softIocPVA" /bin/sleep | grep -o '/[^ :]* (' | tr -d ' (' | sort -u | grep -v "$epics" |
    while read -r library; do install -D "$library" "$work/root$library"; done

tar -C "$work/root" --owner 0 --group 0 -cf "$work/image/layer.tar" .
digest=$(sha256sum "$work/image/layer.tar" | cut -d ' ' -f 1)
machine=$(dpkg --print-architecture)
echo '{"architecture":"'"$machine"'","os":"linux","config":{"Entrypoint":["/usr/bin/sleep","infinity"]},
"rootfs":{"type":"layers","diff_ids":["sha256:'"$digest"'"]}}' >"$work/image/config.json"
echo '[{"Config":"config.json","RepoTags":["lab.local/epics:1"],"Layers":["layer.tar"]}]' >"$work/image/manifest.json"
tar -C "$work/image" -cf "$work/image.tar" manifest.json config.json layer.tar
mv "$work/image.tar" "$2"
