"""An update by the API: the other slot is written, tried, found good and kept; one that does not work leads back."""
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import requests
from machine import IMAGES, LONG, Machine, parse_slots
from test_boot import KEY, SEED, api, card, until  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
SIGNING = os.environ.get("SLSKDN_IMAGE_KEY", "")
CUTS = int(os.environ.get("SLSKDN_SOAK_CUTS", "0"))


def bundle(tmp_path, source, version, key=SIGNING):
    """What `image/build` left in a folder, under another version, as one signed file."""
    folder = tmp_path / f"of {version}".replace(" ", "-")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.img", "*.img.xz"))
    about = folder / "slot" / "slot"
    about.write_text("\n".join(f"version={version}" if line.startswith("version=") else line
                               for line in about.read_text().splitlines()) + "\n")
    subprocess.run(["signify-openbsd", "-S", "-s", key, "-m", about, "-x", f"{about}.sig"], check=True)
    out = tmp_path / f"{version}.update"
    subprocess.run([ROOT / "image/bundle", "--key", key, "--boards", "qemu-virt", folder / "slot", out], check=True)
    shutil.rmtree(folder)
    return out


def install(box, file):
    with open(file, "rb") as body:
        return requests.post(f"http://{box.host}:{box.tools}/api/update", headers={"X-API-Key": KEY}, data=body, timeout=LONG)


def test_an_update_is_cut_off_then_written_tried_and_kept(card, tmp_path):  # noqa: F811
    """The plug is pulled once while the other slot is written or compared; the next start needs no hand, the next update works."""
    chance = random.Random(SEED)
    step, part = chance.choice(("writing", "comparing")), chance.random()
    print(f"SOAK_SEED={SEED} the plug is pulled while {step}, at {part:.2f}")
    log = tmp_path / "serial.log"
    with Machine(card, log, cache="writeback") as box:
        box.up()
        pulled(box, bundle(tmp_path, IMAGES / "qemu-virt", "9.0.0"), step, part, "9.0.0")
    update = bundle(tmp_path, IMAGES / "qemu-virt", "9.0.1")
    with Machine(card, log) as box:
        box.up()
        # Had the update come to its end before the plug was out, it is one of the two, whole.
        was = until("a version is found good", lambda: settled(box), LONG)
        assert (was["name"], was["version"]) in (("A", "0.1.0"), ("B", "9.0.0")), was
        other = {"A": "B", "B": "A"}[was["name"]]
        answer = install(box, update)
        assert answer.ok, answer.text
        # It restarts by itself.
        box.wait(rf"slskdn-initrd: slot {other}, 9\.0\.1, on /dev/vda")
        box.wait(r"Startup finished in", times=2)
        # No tries of that slot while it is tried, three once it was found good.
        until("the new slot is found good", lambda: f"BOOT_{other}_LEFT=3".encode() in card.read("slots.txt"), LONG)
        box.up()
        assert "9.0.1" in str(api(box, "/appliance"))
        box.shut_down()
    assert card.slots() == (f"{other} {was['name']}", 3, 3)


# Starts three times in vain, and is all there otherwise: the real program lies behind the script.
UNHEALTHY = """#!/bin/sh
case " $* " in *" serve "*) echo "this version does not start" >&2; exit 1 ;; esac
[ -x /run/slskdn-real ] || { tail -c +@AT@ "$0" >/run/slskdn-real.$$ && chmod 755 /run/slskdn-real.$$ && mv /run/slskdn-real.$$ /run/slskdn-real; }
exec /run/slskdn-real "$@"
"""


def unhealthy(path):
    # The number that takes the word's place is as long as the word.
    script = UNHEALTHY.replace("@AT@", f"{len(UNHEALTHY) + 1:04}").encode()
    path.write_bytes(script + Path(os.environ["SLSKDN_IMAGE_BINARY"]).read_bytes())
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="builds other images: tests/soak runs it")
@pytest.mark.parametrize("what", ["cannot be run", "fails"])
def test_a_program_that_does_not_start_leads_back(card, tmp_path, what):  # noqa: F811
    """By the version's own rescue service and its check of health, or, where its program is none, by systemd alone."""
    broken = tmp_path / "broken"
    program = "/bin/false" if what == "cannot be run" else unhealthy(tmp_path / "unhealthy")
    subprocess.run([ROOT / "image/build", "--plain", "--key", SIGNING, "--binary", program, "--out", broken, "qemu-virt"],
                   check=True, capture_output=True)
    update = bundle(tmp_path, broken, "9.0.0")
    with Machine(card, tmp_path / "serial.log") as box:
        box.up()
        assert install(box, update).ok
        box.wait(r"slskdn-initrd: slot B, 9\.0\.0, on /dev/vda3")
        box.wait(r"slskdn-initrd: slot A, ", 2 * LONG, times=2)
        box.up()
        told = str(api(box, "/appliance"))
        assert "9.0.0" in told, told
        assert what != "fails" or "slskdn did not start three times in a row" in told, told
        # Else it may be between the two copies of what it writes down.
        box.wait(r"(?s)slskdn-initrd: slot B, .*slskdn-initrd: slot A, .*slot A is found good")
        box.shut_down()
    order, a, b = card.slots()
    assert (order, b) == ("B A", 0), (order, a, b)


def moments(chance):
    """When the plug is pulled: steps of the update one after the other, each somewhere within; then within the restart."""
    while True:
        for step in ("writing", "comparing", "firmware", "count", "initrd", "checking", "trial"):
            yield step, chance.random()


def await_moment(box, step, part, version):
    if step == "firmware":
        return box.wait("Restarting system|reboot: ")
    if step == "count":
        # U-Boot has read which slot comes next, and notes, in two files, that it tries it: before the first or behind it.
        word, times = (b"512 bytes read", 2) if part < 0.5 else (b"512 bytes written", 3)
        box.wait("Restarting system|reboot: ")
        end = time.monotonic() + LONG
        while box.log.read_bytes()[box.since:].count(word) < times:
            assert time.monotonic() < end, box.tail()
        return None
    if step == "initrd":
        return box.wait(rf"slskdn-boot: slot [AB], tries left (A 0|.* B 0)") and time.sleep(part * 5)
    if step == "trial":
        # Started, and not yet found good.
        return box.wait(rf"slskdn-initrd: slot [AB], {version}, on") and time.sleep(part * 20)

    def there():
        now = (api(box, "/appliance") or {}).get("progress") or {}
        order = ["checking", "writing", "comparing", "restarting"]
        if now.get("step") not in order:
            return None
        at, want = order.index(now["step"]), order.index(step)
        return at > want or (at == want and now["done"] >= part * now["all"])

    # It may restart before the answer is there.
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        try:
            if there():
                return None
        except requests.RequestException:
            return None
        time.sleep(0.05)
    raise AssertionError(f"the update never came to {step}\n{box.tail()}")


def pulled(box, update, step, part, version):
    """Starts an update and pulls the plug at a moment of it."""
    answer = install(box, update)
    assert answer.ok, answer.text
    await_moment(box, step, part, version)
    box.cut()
    update.unlink()


@pytest.mark.skipif(CUTS == 0, reason="takes four minutes a cut: tests/soak runs it, tests/all has one cut above")
def test_the_plug_is_pulled_during_an_update(card, tmp_path):  # noqa: F811
    """Whatever moment it is, the next start needs no hand, and what it starts is one of the two versions, whole."""
    print(f"SOAK_SEED={SEED} CUTS={CUTS}")
    chance = random.Random(SEED)
    log, known, met = tmp_path / "serial.log", "0.1.0", {}
    for number, (step, part) in zip(range(CUTS), moments(chance)):
        version = f"9.0.{number}"
        update = bundle(tmp_path, IMAGES / "qemu-virt", version)
        with Machine(card, log, cache="writeback") as box:
            box.up()
            until("no trial goes on", lambda: settled(box), LONG)
            pulled(box, update, step, part, version)
        met[step] = met.get(step, 0) + 1
        print(f"cut {number}: {step} {part:.2f}: {believed(card)}")
        with Machine(card, log, cache="writeback") as box:
            box.up()
            runs = box.wait(r"slskdn-initrd: slot ([AB]), (\S+), on")
            assert runs[2] in (known, version), (runs[0], known, version)
            now = until("a version is found good", lambda: settled(box), LONG)
            assert now["version"] in (known, version), (now, known, version)
            known = now["version"]
            box.shut_down()
    print(f"FIGURE power cuts during an update: {met}")


def believed(disk):
    """What the next start reads: the first copy that is whole."""
    for name in ("slots.txt", "slots2.txt"):
        try:
            return parse_slots(disk.read(name))
        except (AssertionError, TypeError):
            continue
    return None


def settled(box):
    """The systems on the card, once the one that runs was found good."""
    try:
        found = api(box, "/appliance")["systems"]
    except requests.RequestException:
        return None
    # Nothing is told of them before the start was looked at.
    running = next((slot for slot in found["slots"] if slot["name"] == found["running"]), None)
    return running if running and running["tries_left"] == 3 else None
