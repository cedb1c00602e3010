"""The appliance's own commands on a folder that stands for the box: updates, the owner's files, the set-up code, the rescue
page; and the Debian package. Bundles are signed by openssl, which knows nothing of us."""
import base64
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import time
import zlib

import pytest
import requests

from box import BINARY, HERE, Box, lines, refuses, run
from world import Process, free_port, until

ROOT = HERE.parents[1]
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1 << 30)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Key:
    """A key pair of openssl in signify's clothes."""

    def __init__(self, folder, name="key"):
        self.path = folder / f"{name}.pem"
        self.number = hashlib.sha256(name.encode()).digest()[:8]
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", self.path], check=True)
        der = subprocess.run(["openssl", "pkey", "-in", self.path, "-pubout", "-outform", "DER"], check=True,
                             capture_output=True).stdout
        self.public = self.file("public key", der[-32:])

    def file(self, what, data):
        return f"untrusted comment: {what}\n{base64.b64encode(b'Ed' + self.number + data).decode()}\n".encode()

    def sign(self, message):
        work = self.path.with_suffix(".message")
        work.write_bytes(message)
        done = subprocess.run(["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", self.path, "-in", work], check=True,
                              capture_output=True)
        return self.file("signature", done.stdout)


def system(version, key):
    """Files of a slot: the root file system apart."""
    dice = random.Random(version)
    root = dice.randbytes(3 << 20)
    slot = f"version={version}\nroot_bytes={len(root)}\nroot_sha256={sha256(root)}\n".encode()
    files = {"Image": dice.randbytes(1 << 20), "initrd": dice.randbytes(70_000),
             "dtbs/broadcom/board.dtb": dice.randbytes(900), "slot": slot, "slot.sig": key.sign(slot)}
    return root, files


def bundle(version, key, boards="test-board", signer=None, kernel=None):
    root, files = system(version, key)
    parts = {"root": root, **files}
    text = f"product=slskdn\nversion={version}\nboards={boards}\n" + (f"kernel={kernel}\n" if kernel else "")
    text += "".join(f"file={name} {len(data)} {sha256(data)}\n" for name, data in parts.items())
    signature = (signer or key).sign(text.encode())
    return b"slskdn-update 1 %08d %08d\n" % (len(text), len(signature)) + text.encode() + signature + b"".join(parts.values())


def slots_file(first, a, b):
    body = f"BOOT_A_LEFT={a}\nBOOT_B_LEFT={b}\nBOOT_ORDER={'A B' if first == 'A' else 'B A'}\n"
    return (body + f"BOOT_CHECK=0x{zlib.crc32(body.encode()):08x}\n").ljust(511).encode() + b"\n"


class Card:
    """A folder in place of the box: version 1.0.0 runs in slot A."""

    def __init__(self, tmp):
        self.root, self.key = tmp / "root", Key(tmp)
        for name in ("boot/firmware/A", "boot/firmware/B", "dev", "run/slskdn", "run/slskdn-card", "run/slskdn-node",
                     "usr/share/slskdn", "data", "etc", "var/lib/slskdn/update"):
            (self.root / name).mkdir(parents=True)
        (self.root / "usr/share/slskdn/update.pub").write_bytes(self.key.public)
        (self.root / "usr/share/slskdn/board").write_text("test-board\n")
        self.put("A", "1.0.0")
        (self.root / "dev/slot-B").write_bytes(bytes(4 << 20))
        for name in ("slots.txt", "slots2.txt"):
            (self.fat / name).write_bytes(slots_file("A", 3, 0))
        self.runs("A")

    @property
    def fat(self):
        return self.root / "boot/firmware"

    def put(self, slot, version):
        root, files = system(version, self.key)
        (self.root / f"dev/slot-{slot}").write_bytes(root.ljust(4 << 20, b"\0"))
        for name, data in files.items():
            path = self.fat / slot / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def runs(self, slot):
        (self.root / "run/slskdn/slot").write_text(f"{slot}\n")
        (self.root / "run/restarted").unlink(missing_ok=True)
        shutil.rmtree(self.root / "run/slskdn-update", ignore_errors=True)

    def slots(self):
        """First slot, tries of A and of B, by the first copy whose check is right."""
        for name in ("slots.txt", "slots2.txt"):
            data = (self.fat / name).read_bytes() if (self.fat / name).exists() else b""
            found = re.match(rb"(BOOT_A_LEFT=(\d)\nBOOT_B_LEFT=(\d)\nBOOT_ORDER=(A B|B A)\n)BOOT_CHECK=0x([0-9a-f]{8})\n", data)
            if found and int(found[5], 16) == zlib.crc32(found[1]):
                return found[4][:1].decode(), int(found[2]), int(found[3])
        return "A", 3, 3

    def starts(self, slot):
        """Whether the start program finds everything in a slot, and the version."""
        try:
            about = dict(line.split("=") for line in (self.fat / slot / "slot").read_text().splitlines())
            root = (self.root / f"dev/slot-{slot}").read_bytes()[:int(about["root_bytes"])]
            _, files = system(about["version"], self.key)
            whole = sha256(root) == about["root_sha256"] and all(
                (self.fat / slot / name).read_bytes() == data for name, data in files.items() if name != "slot.sig")
            return about["version"] if whole else None
        except (OSError, KeyError, ValueError):
            return None

    def start(self):
        """What a start does: the first slot with tries left, one less. The slot, its version, and how many starts."""
        for count in range(1, 9):
            first, a, b = self.slots()
            left = {"A": a, "B": b} if a or b else {"A": 3, "B": 3}
            slot = first if left[first] else {"A": "B", "B": "A"}[first]
            left[slot] -= 1
            for name in ("slots2.txt", "slots.txt"):
                (self.fat / name).write_bytes(slots_file(first, left["A"], left["B"]))
            if version := self.starts(slot):
                self.runs(slot)
                return slot, version, count
        raise AssertionError("no slot starts")

    def slskdn(self, *arguments, **kw):
        return run("--root", self.root, *arguments, **kw)

    def status(self):
        return json.loads(self.slskdn("update", "--status").stdout)

    def healthy(self, **more):
        note = {"healthy": True, "on_ext4": True, "store": True, "disk_backend": "io_uring", "listens": ["[::]:80"],
                "reasons": [], **more}
        (self.root / "run/slskdn-node/health.json").write_text(json.dumps(note))


@pytest.fixture
def card(tmp_path):
    return Card(tmp_path)


def test_update_try_keep_and_go_back(card, tmp_path):
    new = tmp_path / "new.update"
    new.write_bytes(bundle("1.1.0", card.key))
    told = card.slskdn("update", new)
    assert "version 1.1.0 is in slot B" in told.stdout
    assert card.slots() == ("B", 3, 1)
    assert card.start() == ("B", "1.1.0", 1) and card.slots() == ("B", 3, 0)
    # A second one has to wait until it was found good.
    assert "is being tried" in refuses("--root", card.root, "update", new)
    card.healthy()
    assert "slot B is found good" in card.slskdn("update", "--confirm").stdout
    assert card.slots() == ("B", 3, 3)
    last = card.status()["systems"]["last"]
    assert last == {"outcome": "installed", "version": "1.1.0", "from": "1.0.0", "reason": ""}
    # One that says of itself that it cannot: back at once, and why.
    worse = tmp_path / "worse.update"
    worse.write_bytes(bundle("1.2.0", card.key))
    card.slskdn("update", worse)
    assert card.slots() == ("A", 1, 3) and card.start()[:2] == ("A", "1.2.0")
    card.healthy(healthy=False, reasons=["the store does not open"])
    assert "goes back" in card.slskdn("update", "--confirm").stdout
    assert (card.root / "run/restarted").exists()
    assert card.start() == ("B", "1.1.0", 1)
    card.healthy()
    card.slskdn("update", "--confirm")
    last = card.status()["systems"]["last"]
    assert (last["outcome"], last["version"], last["from"]) == ("fell_back", "1.2.0", "1.1.0")
    assert "the store does not open" in last["reason"]
    # And one that says nothing.
    card.slskdn("update", worse)
    assert card.start()[1] == "1.2.0"
    (card.root / "run/slskdn-node/health.json").unlink()
    assert "not up within 1 seconds" in card.slskdn("update", "--confirm", "--within", "1").stdout
    assert card.start()[1] == "1.1.0"


@pytest.mark.parametrize(("slots", "why"), [(("A", 3, 0), "the last step of writing it was not done"), (("B", 3, 1), "as on a card that is worn out")], ids=["cut off", "not counted"])
def test_a_version_that_was_never_tried_did_not_fail_to_come_up(card, tmp_path, slots, why):
    new = tmp_path / "new.update"
    new.write_bytes(bundle("1.1.0", card.key))
    card.slskdn("update", new)
    # The plug is pulled when the trial is noted, and before the slot is put first; or U-Boot cannot count its try.
    for name in ("slots.txt", "slots2.txt"):
        (card.fat / name).write_bytes(slots_file(*slots))
    card.runs("A")
    card.healthy()
    card.slskdn("update", "--confirm")
    last = card.status()["systems"]["last"]
    assert (last["outcome"], last["version"], last["from"]) == ("failed", "1.1.0", "1.0.0")
    assert "it was not tried" in last["reason"] and why in last["reason"], last
    # Nobody would look after it now.
    assert card.slots() == ("A", 3, 0) and card.start()[:2] == ("A", "1.0.0")
    card.slskdn("update", new)
    assert card.start()[:2] == ("B", "1.1.0")


@pytest.mark.parametrize("why", ["", "slot B refused: the root file system is not what was signed"], ids=["cut short", "refused"])
def test_a_good_version_that_is_lost_is_told(card, tmp_path, why):
    new = tmp_path / "new.update"
    new.write_bytes(bundle("1.1.0", card.key))
    card.slskdn("update", new)
    card.start()
    card.healthy()
    card.slskdn("update", "--confirm")
    # The plug is pulled in each start, before it was found good; or the initrd does not take it.
    if why:
        (card.fat / "why.txt").write_text(f"{why}\n")
        for name in ("slots.txt", "slots2.txt"):
            (card.fat / name).write_bytes(slots_file("B", 3, 0))
    else:
        assert [card.start()[0] for _ in range(3)] == ["B"] * 3
    assert card.start()[:2] == ("A", "1.0.0")
    card.healthy()
    card.slskdn("update", "--confirm")
    last = card.status()["systems"]["last"]
    assert (last["outcome"], last["version"], last["from"]) == ("fell_back", "1.1.0", "1.0.0")
    assert (why or "as when the plug is pulled each time") in last["reason"], last
    # Once: what comes of the next update is not covered by it.
    card.slskdn("update", new)
    card.start()
    card.healthy()
    card.slskdn("update", "--confirm")
    assert card.status()["systems"]["last"]["outcome"] == "installed"


def test_a_version_without_its_data_goes_back(card, tmp_path):
    new = tmp_path / "new.update"
    new.write_bytes(bundle("1.1.0", card.key))
    card.slskdn("update", new)
    assert card.start()[1] == "1.1.0"
    # What notes the trial lies on the data partition, so only the counters tell.
    (card.root / "data").rename(card.root / "away")
    card.healthy()
    (card.root / "var/lib/slskdn/update").rename(card.root / "update away")
    (card.root / "var/lib/slskdn/update").mkdir()
    assert "without its data" in card.slskdn("update", "--confirm", "--within", "1").stdout
    assert (card.root / "run/restarted").exists() and card.start()[1] == "1.0.0"


def test_a_version_whose_program_does_not_run_goes_back(card, tmp_path):
    """What the unit asks before it restarts the box, word for word but for the places."""
    unit = (ROOT / "systemd/appliance/slskdn-giveup.service").read_text()
    shell = re.search(r"ExecCondition=/bin/sh -c '(.*)'\n", unit)[1].replace("$$", "$")
    for place in ("/run/", "/boot/", "/data"):
        shell = shell.replace(place, f"{card.root}{place}")
    # A folder is never a mount point; a word stands for that.
    (tmp_path / "bin").mkdir()
    mountpoint = tmp_path / "bin/mountpoint"
    mountpoint.write_text(f'#!/bin/sh\n[ "$1 $2" = "-q {card.root}/data" ] && [ -e {tmp_path}/mounted ]\n')
    mountpoint.chmod(0o755)
    (tmp_path / "mounted").touch()

    def gives_up():
        return subprocess.run(["sh", "-c", shell], env={**os.environ, "PATH": f"{mountpoint.parent}:{os.environ['PATH']}"}).returncode == 0
    assert "OnFailure=slskdn-giveup.service" in (ROOT / "systemd/appliance/slskdn-confirm.service").read_text()
    card.start()
    assert not gives_up(), "a slot that was found good"
    new = tmp_path / "new.update"
    new.write_bytes(bundle("1.1.0", card.key))
    card.slskdn("update", new)
    assert not gives_up(), "the slot that writes the update"
    assert card.start()[1] == "1.1.0" and gives_up()
    assert card.start()[1] == "1.0.0" and not gives_up(), "it went back"
    card.healthy()
    card.slskdn("update", "--confirm")
    (card.root / "data/slskdn").mkdir()
    for name in ("slots.txt", "slots2.txt"):
        (card.fat / name).write_bytes(slots_file("A", 0, 3))
    assert not gives_up(), "the third start with a mistake in its configuration, say: nothing was tried"
    (tmp_path / "mounted").unlink()
    assert gives_up(), "without data nobody can note what is tried; the folder is there in memory, too"
    for name in ("slots.txt", "slots2.txt"):
        (card.fat / name).write_bytes(slots_file("A", 0, 0))
    assert not gives_up(), "there is nothing to go back to"


def test_updates_that_are_refused(card, tmp_path):
    file = tmp_path / "update"

    def refused(data, *options):
        file.write_bytes(data)
        return refuses("--root", card.root, "update", file, *options)
    good = bundle("1.1.0", card.key)
    assert "older than 1.0.0" in refused(bundle("0.9.0", card.key))
    assert "for other-board" in refused(bundle("1.1.0", card.key, boards="other-board"))
    assert "another key" in refused(bundle("1.1.0", card.key, signer=Key(tmp_path, "stranger")))
    # Where EFI starts the kernel it stays what it is.
    (card.root / "usr/share/slskdn/kernel").write_text("6.12.1-test\n")
    assert "for 6.12.1-test, the kernel" in refused(good, "--force")
    assert "for 6.12.1-test, the kernel" in refused(bundle("1.1.0", card.key, kernel="6.12.2-test"))
    (card.root / "usr/share/slskdn/kernel").unlink()
    assert "does not begin as one" in refused(b"PK\3\4" + good)
    assert "cut off" in refused(good[:-1])
    dice = random.Random(SEED)
    print(f"SOAK_SEED={SEED}")
    for at in sorted(dice.sample(range(len(good)), 12)):
        wrong = bytearray(good)
        wrong[at] ^= 1 << dice.randrange(8)
        refused(bytes(wrong))
    assert card.slots() == ("A", 3, 0) and card.start() == ("A", "1.0.0", 1), "nothing was touched"
    card.runs("A")
    (card.root / "usr/share/slskdn/kernel").write_text("6.12.1-test\n")
    file.write_bytes(bundle("0.9.0", card.key, kernel="6.12.1-test"))
    card.slskdn("update", file, "--force")
    assert card.start()[:2] == ("B", "0.9.0")


def test_an_update_killed_at_any_moment_leaves_a_slot_that_starts(card, tmp_path):
    file = tmp_path / "update"
    dice = random.Random(SEED)
    print(f"SOAK_SEED={SEED}")
    seen = set()
    for turn in range(int(os.environ.get("UPDATE_KILLS", "12"))):
        running = card.start()[0]
        card.healthy()
        card.slskdn("update", "--confirm")
        version = f"2.{turn}.0"
        file.write_bytes(bundle(version, card.key))
        process = subprocess.Popen([BINARY, "--root", card.root, "update", file], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            process.wait(dice.uniform(0, 0.4))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        slot, found, starts = card.start()
        assert starts == 1 and (found == version) == (slot != running)
        seen.add(found == version)
    print("came up:", seen)


def test_the_owners_files(card):
    (card.fat / "hostname").write_text("attic\r\n")
    (card.fat / "network").write_text("address=10.0.0.5/24\r\ngateway=10.0.0.1\r\n")
    (card.fat / "authorized_keys").write_text("ssh-ed25519 " + "A" * 68 + " me\r\nnonsense\r\n")
    (card.fat / "slskdn.yml").write_text("soulseek:\r\n  username: me\r\n  pasword: x\r\n")
    told = card.slskdn("card", "read").stdout
    assert "authorized_keys: line 2" in told and "soulseek.pasword" in told, told
    assert (card.root / "etc/hostname").read_text() == "attic\n"
    assert "Gateway=10.0.0.1" in (card.root / "run/systemd/network/05-slskdn.network").read_text()
    keys = card.root / "root/.ssh/authorized_keys"
    assert keys.read_text().count("\n") == 1 and keys.stat().st_mode & 0o777 == 0o600
    # A folder, a device, something huge where a file should be: told, and the box comes up.
    (card.fat / "hostname").unlink()
    (card.fat / "hostname").mkdir()
    (card.fat / "network").unlink()
    os.mkfifo(card.fat / "network")
    (card.fat / "slskdn.yml").write_bytes(b"#" * (2 << 20))
    told = card.slskdn("card", "read").stdout
    assert all(f"{name}: " in told for name in ("hostname", "network", "slskdn.yml")), told


class Node(Box):
    """Our daemon; the owner's way in without a password is the control socket."""

    def control(self, method, path, body=None):
        done = subprocess.run(["curl", "-sS", "-X", method, "--unix-socket", self.home / "control.sock", "-H", "Host: localhost",
                               *([] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]),
                               f"http://localhost{path}"], capture_output=True, text=True, check=True)
        return done.stdout

    def form(self, path, /, **fields):
        """A form sent by a browser without scripts; what it is answered, with the head."""
        data = [x for name, value in fields.items() for x in ("--data-urlencode", f"{name}={value}")]
        done = subprocess.run(["curl", "-sS", "-i", "--unix-socket", self.home / "control.sock", "-H", "Host: localhost", *data,
                               f"http://localhost{path}"], capture_output=True, text=True, check=True)
        return done.stdout

    def local(self, path):
        text = self.control("GET", path)
        return type("Answer", (), {"text": text, "json": lambda _: json.loads(text)})()


@pytest.fixture
def node(card, tmp_path):
    """The daemon on that box."""
    one = Node(tmp_path, "box", web__address="0.0.0.0")
    home = card.root / "var/lib/slskdn"
    one.home = home
    flags = one.flags
    one.flags = lambda: ["--root", card.root, "--card", card.root / "run/slskdn-card", *flags()]
    yield one
    one.stop()


def test_the_daemon_on_the_appliance(card, node, tmp_path):
    (card.fat / "slskdn.yml").write_text("soulseek:\n  username: me\n  password: hunter2\n  prot: 1\n")
    card.slskdn("card", "read")
    node.start()
    # The code: on the boot partition until it is used.
    asked = card.root / "run/slskdn-node/card"
    code = until("the code is left", lambda: (asked / "set-up-code").exists() and (asked / "set-up-code").read_text())
    told = card.slskdn("card", "write").stdout
    assert code in told
    assert code in (card.fat / "set-up-code.txt").read_text()
    # The password has left the card, and is kept where nobody else reads it.
    assert "hunter2" not in (card.fat / "slskdn.yml").read_text()
    kept = node.home / "identity/secrets.yml"
    assert "hunter2" in kept.read_text() and kept.stat().st_mode & 0o777 == 0o600
    assert (card.fat / "slskdn.yml").read_text() == "soulseek:\n  username: me\n  password: ~\n  prot: 1\n"
    session = requests.Session()
    page = session.get(f"{node.url}/setup", timeout=30).text
    token = re.search(r'name="csrf" value="([^"]*)"', page)[1]
    done = session.post(f"{node.url}/setup", headers={"Origin": node.url}, timeout=60,
                        data={"csrf": token, "code": code, "new": "a password", "again": "a password"})
    assert done.ok, done.text
    page = session.get(f"{node.url}/", timeout=30).text
    assert "soulseek.prot" in page, "a mistake on the card is on the page"
    until("the code is taken back", lambda: not (asked / "set-up-code").exists())
    card.slskdn("card", "write")
    assert not (card.fat / "set-up-code.txt").exists()
    until("it is healthy", lambda: (card.root / "run/slskdn-node/health.json").exists())
    health = json.loads((card.root / "run/slskdn-node/health.json").read_text())
    assert health["store"] and health["disk_backend"] and health["listens"], health
    # Nobody passed it the socket of port 80, where people look for it.
    assert any("port 80:" in reason for reason in health["reasons"]) and not health["healthy"], health
    card.healthy()
    card.slskdn("update", "--confirm")

    # An update by the page, without scripts.
    page = session.get(f"{node.url}/system", timeout=30).text
    assert "1.0.0" in page and "<b>runs</b>" in page
    action = re.search(r'action="(/system/update[^"]*)"', page)[1]
    assert session.post(f"{node.url}/system/update", headers={"Origin": node.url}, timeout=60,
                        files={"file": b"x"}).status_code == 403, "without the token"

    def upload(data, to=action, **kw):
        return session.post(f"{node.url}{to}", headers={"Origin": node.url}, files={"file": ("a.update", data)}, timeout=60, **kw)
    assert "does not begin as one" in upload(b"something else").text
    older = bundle("0.9.0", card.key)
    assert "older than 1.0.0" in upload(older).text
    (card.root / "usr/share/slskdn/kernel").write_text("6.12.1-test\n")
    assert "for 6.12.1-test, the kernel" in upload(bundle("1.1.0", card.key, kernel="6.12.2-test")).text
    (card.root / "usr/share/slskdn/kernel").unlink()
    assert not (node.home / "update/request").exists() and not (node.home / "update/upload").exists()
    done = upload(bundle("1.1.0", card.key))
    assert done.ok and "The update is right" in done.text, done.text
    assert (node.home / "update/request").exists()
    again = upload(bundle("1.1.0", card.key))
    assert again.status_code == 429 and "is being installed" in again.text
    # What systemd does when the request is there.
    card.slskdn("update", "--requested")
    assert (card.root / "run/restarted").exists() and card.slots() == ("B", 3, 1)
    assert not (node.home / "update/request").exists() and not (node.home / "update/bundle").exists()
    assert "Restarting" in session.get(f"{node.url}/system", timeout=30).text
    view = session.get(f"{node.url}/api/appliance", timeout=30).json()
    assert view["is_appliance"] and view["progress"]["step"] == "restarting" and view["systems"]["running"] == "A"
    # It does not come up; the page says so afterwards.
    assert card.start()[:2] == ("B", "1.1.0")
    (card.fat / "why.txt").write_text("slot B refused: the root file system does not mount\n")
    assert card.start()[:2] == ("A", "1.0.0")
    card.healthy()
    card.slskdn("update", "--confirm")
    page = session.get(f"{node.url}/system", timeout=30).text
    assert "went back from version 1.1.0 to 1.0.0: slot B refused" in page

    # Nobody has set the clock of this folder.
    assert "The time was not set from the network" in page
    (card.root / "run/systemd/timesync").mkdir(parents=True)
    (card.root / "run/systemd/timesync/synchronized").touch()
    assert "The time was not set" not in session.get(f"{node.url}/system", timeout=30).text
    # Restart and off: a word for root's service, which takes it away before it does anything.
    token = re.search(r'name="csrf" value="([^"]*)"', page)[1]
    asked = card.root / "run/slskdn-node/power"
    for way, word in (("restart", "reboot"), ("off", "poweroff")):
        assert session.post(f"{node.url}/system/{way}", headers={"Origin": node.url}, timeout=60).status_code == 403, "without the token"
        assert not asked.exists()
        done = session.post(f"{node.url}/system/{way}", headers={"Origin": node.url}, data={"csrf": token}, timeout=60)
        assert done.ok, done.text
        assert f"asked for it: {word}\n" in card.slskdn("card", "power").stdout
        assert not asked.exists()


def test_a_version_whose_state_lies_in_memory_goes_back(card, node, small_disk, tmp_path):
    new = tmp_path / "new.update"
    new.write_bytes(bundle("1.1.0", card.key))
    card.slskdn("update", new)
    assert card.start()[1] == "1.1.0"
    # It runs, but a power cut would take everything.
    subprocess.run(["mount", "--bind", small_disk(64), node.home], check=True)
    try:
        node.start()
        noted = card.root / "run/slskdn-node/health.json"
        until("it says how it is", noted.exists)
        health = json.loads(noted.read_text())
        assert not health["healthy"] and not health["on_ext4"] and health["store"], health
        told = card.slskdn("update", "--confirm").stdout
        assert "goes back" in told and "does not lie on ext4" in told, told
    finally:
        node.stop()
        subprocess.run(["umount", "--lazy", node.home], check=True)
    assert (card.root / "run/restarted").exists() and card.start()[:2] == ("A", "1.0.0")


def test_the_command_asks_the_daemon(card, node, tmp_path):
    node.start()
    file = tmp_path / "update"
    file.write_bytes(bundle("1.1.0", card.key))
    # As somebody who may not write to the card: over the control socket.
    done = subprocess.run(["curl", "-sS", "--unix-socket", node.home / "control.sock", "-H", "Host: localhost",
                           "-H", "Content-Type: application/octet-stream", "--data-binary", f"@{file}",
                           "http://localhost/api/update"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"version": "1.1.0"}, done
    assert (node.home / "update/request").exists()


def test_no_appliance_no_update(tmp_path, box):
    file = tmp_path / "update"
    file.write_bytes(b"x")
    assert "this is not the appliance" in refuses("--root", tmp_path, "update", file)
    one = box().start()
    answer = one.call("POST", "/api/update", data=b"x")
    assert answer.status_code == 404 and "not the appliance" in answer.text
    assert "not the appliance" in one.call("GET", "/system").text
    answer = one.call("POST", "/api/appliance/restart")
    assert answer.status_code == 400 and "not the appliance" in answer.text


@pytest.fixture
def disk(tmp_path):
    """A disk with a label, as udev would name it."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(16 << 20))
    (tmp_path / "on-disk").mkdir()
    (tmp_path / "on-disk/song.flac").write_bytes(b"fLaC" + bytes(1000))
    subprocess.run(["mkfs.ext4", "-q", "-L", "My Music", "-d", tmp_path / "on-disk", image], check=True)
    device = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True).stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_disk_comes_is_shared_and_goes(card, node, disk):
    (card.root / "data/media").mkdir()
    node.start()
    assert "None is plugged in" in node.local("/system").text
    told = card.slskdn("usb", "mount", disk).stdout
    try:
        path = str(card.root / "data/media/My-Music")
        assert path in told
        options = next(line for line in open("/proc/self/mounts") if path in line)
        assert all(word in options for word in ("nosuid", "nodev", "noexec", "noatime")), options
        found = node.local("/api/appliance").json()["disks"]
        assert [(d["name"], d["path"], d["kind"], d["shared"]) for d in found] == [("My-Music", path, "ext4", False)]
        assert "Share it" in node.local("/system").text
        answer = node.control("POST", "/api/settings", {"shares.directories": path})
        assert answer == "", answer
        until("the song is shared", lambda: node.local("/api/shares").json()["files"] == 1)
        assert node.local("/api/appliance").json()["disks"][0]["shared"]
        until("it is noticed", lambda: "a disk was plugged in" in node.log())
    finally:
        card.slskdn("usb", "unmount", disk)
    assert not os.path.exists(path)
    until("that is noticed", lambda: "a disk is gone" in node.log())
    # Away, and not forgotten: it may come back.
    until("its absence is told", lambda: any("My-Music" in told for told in node.local("/api/shares").json()["problems"]))
    refuses("--root", card.root, "usb", "mount", "/dev/null")


def test_downloads_go_to_a_disk(card, node, disk):
    """By the page's button, and back."""
    (card.root / "data/media").mkdir()
    card.slskdn("usb", "mount", disk)
    try:
        node.start()
        path = str(card.root / "data/media/My-Music")
        page = node.local("/system").text
        assert f"""value="{path}" aria-label="Downloads go to the disk My-Music\"""" in page, page
        token = re.search(r'name="csrf" value="([^"]*)"', page)[1]

        def press(value):
            return node.form("/system/downloads", csrf=token, path=value)

        assert "not plugged in" in press(f"{path}/..")
        assert "/system?done=downloads" in press(path)
        [found] = node.local("/api/appliance").json()["disks"]
        assert (found["downloads"], found["writable"]) == (True, True), found
        page = node.local("/system").text
        assert "downloads go to it" in page and ">Undo<" in page
        until("a restart is asked for",
              lambda: any("after a restart: directories" in told for told in node.local("/api/status").json()["warnings"]))
        node.stop()
        node.start()
        assert os.path.isdir(f"{path}/Downloads")
        node.stop()
        card.slskdn("usb", "unmount", disk)
        node.start()
        until("it is told", lambda: any(f"{path}/Downloads cannot be used" in told for told in node.local("/api/status").json()["warnings"]))
        assert not os.path.exists(path)
        assert "on none of these disks" in node.local("/system").text
        assert "/system?done=downloads" in press("")
        assert "on none of these disks" not in node.local("/system").text
    finally:
        card.slskdn("usb", "unmount", disk)
    assert "My-Music" not in (node.home / "slskdn.yml").read_text()


class Rescue:
    """The rescue page of a data directory."""

    def __init__(self, tmp, root, data):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = Process("rescue", tmp / "rescue.log", BINARY, "--root", root, "--data", data, "rescue", "--port", self.port)
        until("the page answers", self.answers)
        self.session = requests.Session()

    def answers(self):
        try:
            return requests.get(f"{self.url}/health", timeout=10).status_code == 503
        except requests.ConnectionError:
            return False

    def post(self, path, **kw):
        return self.session.post(f"{self.url}{path}", headers={"Origin": self.url}, timeout=60, **kw)

    def page(self):
        return self.session.get(self.url, timeout=30).text


def test_the_rescue_page(card, tmp_path, box):
    one = box().start()
    one.post("/api/wishlist", {"text": "something rare"})
    saved = tmp_path / "saved"
    run("--data", one.home, "backup", saved)
    assert one.stop() == 0
    (one.home / "slskdn.yml").write_text("web:\n  prot: 1\n")
    rescue = Rescue(tmp_path, card.root, one.home)
    try:
        page = rescue.page()
        assert "web.prot" in page and "Put a backup back" not in page and "<pre" not in page
        health = json.loads((card.root / "run/slskdn-node/health.json").read_text())
        assert not health["healthy"] and "web.prot" in health["reasons"][0]
        # Nothing without the code.
        assert rescue.post("/restore", files={"file": saved.read_bytes()}).status_code == 403
        assert rescue.post("/again").status_code == 403
        rescue.post("/open", data={"code": "bcdfg-hjkmn"})
        assert "That is not the code" in rescue.page() and "<pre" not in rescue.page()
        code = (card.root / "run/slskdn-node/card/set-up-code").read_text()
        foreign = requests.post(f"{rescue.url}/open", headers={"Origin": "http://evil"}, data={"code": code}, timeout=30)
        assert foreign.status_code == 403
        rescue.post("/open", data={"code": code.upper()})
        assert "<pre" in rescue.page() and "Put a backup back" in rescue.page()
        # A backup that is none changes nothing.
        rescue.post("/restore", files={"file": b"nonsense"})
        assert "was not put back" in rescue.page() and (one.home / "store/data.mdb").exists()
        shutil.rmtree(one.home / "store")
        (one.home / "store").mkdir()
        (one.home / "store/data.mdb").write_bytes(b"broken")
        rescue.post("/restore", files={"file": saved.read_bytes()})
        assert "records are back" in rescue.page(), rescue.page()
        assert (one.home / "store-set-aside-1/data.mdb").read_bytes() == b"broken"
        rescue.post("/again")
        assert rescue.process.process.wait(60) == 0
        # Who has read it on the card may need it again.
        assert (card.root / "run/slskdn-node/card/set-up-code").read_text() == code
    finally:
        rescue.process.stop()
    (one.home / "slskdn.yml").unlink()
    one.start()
    assert [wish["text"] for wish in one.get("/api/wishlist")] == ["something rare"]


def test_the_rescue_page_without_a_file_of_the_owners(card, tmp_path, box):
    """The box's own copies, and a restart, for whoever has no shell on it."""
    one = box().start()
    one.post("/api/wishlist", {"text": "something rare"})
    copy = one.home / "snapshots" / "snapshot-7.backup"
    run("--data", one.home, "backup", tmp_path / "saved")
    assert one.stop() == 0
    copy.parent.mkdir(exist_ok=True)
    (tmp_path / "saved").rename(copy)
    os.utime(copy, (1_790_000_000, 1_790_000_000))
    shutil.rmtree(one.home / "store")
    (one.home / "store").mkdir()
    (one.home / "store/data.mdb").write_bytes(b"broken")
    (one.home / "rescue-upload").write_bytes(b"cut short")
    rescue = Rescue(tmp_path, card.root, one.home)
    try:
        assert not (one.home / "rescue-upload").exists()
        assert rescue.post("/copy", data={"which": copy}).status_code == 403 and rescue.post("/restart").status_code == 403
        rescue.post("/open", data={"code": (card.root / "run/slskdn-node/card/set-up-code").read_text()})
        assert "copy of 2026-09-21 14:13 UTC" in rescue.page(), rescue.page()
        rescue.post("/copy", data={"which": "/etc/passwd"})
        assert "not there any more" in rescue.page()
        rescue.post("/copy", data={"which": copy})
        assert "records are back" in rescue.page() and copy.exists()
        assert "restarts" in rescue.post("/restart").text
        assert (card.root / "run/slskdn-node/power").read_text() == "restart"
        rescue.post("/again")
        assert rescue.process.process.wait(60) == 0
    finally:
        rescue.process.stop()
    one.start()
    assert [wish["text"] for wish in one.get("/api/wishlist")] == ["something rare"]


def test_the_rescue_page_does_not_end_while_a_backup_is_put_back(card, tmp_path, box):
    """The box's own copy is a pipe here: to be opened takes as long as nobody writes into it."""
    one = box().start()
    assert one.stop() == 0
    copy = one.home / "snapshots" / "snapshot-7.backup"
    copy.parent.mkdir(exist_ok=True)
    os.mkfifo(copy)
    rescue = Rescue(tmp_path, card.root, one.home)

    def put_back():
        with pytest.raises(requests.Timeout):
            # The visitor does not wait for it.
            rescue.session.post(f"{rescue.url}/copy", headers={"Origin": rescue.url}, data={"which": copy}, timeout=2)
        assert "is being put back" in rescue.page()

    def open_pipe():
        # Fails when nobody reads it.
        os.close(os.open(copy, os.O_WRONLY | os.O_NONBLOCK))
    try:
        rescue.post("/open", data={"code": (card.root / "run/slskdn-node/card/set-up-code").read_text()})
        put_back()
        for path, data in (("/again", None), ("/restart", None), ("/copy", {"which": copy})):
            assert rescue.post(path, data=data).url == f"{rescue.url}/", path
            assert "Another backup is being uploaded or put back" in rescue.page()
        rescue.post("/restore", files={"file": b"nonsense"})
        assert "Another backup is being uploaded or put back" in rescue.page() and not (one.home / "rescue-upload").exists()
        assert not (card.root / "run/slskdn-node/power").exists()
        open_pipe()
        until("the backup turns out to be none", lambda: "was not put back" in rescue.page())
        # Nor does it end by its service manager.
        put_back()
        rescue.process.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            rescue.process.process.wait(3)
        open_pipe()
        assert rescue.process.process.wait(60) == 0
        assert not list(one.home.glob("store-set-aside-*"))
    finally:
        rescue.process.stop()


def test_the_rescue_page_gives_up_a_version_that_is_tried(card, tmp_path):
    file = tmp_path / "update"
    file.write_bytes(bundle("1.1.0", card.key))
    card.slskdn("update", file)
    card.start()
    (card.root / "var/lib/slskdn/slskdn.yml").write_text("web:\n  prot: 1\n")
    rescue = Rescue(tmp_path, card.root, card.root / "var/lib/slskdn")
    try:
        assert "goes back" in card.slskdn("update", "--confirm").stdout
    finally:
        rescue.process.stop()
    assert card.start()[1] == "1.0.0" and "web.prot" in (card.fat / "why.txt").read_text()


# ---- The package ----

def test_the_debian_package(tmp_path):
    program = tmp_path / "slskdn"
    subprocess.run(["strip", "-o", program, BINARY], check=True)

    def build(out):
        done = subprocess.run([ROOT / "image/deb", "--binary", program, "--out", out], check=True, capture_output=True, text=True)
        return done.stdout.strip()
    package = build(tmp_path / "one")
    with open(package, "rb") as one, open(build(tmp_path / "two"), "rb") as two:
        assert one.read() == two.read(), "the same bytes each time"
    listed = subprocess.run(["dpkg-deb", "--contents", package], check=True, capture_output=True, text=True).stdout
    rows = {line.split()[-1].lstrip("."): line.split() for line in listed.splitlines() if "->" not in line}
    for path in ("/usr/bin/slskdn", "/usr/lib/systemd/system/slskdn.service", "/usr/lib/systemd/system/slskdn-web.socket",
                 "/usr/lib/systemd/system/slskdn-rescue.service", "/usr/lib/sysusers.d/slskdn.conf", "/etc/default/slskdn",
                 "/usr/share/doc/slskdn/copyright", "/usr/share/man/man1/slskdn.1.gz"):
        assert path in rows, path
    assert all(row[1] == "root/root" and row[0][8] != "w" for row in rows.values()), listed
    assert not any("card" in path or "update" in path for path in rows), "what only the image has"

    def field(name):
        return subprocess.run(["dpkg-deb", "--field", package, name], check=True, capture_output=True, text=True).stdout.strip()
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert (field("Package"), field("Version")) == ("slskdn", version)
    assert field("Architecture") == subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
    assert "libc6 (>= 2." in field("Depends")
    control = tmp_path / "control"
    subprocess.run(["dpkg-deb", "--control", package, control], check=True)
    assert (control / "conffiles").read_text() == "/etc/default/slskdn\n"
    for script in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", control / script], check=True)
        assert (control / script).stat().st_mode & 0o111
    # What it puts on the disk is what runs.
    into = tmp_path / "installed"
    subprocess.run(["dpkg-deb", "--extract", package, into], check=True)
    assert lines(run("--version", program=into / "usr/bin/slskdn")) == []
    assert b"slskdn" in gzip.decompress((into / "usr/share/man/man1/slskdn.1.gz").read_bytes())
