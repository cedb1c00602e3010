"""What is on a card, read from the file: partitions, boot files, rights, what it consists of."""
import gzip
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import trees
from machine import IMAGES, Disk, tool

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
BOARDS = sorted(path.name for path in IMAGES.iterdir() if (path / "SHA256SUMS").exists())
EXPECTED = {
    "qemu-virt": ["boot.scr"],
    "rpi3": ["boot.scr", "u-boot.bin", "config.txt", "start.elf", "start4.elf", "bootcode.bin", "fixup.dat", "fixup4.dat",
             # What gpu_mem=16 starts; without them the board stays dark.
             "start_cd.elf", "fixup_cd.dat", "start4cd.elf", "fixup4cd.dat", "LICENCE.broadcom",
             "bcm2837-rpi-3-b.dtb", "bcm2711-rpi-4-b.dtb", "bcm2711-rpi-cm4-io.dtb",
             # Names that U-Boot asks for.
             *(f"A/dtbs/broadcom/{tree}.dtb" for tree in ("bcm2837-rpi-3-a-plus", "bcm2837-rpi-3-b", "bcm2837-rpi-3-b-plus",
               "bcm2837-rpi-cm3", "bcm2837-rpi-zero-2-w", "bcm2711-rpi-4-b", "bcm2711-rpi-400", "bcm2711-rpi-cm4"))],
    "rpi5": ["boot.scr", "u-boot.bin", "config.txt", "bcm2712-rpi-5-b.dtb", "A/dtbs/broadcom/bcm2712-rpi-5-b.dtb"],
    "generic-arm64": ["EFI/BOOT/BOOTAA64.EFI"],
}
CONSOLE = {"qemu-virt": "console=ttyAMA0", "rpi3": "console=ttyS1,115200", "rpi5": "console=ttyAMA10,115200"}


@pytest.fixture(params=BOARDS, scope="module")
def disk(request, tmp_path_factory):
    return Disk(request.param, tmp_path_factory.mktemp(request.param) / "card.img")


def test_partitions(disk):
    table = disk.path.read_bytes()[:512] if disk.path.stat().st_size < MIB else open(disk.path, "rb").read(512)
    kinds = [table[446 + 16 * n + 4] for n in range(4)]
    assert kinds == [0xEF if disk.board == "generic-arm64" else 0x0C, 0x83, 0x83, 0x83], kinds
    sizes = [disk.partition(n)[1] // MIB for n in (1, 2, 3, 4)]
    assert sizes == [256, 256, 256, 64], sizes
    assert all(disk.partition(n)[0] % (4 * MIB) == 0 for n in (1, 2, 3, 4))


def test_the_data_partition(disk):
    told = disk.debugfs("stats")
    features = re.search(r"Filesystem features: *(.*)", told)[1].split()
    assert "fast_commit" not in features and "has_journal" in features, features
    assert re.search(r"Block size: *4096\b", told), told
    assert re.search(r"Filesystem volume name: *SLSKDATA", told)


@pytest.mark.parametrize("gib", [29, 119, 1900])
def test_the_data_partition_grows_to_the_size_of_any_card(disk, tmp_path, gib):
    """What the initrd does at the first start. By itself mke2fs leaves room for a thousandfold growth, 64 GiB."""
    start, length = disk.partition(4)
    path = tmp_path / "data.ext4"
    with open(disk.path, "rb") as card, open(path, "wb") as f:
        card.seek(start)
        f.write(card.read(length))
        f.truncate(gib << 30)
    tool("e2fsck", "-fp", path)
    tool("resize2fs", path)
    tool("e2fsck", "-fn", path)
    told = tool("dumpe2fs", "-h", path).decode()
    number = {key: int(re.search(rf"{key}: *(\d+)", told)[1]) for key in ("Block count", "Inode count", "Reserved block count")}
    assert number["Block count"] == gib << 18, number
    assert number["Reserved block count"] <= number["Block count"] // 80 and number["Inode count"] < gib << 15, number
    names = tool("debugfs", "-R", "ls -p /", path).decode()
    assert "/slskdn/" in names and "/music/" in names, names
    path.unlink()


def test_file_systems_of_disks_are_there(disk):
    listing = tool("unsquashfs", "-ls", IMAGES / disk.board / "slot" / "root.squashfs").decode()
    builtin = [line for line in tool("unsquashfs", "-cat", IMAGES / disk.board / "slot" / "root.squashfs",
               re.search(r"squashfs-root/(\S+/modules\.builtin)\n", listing)[1]).decode().splitlines()]
    there = {name.split("/")[-1].removesuffix(".ko") for name in builtin} | set(re.findall(r"/([^/\n]+)\.ko\n", listing))
    assert {"ext4", "vfat", "exfat"} <= there and there & {"ntfs3", "ntfs"}, sorted(there)


def test_boot_files(disk):
    for name in ["A/Image", "A/initrd", "A/slot", "A/slot.sig", *EXPECTED[disk.board]]:
        assert disk.has(name), name
    assert disk.slots() == ("A B", 3, 0)
    about = dict(line.split("=") for line in disk.read("A/slot").decode().splitlines())
    root = (IMAGES / disk.board / "slot" / "root.squashfs").read_bytes()
    assert about["root_sha256"] == hashlib.sha256(root).hexdigest() and int(about["root_bytes"]) == len(root)
    if "config.txt" in EXPECTED[disk.board]:
        config = disk.read("config.txt").decode().splitlines()
        assert {"arm_64bit=1", "kernel=u-boot.bin", "upstream_kernel=1", "enable_uart=1"} <= set(config)
    if disk.has("boot.scr"):
        script = disk.read("boot.scr").decode(errors="replace")
        assert "@" not in script.split("setenv kernel_at")[1].split("\n")[0], "a word of the meta file is missing"
        said = re.search(r'setenv bootargs "(.*)"', script)[1].split(" ")
        assert said[-2:] == ["slskdn.slot=${slot}", "slskdn.from=${devtype}"], said
        # What owners need comes on the last one: the screen. QEMU's board has none.
        assert disk.board == "qemu-virt" or [word for word in said if word.startswith("console=")][-1] == "console=tty0", said
        # The serial line on this board's pins; names of network cards as `network` on the card expects them.
        assert {CONSOLE[disk.board], "net.ifnames=0"} <= set(said) and any(word.startswith("panic=") for word in said), said


# What docs/boards.md promises for each address, in MiB: the unpacked kernel comes to UNPACK_AT and is moved to KERNEL_AT, where
# it takes more than its file (its header says how much).
ROOM = {"KERNEL_AT": 64, "UNPACK_AT": 56, "TREE_AT": 1, "WORK_AT": 1, "INITRD_AT": 32}


@pytest.mark.parametrize("meta", sorted(ROOT.glob("board/*/meta")), ids=lambda path: path.parent.name)
def test_nothing_is_loaded_over_another(meta):
    keys = dict(line.split("=", 1) for line in meta.read_text().splitlines() if "=" in line and not line.startswith("#"))
    if "KERNEL_AT" not in keys:
        assert keys.get("IMAGE") or keys.get("BOOT_TYPE") == "0xEF", "U-Boot is told where"
        return
    rooms = sorted((int(keys[name], 16), int(keys[name], 16) + size * MIB, name) for name, size in ROOM.items())
    for (_, end, one), (begin, _, other) in zip(rooms, rooms[1:]):
        assert end <= begin, f"{one} reaches into {other}"
    # Of the smallest board, with 64 MiB at the end for U-Boot and the firmware.
    memory = rooms[0][0] & ~0x0FFFFFFF
    assert rooms[-1][1] <= memory + 448 * MIB


def test_what_is_loaded_has_room(disk):
    slot = IMAGES / disk.board / "slot"
    packed = (slot / "Image").read_bytes()
    unpacked = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
    # Linux, Documentation/arch/arm64/booting: bytes 16 to 24 of the header are what it takes, zeros behind it included.
    takes = int.from_bytes(unpacked[16:24], "little")
    assert unpacked[56:60] == b"ARM\x64" and len(unpacked) <= takes <= ROOM["KERNEL_AT"] * MIB, takes
    assert len(packed) <= 32 * MIB and len(unpacked) <= ROOM["UNPACK_AT"] * MIB, (len(packed), len(unpacked))
    assert (slot / "initrd").stat().st_size <= ROOM["INITRD_AT"] * MIB
    assert all(tree.stat().st_size <= ROOM["TREE_AT"] * MIB // 2 for tree in slot.glob("dtbs/**/*.dtb"))


# Drivers of what no box uses: graphics beyond the firmware's, Bluetooth, cameras, hubs that have power anyway.
UNUSED = {"vc4", "v3d", "vchiq", "pisp_be", "i2c_mux_pinctrl", "hci_uart", "onboard_usb_dev", "brcmfmac"}


def test_drivers_of_the_boards_are_there(disk):
    """Without one that its card hangs on a board does not start, and in QEMU nobody would know."""
    def words(name):
        lines = (ROOT / "image" / name).read_text().splitlines()
        return {word.replace("-", "_") for line in lines if not line.startswith("#") for word in line.split()}

    aliases = (IMAGES / disk.board / "modules.of").read_text().splitlines()
    assert len(aliases) > 1_000
    listing = tool("unsquashfs", "-ls", IMAGES / disk.board / "slot" / "root.squashfs").decode()
    there = {name.replace("-", "_") for name in re.findall(r"/([^/\n]+)\.ko\n", listing)}
    early = words("modules.initrd")
    for path in sorted((IMAGES / disk.board / "slot").glob("dtbs/**/*.dtb")):
        root = trees.tree(path.read_bytes())
        on = [node for node in root.all() if node.is_on()]
        cards = [node for node in on if node.name.startswith("mmc@")]
        assert cards, path.name
        drivers = trees.wanted(trees.hangs_on(root, cards), aliases)
        assert drivers and set(drivers) <= early | UNUSED, (path.name, {name: of for name, of in drivers.items() if name not in early})
        drivers = trees.wanted(on, aliases)
        assert set(drivers) <= there | UNUSED, (path.name, {name: of for name, of in drivers.items() if name not in there})


def test_u_boot_of_a_raspberry_pi_waits_for_no_key_and_takes_the_card(disk):
    """With nothing on the pins of the serial line, noise is a key. -2: do not even look (U-Boot's common/autoboot.c)."""
    names = [name for name in EXPECTED[disk.board] if name.endswith(".dtb") and "/" not in name]
    assert names or not disk.board.startswith("rpi")
    for name in names:
        [config] = [node for node in trees.tree(disk.read(name)).below if node.name == "config"]
        assert config.cells("bootdelay") == [0xFFFFFFFE], name
        assert b"if load mmc ${devnum}:1 ${scriptaddr} boot.scr; then source" in config.values["bootcmd"], name


def test_the_newer_chip_of_a_raspberry_pi_5_gets_its_own_tree(disk):
    if disk.board != "rpi5":
        return
    # What the firmware lays over the tree that U-Boot finds, and boot.scr reads.
    overlay = trees.tree(disk.read("overlays/bcm2712d0.dtbo"))
    [fragment] = [node for node in overlay.below if node.name.startswith("fragment")]
    assert fragment.values["target-path"] == b"/\0" and [node.name for node in fragment.below] == ["__overlay__"]
    named = fragment.below[0].values["slskdn-tree"].decode().rstrip("\0")
    assert "fdt get value other / slskdn-tree" in disk.read("boot.scr").decode(errors="replace")

    def pins(name):
        return {word for node in trees.tree(disk.read(f"A/dtbs/{name}")).all() for word in node.compatible() if "pinctrl" in word}
    assert pins(named) >= {"brcm,bcm2712d0-pinctrl", "brcm,bcm2712d0-aon-pinctrl"}, pins(named)
    assert pins("broadcom/bcm2712-rpi-5-b.dtb") >= {"brcm,bcm2712c0-pinctrl", "brcm,bcm2712c0-aon-pinctrl"}


def test_a_network_card_without_an_address_keeps_the_one_it_is_given(disk):
    """Else a board whose firmware writes none into the tree would be another one at each start."""
    root = IMAGES / disk.board / "slot" / "root.squashfs"
    assert b"MACAddressPolicy=persistent" in tool("unsquashfs", "-cat", root, "usr/lib/systemd/network/99-default.link")


def test_nothing_secret_and_no_way_in(disk, tmp_path):
    root = IMAGES / disk.board / "slot" / "root.squashfs"
    for line in tool("unsquashfs", "-cat", root, "etc/shadow").decode().splitlines():
        assert line.split(":")[1] == "*", line
    listing = tool("unsquashfs", "-lln", root).decode().splitlines()
    rights = {line.split(maxsplit=5)[5].split(" -> ")[0].removeprefix("squashfs-root"): line[:10] for line in listing
              if line[:1] in "-dlcb" and len(line.split(maxsplit=5)) == 6}
    assert rights["/etc/shadow"][7:10] == "---", rights["/etc/shadow"]
    loose = [name for name, mode in rights.items() if mode[0] in "-d" and mode[8] == "w" and mode[9] not in "tT"]
    assert not loose, loose
    # Host keys and identity are made on the box.
    assert not [name for name in rights if re.search(r"ssh_host|dropbear_.*key|machine-id$|\.sec$", name) and name != "/etc/machine-id"]
    assert tool("unsquashfs", "-cat", root, "etc/machine-id") == b""
    # No login on any console, and nothing that installs.
    masked = {line.split(" -> ")[0].rsplit("/", 1)[1] for line in listing if line.endswith(" -> /dev/null")}
    assert {"getty.target", "serial-getty@.service", "console-getty.service"} <= masked, masked
    assert not [name for name in rights if re.search(r"bin/(apt|dpkg|perl|agetty$)", name)]


def test_what_it_consists_of(disk):
    bill = json.loads((IMAGES / disk.board / f"slskdn-{disk.board}.spdx.json").read_text())
    names = {package["name"] for package in bill["packages"]}
    assert {"slskdn", "libc6", "systemd", "busybox-static", "tokio", "heed"} <= names
    assert any(name.startswith("linux-image-") for name in names)
    assert ("raspi-firmware" in names) == (disk.board in ("rpi3", "rpi5"))
    assert all(package["versionInfo"] for package in bill["packages"])


def test_two_builds_are_the_same_bytes(tmp_path):
    board = BOARDS[0] if "qemu-virt" not in BOARDS else "qemu-virt"
    cache = Path(os.environ.get("SLSKDN_IMAGE_CACHE", Path.home() / ".cache/slskdn-image"))
    env = dict(os.environ)
    if os.environ.get("SLSKDN_IMAGE_MORE") == "1":
        # What the first build kept of Debian's packages is unpacked anew, too.
        subprocess.run(["cp", "-a", "--reflink=auto", cache, tmp_path / "cache"], check=True)
        for kept in (tmp_path / "cache").glob("root-*.tar"):
            kept.unlink()
        env["SLSKDN_IMAGE_CACHE"] = str(tmp_path / "cache")
    subprocess.run([ROOT / "image/build", "--plain", "--key", os.environ["SLSKDN_IMAGE_KEY"], "--binary",
                    os.environ["SLSKDN_IMAGE_BINARY"], "--out", tmp_path / "again", board], check=True, capture_output=True, env=env)
    first, again = ((folder / "SHA256SUMS").read_text() for folder in (IMAGES / board, tmp_path / "again"))
    assert first == again


def test_sizes():
    for board in BOARDS:
        root = (IMAGES / board / "slot" / "root.squashfs").stat().st_size / MIB
        print(f"FIGURE {board}: root file system {root:.1f} MiB of 256")
        assert root < 200
