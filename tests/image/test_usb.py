"""Disks on USB, plugged in while the box runs: mounted by udev, seen by the program in its sandbox, let go of when pulled out."""
import hashlib
import os
import subprocess

import pytest
from machine import HERE_IS, LONG, NETWORK, Disk, Machine, tool
from test_boot import TONES, api, finished, prepared, rows, search, tone, until, world  # noqa: F401
from test_running import Shell
from world import Peer, free_port

MIB = 1 << 20
# Name of the disk, and what the kernel calls its file system.
KINDS = {"ext4": "ext4"} | ({"vfat": "vfat", "exfat": "exfat", "ntfs": "ntfs3"} if os.environ.get("SLSKDN_IMAGE_MORE") == "1" else {})


def stick(kind, path):
    """A disk without partitions and with a label. Only ext4 can be filled without being mounted."""
    subprocess.run(["truncate", "-s", str(96 * MIB), path], check=True)
    label = f"Music {kind}"
    if kind == "ext4":
        (path.parent / "on it").mkdir()
        tone(path.parent / "on it" / "ext4.wav", 900)
        tool("mkfs.ext4", "-q", "-L", label, "-d", path.parent / "on it", path)
    elif kind == "vfat":
        tool("mformat", "-i", path, "-F", "-v", "MUSIC VFAT", "::")
    elif kind == "exfat":
        tool("mkfs.exfat", "-L", label, path)
    else:
        tool("mkntfs", "-q", "-Q", "-F", "-L", label, path)


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usb")
    card = prepared(folder)
    card.write("network", NETWORK.encode())
    shell = Shell(folder)
    card.write("authorized_keys", shell.public)
    with Machine(card, folder / "serial.log", on_cable=True, more=["-device", "qemu-xhci,id=usb"]) as box:
        box.up()
        box.shell, box.folder = shell, folder
        until("SSH answers", lambda: shell.run("true", check=False).returncode == 0, LONG)
        yield box


def disks(box):
    return {disk["name"].lower(): disk for disk in api(box, "/appliance")["disks"]}


def share(box, *folders):
    api(box, "/settings", "POST", json={"shares.directories": "\n".join(folders)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_is_plugged_in_shared_and_pulled_out(box, kind):
    path = box.folder / f"{kind}.img"
    stick(kind, path)
    assert api(box, "/appliance")["disks"] == []
    box.command("blockdev-add", **{"driver": "raw", "node-name": kind, "file": {"driver": "file", "filename": str(path)}})
    box.command("device_add", driver="usb-storage", id=f"stick-{kind}", drive=kind, bus="usb.0")
    [name] = until("the box offers it", lambda: disks(box), LONG)
    disk = disks(box)[name]
    assert name == f"music-{kind}" and disk["kind"] == KINDS[kind] and disk["shared"] is False and disk["total"] > 64 * MIB, disk

    # The program has it, in a namespace of its own; nothing on it runs, and nothing of it is a device.
    options = box.shell.run(f"findmnt --noheadings --output OPTIONS '{disk['path']}'").split(",")
    assert {"nosuid", "nodev", "noexec"} <= {option.strip() for option in options}, options
    if kind != "ext4":
        box.shell.run(f"cp /data/music/0-tone.wav '{disk['path']}/{kind}.wav' && sync")
        # Files without owners are the program's, and nobody else reads them; nothing is run from there in any case.
        # On NTFS a file of this shell's has its owner all the same, and the root of the disk is open to all.
        file, rights = (disk["path"], "777") if kind == "ntfs" else (f"{disk['path']}/{kind}.wav", "750")
        assert box.shell.run(f"stat -c '%u %a' '{file}'").split() == ["989", rights]

    # What the page's button does.
    share(box, "/data/music", f"[{name}]{disk['path']}")
    until("its file is shared", lambda: api(box, "/status")["shares"]["files"] == TONES + 1, LONG)
    assert disks(box)[name]["shared"] is True

    box.command("device_del", id=f"stick-{kind}")
    until("it is gone", lambda: not disks(box), LONG)
    assert not box.shell.run("ls -A /data/media").strip()
    share(box, "/data/music")
    until("only the card's are left", lambda: api(box, "/status")["shares"]["files"] == TONES, LONG)
    assert box.shell.run("systemctl is-active slskdn.service").strip() == "active"


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="one start more: tests/soak runs it")
@pytest.mark.parametrize("kind", ["vfat", "exfat"])
def test_downloads_go_to_a_disk_and_wait_for_it(world, tmp_path, kind):  # noqa: F811
    """Names that Linux allows are made fit for it; a box without it comes up, and nothing that was fetched is fetched again."""
    offered = world.tmp / "share-friend" / "Why?"
    offered.mkdir(parents=True)
    content = os.urandom(3_000_000)
    (offered / 'A "quoted" song: what is it?.mp3').write_bytes(content)
    Peer(world, "nicotine", "friend", free_port(), "--bind", HERE_IS)
    stick(kind, path := tmp_path / f"{kind}.img")
    card, shell = prepared(tmp_path, world.port), Shell(tmp_path)
    card.write("network", NETWORK.encode())
    card.write("authorized_keys", shell.public)
    with Machine(card, tmp_path / "serial.log", on_cable=True, more=["-device", "qemu-xhci,id=usb"]) as box:
        box.up()
        until("SSH answers", lambda: shell.run("true", check=False).returncode == 0, LONG)

        def plug():
            box.command("device_add", driver="usb-storage", id="stick", drive=kind, bus="usb.0")
            return until("the box has it", lambda: disks(box).get(f"music-{kind}"), LONG)

        def start_anew():
            shell.run("systemctl restart slskdn.service")
            until("the page is back", lambda: box.get("/ready") is not None, LONG)

        box.command("blockdev-add", **{"driver": "raw", "node-name": kind, "file": {"driver": "file", "filename": str(path)}})
        disk = plug()
        assert (disk["writable"], disk["downloads"]) == (True, False), disk
        api(box, "/settings", "POST", json={"directories.downloads": f"{disk['path']}/Downloads"})
        assert disks(box)[f"music-{kind}"]["downloads"]
        box.command("device_del", id="stick")
        until("it is gone", lambda: not disks(box), LONG)
        start_anew()
        until("its absence is told", lambda: any("is not there" in told for told in api(box, "/status")["warnings"]), LONG)
        [remote] = search(box, "quoted song", lambda found: len(found) == 1)
        api(box, "/v0/transfers/downloads/friend", "POST", json=[{"filename": remote, "size": len(content)}])

        def reason():
            folders = api(box, "/v0/transfers/downloads/friend")["directories"]
            return folders[0]["files"][0].get("exception") or ""

        until("the file waits for it", lambda: "downloads folder" in reason(), LONG)
        # Also over a start.
        start_anew()
        until("it waits again", lambda: "downloads folder" in reason(), LONG)
        assert not shell.run("ls -A /data/media").strip()
        plug()
        until("the file is there", lambda: finished(box, remote), LONG)
        assert not any("is not there" in told for told in api(box, "/status")["warnings"])
        [kept] = shell.run(f"find '{disk['path']}/Downloads' -type f").splitlines()
        assert kept == f"{disk['path']}/Downloads/Why_/A _quoted_ song_ what is it_.mp3", kept
        assert shell.run(f"sha256sum '{kept}'").split()[0] == hashlib.sha256(content).hexdigest()
        assert list(rows(box).values()) == ["Completed, Succeeded"]


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="one start more: tests/soak runs it")
def test_another_card_in_a_reader_is_not_taken_for_this_one(tmp_path):
    """Both have the same names and numbers. What U-Boot started from counts: in QEMU that is the one in the reader."""
    started, other = Disk("qemu-virt", tmp_path / "reader.img"), Disk("qemu-virt", tmp_path / "card.img")
    before = other.slots(), other.path.read_bytes()[: 8 * MIB]
    reader = ["-device", "qemu-xhci,id=usb", "-drive", f"if=none,id=r,file={started.path},format=raw", "-device", "usb-storage,drive=r,bus=usb.0"]
    for _ in range(2):
        with Machine(other, tmp_path / "serial.log", more=reader) as box:
            box.wait(r"slskdn-initrd: slot A, \S+, on /dev/sda2")
            box.up()
            box.shut_down()
    assert (other.slots(), other.path.read_bytes()[: 8 * MIB]) == before
    assert started.has("set-up-code.txt") and not other.has("set-up-code.txt")
