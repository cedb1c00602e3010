"""A card that was just written boots to the page, keeps what it is told, and never pretends to be healthy."""
import math
import os
import re
import secrets
import socket
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
SEED = int(os.environ.get("SLSKDN_SOAK_SEED", secrets.randbelow(1 << 32)))
TONES = 3
# Far behind all that the tests do.
LATER = 1_936_000_000
WISH = "something rare"


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


def prepared(tmp_path, server=1, tones=TONES, more="", size="2G"):
    disk = Disk("qemu-virt", tmp_path / "card.img", size)
    music = tmp_path / "music"
    music.mkdir()
    for n in range(tones):
        tone(music / f"{n}-tone.wav", 200 + 31 * n)
    disk.put_music(music)
    settings = tmp_path / "slskdn.yml"
    settings.write_text(SETTINGS.replace("@SERVER@", str(server)) + more)
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
    return until("the shares are indexed", lambda: (n := api(box, "/status")["shares"]["files"]) == TONES and n, LONG)


def search(box, text, want):
    """Paths found, once `want(paths)` is true; asked again, as people do, when it ended without that."""
    ident = None

    def look():
        nonlocal ident
        over = ident is None or api(box, f"/v0/searches/{ident}")["isComplete"]
        answers = api(box, f"/v0/searches/{ident}/responses") if ident else []
        paths = [file["filename"] for answer in answers for file in answer["files"]]
        if want(paths):
            return paths
        if over:
            ident = api(box, "/v0/searches", "POST", json={"searchText": text, "searchTimeout": 15_000})["id"]
        return None

    return until(f"{text} is found", look)


def finished(box, path):
    rows = api(box, "/v0/transfers/downloads/friend")["directories"]
    [row] = [file for folder in rows for file in folder["files"] if file["filename"] == path]
    return "Succeeded" in row["state"]


def transfers(box):
    """Downloads from the friend, by path."""
    try:
        folders = api(box, "/v0/transfers/downloads/friend")["directories"]
    except requests.HTTPError:  # nothing was asked of them yet
        folders = []
    return {file["filename"]: file for folder in folders for file in folder["files"]}


def rows(box):
    """State of each download from the friend."""
    return {path: file["state"] for path, file in transfers(box).items()}


def of(box, scan):
    return api(box, f"/library/health/scans/{scan}")


def measured(box):
    return api(box, "/library/health/summary")


def scanned(box):
    """Every file of the card, by a scan that the box was asked for."""
    shared(box)
    scan = api(box, "/library/health/scans", "POST", json={})["scan_id"]
    ended = until("the scan ends", lambda: (now := of(box, scan))["status"] != "running" and now, LONG)
    assert (ended["files_scanned"], ended["files_measured"]) == (TONES, TONES), ended


def test_a_fresh_card_boots_scans_downloads_and_finds_everything_again(world, tmp_path):
    peer = Peer(world, "aioslsk", "friend", free_port())
    card, log = prepared(tmp_path, world.port), tmp_path / "serial.log"
    card.write("network", NETWORK.encode())
    begun = time.monotonic()
    with Machine(card, log, memory=512, on_cable=True) as box:
        box.up()
        print(f"FIGURE 512 MiB: page after {time.monotonic() - begun:.0f} s, U-Boot and growing included")
        api(box, "/wishlist", "POST", json={"text": WISH})
        status = api(box, "/status")
        # Not the tmpfs below: the data partition, grown to the card.
        assert status["disk"]["total"] > 1_000_000_000, status["disk"]
        assert status["disk"]["backend"] == "io_uring", status["disk"]
        # What people type.
        assert mdns("slskdn.local") == BOX_IS
        assert box.get("/", box.page, headers={"Host": "slskdn.local"}).ok, "port 80"
        # Nobody gave it a key.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((BOX_IS, 22), timeout=60)
        scanned(box)
        before = measured(box)
        name, original = next(item for item in peer.files.items() if "first song" in item[0])
        found = search(box, "first song", lambda files: name in " ".join(files))
        [path] = [path for path in found if name in path]
        api(box, "/v0/transfers/downloads/friend", "POST", json=[{"filename": path, "size": original.stat().st_size}])
        until("the file is there", lambda: finished(box, path), LONG)
        until("the store is copied", lambda: any("the store was copied" in line["text"] for line in api(box, "/log")), LONG)
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
    rescued(card, log)


def rescued(card, log):
    """A store that no longer opens, on a box whose clock is wrong: it tells why, and has a copy of its own to put back."""
    # LMDB begins to read at the first two pages. Written last at a time that the clock has not reached.
    store = "/slskdn/store/data.mdb"
    card.debugfs(*(f"zap_block -f {store} -p 0x55 {page}" for page in (0, 1)), f"sif {store} mtime @{LATER}")
    with Machine(card, log, memory=1024, on_cable=True, more=["-rtc", "base=2001-01-01T00:00:00"]) as box:
        told = until("the rescue page", lambda: (answer := box.get("/", box.page)) is not None and "did not start" in answer.text and answer.text, LONG)
        assert "slskdn did not start: " in told and "<pre" not in told and "Put it back" not in told, told
        assert box.clock() >= LATER
        # The code was on the card since the first start.
        code = re.search(r"^    (\S+)", card.read("set-up-code.txt").decode(), re.M)[1]
        page, at = requests.Session(), f"http://{box.host}"

        def press(path, **fields):
            return page.post(f"{at}{path}", headers={"Origin": at}, data=fields, timeout=LONG).text

        assert "That is not the code" in press("/open", code="bcdfg-hjkmn")
        told = press("/open", code=code)
        # From the journal, which only its group may read: what the initrd said, and what systemd did.
        kept_log = told.split("<pre", 1)[1]
        for line in ("slskdn-initrd: slot A", "systemd[1]: slskdn.service: Failed with result"):
            assert line in kept_log, kept_log[-3000:]
        which = re.search(r'copy of [^<]*<button name="which" value="([^"]+)"', told)[1]
        assert "records are back" in (told := press("/copy", which=which)), told
        assert "tries again" in press("/again")
        box.up()
        # Its socket was stopped with the program.
        assert box.get(port=box.page).ok
        assert [wish["text"] for wish in api(box, "/wishlist")] == [WISH]
        shared(box)
        box.shut_down()
    # What could not be opened was put aside, and is still there.
    assert "data.mdb" in card.debugfs("ls /slskdn/store-set-aside-1")


def test_without_its_data_the_box_does_not_look_healthy(tmp_path):
    disk = Disk("qemu-virt", tmp_path / "card.img")
    disk.overwrite(4, bytes(disk.partition(4)[1]))
    with Machine(disk, tmp_path / "serial.log") as box:
        box.wait("slskdn-initrd: the data partition does not mount")
        box.wait(r"[Aa]ssertion failed for slskdn.service")
        box.wait("Startup finished in")
        # What comes instead: on both ports, and it says what is missing.
        for port in (box.tools, box.page):
            until("the rescue page", lambda: (answer := box.get("/", port)) is not None and "data partition" in answer.text, LONG)  # noqa: B023
            answer = box.get("/health", port)
            assert answer is None or not answer.ok, answer.text


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="one start more: tests/soak runs it")
def test_without_io_uring(card, tmp_path):
    """Where the kernel refuses it, files are read the other way, and the box says why."""
    with Machine(card, tmp_path / "serial.log", direct=True, append="sysctl.kernel.io_uring_disabled=2") as box:
        box.up()
        disk = api(box, "/status")["disk"]
        assert disk["backend"] == "blocking" and "io_uring_setup: Operation not permitted" in disk["backend_reason"], disk
        scanned(box)
