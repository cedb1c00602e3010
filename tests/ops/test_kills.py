"""SIGKILL at random moments of the real daemon, during share scans and downloads from a client we did not write.

`SLSKDN_SOAK_ROUNDS` sets the rounds, `SLSKDN_SOAK_SEED` repeats a run's choices (the kernel's timing stays its own).
"""
import os
import random
import secrets
import signal
import time

import pytest

from world import Node, Peer, free_port, sha256, until

ROUNDS = int(os.environ.get("SLSKDN_SOAK_ROUNDS", "8"))
SEED = int(os.environ.get("SLSKDN_SOAK_SEED", secrets.randbelow(1 << 32)))


class Tree:
    """A shared tree that changes between rounds, and what of it should be in the index."""

    def __init__(self, folder, chance):
        self.folder, self.chance, self.number = folder, chance, 0

    def files(self):
        return {(path.parent.name, path.name, path.stat().st_size)
                for path in self.folder.rglob("*") if path.is_file()}

    def change(self, count):
        there = [path for path in self.folder.rglob("*.mp3") if path.is_file()]
        for _ in range(count):
            what = self.chance.random()
            if there and what < 0.2:
                there.pop(self.chance.randrange(len(there))).unlink()
            elif there and what < 0.4:
                self.chance.choice(there).write_bytes(b"x" * self.chance.randrange(1, 5000))
            else:
                self.number += 1
                path = self.folder / f"folder {self.number % 40}" / f"{self.number} söng.mp3"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"y" * self.chance.randrange(1, 5000))
                there.append(path)


def shared(node):
    """(folder, file, size) of everything in the index."""
    return {(d["name"].rsplit("\\", 1)[-1], f["filename"].rsplit("\\", 1)[-1], f["size"])
            for d in node.get("/shares/contents") for f in d["files"]}


def rows(node):
    """Downloads by id."""
    return {t["id"]: t for t in node.transfers("downloads", "them")}


@pytest.mark.world(big_mib=24)
def test_nothing_acknowledged_is_lost_and_no_byte_is_made_up(world, capsys):
    with capsys.disabled():
        print(f"\nkill test: {ROUNDS} rounds, SLSKDN_SOAK_SEED={SEED}", flush=True)
    chance = random.Random(SEED)
    them = Peer(world, "nicotine", "them", free_port(), "--upload-limit-kib", "6000")
    node = Node(world, log__level="info")
    tree = Tree(node.share, chance)
    tree.change(300)
    originals = {path.name: path for path in them.files.values()}
    wanted = node.search("them", lambda responses: next(
        ([(f["filename"], f["size"]) for f in r["files"]] for r in responses if len(r["files"]) == len(originals)), None))
    contents = {name: path.read_bytes() for name, path in originals.items()}
    finished = scans = partials = 0

    for round in range(ROUNDS):
        # What is over is taken away and asked for again, so that there is always something under way.
        for ident, row in rows(node).items():
            if row["state"] == "Completed, Succeeded":
                found = next(p for p in node.downloads.rglob("*") if p.name == row["filename"].rsplit("\\", 1)[1])
                assert found.read_bytes() == contents[found.name], f"round {round}: {found}"
                found.unlink()
                finished += 1
                node.call("DELETE", f"/transfers/downloads/them/{ident}", params={"remove": "true"}).raise_for_status()
            else:
                assert not row["state"].startswith("Completed"), f"round {round}: {row}"
        under_way = {row["filename"] for row in rows(node).values()}
        missing = [(path, size) for path, size in wanted if path not in under_way]
        if missing:
            node.enqueue("them", missing)
        acknowledged = rows(node)
        if chance.random() < 0.7:
            tree.change(chance.randrange(1, 200))
            node.call("POST", "/api/shares/rescan").raise_for_status()
            scans += 1
        time.sleep(chance.random() * 2)  # not to be in step with anything: the moment of death
        node.process.stop(signal.SIGKILL)

        # No partial file has a byte that its original has not.
        lengths = {}
        for part in (node.home / "incomplete").iterdir():
            data = part.read_bytes()
            match = [name for name, content in contents.items() if content.startswith(data)]
            assert match, f"round {round}: {part.name} holds {len(data)} bytes of no file there is"
            lengths[part.name] = len(data)
            partials += 1
        node.start()
        back = rows(node)
        lost = [row for ident, row in acknowledged.items() if ident not in back]
        assert not lost, f"round {round}: {lost}"
        for ident, row in back.items():
            # It goes on from bytes that are there, never from further.
            there = lengths.get(f"{ident}.part")
            if there is not None and not row["state"].startswith("Completed"):
                assert row["startOffset"] <= there, f"round {round}: {row}, {lengths}"

    for ident in list(rows(node)):
        until("everything arrives", lambda: rows(node)[ident]["state"] == "Completed, Succeeded")
    for row in rows(node).values():
        name = row["filename"].rsplit("\\", 1)[1]
        assert sha256(next(p for p in node.downloads.rglob("*") if p.name == name)) == sha256(originals[name])
    node.call("POST", "/api/shares/rescan").raise_for_status()
    until("the index is the tree", lambda: shared(node) == tree.files())
    until("no partial file stays", lambda: not list((node.home / "incomplete").iterdir()))
    with capsys.disabled():
        print(f"{ROUNDS} kills, {scans} during scans, {finished} files finished between, {partials} partial files checked, "
              "nothing lost", flush=True)
