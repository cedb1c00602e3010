"""A box in QEMU: a copy of the image on a disk of its own, its serial line, its page behind a forwarded port."""
import json
import os
import re
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import requests

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "interop"))

from world import free_port  # noqa: E402

IMAGES = Path(os.environ["SLSKDN_IMAGES"])  # tests/image/run made them
LONG = int(os.environ.get("TEST_PATIENCE", "300"))  # seconds; emulation on a busy machine is slow
FAT = 4 << 20
SECTOR = 512


def tool(*command, data=None):
    """Runs a tool on a disk file; what it says is returned."""
    done = subprocess.run([str(c) for c in command], input=data, capture_output=True, env={**os.environ, "MTOOLS_SKIP_CHECK": "1",
                          "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"})
    assert done.returncode == 0, (command, done.stdout[-500:], done.stderr[-500:])
    return done.stdout


class Disk:
    """A card: what is on it can be looked at and spoilt while the box is off."""

    def __init__(self, board, path, size="2G"):
        self.board, self.path = board, Path(path)
        self.image = IMAGES / board / f"slskdn-{board}.img"
        subprocess.run(["cp", "--sparse=always", self.image, self.path], check=True)
        subprocess.run(["truncate", "-s", size, self.path], check=True)

    def partition(self, number):
        """First byte and length of a partition, from the table in the first sector."""
        with open(self.path, "rb") as f:
            f.seek(446 + 16 * (number - 1))
            entry = f.read(16)
        return int.from_bytes(entry[8:12], "little") * SECTOR, int.from_bytes(entry[12:16], "little") * SECTOR

    # --- FAT
    def fat(self, *command, data=None):
        name, *rest = command
        return tool(name, "-i", f"{self.path}@@{self.partition(1)[0]}", *rest, data=data)

    def read(self, name):
        return self.fat("mtype", f"::/{name}")

    def write(self, name, data):
        self.fat("mcopy", "-o", "-", f"::/{name}", data=data)

    def has(self, name):
        done = subprocess.run(["mdir", "-b", "-i", f"{self.path}@@{self.partition(1)[0]}", f"::/{name}"], capture_output=True)
        return done.returncode == 0

    def slots(self):
        """`(order, tries of A, tries of B)`, from a copy whose checksum is right; both copies must be."""
        found = set()
        for name in ("slots.txt", "slots2.txt"):
            found.add(parse_slots(self.read(name)))
        assert len(found) == 1, found
        return found.pop()

    def set_slots(self, order, a, b):
        for name in ("slots2.txt", "slots.txt"):
            self.write(name, format_slots(order, a, b))

    # --- raw
    def overwrite(self, number, data, offset=0):
        start, length = self.partition(number)
        assert offset + len(data) <= length
        with open(self.path, "r+b") as f:
            f.seek(start + offset)
            f.write(data)

    def put_slot(self, slot, folder):
        """What an update writes: root file system and the slot's files."""
        self.overwrite({"A": 2, "B": 3}[slot], (folder / "root.squashfs").read_bytes())
        self.fat("mdeltree", f"::/{slot}")
        self.fat("mmd", f"::/{slot}")
        for path in sorted(folder.iterdir()):
            if path.name != "root.squashfs":
                self.fat("mcopy", "-s", "-o", str(path), f"::/{slot}/")

    # --- ext4
    def debugfs(self, *requests_):
        at = f"{self.path}?offset={self.partition(4)[0]}"
        script = "\n".join(requests_) + "\n"
        return tool("debugfs", "-w", "-f", "-", at, data=script.encode()).decode(errors="replace")

    def put_music(self, folder):
        """Copies a folder's files to the card's music folder."""
        requests_ = []
        for path in sorted(folder.iterdir()):
            name = f"/music/{path.name}"
            requests_ += [f"write {path} {name}", f"sif {name} uid 989", f"sif {name} gid 989"]
        self.debugfs(*requests_)


def parse_slots(data):
    assert len(data) == 512 and data.endswith(b"\n"), data
    a, b, order, check, *rest = data.decode().split("\n")
    lines = f"{a}\n{b}\n{order}\n"
    assert check == f"BOOT_CHECK=0x{zlib.crc32(lines.encode()):08x}", data[:100]
    assert not "".join(rest).strip()
    a, b, order = (re.fullmatch(pattern, line)[1] for pattern, line in
                   ((r"BOOT_A_LEFT=([0-3])", a), (r"BOOT_B_LEFT=([0-3])", b), (r"BOOT_ORDER=(A B|B A)", order)))
    return order, int(a), int(b)


def format_slots(order, a, b):
    lines = f"BOOT_A_LEFT={a}\nBOOT_B_LEFT={b}\nBOOT_ORDER={order}\n"
    lines += f"BOOT_CHECK=0x{zlib.crc32(lines.encode()):08x}\n"
    return lines.ljust(511).encode() + b"\n"


class Machine:
    """QEMU with a disk. `memory` in MiB. The page's ports 80 and 5030 come out at `page` and `tools` on loopback,
    `ports` at themselves. The box reaches loopback's programs at 10.0.2.2."""

    def __init__(self, disk, log, memory=1024, cpu="cortex-a72", direct=False, append="", cache="unsafe", ports=()):
        self.disk, self.log = disk, Path(log)
        self.page, self.tools = free_port(), free_port()
        folder = IMAGES / disk.board
        monitor = f"{self.log}.qmp"
        command = ["qemu-system-aarch64", "-M", "virt", "-cpu", cpu, "-smp", "1", "-m", str(memory), "-display", "none",
                   # Its clock goes by what it has executed: limits of time inside hold on a machine that is busy, too.
                   "-icount", "shift=1",
                   "-serial", "stdio", "-qmp", f"unix:{monitor},server=on,wait=off",
                   "-drive", f"if=none,id=d,file={disk.path},format=raw,cache={cache}", "-device", "virtio-blk-pci,drive=d",
                   "-netdev", f"user,id=n,ipv6=off,hostfwd=tcp:127.0.0.1:{self.page}-:80,hostfwd=tcp:127.0.0.1:{self.tools}-:5030"
                   + "".join(f",hostfwd=tcp:127.0.0.1:{port}-:{port}" for port in ports),
                   "-device", "virtio-net-pci,netdev=n,romfile=", "-device", "virtio-rng-pci"]
        if direct:
            # Without U-Boot: the initrd chooses the slot, and the command line is the test's.
            kernel = folder / "slot"
            command += ["-kernel", kernel / "Image", "-initrd", kernel / "initrd", "-append",
                        f"console=ttyAMA0 net.ifnames=0 panic=5 quiet loglevel=5 systemd.show_status=0 "
                        f"systemd.journald.forward_to_console=1 {append}"]
        else:
            command += ["-bios", folder / "u-boot.bin"]
        self.monitor = monitor
        self.out = open(self.log, "ab")
        self.since = self.log.stat().st_size
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out)

    def serial(self):
        """What came over the serial line since this start, without colours."""
        with open(self.log, "rb") as f:
            f.seek(self.since)
            return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", f.read().decode(errors="replace"))

    def wait(self, pattern, seconds=LONG, times=1):
        """Waits until the serial line has said it this often; returns the last match."""
        end = time.monotonic() + seconds
        while True:
            found = list(re.finditer(pattern, self.serial()))
            if len(found) >= times:
                return found[times - 1]
            assert self.process.poll() is None, f"QEMU ended: {self.tail()}"
            assert time.monotonic() < end, f"in {seconds} s never on the serial line: {pattern}\n{self.tail()}"
            time.sleep(0.1)

    def tail(self, size=4000):
        return self.serial()[-size:]

    def get(self, path="/health", port=None, **kw):
        try:
            return requests.get(f"http://127.0.0.1:{port or self.tools}{path}", timeout=30, **kw)
        except requests.RequestException:
            assert self.process.poll() is None, f"QEMU ended: {self.tail()}"
            return None

    def up(self, seconds=LONG):
        """Waits for the page."""
        end = time.monotonic() + seconds
        while True:
            answer = self.get()
            if answer is not None and answer.ok:
                return answer
            assert time.monotonic() < end, f"no page in {seconds} s\n{self.tail()}"
            time.sleep(0.2)

    def command(self, name, **arguments):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30)
            s.connect(self.monitor)
            lines = s.makefile("rw")
            lines.readline()
            for message in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
                lines.write(json.dumps(message) + "\n")
                lines.flush()
                while "return" not in (answer := json.loads(lines.readline())):
                    assert "error" not in answer, answer

    def shut_down(self):
        """The power button: an orderly end."""
        self.command("system_powerdown")
        self.process.wait(LONG)

    def cut(self):
        """Pulls the plug."""
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.cut()
        self.out.close()


