"""Says what the released binaries are made of: crates by `cargo tree`, the eBPF object, the libraries of Rust and of C.

    spdx ARCHITECTURE TARGET DIRECTORY IMAGE DIGEST    SPDX 2.3 of the binaries in a directory, and of the image with them
    licenses TARGET...                                 the licences of others' code, each text once

SOURCE_DATE_EPOCH and REVISION are in the environment.
"""

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

# Cargo's package of each binary; those that hold the eBPF object; those in the image.
BINARIES = {"iocast": "iocast", "iocast-node": "iocast-node", "kubectl-iocast": "iocast-kubectl"}
LOADERS, IMAGE = ["iocast-node"], ["iocast", "iocast-node"]
OBJECT = Path("ebpf/object/iocast.o")
PROGRAMS = ("--manifest-path", "ebpf/programs/Cargo.toml")
DOCUMENT = "SPDXRef-DOCUMENT"
LICENSE_FILES = re.compile(r"(?i)(licen[cs]e|copying|copyright|notice|unlicense)")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def linked(target, *where):
    """Names and versions of the crates that are linked for a target."""
    tree = ["-e", "normal,no-proc-macro", "--prefix", "none", "-f", "{p}", "--target", target]
    lines = run("cargo", "tree", "--locked", "--quiet", *tree, *where).splitlines()
    return sorted({tuple(line.split()[:2]) for line in lines if line})


@functools.cache
def crates(*where):
    """What cargo knows of every crate, by name and version."""
    known = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1", *where))["packages"]
    return {(crate["name"], "v" + crate["version"]): crate for crate in known}


def sums():
    """The SHA256 of each crate that is downloaded."""
    locks = [tomllib.loads(Path(lock).read_text()) for lock in ["Cargo.lock", "ebpf/Cargo.lock"]]
    found = [crate for lock in locks for crate in lock["package"]]
    return {(crate["name"], "v" + crate["version"]): crate.get("checksum") for crate in found}


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def package(name, version, license, purpose="LIBRARY", **more):
    """A package: `purl` and `digest` if it has them, `source` where it is from."""
    found = {
        "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.]", "-", f"{name}-{version}"),
        "name": name,
        "versionInfo": version,
        "downloadLocation": more.get("source", "NOASSERTION"),
        "filesAnalyzed": False,
        # Old crates have a slash for it.
        "licenseDeclared": re.sub(r" ?/ ?", " OR ", license),
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": purpose,
    }
    if digest := more.get("digest"):
        found["checksums"] = [{"algorithm": "SHA256", "checksumValue": digest.removeprefix("sha256:")}]
    if purl := more.get("purl"):
        reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
        found["externalRefs"] = [reference]
    return found


class Document:
    """Packages, and how they are related."""

    def __init__(self):
        self.packages, self.relations = {}, []

    def relate(self, of, kind, to):
        self.relations.append({"spdxElementId": of, "relationshipType": kind, "relatedSpdxElement": to})

    def add(self, found, *relations):
        """Adds a package, with its relations from others: their ids and a kind. Its own id."""
        id = found["SPDXID"]
        self.packages[id] = found
        for of, kind in relations:
            self.relate(of, kind, id)
        return id

    def finish(self, name, namespace):
        created = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
        return {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": DOCUMENT,
            "name": name,
            "documentNamespace": namespace,
            "creationInfo": {
                "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "creators": ["Tool: iocast-release"],
            },
            "packages": sorted(self.packages.values(), key=lambda found: found["SPDXID"]),
            "relationships": self.relations,
        }


def crate_package(key, crate, digests):
    name, version = key[0], key[1][1:]
    downloaded = {"purl": f"pkg:cargo/{name}@{version}", "digest": digests.get(key)} if crate["source"] else {}
    return package(f"crate-{name}", version, crate["license"], **downloaded)


def spdx(architecture, target, directory, image, digest):
    document, digests, own = Document(), sums(), tomllib.loads(Path("Cargo.toml").read_text())["workspace"]["package"]
    version, repository = own["version"], own["repository"]
    ours = {"source": repository}

    def link(into, target, *where):
        known = crates(*(where if where == PROGRAMS else ()))
        for key in linked(target, *where):
            document.add(crate_package(key, known[key], digests), (into, "STATIC_LINK"))

    ids = {}
    for name, crate in BINARIES.items():
        made = package(name, version, own["license"], "APPLICATION", digest=sha256(f"{directory}/{name}"), **ours)
        ids[name] = document.add(made, (DOCUMENT, "DESCRIBES"))
        link(ids[name], target, "-p", crate)
    programs = package(OBJECT.name, version, "MIT OR GPL-2.0-only", digest=sha256(OBJECT), **ours)
    link(document.add(programs, *((ids[name], "CONTAINS") for name in LOADERS)), "bpfel-unknown-none", *PROGRAMS)

    compiler = run("readelf", "--string-dump=.comment", f"{directory}/iocast")
    rust = re.search(r"rustc version (\S+)", compiler)[1]
    # The host's version for every target (release/cargo.sh).
    host = run("dpkg", "--print-architecture").strip()
    libc = run("dpkg-query", "--show", "--showformat", "${Version}", f"libc6-dev:{host}")
    for part in [
        package("rust-std", rust, "MIT OR Apache-2.0", purl=f"pkg:generic/rust@{rust}"),
        package("glibc", libc, "LGPL-2.1-or-later", purl=f"pkg:deb/debian/libc6-dev@{quote(libc, '')}?arch={architecture}"),
    ]:
        document.add(part, *((id, "STATIC_LINK") for id in ids.values()))

    name = image.rsplit("/", 1)[1]
    where = f"arch={architecture}&repository_url={image}&tag={version}"
    purl = f"pkg:oci/{name}@{quote(digest, '')}?{where}"
    made = package(f"{name}-image", version, own["license"], "CONTAINER", purl=purl, digest=digest, **ours)
    container = document.add(made, (DOCUMENT, "DESCRIBES"))
    for inside in IMAGE:
        document.relate(container, "CONTAINS", ids[inside])
    name = f"iocast-{version}-linux-{architecture}"
    return document.finish(name, f"{repository}/spdx/{name}-{os.environ['REVISION']}")


def licenses(*targets):
    used = {key for target in targets for name in BINARIES.values() for key in linked(target, "-p", name)}
    found = [(crates(), used), (crates(*PROGRAMS), set(linked("bpfel-unknown-none", *PROGRAMS)))]
    texts, without = {"": []}, []
    for known, keys in found:
        for key in keys:
            crate = known[key]
            if crate["source"] is None:
                continue
            title = f"{crate['name']} {crate['version']} ({crate['license']})"
            files = sorted(Path(crate["manifest_path"]).parent.iterdir())
            own = [file.read_text() for file in files if file.is_file() and LICENSE_FILES.match(file.name)]
            for text in own or [""]:
                texts.setdefault(text.strip(), []).append(title)
    texts["See https://www.rust-lang.org/policies/licenses: (c) The Rust Project Developers."] = [
        "Rust's library (MIT OR Apache-2.0)"
    ]
    texts[Path("/usr/share/doc/libc6/copyright").read_text().strip()] = ["GNU C library (LGPL-2.1-or-later)"]
    texts["Without a text of its own."] = texts.pop("")
    parts = sorted((sorted(set(titles)), text) for text, titles in texts.items() if titles)
    rule = "\n" + "-" * 80 + "\n"
    return rule.join("\n".join([*titles, "", text, ""]) for titles, text in parts)


made = {"spdx": spdx, "licenses": licenses}[sys.argv[1]](*sys.argv[2:])
sys.stdout.write(made if isinstance(made, str) else json.dumps(made, indent=1) + "\n")
