"""Says what is wrong with a release: check.py DIRECTORY. It reads every file as its user does, with target/lab/kubernetes and
target/lab/spdx."""

import hashlib
import io
import json
import re
import sys
import tarfile
from pathlib import Path

import yaml
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

import kubernetes_validate

VERSIONS = ["1.30", "1.37"]  # of Kubernetes: the oldest supported, and the newest with schemas
FOREIGN = ["PodMonitor", "PrometheusRule"]  # of the Prometheus operator
LICENSES = {"LICENSE", "LICENSE-GPL-2.0", "LICENSE-MIT", "LICENSES-OF-OTHERS"}
HOLDS = {"kubectl-iocast": {"kubectl-iocast"}, "iocast": {"iocast", "iocast-node", "kubectl-iocast", "iocast.service"}}

directory = Path(sys.argv[1])
faults = []


def expect(true, *what):
    if not true:
        faults.append(" ".join(map(str, what)))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def only(pattern):
    found = sorted(directory.glob(pattern))
    expect(len(found) == 1, "one", pattern, "expected, not", len(found))
    return found[0]


def files(archive):
    """Names and contents of the files in an archive, which is given by its bytes."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        return {entry.name: packed.extractfile(entry).read() for entry in packed if entry.isfile()}


def binaries():
    """The names of the archives of binaries, and what they hold."""
    held = {}
    for archive in sorted(directory.glob("*-linux-*.tar.gz")):
        held[archive.name] = files(archive.read_bytes())
        named = HOLDS["kubectl-iocast" if archive.name.startswith("kubectl") else "iocast"]
        expect(set(held[archive.name]) == named | LICENSES, archive.name, "holds", sorted(held[archive.name]))
    expect(len(held) == 4, "four archives of binaries expected:", *held)
    return held


def layout(archive):
    """The only thing in an OCI layout, what its descriptor is, and a reader of other blobs, which fails for wrong bytes."""
    blobs = files(archive.read_bytes())

    def blob(descriptor):
        content = blobs["blobs/" + descriptor["digest"].replace(":", "/")]
        right = (len(content), "sha256:" + sha256(content)) == (descriptor["size"], descriptor["digest"])
        expect(right, archive.name, "has other bytes for", descriptor["digest"])
        return content

    [descriptor] = json.loads(blobs["index.json"])["manifests"]
    return json.loads(blob(descriptor)), descriptor, blob


def image(held):
    """The image's name by tag and digest, after a look at it."""
    index, descriptor, blob = layout(only("iocast-node-*.oci.tar"))
    for platform in index["manifests"]:
        architecture = platform["platform"]["architecture"]
        manifest = json.loads(blob(platform))
        config = json.loads(blob(manifest["config"]))
        runs = [config["config"][key] for key in ("Entrypoint", "Cmd")]
        expect(runs == [["/iocast-node"], ["run"]], "the image for", architecture, "runs", runs)
        expect(config["architecture"] == architecture, "the image for", architecture, "is for", config["architecture"])
        [layer] = manifest["layers"]
        inside = files(blob(layer))
        [packed] = [held[name] for name in held if re.match(f"iocast.*{architecture}", name)]
        for name in ["iocast", "iocast-node"]:
            expect(inside.get(name) == packed[name], f"/{name} in the image for", architecture, "is not what is packed")
        expect({f"licenses/{name}" for name in LICENSES} <= set(inside), "the image has no licences:", *inside)
    found = sorted(platform["platform"]["architecture"] for platform in index["manifests"])
    expect(found == ["amd64", "arm64"], "the image is for", found)
    return f"{descriptor['annotations']['io.containerd.image.name']}@{descriptor['digest']}"


def objects():
    recorded = Path("ebpf/object/iocast.o").read_bytes()
    held = binaries()
    nodes = [content["iocast-node"] for name, content in held.items() if name.startswith("iocast-")]
    expect(all(recorded in binary for binary in nodes), "an iocast-node without the recorded eBPF object")
    libraries = {found for binary in nodes for found in re.findall(rb"GNU C Library \([^)]*\)", binary)}
    expect(len(libraries) < 2, "binaries with different C libraries:", *libraries)
    return held


def manifests(name):
    """Manifests fit the schemas of Kubernetes, and their containers are of the image."""
    for path in sorted(directory.glob("*.yaml")):
        for item in yaml.safe_load_all(path.read_text()):
            if path.name == "iocast.yaml" or item["kind"] in FOREIGN:
                continue
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(item, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    expect(False, path.name, item["kind"], version, error.message)
            if item["kind"] == "DaemonSet":
                spec = item["spec"]["template"]["spec"]
                named = {container["image"] for container in spec["containers"] + spec.get("initContainers", [])}
                expect(named == {name}, path.name, "names", *named, "instead of", name)


def krew(held):
    plugin = yaml.safe_load(only("iocast.yaml").read_text())
    for platform in plugin["spec"]["platforms"]:
        archive = platform["uri"].rsplit("/", 1)[1]
        expect(platform["sha256"] == sha256((directory / archive).read_bytes()), "Krew has another sum for", archive)
        expect(platform["bin"] in held[archive], archive, "has no", platform["bin"])
    expect(len(plugin["spec"]["platforms"]) == 2, "Krew's manifest has not two platforms")


def chart(name):
    """Helm's archive is what the layout has, and names the image."""
    manifest, _, blob = layout(only("iocast-chart-*.oci.tar"))
    [layer] = manifest["layers"]
    packed = only("iocast-[0-9]*.tgz")
    expect(blob(layer) == packed.read_bytes(), "the chart's layout is not of", packed.name)
    expect(json.loads(blob(manifest["config"]))["name"] == "iocast", "the chart's configuration has another name")
    inside = {path: content.decode() for path, content in files(packed.read_bytes()).items()}
    named = yaml.safe_load(inside["iocast/values.yaml"])["image"]
    repository, digest = re.fullmatch("(.*):[^:]*@(.*)", name).groups()
    expect((named["repository"], named["digest"]) == (repository, digest), "the chart names", named, "instead of", name)
    for value in (repository, digest):
        expect(f'"{value}"' in inside["iocast/README.md"], "the chart's page has not the default", value)


def parts(held, name):
    for path in sorted(directory.glob("*.spdx.json")):
        document = parse_file(str(path))
        for message in validate_full_spdx_document(document):
            expect(False, path.name, message.validation_message)
        sums = {package.name: package.checksums[0].value for package in document.packages if package.checksums}
        for file, content in held[path.name.replace("spdx.json", "tar.gz")].items():
            if file in HOLDS["iocast"] - {"iocast.service"}:
                expect(sums[file] == sha256(content), path.name, "has another sum for", file)
        expect(sums["iocast-node-image"] == name.rsplit(":", 1)[1], path.name, "has another digest of the image")


listed = {line.split()[1] for line in (directory / "SHA256SUMS").read_text().splitlines()} | {"SHA256SUMS"}
expect(listed == {path.name for path in directory.iterdir()}, "SHA256SUMS does not list every file")
held = objects()
name = image(held)
manifests(name)
krew(held)
chart(name)
parts(held, name)
sys.exit("\n".join(faults) or None)
