"""Disks that fill up or refuse writing, each a small one of its own."""
import os
import shutil
import subprocess

import pytest

from box import refuses
from world import Node, Peer, free_port, sha256, until


def fill(folder):
    """A file that takes all the room there is."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"\0" * (1 << 16))
        except OSError:
            pass
    return filler


def pick(node, word):
    return node.search(f"them {word}", lambda responses: next(
        ((f["filename"], f["size"]) for r in responses for f in r["files"] if word in f["filename"]), None))


@pytest.mark.world(big_mib=48)
def test_a_full_disk_pauses_downloads_and_nothing_is_lost(world, small_disk):
    """Store, partial and finished files share one disk, as on a small box, and another program takes all of it."""
    disk = small_disk(160)
    them = Peer(world, "nicotine", "them", free_port(), "--upload-limit-kib", "1200")
    node = Node(world, disk__min_free_mib=8, directories__incomplete=disk / "incomplete")
    node.process.stop()
    shutil.move(node.home, disk / "box")
    node.home, node.downloads = disk / "box", disk / "box" / "downloads"
    node.start()
    small, big = pick(node, "song"), pick(node, "mix")
    node.enqueue("them", [small])
    until("the small one is here", lambda: node.finished("them", small[0]))
    finished = next(p for p in node.downloads.rglob("*") if p.is_file())
    before = sha256(finished)
    node.enqueue("them", [big])
    until("part of it is here", lambda: node.download_of("them", big[0])["bytesTransferred"] > 4 << 20)
    filler = fill(disk)
    paused = until("it pauses", lambda: next(
        (t for t in [node.download_of("them", big[0])] if t["state"] == "Queued, Locally"), None))
    assert paused["exception"] == "disk full: downloads wait for room", paused
    assert paused["bytesTransferred"] > 4 << 20, "what was written stays"
    status = until("the page says so", lambda: next((s for s in [node.get("/api/status")] if s["disk"]["full"]), None))
    assert "the disk is full" in status["warnings"][0]
    assert "the disk is full" in node.call("GET", "/api/../ready").json()["reasons"]
    part = next((disk / "incomplete").iterdir()).read_bytes()
    original = next(p for name, p in them.files.items() if "mix" in name)
    assert original.read_bytes().startswith(part) and len(part) > 4 << 20
    assert sha256(finished) == before
    # What cannot be recorded is refused in so many words, and the box lives.
    answer = node.call("POST", "/api/wishlist", json={"text": "while it is full"})
    assert answer.ok or "space" in answer.text, answer.text
    filler.unlink()
    done = until("it goes on by itself", lambda: node.finished("them", big[0]), 240)
    assert done["startOffset"] >= 4 << 20, done
    assert sha256(next(p for p in node.downloads.rglob("*mix*"))) == sha256(original)
    assert sha256(finished) == before
    assert not list((disk / "incomplete").iterdir())
    until("the warning goes", lambda: not node.get("/api/status")["disk"]["full"])


def test_a_full_disk_at_the_start(box, small_disk):
    disk = small_disk(4)
    one = box()
    one.home = disk / "box"
    fill(disk)
    told = refuses(*one.flags(), "serve")
    assert "No space left" in told or "no space" in told, told
    (disk / "filler").unlink()
    assert not list(disk.rglob("*.new")), "nothing half written is left"


def test_a_read_only_disk(box, small_disk):
    disk = small_disk(64)
    one = box()
    one.home = disk / "box"
    one.start()
    one.post("/api/wishlist", {"text": "kept"})
    one.stop()
    listed = sorted(os.listdir(one.home))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    told = refuses(*one.flags(), "serve")
    assert str(one.home) in told and "Read-only file system" in told, told
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert sorted(os.listdir(one.home)) == listed
    one.start()
    assert [wish["text"] for wish in one.get("/api/wishlist")] == ["kept"]


def test_a_read_only_folder_for_downloads(box, small_disk):
    """It may lie on a disk that comes and goes: finished files wait, and the box comes up."""
    disk = small_disk(8)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    one = box(directories__downloads=disk / "downloads").start()
    until("the page says so", lambda: any(f"{disk}/downloads cannot be used" in told for told in one.get("/api/status")["warnings"]))
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    until("all is well again", lambda: not any("cannot be used" in told for told in one.get("/api/status")["warnings"]))


def test_a_share_on_a_read_only_disk_is_shared(box, small_disk):
    disk = small_disk(8)
    (disk / "a song.mp3").write_bytes(b"x" * 1000)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    one = box("box", "--music", disk).start()
    until("it is shared", lambda: one.get("/api/status")["shares"]["files"] == 1)
