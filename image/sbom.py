#!/usr/bin/env python3
"""Writes what an image consists of, as SPDX 2.3: the locked Debian packages and the crates of the program."""

import hashlib
import json
import os
import sys
import time
import tomllib
from pathlib import Path


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
        part, name, release, arch, checksum = line.split()
        if part in sets:
            add(name, release, f"pkg:deb/debian/{name}@{release}?arch={arch}", checksum)
    for crate in tomllib.loads((project / "Cargo.lock").read_text())["package"]:
        if "source" in crate:
            add(crate["name"], crate["version"], f"pkg:cargo/{crate['name']}@{crate['version']}", crate.get("checksum"))

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
