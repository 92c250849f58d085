"""Writes OCI image layouts whose bytes follow from the input, and prints their digests.

    image TO TAG CONTAINERFILE ARCHITECTURE=LAYER.tar.gz...   an image for each architecture, and their index
    chart TO TAG CHART.tgz                                    a Helm chart, with the media types that Helm uses

What it says about itself is in the environment: SOURCE_DATE_EPOCH, and annotations as a JSON object in ANNOTATIONS.
An image's entry point and command are those of the Containerfile, which is FROM scratch.
"""

import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from datetime import datetime, timezone

CREATED = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
ANNOTATIONS = {"org.opencontainers.image.created": CREATED, **json.loads(os.environ["ANNOTATIONS"])}
OCI = "application/vnd.oci.image."


class Layout:
    """A directory of blobs, named by their digests, and an index."""

    def __init__(self, to):
        self.blobs = os.path.join(to, "blobs", "sha256")
        self.to = to
        os.makedirs(self.blobs)

    def blob(self, media_type, content, **more):
        """Adds bytes, or what becomes JSON; its descriptor."""
        if not isinstance(content, bytes):
            content = json.dumps(content, separators=(",", ":")).encode()
        name = hashlib.sha256(content).hexdigest()
        self.write(f"blobs/sha256/{name}", content)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(content), **more}

    def manifest(self, config, layers, **more):
        content = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": layers}
        return self.blob(content["mediaType"], {**content, "annotations": ANNOTATIONS}, **more)

    def finish(self, descriptor, tag):
        """Makes it the layout of one thing. skopeo and podman know that by its tag, containerd by its whole name."""
        names = {"org.opencontainers.image.ref.name": tag.rsplit(":", 1)[1], "io.containerd.image.name": tag}
        self.write("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        content = {"schemaVersion": 2, "manifests": [{**descriptor, "annotations": names}]}
        self.write("index.json", json.dumps(content).encode())
        print(descriptor["digest"])

    def write(self, name, content):
        with open(os.path.join(self.to, name), "wb") as file:
            file.write(content)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def image(to, tag, containerfile, *layers):
    layout = Layout(to)
    lines = re.findall(r"^(ENTRYPOINT|CMD) (.*)$", read(containerfile).decode(), re.MULTILINE)
    runs = {name.capitalize(): json.loads(value) for name, value in lines}

    def of(architecture, path):
        layer = read(path)
        config = {
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": {**runs, "Labels": ANNOTATIONS},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(gzip.decompress(layer)).hexdigest()]},
            "history": [{"created": CREATED, "created_by": "release/oci.py"}],
        }
        return layout.manifest(
            layout.blob(OCI + "config.v1+json", config),
            [layout.blob(OCI + "layer.v1.tar+gzip", layer)],
            platform={"architecture": architecture, "os": "linux"},
        )

    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json"}
    index["manifests"] = [of(*layer.split("=", 1)) for layer in layers]
    layout.finish(layout.blob(index["mediaType"], {**index, "annotations": ANNOTATIONS}), tag)


def chart(to, tag, path):
    import yaml

    layout, packed = Layout(to), read(path)
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        config = yaml.safe_load(files.extractfile("iocast/Chart.yaml"))
    layer = layout.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", packed)
    layout.finish(layout.manifest(layout.blob("application/vnd.cncf.helm.config.v1+json", config), [layer]), tag)


{"image": image, "chart": chart}[sys.argv[1]](*sys.argv[2:])
