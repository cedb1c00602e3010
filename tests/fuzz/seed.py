#!/usr/bin/env python3
"""Fills `corpus/` beside this file: a file per target and vector of `../fixtures/soulseek/vectors.txt`, and frames of the
mesh. Needs the package `blake3` for the piece lists."""
import hashlib
import pathlib
import zlib

from blake3 import blake3

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


# The mesh: frames with bodies in postcard, by hand. Numbers are written seven bits at a time.
def number(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out) + bytes([n])


def text(words):
    return number(len(words)) + words.encode()


def frame(kind, body=b"", version=1, length=None):
    length = len(body) if length is None else length
    return bytes([version]) + kind.to_bytes(2, "little") + bytes(range(16)) + length.to_bytes(4, "little") + body


content = bytes(range(32))
hello = number(1) + number(99) + number(7) + text("mesh chunks") + text("slskdn/0") + number(50305) + text("ann")
query, chunk = frame(4, content), content + number(65536) + number(524288) + bytes([5]) + number(5000)
frames = [frame(1, hello), frame(2), frame(3), query, frame(5, b"\x01" + number(300)), frame(5, b"\x00"),
          frame(16, content + number(3 * 65536)), frame(17, chunk), frame(18, number(96)), frame(19, b"\x01"),
          frame(0x7FFF, b"later"), frame(2, version=2), frame(1, length=0xFFFFFFFF), frame(19, b"\x63"), frame(1, hello[:9])]
some, none, lossless = b"\x01", b"\x00", b"\x01"
claim = (content * 2 + number(5) + number(30_000_000) + bytes(2) + lossless + number(44_100) + some + bytes([16, 2])
         + number(180_000) + number(900) + none + bytes(4) + none * 4)
recording = some + number(7) + none + some + bytes(20) + some + text("Title") + none + number(1) + claim
wanted = number(1) + some + number(7) + bytes([5, 1, 0]) + none + none
offered = number(1) + some + number(7) + content * 2 + number(9) + content + lossless + none + number(900)
limits = number(600) * 4 + some
entry = number(1) + number(5) + content * 2 + number(9)
frames += [frame(6, number(77) + number(0) + number(1) + some + number(1) + recording),
           frame(7, number(8) + none * 4 + none * 5 + lossless + none + number(44_100) + none + bytes([2]) + none + number(1)
                 + number(1) + none * 8 + b"\x00" + some + number(2) * 3 + none + none + number(1) + number(3)),
           frame(8, number(42) + none + none + number(1) + wanted + number(0) + limits),
           frame(8, number(42) + some + none + number(0) + number(1) + offered + limits),
           frame(9, number(77) + number(1) + number(1)), frame(10, number(0) + number(1000)),
           frame(11, number(77) + number(1) + entry + number(1) + none), frame(12, number(5)),
           frame(13, number(5) + number(1) + entry), frame(14, number(1)), frame(15, b"\x00" + number(77) + number(1)),
           frame(15, b"\x01" + number(8))]
for one in frames:
    put("mesh_frame", one)
    put("mesh_request", one)
    for how in (0, 1, 254, 255):
        put("mesh_session", bytes([how]) + frame(1, hello) + one)
put("mesh_frame", b"".join(frames[:10]))
put("mesh_request", frame(18, number(96)) + bytes(96))
put("piece_list", bytes(blake3(b"a").digest()) + (1).to_bytes(8, "little"))
put("piece_list", content + (3 * 65536).to_bytes(8, "little") + bytes(96))
put("piece_list", content + (2**64 - 1).to_bytes(8, "little") + bytes(32))
