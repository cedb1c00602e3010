#!/usr/bin/env python3
"""Writes what an image consists of, as SPDX 2.3: Debian packages that have files in it, and the crates in the program.

Runs in the folder where image/assemble works: `root` is the root file system, `lists` names the files of each package,
`in/crates` the crates that are linked.
"""

import hashlib
import json
import os
import sys
import time
import tomllib
from pathlib import Path

# Where a package only tells of itself. Licences stay when image/assemble deletes all the rest.
ABOUT = ("usr/share/doc/", "usr/share/bug/", "usr/share/lintian/")


def is_there(part: str, name: str) -> bool:
    """Whether the image has a file of this package. What is laid open for the board's hook (folders end with a slash) is
    taken for used: the board's meta asks for it."""
    lines = Path("lists", "root" if part == "root" else "open", name).read_text().splitlines()
    paths = [path for line in lines if not (path := line.removeprefix(".").removeprefix("/")).startswith(ABOUT)]
    if part != "root":
        return any(path and not path.endswith("/") for path in paths)
    there = (Path("root", path) for path in paths)
    return any(path.is_symlink() or path.is_file() for path in there)


def main(project: Path, out: Path) -> None:
    sets = os.environ["SETS"].split()
    board, version = os.environ["BOARD"], os.environ["VERSION"]
    packages, seen = [], set()

    def add(name: str, release: str, purl: str, checksum: str | None) -> None:
        if purl in seen:
            return
        seen.add(purl)
        package = {
            "SPDXID": f"SPDXRef-{len(packages) + 1}",
            "name": name,
            "versionInfo": release,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "externalRefs": [
                {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
            ],
        }
        if checksum:
            package["checksums"] = [{"algorithm": "SHA256", "checksumValue": checksum}]
        packages.append(package)

    add("slskdn", version, f"pkg:generic/slskdn@{version}", hashlib.sha256(Path("in/slskdn").read_bytes()).hexdigest())
    for line in (project / "image/packages.lock").read_text().splitlines():
        if line.startswith("#"):
            continue
        part, name, release, arch, checksum, _ = line.split()
        if part in sets and is_there(part, name):
            add(name, release, f"pkg:deb/debian/{name}@{release}?arch={arch}", checksum)
    linked = set(Path("in/crates").read_text().splitlines())
    for crate in tomllib.loads((project / "Cargo.lock").read_text())["package"]:
        name, release = crate["name"], crate["version"]
        if "source" in crate and f"{name} v{release}" in linked:
            add(name, release, f"pkg:cargo/{name}@{release}", crate.get("checksum"))

    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"])))
    names = hashlib.sha256("\n".join(sorted(seen)).encode()).hexdigest()
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"slskdn-{board}",
        "documentNamespace": f"urn:slskdn:{board}:{version}:{names}",
        "creationInfo": {"created": made, "creators": ["Tool: slskdn image/build"]},
        "packages": packages,
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": package["SPDXID"]}
            for package in packages
        ],
    }
    out.write_text(json.dumps(document, indent=1) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]))
