"""Other kernels and machines: pages of 16 KiB, a Raspberry Pi 3, EFI. Run by tests/soak; SLSKDN_IMAGE_MORE=1 switches them on."""
import contextlib
import os
import re
import struct
import subprocess
import time
import zlib

import pytest
from machine import IMAGES, LONG, NETWORK, Disk, Machine, tool
from test_boot import TONES, api, finished, of, prepared, search, shared, until, world  # noqa: F401
from test_running import Shell
from world import Peer, free_port, sha256

pytestmark = pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="tests/soak runs it")


def test_pages_of_16_kib(world, tmp_path):  # noqa: F811
    """Store, disk and scan under a kernel of larger pages."""
    peer = Peer(world, "aioslsk", "friend", free_port())
    card, shell = prepared(tmp_path, world.port), Shell(tmp_path)
    # The card of the common tests, with this kernel's slot on it.
    card.put_slot("A", IMAGES / "more" / "kernel-16k" / "slot")
    card.write("network", NETWORK.encode())
    card.write("authorized_keys", shell.public)
    with Machine(card, tmp_path / "serial.log", cpu="cortex-a76", on_cable=True) as box:
        box.up()
        until("SSH answers", lambda: shell.run("true", check=False).returncode == 0, LONG)
        assert re.search(r"KernelPageSize: +16 kB", shell.run("cat /proc/self/smaps"))
        assert api(box, "/status")["disk"]["backend"] == "io_uring"
        shared(box)
        scan = api(box, "/library/health/scans", "POST", json={})["scan_id"]
        ended = until("the scan ends", lambda: (now := of(box, scan))["status"] != "running" and now, LONG)
        assert ended["files_measured"] == TONES, ended
        name, original = next(item for item in peer.files.items() if "first song" in item[0])
        [path] = [path for path in search(box, "first song", lambda files: name in " ".join(files)) if name in path]
        api(box, "/v0/transfers/downloads/friend", "POST", json=[{"filename": path, "size": original.stat().st_size}])
        until("the file is there", lambda: finished(box, path), LONG)
        box.shut_down()
    (tmp_path / "got").mkdir()
    card.debugfs(f"rdump /slskdn/downloads {tmp_path / 'got'}")
    [got] = (tmp_path / "got").rglob(name)
    assert sha256(got) == sha256(original)
    with Machine(card, tmp_path / "serial.log", cpu="cortex-a76", on_cable=True) as box:
        box.up()
        assert api(box, f"/library/health/scans/{scan}")["files_measured"] == TONES
        assert finished(box, path)


@contextlib.contextmanager
def raspberry_pi_3(disk, folder):
    """QEMU's raspi3b does what the firmware does: it starts U-Boot with a device tree. From there all is the card's.

    The tree says what the firmware says of a newer chip, so that Linux gets another one; and the serial line is never still.
    Gives a function that waits for words on that line and returns what was told so far.
    """
    for name in ("u-boot.bin", "bcm2837-rpi-3-b.dtb"):
        (folder / name).write_bytes(disk.read(name))
    tool("fdtput", "-t", "s", folder / "bcm2837-rpi-3-b.dtb", "/", "slskdn-tree", "broadcom/bcm2837-rpi-3-b-plus.dtb")
    log = folder / "serial.log"
    with open(log, "wb") as out:
        box = subprocess.Popen(["qemu-system-aarch64", "-M", "raspi3b", "-display", "none", "-serial", "null", "-serial", "stdio",
                                "-kernel", folder / "u-boot.bin", "-dtb", folder / "bcm2837-rpi-3-b.dtb",
                                "-drive", f"if=sd,file={disk.path},format=raw,cache=unsafe"], stdin=subprocess.PIPE, stdout=out, stderr=out)

    def await_words(words, never):
        end = time.monotonic() + 2 * LONG
        while words not in (told := log.read_text(errors="replace")):
            if "slskdn-boot" not in told:
                box.stdin.write(b"x")
                box.stdin.flush()
            assert never not in told and box.poll() is None and time.monotonic() < end, told[-3000:]
            time.sleep(0.5)
        return told

    try:
        yield await_words
    finally:
        box.kill()
        box.wait()


def test_a_raspberry_pi_3(tmp_path):
    disk = Disk("rpi3", tmp_path / "card.img")
    # QEMU's watchdog of this board resets it at once when it is armed. What is said goes to the serial line, not to the screen.
    more = "systemd.watchdog_sec=0 systemd.show_status=0 systemd.journald.forward_to_console=1"
    with_command_line(disk, lambda line: line.replace("console=tty0 ", "").replace("quiet", more))
    with raspberry_pi_3(disk, tmp_path) as await_words:
        told = await_words("the page is at http://slskdn.local:80/", never="is damaged")
    assert re.search(r"slskdn-initrd: slot A, \S+, on /dev/mmcblk\dp2", told), told[-3000:]
    # The card's script is the first that U-Boot starts, whatever an EFI partition somewhere offers.
    assert "efi_mgr" not in told and "bootflow" not in told and "starting USB" not in told, told[-3000:]
    # U-Boot writes the firmware's name of the board into the tree, so its length tells which it was.
    length, plain = (len(disk.read(f"A/dtbs/broadcom/bcm2837-rpi-3-b{which}.dtb")) for which in ("-plus", ""))
    assert f"{length} bytes read" in told and length != plain, told[-3000:]
    # Its sums are good, too: of slots.txt, device tree, kernel and initrd.
    assert "slskdn-boot: slot A, tries left A 2 B 0" in told and "slots.txt is missing" not in told, told[-3000:]


def test_a_damaged_device_tree_is_not_handed_to_linux(tmp_path):
    disk = Disk("rpi3", tmp_path / "card.img")
    name = "A/dtbs/broadcom/bcm2837-rpi-3-b-plus.dtb"
    whole = bytearray(disk.read(name))
    whole[len(whole) // 2] ^= 1
    disk.write(name, bytes(whole))
    with raspberry_pi_3(disk, tmp_path) as await_words:
        await_words("slskdn-boot: slot A is damaged and does not start", never="Starting kernel")


def with_command_line(disk, change):
    """Gives the card's boot.scr another command line, with its header's two sums (U-Boot's doc/usage, legacy image)."""
    whole = disk.read("boot.scr")
    head, script = whole[:64], whole[64 + 8:].decode()
    line = re.search(r'setenv bootargs "(.*)"', script)[1]
    script = script.replace(line, change(line)).encode()
    data = struct.pack(">II", len(script), 0) + script
    fields = list(struct.unpack(">7I4s32s", head))
    fields[1], fields[3], fields[6] = 0, len(data), zlib.crc32(data)
    fields[1] = zlib.crc32(struct.pack(">7I4s32s", *fields))
    disk.write("boot.scr", struct.pack(">7I4s32s", *fields) + data)


def test_efi(tmp_path):
    """The firmware of PCs and servers starts the one EFI program; the initrd counts, since this firmware cannot."""
    disk = Disk("generic-arm64", tmp_path / "card.img")
    for tries in (2, 2):
        with Machine(disk, tmp_path / "serial.log", firmware="/usr/share/qemu-efi-aarch64/QEMU_EFI.fd") as box:
            box.wait(r"slskdn-initrd: slot A, \S+, on /dev/vda2")
            assert disk.slots() == ("A B", tries, 0)
            box.up(2 * LONG)
            # Found good: all tries again.
            until("the slot is found good", lambda: b"BOOT_A_LEFT=3" in disk.read("slots.txt"), LONG)
            box.shut_down()
    assert disk.slots() == ("A B", 3, 0)
