"""The plug is pulled at moments that matter, and what the box said it keeps is kept."""
import os
import random
import time
from collections import Counter

import requests
from machine import HERE_IS, LONG, NETWORK, Machine
from test_boot import KEY, SEED, api, of, prepared, rows, search, transfers, world  # noqa: F401
from world import Peer, free_port, sha256, until

ROUNDS = int(os.environ.get("SLSKDN_SOAK_ROUNDS", "1"))
# Of a download before a power cut, and how many of them are its end. CUTS is how many files the library has then.
FETCHED, END, CUTS = 6_000_000, 600_000, 60
# What is kept of a download that is over: a second one of the same file has another number and other times.
KEPT = ("id", "state", "startedAt", "endedAt", "bytesTransferred", "attempts")
MOMENTS = ("any moment", "records just written", "a download's end", "a download just over")


def test_power_cuts(world, tmp_path):  # noqa: F811
    """The plug is pulled while it scans and downloads: it comes up by itself, and what it said it keeps is kept."""
    print(f"SOAK_SEED={SEED} ROUNDS={ROUNDS}")
    chance = random.Random(SEED)
    # One to fetch in each round.
    offered = world.tmp / "share-friend" / "Cuts"
    offered.mkdir(parents=True)
    for number in range(ROUNDS):
        (offered / f"pulled plug {number}.flac").write_bytes(chance.randbytes(FETCHED))
    # Not aioslsk: it waits for ever for the end of a file whose receiver has lost its power, and nobody's turn comes any more.
    Peer(world, "nicotine", "friend", free_port(), "--bind", HERE_IS)
    # Slow enough to fetch that the scan has written something before a download is over: the first batch takes five seconds.
    slow = "global: { download: { speed_limit: 500 } }\n"
    card, log = prepared(tmp_path, world.port, tones=CUTS, more=slow), tmp_path / "serial.log"
    card.write("network", NETWORK.encode())
    size = (tmp_path / "music" / "0-tone.wav").stat().st_size
    # What it had told when the plug was pulled.
    scans, asked, over, wishes = {}, {}, {}, []
    paths, cut_while = {}, Counter()
    for number in range(ROUNDS + 1):
        with Machine(card, log, cache="writeback", on_cable=True) as box:
            box.up()
            assert api(box, "/status")["disk"]["backend"] == "io_uring"
            # Written together with the files' records: none is lost, and none measured twice.
            now = scans_of(box)
            for scan, before in scans.items():
                found = of(box, scan) if before["status"] == "running" else now[scan]
                assert before["status"] in ("running", found["status"]), (before, found)
                # What it has measured since this start is not what it had kept.
                since = found["progress"]["bytes_done"] // size if found["progress"] else 0
                assert before["files_measured"] <= found["files_measured"] - since, (before, found)
                assert found["files_measured"] <= CUTS, found
            assert [wish["text"] for wish in api(box, "/wishlist")] == wishes
            now = transfers(box)
            assert {path: row["id"] for path, row in now.items()} == asked
            assert {path: kept(now[path]) for path in over} == over
            if number == ROUNDS:
                until("all is fetched", lambda: all("Succeeded" in state for state in rows(box).values()), LONG)
                now = transfers(box)
                assert {path: kept(now[path]) for path in over} == over
                box.shut_down()
                break
            if not paths:
                for path in search(box, "pulled plug", lambda found: len(found) == ROUNDS):
                    paths[int(path.rsplit(" ", 1)[1].removesuffix(".flac"))] = path
            api(box, "/wishlist", "POST", json={"text": f"after cut {number}"})
            wishes.append(f"after cut {number}")
            # All files again: what is measured already would cost a look only.
            begin_scan(box)
            wanted = {"filename": paths[number], "size": FETCHED}
            [row] = api(box, "/v0/transfers/downloads/friend", "POST", json=[wanted])["enqueued"]
            asked[paths[number]] = row["id"]
            over = {path: kept(row) for path, row in transfers(box).items() if "Succeeded" in row["state"]}
            moment, done = chance.choice(MOMENTS), files_measured(scans_of(box))
            if moment == "any moment":
                time.sleep(chance.uniform(0, 12))  # the moment is the point
            scans, now = until(f"a cut at {moment}", lambda: look(box, moment, over, done), LONG)  # noqa: B023
            if moment == "a download's end":
                time.sleep(chance.uniform(0, 1))  # here, too
            box.cut()
            part = "no scan" if not is_scanning(scans) else "scan with records" if files_measured(scans) > done else "scan"
            cut_while[part, phase(now, over)] += 1
            over = {path: kept(row) for path, row in now.items() if "Succeeded" in row["state"]}
    (tmp_path / "got").mkdir()
    card.debugfs(f"rdump /slskdn/downloads {tmp_path / 'got'}")
    got = {path.name: sha256(path) for path in (tmp_path / "got").rglob("*.flac")}
    assert got == {path.name: sha256(path) for path in offered.iterdir()}
    print(f"FIGURE power cuts by what the scan and the downloads were at: {dict(cut_while)}")


def phase(now, over):
    """How far that download is that is nearest to its end. `over` are those that were over before."""
    left = [row["bytesRemaining"] for row in now.values() if row["state"] == "InProgress"]
    if any("Succeeded" in row["state"] for path, row in now.items() if path not in over):
        return "just over"
    return "waiting" if not left else "at its end" if min(left) <= END else "under way"


def look(box, moment, over, done):
    """What the box tells when it is the moment for a cut, the downloads last. `over` and `done` are what it told before."""
    scans, now = scans_of(box), transfers(box)
    is_it = {"any moment": True, "records just written": files_measured(scans) > done or not is_scanning(scans),
             "a download's end": phase(now, over) in ("at its end", "just over"), "a download just over": phase(now, over) == "just over"}
    return (scans, now) if is_it[moment] else None


def files_measured(scans):
    return sum(scan["files_measured"] for scan in scans.values())


def is_scanning(scans):
    return any(scan["status"] == "running" for scan in scans.values())


def kept(row):
    return {key: row.get(key) for key in KEPT}


def scans_of(box):
    return {scan["scan_id"]: scan for scan in api(box, "/library/health/scans")}


def begin_scan(box):
    """Or the one that was cut short goes on."""
    url = f"http://{box.host}:{box.tools}/api/library/health/scans"
    answer = requests.post(url, headers={"X-API-Key": KEY}, json={"library_path": "/data/music", "remeasure": True}, timeout=60)
    assert answer.ok or answer.status_code == 409, answer.text
