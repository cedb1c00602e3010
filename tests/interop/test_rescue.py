"""Downloads from a Nicotine+ that hang, finished by mesh peers of ours who have the same bytes."""
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in ("ops", "mesh"):
    sys.path.insert(0, str(HERE.parent / folder))

from node import Node as MeshNode, free_udp_port  # noqa: E402
from test_meeting import LOOPBACK, Dht, key  # noqa: E402
from world import Node, Peer, World, free_port, sha256, until  # noqa: E402

RECORDING = "5b11f4ce-a62d-471e-81fc-a69a8278c7da"
SHORT = {"stall_timeout_seconds": 4, "sample_interval_seconds": 1, "min_duration_seconds": 5, "max_queue_time_seconds": 60}
# For those who are to hang in a queue; a busy machine's Nicotine+ may well think for that long.
QUEUE = {"transfers.rescue_mode.max_queue_time_seconds": 5}


def song(path):
    """A FLAC of noise, about 5 MiB, that says which recording it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i",
                    "aevalsrc='0.2*(random(0)-0.5)|0.2*(random(1)-0.5)':s=44100:d=40", "-sample_fmt", "s16",
                    "-metadata", "TITLE=Noise", "-metadata", "ARTIST=Nobody",
                    "-metadata", f"MUSICBRAINZ_TRACKID={RECORDING}", str(path)], check=True, stdin=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="module")
def holders(tmp_path_factory):
    """The song, and three mesh peers who have it."""
    tmp = tmp_path_factory.mktemp("holders")
    made, nodes = song(tmp / "song.flac"), []
    for n in range(3):
        share = tmp / f"music{n}"
        share.mkdir()
        shutil.copy(made, share / f"copy {n}.flac")
        nodes.append(MeshNode(tmp, f"holder{n}", share).start())
    for node in nodes:
        node.measure()
    yield made, nodes
    for node in nodes:
        node.stop()


@pytest.fixture
def house(request, holders):
    """`house(*options, kind=…, song=…, setting=value)`: a Nicotine+, or an aioslsk, called them with one song, the holders,
    and our box between."""
    world = World()
    made, nodes = holders

    def build(*options, kind="nicotine", song=made, **settings):
        world.song = song
        # Before it starts, or it would have to be told.
        folder = world.tmp / "share-them" / "Nobody"
        folder.mkdir(parents=True)
        shutil.copy(world.song, folder / "Noise.flac")
        world.them = Peer(world, kind, "them", free_port(), *options, files=False)
        rescue = {f"transfers.rescue_mode.{key}": value for key, value in SHORT.items()}
        world.box = Node(world, **{"mesh.enabled": "true", "mesh.address": "127.0.0.1", "mesh.port": free_udp_port(),
                                   "mesh.peers": ";".join(node.named for node in nodes), **rescue,
                                   "transfers.rescue_mode.guardrails.max_overlay_to_soulseek_ratio": 100, **settings})
        until("all mesh peers are connected", lambda: sum(
            peer["connected"] for peer in world.box.get("/api/mesh/peers")) == len(nodes))
        return world
    yield build
    world.close(request.session.testsfailed)


@pytest.fixture
def catalog():
    """A MusicBrainz that knows the one recording; its address."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path.startswith(f"/mb/recording/{RECORDING}")
            body = json.dumps({"id": RECORDING, "title": "Noise", "length": 40_000,
                               "artist-credit": [{"name": "Nobody", "joinphrase": "",
                                                  "artist": {"id": RECORDING, "name": "Nobody", "sort-name": "Nobody"}}]}
                              if known else {"error": "Not Found"}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/mb"
    server.shutdown()


def ask(world, recording=RECORDING, size=None):
    """The box wants the song; the ID of the download."""
    size = world.song.stat().st_size if size is None else size

    def pick(responses):
        for response in responses:
            for file in response["files"]:
                if response["username"] == "them" and file["filename"].endswith("Noise.flac"):
                    return file["filename"]
        return None
    path = world.box.search("Noise", pick)
    file = {"path": path, "size": size, **({"recording": recording} if recording else {})}
    answer = world.box.call("POST", "/api/downloads", json={"user": "them", "files": [file]})
    assert answer.status_code == 201, answer.text
    return answer.json()["accepted"][0]["id"]


def rescued(world, ident, reason, rung="verified"):
    """The download once it is finished: the same bytes, and its story."""
    def over():
        row = world.box.get(f"/api/downloads/{ident}")
        return row if row["is_over"] and (row["rescue"] or {}).get("state") != "Active" else None
    row = until("the download is over", over)
    rescue = row["rescue"]
    assert (row["state"], row["rung"]) == ("Completed, Succeeded", rung), row
    assert (rescue["state"], rescue["manner"], rescue["reason"]) == ("Completed", "splice", reason), rescue
    assert sha256(row["local_path"]) == sha256(world.song)
    return row


def uploads(world):
    """What Nicotine+ counts as uploads to us: one line each time one began to send."""
    began = [line for line in world.log("them").splitlines() if "Upload started" in line]
    return began, world.them.ctl(cmd="uploads")


def counts(world):
    """What the metrics tell of rescues: by name and label."""
    rows = re.findall(r'^slskdn_rescue_(\w+)\{name="(\w+)"\} (\d+)$', world.box.metrics(), re.MULTILINE)
    return {(name, label): int(count) for name, label, count in rows}


def test_a_nicotine_at_2_kib_a_second(house):
    # So slow a user is silent for seconds now and then.
    world = house("--upload-limit-kib", "2", **{"transfers.rescue_mode.stall_timeout_seconds": 20})
    row = rescued(world, ask(world), "ThroughputTooLow")
    assert row["rescue"]["soulseek_bytes"] > 0, row
    began, rows = uploads(world)
    assert len(began) == 1 and len(rows) == 1, (began, rows)


def test_a_nicotine_that_is_stopped(house):
    """It says nothing any more in the middle of an upload, and goes on when all is over."""
    world = house("--upload-limit-kib", "64")
    ident = ask(world)
    until("bytes come", lambda: world.box.get(f"/api/downloads/{ident}")["bytes_done"] > 200_000)
    world.them.process.process.send_signal(signal.SIGSTOP)
    try:
        row = rescued(world, ident, "Stalled")
        assert row["rescue"]["soulseek_bytes"] >= 200_000, row
        told = until("the metrics know", lambda: (t := counts(world))["jobs", "Completed"] == 1 and not t["jobs", "Active"] and t)
        assert (told["hung", "Stalled"], sum(n for (kind, _), n in told.items() if kind == "hung")) == (1, 1), told
        assert [told["jobs", state] for state in ("Failed", "Cancelled")] == [0, 0], told
        assert told["bytes", "overlay"] == row["rescue"]["overlay_bytes"], (told, row)
        # What came meanwhile: the user was silent.
        assert 0 <= told["bytes", "soulseek"] < row["rescue"]["soulseek_bytes"], (told, row)
        assert told["waited", "milliseconds"] > 0 and not any(n for (kind, _), n in told.items() if kind == "guardrail_hits"), told
    finally:
        world.them.process.process.send_signal(signal.SIGCONT)
    # Nothing is fetched a second time, and nothing is left of the first.
    until("the connection with it is over", lambda: not any(
        row["status"] in ("Transferring", "Getting status") for row in world.them.ctl(cmd="uploads")))
    [partials] = [list((world.box.home / "incomplete").glob("*.*"))]
    assert not partials, partials
    began, _ = uploads(world)
    assert len(began) == 1, began


def test_a_nicotine_that_keeps_us_queued(house, catalog):
    """Another file of ours takes its one slot. Which recording it is nobody says; but the path names title and artist of
    the one that has a copy of this size. That is a guess: nothing is joined, and we stay in the queue."""
    world = house("--upload-slots", "1", "--upload-limit-kib", "1", **QUEUE, **{"catalog.musicbrainz.base_url": catalog})
    blocker = Node(world, "blocker")
    path = world.box.search("Noise", lambda found: next(
        (f["filename"] for r in found for f in r["files"] if r["username"] == "them"), None))
    blocker.enqueue("them", [(path, world.song.stat().st_size)])
    until("the slot is taken", lambda: any(
        row["status"] == "Transferring" and row["user"] == "blocker" for row in world.them.ctl(cmd="uploads")))
    ident = ask(world, None)

    def there():
        row = world.box.get(f"/api/downloads/{ident}")
        return row if (row["rescue"] or {}).get("state") == "Completed" else None
    row = until("a copy is there", there)
    rescue = row["rescue"]
    assert (rescue["recording_id"], rescue["manner"], rescue["reason"]) == (RECORDING, "whole_variant", "QueuedTooLong"), row
    assert rescue["soulseek_bytes"] == 0 and row["rung"] == "rescued_copy" and not row["is_over"], row
    assert "rescued copy" in row["local_path"] and sha256(row["local_path"]) == sha256(world.song)
    assert [r["status"] for r in world.them.ctl(cmd="uploads") if r["user"] != "blocker"] == ["Queued"]


@pytest.fixture
def queued(house):
    """A download that mesh peers finished while its user kept us queued; and what takes that one's slot."""
    def build(kind="nicotine"):
        world = house("--upload-slots", "1", "--upload-limit-kib", "4", kind=kind, **QUEUE)
        blocker = Node(world, "blocker")
        path = world.box.search("Noise", lambda found: next(
            (f["filename"] for r in found for f in r["files"] if r["username"] == "them"), None))
        blocker.enqueue("them", [(path, world.song.stat().st_size)])
        until("the slot is taken", lambda: has_upload(world, "blocker", "Transferring", "UPLOADING"))
        row = rescued(world, ask(world), "QueuedTooLong")
        assert row["rescue"]["soulseek_bytes"] == 0 and row["rescue"]["origin"] is None, row
        world.blocker = blocker
        return world, row
    return build


def has_upload(world, user, *states):
    """Whether an upload to this user stands so, in the words of either program."""
    if world.them.kind == "nicotine":
        return any(row["user"] == user and row["status"] in states for row in world.them.ctl(cmd="uploads"))
    told = [json.loads(line) for line in world.them.events()]
    return any(e["event"] == "upload" and e["user"] == user and e["status"] in states for e in told)


def comes_round(world):
    """The slot is free: it is our turn, and the upload went well."""
    world.blocker.process.stop()
    until("our turn has come and is over", lambda: has_upload(world, "box", "Finished", "COMPLETE"))


def notes(world, ident):
    events = world.box.get(f"/api/jobs/{ident}/trace?limit=1000")["events"]
    return [event["message"] for event in events if event["type"] == "Note"]


def told_of_origin(world, ident, words):
    until(f"the trace says: {words}", lambda: any(words in note for note in notes(world, ident)))


@pytest.mark.parametrize("kind", ["nicotine", "aioslsk"])
def test_a_user_who_gets_round_to_us_says_that_the_file_is_right(queued, kind):
    """It sends the last 64 KiB, and has one upload that went well."""
    world, row = queued(kind)

    def came():
        return world.box.get("/api/mesh/traffic-stats?window=24h")["windows"]["24h"]["soulseek_download_bytes"]
    assert came() == 0
    comes_round(world)
    told_of_origin(world, row["id"], "ends as this one does")
    after = world.box.get(f"/api/downloads/{row['id']}")
    assert after["rescue"]["origin"] == "agrees", after
    assert {**after, "rescue": None} == {**row, "rescue": None}, "the download is what it was"
    if kind == "nicotine":
        began = [line for line in uploads(world)[0] if "user box" in line]
        assert len(began) == 1, began
    until("what came is counted, and is no more than that", lambda: came() == 65_536)
    assert sha256(row["local_path"]) == sha256(world.song)


def test_a_nicotine_whose_file_ends_otherwise_changes_nothing(queued):
    """Its file was another one of the same size all the while: that is said, and nothing else happens."""
    world, row = queued()
    theirs = world.tmp / "share-them" / "Nobody" / "Noise.flac"
    bytes_ = bytearray(theirs.read_bytes())
    bytes_[-40_000] ^= 1
    theirs.write_bytes(bytes_)
    comes_round(world)
    told_of_origin(world, row["id"], "ends otherwise")
    after = world.box.get(f"/api/downloads/{row['id']}")
    assert after["rescue"]["origin"] == "differs" and after["state"] == "Completed, Succeeded", after
    assert sha256(row["local_path"]) == sha256(world.song)


def test_a_file_that_the_owner_moved_is_not_asked_about(queued):
    """The Nicotine+ sees an upload that went well; here nothing is said of it."""
    world, row = queued()
    Path(row["local_path"]).rename(world.tmp / "elsewhere.flac")
    comes_round(world)
    told_of_origin(world, row["id"], "could not be compared")
    assert world.box.get(f"/api/downloads/{row['id']}")["rescue"]["origin"] is None


SLOW = {"global.download.speed_limit": 32}


def silent(world, to=signal.SIGSTOP):
    """The Nicotine+ says nothing any more, or goes on."""
    world.them.process.process.send_signal(to)


def half_rescued(world, ident, so_far):
    """The row of a rescue once it is so far: pieces lie behind some that are missing."""
    def look():
        rescue = world.box.get(f"/api/downloads/{ident}")["rescue"]
        return rescue if rescue and so_far(rescue) else None
    return until("mesh peers have helped", look)


def has_holes(rescue):
    """What is missing lies before what is there."""
    return rescue["missing_ranges"] and rescue["missing_ranges"][-1][1] < rescue["size"]


@pytest.fixture
def stalled(house):
    """A Nicotine+ that fell silent in the middle of an upload, and a box that takes long enough to be looked at."""
    begun = []

    def build(**settings):
        world = house("--upload-limit-kib", "64", **SLOW, **settings)
        ident = ask(world)
        until("bytes come", lambda: world.box.get(f"/api/downloads/{ident}")["bytes_done"] > 200_000)
        silent(world)
        begun.append(world)
        return world, ident
    yield build
    for world in begun:
        silent(world, signal.SIGCONT)


def test_what_both_networks_sent_outlives_a_second_stall_and_a_kill(stalled):
    """Pieces of mesh peers lie behind what the user sent, with holes between; the user goes on, falls silent again, and the
    box is killed. All of it is there afterwards, and the rest comes."""
    world, ident = stalled()
    first = half_rescued(world, ident, has_holes)
    silent(world, signal.SIGCONT)
    half_rescued(world, ident, lambda rescue: rescue["soulseek_bytes"] >= first["soulseek_bytes"] + 100_000)
    silent(world)
    before = half_rescued(world, ident, has_holes)
    assert before["state"] == "Active" and before["overlay_bytes"] > 0, before
    world.box.process.stop(signal.SIGKILL)
    # So that nothing new can come and be taken for what was there.
    world.box.settings["global.download.speed_limit"] = 1
    world.box.start()
    after = half_rescued(world, ident, has_holes)
    # But for what the last look had not seen to be on the disk.
    assert after["bytes_done"] >= before["bytes_done"] - 65_536, (before, after)
    world.box.process.stop()
    world.box.settings["global.download.speed_limit"] = 0
    world.box.start()
    rescued(world, ident, "Stalled")


def test_another_folder_for_partial_files_begins_with_nothing(stalled):
    """The owner names another one and starts the box anew: what lies in the old one is not looked for."""
    world, ident = stalled()
    half_rescued(world, ident, has_holes)
    world.box.process.stop()
    before = {file.name for file in (world.box.home / "incomplete").glob("*.*")}
    elsewhere = world.box.home / "elsewhere"
    elsewhere.mkdir()
    world.box.settings |= {"directories.incomplete": elsewhere, "global.download.speed_limit": 0}
    world.box.start()
    rescued(world, ident, "Stalled")
    assert not list(elsewhere.glob("*.*"))
    assert before == {file.name for file in (world.box.home / "incomplete").glob("*.*")}, "it is the owner's"


def test_a_size_that_was_not_known_is_what_the_user_says(house):
    """The row of an old client has no size. The offer tells it, and then bytes are joined as ever."""
    world = house("--upload-limit-kib", "64")
    ident = ask(world, size=0)
    until("bytes come", lambda: world.box.get(f"/api/downloads/{ident}")["bytes_done"] > 200_000)
    silent(world)
    try:
        row = rescued(world, ident, "Stalled")
        assert row["size"] == world.song.stat().st_size, row
    finally:
        silent(world, signal.SIGCONT)


def test_without_a_size_and_without_a_byte_nothing_is_joined(house):
    """Which of the copies the user has nobody can say: one comes into a file of its own."""
    world = house(**{"transfers.rescue_mode.guardrails.require_seen_on_soulseek": "false"})
    file = {"path": "music\\Nobody\\Noise.flac", "size": 0, "recording": RECORDING}
    answer = world.box.call("POST", "/api/downloads", json={"user": "gone", "files": [file]})
    ident = answer.json()["accepted"][0]["id"]

    def there():
        row = world.box.get(f"/api/downloads/{ident}")
        return row if (row["rescue"] or {}).get("state") == "Completed" else None
    row = until("a copy is there", there)
    assert (row["rescue"]["manner"], row["rung"], row["is_over"]) == ("whole_variant", "rescued_copy", False), row
    assert "rescued copy" in row["local_path"] and sha256(row["local_path"]) == sha256(world.song)


@pytest.fixture
def dht():
    found = Dht()
    yield found
    found.process.stdin.close()
    found.process.wait()


def test_a_peer_that_only_the_dht_knows_of_helps(holders, dht, tmp_path):
    """Nobody is named and nobody meets anywhere: who has the recording is looked up by its key once the download hangs."""
    made, _ = holders

    def seeks(name, number):
        return {"mesh.dht.enabled": "true", "mesh.dht.bootstrap_nodes": ";".join(dht.nodes[:3]),
                "mesh.dht.announce_interval": 5, "mesh.dht.discovery_interval": 5, "network.private_ranges": LOOPBACK,
                "mesh.address": f"127.{number}.0.1", "mesh.dht.rendezvous_keys": f"where {name} is alone"}
    share = tmp_path / "music"
    share.mkdir()
    shutil.copy(made, share / "copy.flac")
    holder = MeshNode(tmp_path, "holder", share, **seeks("holder", 1)).start()
    world = World()
    try:
        holder.measure()
        holder.stop()
        # What is announced is looked up at the start.
        holder.settings["mesh.dht.announce_content"] = "true"
        holder.start()
        until("it is in the DHT", lambda: dht.ask(5, key(f"slskdn-appliance-mb-v1:{RECORDING}")))
        world.song = made
        folder = world.tmp / "share-them" / "Nobody"
        folder.mkdir(parents=True)
        shutil.copy(made, folder / "Noise.flac")
        world.them = Peer(world, "nicotine", "them", free_port(), "--upload-limit-kib", "64", files=False)
        rescue = {f"transfers.rescue_mode.{name}": value for name, value in SHORT.items()}
        world.box = Node(world, **{"mesh.enabled": "true", "mesh.port": free_udp_port(), **seeks("box", 2), **rescue,
                                   "transfers.rescue_mode.guardrails.max_overlay_to_soulseek_ratio": 100})
        ident = ask(world)
        until("bytes come", lambda: world.box.get(f"/api/downloads/{ident}")["bytes_done"] > 200_000)
        silent(world)
        row = rescued(world, ident, "Stalled", "rescued_copy")
        [peer] = [peer for peer in world.box.get("/api/mesh/peers") if peer["connected"]]
        assert (peer["id"], peer["found_by"], peer["named"]) == (holder.id, "dht", False), peer
        assert row["rescue"]["vouched_by"] is None and row["rescue"]["overlay_bytes"] > 0, row
    finally:
        if hasattr(world, "them"):
            silent(world, signal.SIGCONT)
        holder.stop()
        world.close()
