"""Two slots: a damaged one leads back to the other without a hand, and the count of tries is never lost."""
import base64
import os
import random

import pytest
from machine import IMAGES, Disk, Machine


def more(*cases):
    """Cases that tests/soak runs besides."""
    return cases if os.environ.get("SLSKDN_IMAGE_MORE") == "1" else ()


SLOT = IMAGES / "qemu-virt" / "slot"


@pytest.fixture
def updated(tmp_path):
    """A card after an update: slot B written, first in the order, one try."""
    disk = Disk("qemu-virt", tmp_path / "card.img")
    disk.put_slot("B", SLOT)
    disk.set_slots("B A", 3, 1)
    return disk


def spoil(path, at):
    data = bytearray(path)
    data[at] ^= 0x40
    return bytes(data)


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="two starts more; test_update.py has an update: tests/soak runs it")
def test_the_new_slot_is_tried_once(updated, tmp_path):
    with Machine(updated, tmp_path / "serial.log") as box:
        box.wait(r"slskdn-boot: slot B, tries left A 3 B 0")
        box.wait(r"slskdn-initrd: slot B, \S+, on /dev/vda3")
        # Nobody confirms it before the plug is pulled.
        box.cut()
    assert updated.slots() == ("B A", 3, 0)
    with Machine(updated, tmp_path / "serial.log") as box:
        box.wait(r"slskdn-initrd: slot A, \S+, on /dev/vda2")


@pytest.mark.parametrize("what", ["kernel", "root", *more("initrd", "signature", "missing")])
def test_a_damaged_slot_leads_back(updated, tmp_path, what):
    kernel = (SLOT / "Image").read_bytes()
    if what == "kernel":
        updated.write("B/Image", spoil(kernel, len(kernel) // 2))
    elif what == "initrd":
        updated.write("B/initrd", b"\0" * 4096)
    elif what == "root":
        size = (SLOT / "root.squashfs").stat().st_size
        at = random.Random(7).randrange(size)
        updated.overwrite(3, spoil((SLOT / "root.squashfs").read_bytes()[at : at + 1], 0), at)
    elif what == "signature":
        about = (SLOT / "slot").read_bytes()
        updated.write("B/slot", about.replace(b"version=", b"version=9"))
    else:
        updated.fat("mdel", "::/B/Image")
    with Machine(updated, tmp_path / "serial.log") as box:
        box.wait(r"slskdn-boot: slot B, tries left A 3 B 0")
        box.wait(r"slskdn-initrd: slot A, \S+, on /dev/vda2")
        box.cut()
    assert updated.slots() == ("B A", 2, 0)
    if what in ("root", "signature"):
        assert updated.read("why.txt").decode().startswith("slot B refused: ")


@pytest.mark.parametrize("spoilt", [["slots.txt"], *more(["slots2.txt"], ["slots.txt", "slots2.txt"])])
def test_a_half_written_slots_file(updated, tmp_path, spoilt):
    """One good copy is believed; without any the order is A B."""
    for name in spoilt:
        updated.write(name, updated.read(name).replace(b"BOOT_B_LEFT=1", b"BOOT_B_LEFT=2"))
    expected = "A" if len(spoilt) == 2 else "B"
    with Machine(updated, tmp_path / "serial.log") as box:
        box.wait(rf"slskdn-boot: slot {expected}, ")
        box.wait(r"Starting kernel")
        box.cut()
    assert updated.slots() == (("A B", 2, 3) if expected == "A" else ("B A", 3, 0))


def test_no_tries_left_anywhere(tmp_path):
    disk = Disk("qemu-virt", tmp_path / "card.img")
    disk.set_slots("A B", 0, 0)
    with Machine(disk, tmp_path / "serial.log") as box:
        box.wait(r"slskdn-boot: slot A, tries left A 2 B 3")


@pytest.mark.parametrize("direct", [False, *more(True)], ids=lambda direct: "initrd" if direct else "U-Boot")
def test_a_try_that_cannot_be_counted_is_not_made(updated, tmp_path, direct):
    """A card that takes nothing any more, as worn out ones do."""
    with Machine(updated, tmp_path / "serial.log", read_only=True, direct=direct) as box:
        box.wait(r"cannot write slots\.txt" if direct else r"slskdn-boot: slots\.txt cannot be written")
        box.wait(r"slskdn-initrd: slot A, " if direct else r"slskdn-boot: slot A, ")
        box.cut()
    assert updated.slots() == ("B A", 3, 1)


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="two starts more: tests/soak runs it")
def test_a_version_that_hangs_leads_back(updated, tmp_path):
    """Nobody ever looks whether it is well; its timer gives it up, here after 40 s instead of 15 minutes."""
    note = tmp_path / "trial.json"
    note.write_text("{}")
    updated.debugfs("mkdir /update", f"write {note} /update/trial.json")
    sooner = base64.b64encode(b"[Timer]\nOnStartupSec=\nOnStartupSec=40\n").decode()
    append = f"systemd.mask=slskdn-confirm.service systemd.set_credential_binary=systemd.unit-dropin.slskdn-giveup.timer:{sooner}"
    # Without U-Boot the initrd counts the tries.
    with Machine(updated, tmp_path / "serial.log", direct=True, append=append) as box:
        box.wait(r"slskdn-initrd: slot B, \S+, on /dev/vda3")
        box.wait(r"slskdn-initrd: slot A, \S+, on /dev/vda2")
        box.cut()
    assert updated.slots() == ("B A", 2, 0)
