"""A card that was just written boots to the page, keeps what it is told, and never pretends to be healthy."""
import math
import os
import random
import secrets
import struct
import time
import wave

import pytest
import requests
from machine import BOX_IS, HERE_IS, LONG, NETWORK, Disk, Machine, cable, mdns
from world import Peer, World, free_port, sha256, until

KEY = "a key of the image's tests"
SETTINGS = f"""
web:
  address: 0.0.0.0
  authentication:
    api_keys:
      tests: {{ key: "{KEY}", role: administrator, cidr: 0.0.0.0/0 }}
shares:
  directories: [/data/music]
soulseek:
  address: 10.77.0.1
  port: @SERVER@
  username: the box
  password: pw
"""
ROUNDS = int(os.environ.get("SLSKDN_SOAK_ROUNDS", "2"))
SEED = int(os.environ.get("SLSKDN_SOAK_SEED", secrets.randbelow(1 << 32)))
TONES = 3


def tone(path, hertz):
    """A fifth of a second of a tone that rises, so that no two are the same sound: emulated boxes measure slowly."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(44_100)
        samples = (int(12_000 * math.sin(n * hertz * (1 + n / 88_200) / 7_000)) for n in range(8_820))
        out.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))


@pytest.fixture
def world(tmp_path):
    """A Soulseek server and a user of other make, on this machine."""
    (tmp_path / "world").mkdir()
    cable()
    world = World(big_mib=1, tmp=tmp_path / "world", address=HERE_IS)
    yield world
    world.close(keep=True)


@pytest.fixture
def card(tmp_path):
    """A fresh card with settings and music on its data partition."""
    return prepared(tmp_path)


def prepared(tmp_path, server=1):
    disk = Disk("qemu-virt", tmp_path / "card.img")
    music = tmp_path / "music"
    music.mkdir()
    for n in range(TONES):
        tone(music / f"{n}-tone.wav", 200 + 31 * n)
    disk.put_music(music)
    settings = tmp_path / "slskdn.yml"
    settings.write_text(SETTINGS.replace("@SERVER@", str(server)))
    disk.debugfs(f"write {settings} /slskdn/slskdn.yml", *(f"sif /slskdn/slskdn.yml {what}" for what in ("uid 989", "gid 989", "mode 0100600")))
    return disk


def api(box, path, method="GET", **kw):
    answer = requests.request(method, f"http://{box.host}:{box.tools}/api{path}", headers={"X-API-Key": KEY}, timeout=60, **kw)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def switched_off(box):
    url = f"http://{box.host}:{box.tools}/api/appliance/off"
    answer = requests.post(url, headers={"X-API-Key": KEY}, timeout=60)
    assert answer.status_code in (204, 429), answer.text
    return answer.status_code == 204


def shared(box):
    return until("the shares are indexed", lambda: (n := api(box, "/status")["shares"]["files"]) == TONES and n, 120)


def search(box, text, want):
    """Paths found, once `want(paths)` is true."""
    ident = api(box, "/v0/searches", "POST", json={"searchText": text, "searchTimeout": 15_000})["id"]

    def look():
        paths = [file["filename"] for answer in api(box, f"/v0/searches/{ident}/responses") for file in answer["files"]]
        return paths if want(paths) else None

    return until(f"{text} is found", look)


def finished(box, path):
    rows = api(box, "/v0/transfers/downloads/friend")["directories"]
    [row] = [file for folder in rows for file in folder["files"] if file["filename"] == path]
    return "Succeeded" in row["state"]


def of(box, scan):
    return api(box, f"/library/health/scans/{scan}")


def measured(box):
    return api(box, "/library/health/summary")


def test_a_fresh_card_boots_scans_downloads_and_finds_everything_again(world, tmp_path):
    peer = Peer(world, "aioslsk", "friend", free_port())
    card, log = prepared(tmp_path, world.port), tmp_path / "serial.log"
    card.write("network", NETWORK.encode())
    begun = time.monotonic()
    with Machine(card, log, memory=512, on_cable=True) as box:
        box.up()
        print(f"FIGURE 512 MiB: page after {time.monotonic() - begun:.0f} s, U-Boot and growing included")
        status = api(box, "/status")
        # Not the tmpfs below: the data partition, grown to the card.
        assert status["disk"]["total"] > 1_000_000_000, status["disk"]
        assert status["disk"]["backend"] == "io_uring", status["disk"]
        # What people type.
        assert mdns("slskdn.local") == BOX_IS
        assert box.get("/", box.page, headers={"Host": "slskdn.local"}).ok, "port 80"
        shared(box)
        scan = api(box, "/library/health/scans", "POST", json={})["scan_id"]
        ended = until("the scan ends", lambda: (now := of(box, scan))["status"] != "running" and now, LONG)
        assert (ended["files_scanned"], ended["files_measured"]) == (TONES, TONES), ended
        before = measured(box)
        name, original = next(item for item in peer.files.items() if "first song" in item[0])
        found = search(box, "first song", lambda files: name in " ".join(files))
        [path] = [path for path in found if name in path]
        api(box, "/v0/transfers/downloads/friend", "POST", json=[{"filename": path, "size": original.stat().st_size}])
        until("the file is there", lambda: finished(box, path), LONG)
        box.shut_down()
    # Where it really is: the store lies on the ext4 of the card, as the user of fixed number.
    listing = card.debugfs("ls -l /slskdn/store")
    assert "data.mdb" in listing and " 989 " in listing, listing
    (tmp_path / "got").mkdir()
    card.debugfs(f"rdump /slskdn/downloads {tmp_path / 'got'}")
    got = [path for path in (tmp_path / "got").rglob(name)]
    assert len(got) == 1 and sha256(got[0]) == sha256(original), got
    with Machine(card, log, memory=1024, on_cable=True) as box:
        begun = time.monotonic()
        box.up()
        print(f"FIGURE 1 GiB: page after {time.monotonic() - begun:.0f} s")
        assert "growing" not in box.serial()
        shared(box)
        assert measured(box) == before
        assert finished(box, path)
        # As the page does it, once the start was looked at.
        until("the box is switched off", lambda: switched_off(box), LONG)
        box.process.wait(LONG)


def test_without_its_data_the_box_does_not_look_healthy(tmp_path):
    disk = Disk("qemu-virt", tmp_path / "card.img")
    disk.overwrite(4, bytes(disk.partition(4)[1]))
    with Machine(disk, tmp_path / "serial.log") as box:
        box.wait("slskdn-initrd: the data partition does not mount")
        box.wait(r"[Aa]ssertion failed for slskdn.service")
        box.wait("Startup finished in")
        answer = box.get("/health")
        assert answer is None or not answer.ok, answer.text


def test_power_cuts(card, tmp_path):
    """The plug is pulled at any moment while it scans: it comes up by itself and knows what it knew."""
    print(f"SOAK_SEED={SEED} ROUNDS={ROUNDS}")
    chance = random.Random(SEED)
    card_log = tmp_path / "serial.log"
    known = 0
    for _ in range(ROUNDS):
        with Machine(card, card_log, cache="writeback") as box:
            box.up()
            assert api(box, "/status")["disk"]["backend"] == "io_uring"
            now = measured(box)["files"]
            assert now >= known, (now, known)
            api(box, "/library/health/scans", "POST", json={})
            time.sleep(chance.uniform(0, 6))  # the moment is the point
            known = measured(box)["files"]
            box.cut()
    with Machine(card, card_log) as box:
        box.up()
        assert measured(box)["files"] >= known
        shared(box)
