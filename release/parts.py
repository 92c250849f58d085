"""Says what the released binaries are made of: crates by `cargo tree`, the eBPF object, the libraries of Rust and of C.

    spdx ARCHITECTURE TARGET DIRECTORY IMAGE DIGEST    SPDX 2.3 of the binaries in a directory, and of the image with them
    licenses TARGET...                                 the licences of others' code, each text once

SOURCE_DATE_EPOCH and REVISION are in the environment.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import datetime, timezone
from pathlib import Path

# Cargo's package of each binary; those that hold the eBPF object; those in the image.
BINARIES = {"iocast": "iocast", "iocast-node": "iocast-node", "kubectl-iocast": "iocast-kubectl"}
LOADERS, IMAGE = ["iocast-node"], ["iocast", "iocast-node"]
OBJECT = Path("ebpf/object/iocast.o")
PROGRAMS = ["--manifest-path", "ebpf/programs/Cargo.toml"]
LIBC = {"amd64": "libc6-dev", "arm64": "libc6-dev-arm64-cross"}
LICENSE_FILES = re.compile(r"(?i)(licen[cs]e|copying|copyright|notice|unlicense)")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def workspace(path="Cargo.toml"):
    return tomllib.loads(Path(path).read_text())["workspace"]["package"]


def linked(target, *where):
    """Names and versions of the crates that are linked for a target."""
    tree = ["-e", "normal,no-proc-macro", "--prefix", "none", "-f", "{p}", "--target", target]
    lines = run("cargo", "tree", "--locked", "--quiet", *tree, *where).splitlines()
    return sorted({tuple(line.split()[:2]) for line in lines if line})


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


def package(name, version, license, purl=None, digest=None, purpose="LIBRARY", source=None):
    found = {
        "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.]", "-", f"{name}-{version}"),
        "name": name,
        "versionInfo": version,
        "downloadLocation": source or "NOASSERTION",
        "filesAnalyzed": False,
        # Old crates have a slash for it.
        "licenseDeclared": re.sub(r" ?/ ?", " OR ", license),
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": purpose,
    }
    if digest:
        found["checksums"] = [{"algorithm": "SHA256", "checksumValue": digest.removeprefix("sha256:")}]
    if purl:
        reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
        found["externalRefs"] = [reference]
    return found


def crate_package(key, crate, digests):
    name, version = key[0], key[1][1:]
    if crate["source"] is None:
        return package(f"crate-{name}", version, crate["license"])
    return package(f"crate-{name}", version, crate["license"], f"pkg:cargo/{name}@{version}", digests.get(key))


def spdx(architecture, target, directory, image, digest):
    own, digests = workspace(), sums()
    version, repository = own["version"], own["repository"]
    packages, relations = {}, []

    def add(found, kind=None, *of):
        packages[found["SPDXID"]] = found
        relate(found, kind, *of)
        return found

    def relate(found, kind, *of):
        for other in of:
            id = other if isinstance(other, str) else other["SPDXID"]
            relations.append({"spdxElementId": id, "relationshipType": kind, "relatedSpdxElement": found["SPDXID"]})

    def link(into, target, known, *where):
        for key in linked(target, *where):
            add(crate_package(key, known[key], digests), "STATIC_LINK", into)

    binaries = {}
    for name, crate in BINARIES.items():
        made = package(name, version, own["license"], None, sha256(f"{directory}/{name}"), "APPLICATION", repository)
        binaries[name] = add(made, "DESCRIBES", "SPDXRef-DOCUMENT")
    license = crates(*PROGRAMS)["iocast-programs", "v" + programs_version()]["license"]
    programs = package("iocast.o", version, license, None, sha256(OBJECT), "LIBRARY", repository)
    add(programs, "CONTAINS", *(binaries[name] for name in LOADERS))
    link(programs, "bpfel-unknown-none", crates(*PROGRAMS), *PROGRAMS)
    known = crates()
    for name, crate in BINARIES.items():
        link(binaries[name], target, known, "-p", crate)
    compiler = run("readelf", "--string-dump=.comment", f"{directory}/iocast")
    rust = re.search(r"rustc version (\S+)", compiler)[1]
    libc = run("dpkg-query", "--show", "--showformat", "${source:Upstream-Version}", LIBC[architecture])
    add(package("rust-std", rust, "MIT OR Apache-2.0", f"pkg:generic/rust@{rust}"), "STATIC_LINK", *binaries.values())
    glibc = package("glibc", libc, "LGPL-2.1-or-later", f"pkg:generic/glibc@{libc}")
    add(glibc, "STATIC_LINK", *binaries.values())
    name = image.rsplit("/", 1)[1]
    purl = f"pkg:oci/{name}@{digest.replace(':', '%3A')}?arch={architecture}&repository_url={image}&tag={version}"
    container = package(f"{name}-image", version, own["license"], purl, digest, "CONTAINER", repository)
    add(container, "DESCRIBES", "SPDXRef-DOCUMENT")
    for inside in IMAGE:
        relate(binaries[inside], "CONTAINS", container)

    name = f"iocast-{version}-linux-{architecture}"
    created = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"{repository}/spdx/{name}-{os.environ['REVISION']}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: iocast-release"]},
        "packages": sorted(packages.values(), key=lambda found: found["SPDXID"]),
        "relationships": relations,
    }


def programs_version():
    return tomllib.loads(Path("ebpf/programs/Cargo.toml").read_text())["package"]["version"]


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
