#!/usr/bin/env python3
"""Fills `corpus/` beside this file with one file per target and vector of `../fixtures/soulseek/vectors.txt`."""
import hashlib
import pathlib
import zlib

HERE = pathlib.Path(__file__).resolve().parent
VECTORS = HERE.parent / "fixtures" / "soulseek" / "vectors.txt"


def put(target, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)


for line in VECTORS.read_text().splitlines():
    if line.startswith("#"):
        continue
    kind, code, frame, _origin = line.split(" ", 3)
    code, frame = int(code), bytes.fromhex(frame)
    put(kind.lstrip("~"), frame[4:])
    if kind.endswith("peer") and code in (5, 9, 37):
        body, inflated = frame[8:], zlib.decompress(frame[8:])
        put({5: "share_list", 9: "search_reply", 37: "folder_reply"}[code], inflated)
        put("inflater", body)
        if code == 5:
            put("share_list_inflater", body)
    if kind in ("peer", "init"):
        put("header", frame[:8])

# Lies that once mattered in this family of programs: lengths, counts and bombs.
for header in ("00000000", "03000000", "00000080", "ffffffff"):
    for code in ("05000000", "09000000", "2b000000", "00000000"):
        put("header", bytes.fromhex(header + code))
put("peer", bytes.fromhex("2b000000ffffffff"))
put("from_server", bytes.fromhex("45000000ffffffff"))
put("search_reply", bytes.fromhex("01000000" "61" "07000000" "ffffffff"))
put("folder_reply", bytes.fromhex("07000000" "00000000" "ffffffff"))
put("share_list", bytes.fromhex("ffffffff"))
put("share_list", bytes.fromhex("01000000" "00000000" "ffffffff"))
put("share_list", bytes.fromhex("00000000" "00000000" "ffffffff"))
bomb = zlib.compress(bytes(8 << 20), 9)
for target in ("inflater", "share_list_inflater"):
    put(target, bomb)
    put(target, bomb[: len(bomb) // 2])
