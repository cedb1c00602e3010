"""Disks on USB, plugged in while the box runs: mounted by udev, seen by the program in its sandbox, let go of when pulled out."""
import os
import subprocess

import pytest
from machine import BOX_IS, LONG, NETWORK, Disk, Machine, tool
from test_boot import TONES, api, prepared, tone, until
from test_running import Shell

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


def in_use(path):
    """Whether an NTFS volume says that it was not put away in order: the lowest flag of its $VOLUME_INFORMATION."""
    with open(path, "rb") as f:
        begin = f.read(512)
        cluster, size = int.from_bytes(begin[11:13], "little") * begin[13], int.from_bytes(begin[64:65], "little", signed=True)
        size = 1 << -size if size < 0 else size * cluster
        f.seek(int.from_bytes(begin[48:56], "little") * cluster + 3 * size)  # record 3: $Volume
        record = f.read(size)
    at = int.from_bytes(record[20:22], "little")
    while (kind := int.from_bytes(record[at:at + 4], "little")) != 0x70:
        assert kind < 0x70, "no $VOLUME_INFORMATION"
        at += int.from_bytes(record[at + 4:at + 8], "little")
    value = at + int.from_bytes(record[at + 20:at + 22], "little")
    return bool(record[value + 10] & 1)


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

    if kind == "ntfs":
        # Written, and pulled out before the disk counts as put away in order: its own mark for that is on it by then.
        box.shell.run(f"echo 50 >/proc/sys/vm/dirty_expire_centisecs; cp /data/music/1-tone.wav '{disk['path']}/late.txt'")
        until("the disk is marked as in use", lambda: in_use(path), LONG)
    box.command("device_del", id=f"stick-{kind}")
    until("it is gone", lambda: not disks(box), LONG)
    assert not box.shell.run("ls -A /data/media").strip()
    share(box, "/data/music")
    until("only the card's are left", lambda: api(box, "/status")["shares"]["files"] == TONES, LONG)
    assert box.shell.run("systemctl is-active slskdn.service").strip() == "active"
    if kind != "ntfs":
        return
    # Its driver takes one that was pulled out for reading only; its music is there all the same.
    box.command("device_add", driver="usb-storage", id="again", drive=kind, bus="usb.0")
    [name] = until("the box offers it again", lambda: disks(box), LONG)
    assert disks(box)[name]["writable"] is False, disks(box)
    assert f"{kind}.wav" in box.shell.run(f"ls '{disk['path']}'").split()
    box.command("device_del", id="again")
    until("it is gone again", lambda: not disks(box), LONG)


def test_who_shares_all_of_the_card_shares_the_music(box):
    box.shell.run("touch /data/music/mine.wav; ls /data/slskdn/store/data.mdb /data/log/system.log /data/machine-id")
    share(box, "/data")
    until("it is shared", lambda: api(box, "/status")["shares"]["files"] == TONES + 1, LONG)
    box.shell.run("rm /data/music/mine.wav")
    until("the file that went is gone", lambda: api(box, "/status")["shares"]["files"] == TONES, LONG)
    assert not any("cannot read" in told for told in api(box, "/shares")["problems"])
    share(box, "/data/music")


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="two minutes: tests/soak runs it")
def test_two_disks_of_one_label_keep_their_names(box):
    """Plugged in at once, as at a start, and then in the other order: shares go by the names."""
    for which in ("one", "other"):
        (box.folder / which).mkdir()
        (box.folder / which / which).write_text(which)
        (box.folder / which / "Music").symlink_to("/data/music")
        path = box.folder / f"{which}.img"
        subprocess.run(["truncate", "-s", str(32 * MIB), path], check=True)
        # As disks come: with a table, and the small partition that a Mac puts in front, which is for nobody.
        tool("sfdisk", "-q", path, data=b"label: gpt\n start=2048, size=8192, type=U\n start=16384, size=32768, type=L\n")
        tool("mformat", "-i", f"{path}@@{MIB}", "-T", "8192", "-v", "EFI", "::")
        tool("mkfs.ext4", "-q", "-L", "Elements", "-d", box.folder / which, "-E", f"offset={8 * MIB}", path, "16M")
        box.command("blockdev-add", **{"driver": "raw", "node-name": which, "file": {"driver": "file", "filename": str(path)}})
        box.command("device_add", driver="usb-storage", id=f"stick-{which}", drive=which, bus="usb.0")

    def names():
        """Which of the two has which name, as a shell sees them."""
        listed = box.shell.run("cd /data/media; ls -d */one */other 2>/dev/null; true").split()
        return {which: name for name, which in (line.split("/") for line in listed)}

    def gone(*which):
        for one in which:
            box.command("device_del", id=f"stick-{one}")
        until("they are gone", lambda: not set(which) & set(names()), LONG)

    there = until("both are there", lambda: (found := names()) and len(found) == 2 and found, LONG)
    assert set(there.values()) == {"Elements", "Elements-2"}, there
    gone("one", "other")
    assert not box.shell.run("ls -A /data/media").strip()
    # The one with the number comes first, and alone.
    [(second, second_name)] = [(which, name) for which, name in there.items() if name.endswith("-2")]
    for which in sorted(there, key=lambda which: which != second):
        box.command("device_add", driver="usb-storage", id=f"stick-{which}", drive=which, bus="usb.0")
        until(f"{which} is back", lambda which=which: names().get(which), LONG)
    assert names() == there
    # Also over a start, with both of them there from the beginning. What the box is known by is kept, too.
    def known_by():
        told = subprocess.run(["ssh-keyscan", "-t", "ed25519", BOX_IS], capture_output=True, text=True, timeout=LONG)
        return [line.split()[2] for line in told.stdout.splitlines() if "ssh-ed25519" in line]

    share(box, "/data/music", f"/data/media/{second_name}")
    until("its file is shared", lambda: api(box, "/status")["shares"]["files"] == TONES + 1, LONG)
    [host_key] = known_by()
    start = box.shell.run("cat /proc/sys/kernel/random/boot_id")
    box.shell.run("systemctl reboot", check=False)
    until("it has started again", lambda: (now := box.shell.run("cat /proc/sys/kernel/random/boot_id", check=False)).returncode == 0
          and now.stdout != start, LONG)
    until("both are there again", lambda: names() == there, LONG)
    box.up()
    until("its file is shared again", lambda: api(box, "/status")["shares"]["files"] == TONES + 1, LONG)
    assert known_by() == [host_key]
    # A stick decides about itself alone: a link on it shares nothing else.
    share(box, f"/data/media/{there['one']}/Music")
    until("that is told", lambda: any("leads out of its disk" in told for told in api(box, "/shares")["problems"]), LONG)
    assert api(box, "/status")["shares"]["files"] == 0
    share(box, "/data/music")
    gone("one", "other")


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
