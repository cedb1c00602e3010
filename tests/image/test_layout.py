"""What is on a card, read from the file: partitions, boot files, rights, what it consists of."""
import functools
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import tomllib
import zlib
from pathlib import Path

import machine
import pytest
import trees
from machine import IMAGES, Disk, tool

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
MORE = os.environ.get("SLSKDN_IMAGE_MORE") == "1"
BOARDS = (os.environ.get("SLSKDN_IMAGE_BOARDS") or "qemu-virt rpi3").split()  # as tests/image/run reads it
# What is known of single boards, besides what every board's meta tells.
EXPECTED = {
    "rpi3": ["u-boot.bin", "config.txt", "start.elf", "start4.elf", "bootcode.bin", "fixup.dat", "fixup4.dat",
             # What gpu_mem=16 starts, should an owner want that; without them the board stays dark then.
             "start_cd.elf", "fixup_cd.dat", "start4cd.elf", "fixup4cd.dat", "LICENCE.broadcom",
             "bcm2837-rpi-3-b.dtb", "bcm2711-rpi-4-b.dtb", "bcm2711-rpi-cm4-io.dtb",
             # Names that U-Boot asks for.
             *(f"A/dtbs/broadcom/{tree}.dtb" for tree in ("bcm2837-rpi-3-a-plus", "bcm2837-rpi-3-b", "bcm2837-rpi-3-b-plus",
               "bcm2837-rpi-cm3", "bcm2837-rpi-zero-2-w", "bcm2711-rpi-4-b", "bcm2711-rpi-400", "bcm2711-rpi-cm4"))],
    "rpi5": ["u-boot.bin", "config.txt", "bcm2712-rpi-5-b.dtb", "A/dtbs/broadcom/bcm2712-rpi-5-b.dtb"],
}
# The serial line on this board's pins, and last, where what owners need is said, the screen. QEMU's board has none.
CONSOLES = {"qemu-virt": ["ttyAMA0"], "rpi3": ["ttyS1,115200", "tty0"], "rpi5": ["ttyAMA10,115200", "tty0"],
            "generic-arm64": ["ttyAMA0", "tty0"]}


def meta(folder):
    """What a board says of itself."""
    lines = (line for line in (folder / "meta").read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip('"') for key, value in (line.split("=", 1) for line in lines)}


class Card(Disk):
    """A card with the folder that its image was built in, and its board's meta."""

    def __init__(self, board, path, folder=None):
        super().__init__(board, path)
        self.built = self.image.parent
        self.meta = meta(folder or ROOT / "board" / board)
        self.efi = int(self.meta.get("BOOT_TYPE", "0x0C"), 16) == 0xEF


def build(board, out, *options, env=None):
    """image/build as tests/image/run calls it; what it said is returned."""
    done = subprocess.run([ROOT / "image/build", *options, "--key", os.environ["SLSKDN_IMAGE_KEY"], "--binary",
                           os.environ["SLSKDN_IMAGE_BINARY"], "--out", out, board], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.fixture(params=BOARDS, scope="module")
def disk(request, tmp_path_factory):
    return Card(request.param, tmp_path_factory.mktemp(request.param) / "card.img")


def test_partitions(disk):
    table = disk.path.read_bytes()[:512] if disk.path.stat().st_size < MIB else open(disk.path, "rb").read(512)
    kinds = [table[446 + 16 * n + 4] for n in range(4)]
    assert kinds == [0xEF if disk.efi else 0x0C, 0x83, 0x83, 0x83], kinds
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
    listing = tool("unsquashfs", "-ls", disk.built / "slot" / "root.squashfs").decode()
    builtin = [line for line in tool("unsquashfs", "-cat", disk.built / "slot" / "root.squashfs",
               re.search(r"squashfs-root/(\S+/modules\.builtin)\n", listing)[1]).decode().splitlines()]
    there = {name.split("/")[-1].removesuffix(".ko") for name in builtin} | set(re.findall(r"/([^/\n]+)\.ko\n", listing))
    assert {"ext4", "vfat", "exfat"} <= there and there & {"ntfs3", "ntfs"}, sorted(there)


def test_boot_files(disk):
    started = "EFI/BOOT/BOOTAA64.EFI" if disk.efi else "boot.scr"
    for name in ["A/Image", "A/initrd", "A/slot", "A/slot.sig", started, *EXPECTED.get(disk.board, ())]:
        assert disk.has(name), name
    slot = disk.built / "slot"
    for pattern in disk.meta.get("DTBS", "").split():
        assert list(slot.glob(f"dtbs/{pattern}")), f"no device tree is {pattern}"
    for tree in slot.glob("dtbs/**/*.dtb"):
        whole = tree.read_bytes()
        assert disk.read(f"A/{tree.relative_to(slot)}") == whole, tree
        # The tree, then its sum, lowest byte first; the tree says its own length.
        size = int.from_bytes(whole[4:8], "big")
        assert whole[size:] == zlib.crc32(whole[:size]).to_bytes(4, "little"), tree
    assert disk.slots() == ("A B", 3, 0)
    about = dict(line.split("=") for line in disk.read("A/slot").decode().splitlines())
    root = (slot / "root.squashfs").read_bytes()
    assert about["root_sha256"] == hashlib.sha256(root).hexdigest() and int(about["root_bytes"]) == len(root)
    assert tool("unsquashfs", "-cat", slot / "root.squashfs", "usr/share/slskdn/board").decode().strip() == disk.board
    listing = tool("unsquashfs", "-ls", slot / "root.squashfs").decode()
    [kernel] = set(re.findall(r"/lib/modules/([^/\n]+)\n", listing))
    # What an update must be made for, where it does not bring its own kernel.
    assert about.get("kernel") == (kernel if disk.efi else None)
    assert ("/usr/share/slskdn/kernel\n" in listing) == disk.efi
    if disk.efi:
        assert tool("unsquashfs", "-cat", slot / "root.squashfs", "usr/share/slskdn/kernel").decode().strip() == kernel
    assert about.get("tree_crc32") == ("0x2144df1c" if list(slot.glob("dtbs/**/*.dtb")) else None)
    if disk.has("config.txt"):
        config = disk.read("config.txt").decode().splitlines()
        assert {"arm_64bit=1", "kernel=u-boot.bin", "upstream_kernel=1", "enable_uart=1"} <= set(config)
        # USB disks are nothing to look for before the card.
        assert not re.search(rb"preboot=[^\0]*usb", disk.read("u-boot.bin"))
    told = disk.meta["COMMAND_LINE"].split(" ")
    if disk.efi:
        assert disk.meta["COMMAND_LINE"].encode() in disk.read(started)
    else:
        script = disk.read(started).decode(errors="replace")
        assert "@" not in script.split("setenv kernel_at")[1].split("\n")[0], "a word of the meta file is missing"
        said = re.search(r'setenv bootargs "(.*)"', script)[1].split(" ")
        assert said == [*told, "slskdn.slot=${slot}", "slskdn.from=${devtype}"], said
    # Names of network cards as `network` on the card expects them.
    assert "net.ifnames=0" in told and any(word.startswith("panic=") for word in told), told
    consoles = [word.removeprefix("console=") for word in told if word.startswith("console=")]
    assert consoles and consoles == CONSOLES.get(disk.board, consoles), consoles
    assert "tty0" not in consoles[:-1], "what owners need is said where the last console is"


# What docs/boards.md promises for each address, in MiB: the unpacked kernel comes to UNPACK_AT and is moved to KERNEL_AT, where
# it takes more than its file (its header says how much).
ROOM = {"KERNEL_AT": 64, "UNPACK_AT": 56, "TREE_AT": 1, "WORK_AT": 1, "INITRD_AT": 32}


@pytest.mark.parametrize("folder", [path.parent for path in sorted(ROOT.glob("board/*/meta"))], ids=lambda folder: folder.name)
def test_nothing_is_loaded_over_another(folder):
    keys = meta(folder)
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
    slot = disk.built / "slot"
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

    aliases = (disk.built / "modules.of").read_text().splitlines()
    assert len(aliases) > 1_000
    listing = tool("unsquashfs", "-ls", disk.built / "slot" / "root.squashfs").decode()
    there = {name.replace("-", "_") for name in re.findall(r"/([^/\n]+)\.ko\n", listing)}
    early = words("modules.initrd")
    for path in sorted((disk.built / "slot").glob("dtbs/**/*.dtb")):
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
    if "rpi" not in disk.meta.get("PACKAGES", "").split():
        return
    names = [name for name in disk.fat("mdir", "-b", "::/").decode().replace("::/", "").split() if name.endswith(".dtb")]
    assert names
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
    root = disk.built / "slot" / "root.squashfs"
    assert b"MACAddressPolicy=persistent" in tool("unsquashfs", "-cat", root, "usr/lib/systemd/network/99-default.link")


def test_nothing_secret_and_no_way_in(disk, tmp_path):
    root = disk.built / "slot" / "root.squashfs"
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
    """The SBOM names what is there, as it is locked, and nothing else."""
    bill = json.loads((disk.built / f"slskdn-{disk.board}.spdx.json").read_text())
    kinds = {"deb": set(), "cargo": set(), "generic": set()}
    for package in bill["packages"]:
        [purl] = [reference["referenceLocator"] for reference in package["externalRefs"]]
        [checksum] = [checksum["checksumValue"] for checksum in package["checksums"]]
        kinds[re.match(r"pkg:(\w+)/", purl)[1]].add((package["name"], package["versionInfo"], checksum))
    [(name, _, checksum)] = kinds["generic"]
    program = tool("unsquashfs", "-cat", disk.built / "slot" / "root.squashfs", "usr/bin/slskdn")
    assert name == "slskdn" and checksum == hashlib.sha256(program).hexdigest()

    lines = (ROOT / "image/packages.lock").read_text().splitlines()
    parts = {"root", "initrd", disk.meta["KERNEL"], *disk.meta.get("PACKAGES", "").split()}
    locked = {(name, version, checksum) for part, name, version, _, checksum, _ in
              (line.split() for line in lines if not line.startswith("#")) if part in parts}
    assert kinds["deb"] <= locked, kinds["deb"] - locked
    names = {name for name, *_ in kinds["deb"]}
    assert {"libc6", "systemd", "udev", "busybox-static", "signify-openbsd"} <= names
    assert any(name.startswith("linux-image-") or name.startswith("linux-modules-") for name in names), names
    # U-Boot, the firmware and what else the board's meta asks for.
    assert {line.split()[1] for line in lines if line.split()[0] in disk.meta.get("PACKAGES", "").split()} <= names, names
    # Needed to put the root file system together, and taken out of it.
    assert not names & {"apt", "dpkg", "perl-base", "debconf", "sqv", "libapt-pkg7.0", "debian-archive-keyring", "gcc-14-base"}, names

    crates = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    assert kinds["cargo"] <= {(crate["name"], crate["version"], crate.get("checksum")) for crate in crates}
    names = {name for name, *_ in kinds["cargo"]}
    assert {"tokio", "ring", "heed", "rustls", "io-uring"} <= names, names
    # Of tests, of other systems, and what only the compiler runs.
    assert not names & {"rusqlite", "proptest", "tempfile", "windows-sys", "js-sys", "security-framework", "syn", "serde_derive", "cc"}, names
    assert not [name for name in names if name.startswith("windows")], names


def test_what_made_it_is_written_down(disk):
    lines = (disk.built / f"slskdn-{disk.board}.tools.txt").read_text().splitlines()
    assert any(re.match(r"program rustc version \d", line) for line in lines), lines[:5]
    if (how := Path(f"{os.environ['SLSKDN_IMAGE_BINARY']}.how")).exists():
        assert f"program optimised: {how.read_text().strip()}" in lines, lines[:5]
    packages = {line.split()[1] for line in lines if re.fullmatch(r"package \S+ \S*\d\S* (amd64|all)", line)}
    assert {"squashfs-tools", "genimage", "mtools", "e2fsprogs", "python3-minimal"} <= packages, packages
    assert f" slskdn-{disk.board}.tools.txt" in (disk.built / "SHA256SUMS").read_text()


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The environment of a second build. With SLSKDN_IMAGE_MORE=1 what the first one kept of Debian's packages is unpacked anew, too."""
    if not MORE:
        yield dict(os.environ)
        return
    cache = Path(os.environ.get("SLSKDN_IMAGE_CACHE", Path.home() / ".cache/slskdn-image"))
    copy = tmp_path_factory.mktemp("again") / "cache"
    subprocess.run(["cp", "-a", "--reflink=auto", cache, copy], check=True)
    for kept in copy.glob("root-*.tar"):
        kept.unlink()
    yield {**os.environ, "SLSKDN_IMAGE_CACHE": str(copy)}
    shutil.rmtree(copy)


@pytest.mark.parametrize("board", BOARDS if MORE else BOARDS[:1])
def test_two_builds_are_the_same_bytes(board, again, tmp_path):
    build(board, tmp_path, "--plain", env=again)
    assert (tmp_path / "SHA256SUMS").read_text() == (IMAGES / board / "SHA256SUMS").read_text()


@pytest.mark.skipif(not MORE, reason="one image more: tests/soak runs it")
def test_a_board_of_ones_own(tmp_path, monkeypatch):
    """A folder with two files, anywhere: nothing else has to know of it, these tests included."""
    folder = tmp_path / "boards" / "my-board"
    shutil.copytree(ROOT / "board/qemu-virt", folder)
    text = (folder / "meta").read_text()
    (folder / "meta").write_text(text.replace("panic=5", "panic=7"))
    assert "panic=7" in (folder / "meta").read_text()
    build(folder, tmp_path / "my-board", "--plain")
    monkeypatch.setattr(machine, "IMAGES", tmp_path)
    card = Card("my-board", tmp_path / "card.img", folder)
    for look in (test_partitions, test_the_data_partition, test_boot_files, test_what_is_loaded_has_room, test_what_it_consists_of,
                 test_what_made_it_is_written_down):
        look(card)


@pytest.mark.parametrize("name, told", [("no-such-board", "which board? "), ("./no-such-board", "which board? "),
                                        ("./my_board", "letters, digits and hyphens: my_board")])
def test_a_board_that_is_none_is_refused(tmp_path, name, told):
    (tmp_path / "my_board").mkdir()
    (tmp_path / "my_board" / "meta").write_text("NAME=x\n")
    done = subprocess.run([ROOT / "image/build", name], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and told in done.stderr, done.stderr


@pytest.mark.parametrize("kernel", ["", "kernel=6.12.1-test\n"], ids=["its own kernel", "the box's kernel"])
def test_an_update_is_for_the_boards_whose_image_it_is(tmp_path, kernel):
    """A Raspberry Pi 4 has the image of the 3, and knows itself by that name."""
    slot = tmp_path / "slot"
    slot.mkdir()
    for name in ("root.squashfs", "slot", "slot.sig"):
        (slot / name).write_text(f"version=1.0.0\n{kernel}")
    subprocess.run([ROOT / "image/bundle", "--key", os.environ["SLSKDN_IMAGE_KEY"], "--boards", "rpi4 rpi3 rpi5 my-board", slot,
                    tmp_path / "out"], check=True)
    assert f"\nversion=1.0.0\n{kernel}boards=rpi3 rpi5 my-board\nfile=".encode() in (tmp_path / "out").read_bytes()


def test_packages_come_from_the_mirror_and_then_from_the_archive(tmp_path):
    """One has changed in the cache; the mirror has no more of another, and gives out a third damaged."""
    lock = (ROOT / "image/packages.lock").read_text()
    locked = [line.split() for line in lock.splitlines() if line.startswith("initrd ")]
    [day] = re.findall(r"^# archived: (\d{8}T\d{6}Z)$", lock, re.MULTILINE)
    asked = subprocess.run(["bash", "-ec", f'. {ROOT}/image/lib.sh; echo "$image_cache"'], capture_output=True, text=True, check=True)
    ours, web, cache = Path(asked.stdout.strip()), tmp_path / "web", tmp_path / "cache"
    (cache / "debs").mkdir(parents=True)
    (cache / "tools").symlink_to(ours / "tools")

    def offer(place, package, change=b""):
        at = web / place
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes((ours / "debs" / f"{package[4]}.deb").read_bytes() + change)

    changed, gone, damaged = locked
    offer(changed[5], changed)
    offer(damaged[5], damaged, b"x")
    for package in (gone, damaged):
        offer(package[5].replace("debian/", f"archive/debian/{day}/", 1), package)
    (cache / "debs" / f"{changed[4]}.deb").write_bytes(b"!<arch>\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=web)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"

        def fetch(archive):
            return subprocess.run(["bash", "-ec", f". {ROOT}/image/lib.sh; fetch_locked initrd"], capture_output=True, text=True, env={
                **os.environ, "SLSKDN_IMAGE_CACHE": str(cache), "SLSKDN_DEBIAN_MIRROR": at, "SLSKDN_DEBIAN_ARCHIVE": archive})

        refused = fetch(at + "/nowhere")
        assert refused.returncode == 1 and f"2 Debian packages could be fetched neither from {at[7:]} nor" in refused.stderr, refused
        # What came is kept for the next time.
        assert [path.stem for path in (cache / "debs").iterdir()] == [changed[4]]
        done = fetch(at + "/archive")
        server.shutdown()
    assert done.returncode == 0, done
    for package in locked:
        assert hashlib.sha256((cache / "debs" / f"{package[4]}.deb").read_bytes()).hexdigest() == package[4]
    assert not list(cache.glob("fetch.*/"))


def test_what_is_linked_is_told_without_a_toolchain_too(tmp_path):
    """Of a machine that has no Rust of its own: the tool root tells it, the same."""
    assert shutil.which("cargo"), "cargo is missing: rustup.rs has it"
    path = os.environ["PATH"].split(":")
    without = ":".join(part for part in path if not (Path(part) / "cargo").exists())
    ask = ["bash", "-ec", f". {ROOT}/image/lib.sh; crates"]
    told = [subprocess.run(ask, capture_output=True, text=True, check=True, env={**os.environ, "PATH": where}).stdout
            for where in (os.environ["PATH"], without)]
    assert told[0] == told[1] and "\nheed v" in told[1], told


packing = pytest.mark.skipif(not MORE, reason="packs for minutes: tests/soak runs it")


@packing
def test_the_packed_image_is_small_and_whole(tmp_path):
    assert shutil.which("xz"), "xz is missing: apt-get install xz-utils"
    board = "rpi3" if "rpi3" in BOARDS else BOARDS[0]
    said = build(board, tmp_path)
    packed = tmp_path / f"slskdn-{board}.img.xz"
    size = packed.stat().st_size
    print(f"FIGURE {board}: packed image {size / 1e6:.1f} MB of 100")
    assert size <= 100_000_000 and f"{packed.name}: {size} bytes, of 100000000 at most" in said, said
    checked = subprocess.run(["sha256sum", "--strict", "--check", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0 and f"{packed.name}: OK" in checked.stdout, checked.stdout + checked.stderr
    with subprocess.Popen(["xz", "-dc", packed], stdout=subprocess.PIPE) as xz:
        unpacked = hashlib.file_digest(xz.stdout, "sha256")
    assert xz.returncode == 0
    with open(IMAGES / board / f"slskdn-{board}.img", "rb") as plain:
        assert unpacked.digest() == hashlib.file_digest(plain, "sha256").digest()


@packing
def test_an_image_that_is_too_big_to_fetch_is_refused(tmp_path):
    """Random bytes do not pack."""
    image = tmp_path / "slskdn-big.img"
    with open(image, "wb") as f:
        for _ in range(96):
            f.write(os.urandom(MIB))
    done = subprocess.run([ROOT / "image/pack", image], capture_output=True, text=True)
    assert done.returncode == 1 and "slskdn-big.img is too big" in done.stderr and "100000000" in done.stderr, done.stdout + done.stderr
    assert not image.with_suffix(".img.xz").exists()


def test_sizes():
    for board in BOARDS:
        root = (IMAGES / board / "slot" / "root.squashfs").stat().st_size / MIB
        print(f"FIGURE {board}: root file system {root:.1f} MiB of 256")
        assert root < 200
