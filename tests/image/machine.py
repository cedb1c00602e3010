"""A box in QEMU: a copy of the image on a disk of its own, its serial line, its page behind a forwarded port."""
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "interop"))

from world import free_port  # noqa: E402

IMAGES = Path(os.environ["SLSKDN_IMAGES"])  # tests/image/run made them
LONG = int(os.environ.get("TEST_PATIENCE", "300"))  # seconds; emulation on a busy machine is slow
FAT = 4 << 20
SECTOR = 512
# A cable between this machine and a box, in the tests' own network; what `network` on the card says.
CABLE, HERE_IS, BOX_IS = "slskdn0", "10.77.0.1", "10.77.0.2"
NETWORK = f"address={BOX_IS}/24\ngateway={HERE_IS}\ndns={HERE_IS}\n"
# As a PC calls itself that no router gives an address.
NO_ROUTER = "169.254.77.1"


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
        subprocess.run(["truncate", "-s", str(size), self.path], check=True)

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


def cable():
    """Lays the cable, once; other ends see each other's packets as on any Ethernet."""
    if subprocess.run(["ip", "link", "show", "dev", CABLE], capture_output=True).returncode != 0:
        for line in (f"tuntap add dev {CABLE} mode tap", f"address add {HERE_IS}/24 dev {CABLE}",
                     f"address add {NO_ROUTER}/16 dev {CABLE}", f"link set {CABLE} up"):
            subprocess.run(["ip", *line.split()], check=True)


def mdns(name, seconds=LONG, here=HERE_IS):
    """Asks by multicast on the cable, from one of our addresses, who has a name, until somebody answers with an IPv4 address."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0" + struct.pack(">HH", 1, 0x8001)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(here))
        s.bind((here, 0))
        s.settimeout(1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            s.sendto(struct.pack(">6H", 0, 0, 1, 0, 0, 0) + question, ("224.0.0.251", 5353))
            try:
                answer, _ = s.recvfrom(4096)
            except TimeoutError:
                continue
            # An A record ends with its length and the address; nothing else that we asked for has four bytes.
            if (found := re.search(rb"\x00\x01[\x00\x80]\x01....\x00\x04(....)", answer, re.S)):
                return socket.inet_ntoa(found[1])
    raise AssertionError(f"in {seconds} s nobody is {name}")


class Machine:
    """QEMU with a disk. `memory` in MiB. Ports 80 and 5030 of the box come out at `host`, ports `page` and `tools`, and the
    box reaches programs of loopback at 10.0.2.2. With `on_cable` it has a network card of its own instead, and what the
    card's `network` says: addresses and ports are the box's own. Without `has_card` there is no network card at all. With
    `read_only` its disk takes nothing."""

    def __init__(self, disk, log, memory=1024, cpu="cortex-a72", direct=False, append="", cache="unsafe", on_cable=False, has_card=True, firmware=None, read_only=False, more=()):
        self.disk, self.log = disk, Path(log)
        if on_cable:
            cable()
            self.host, self.page, self.tools = BOX_IS, 80, 5030
            net = f"tap,id=n,ifname={CABLE},script=no,downscript=no"
        else:
            self.host, self.page, self.tools = "127.0.0.1", free_port(), free_port()
            net = f"user,id=n,ipv6=off,hostfwd=tcp:127.0.0.1:{self.page}-:80,hostfwd=tcp:127.0.0.1:{self.tools}-:5030"
        folder = IMAGES / disk.board
        monitor = f"{self.log}.qmp"
        command = ["qemu-system-aarch64", "-M", "virt,acpi=off", "-cpu", cpu, "-smp", "1", "-m", str(memory), "-display", "none",
                   # Its clock goes by what it has executed: limits of time inside hold on a machine that is busy, too.
                   "-icount", "shift=1",
                   "-serial", "stdio", "-qmp", f"unix:{monitor},server=on,wait=off",
                   "-drive", f"if=none,id=d,file={disk.path},format=raw,cache={cache},readonly={'on' if read_only else 'off'}", "-device", "virtio-blk-pci,drive=d",
                   "-device", "virtio-rng-pci", *more]
        command += ["-netdev", net, "-device", "virtio-net-pci,netdev=n,romfile="] if has_card else ["-nic", "none"]
        if direct:
            # Without U-Boot: the initrd chooses the slot, and the command line is the test's.
            kernel = folder / "slot"
            command += ["-kernel", kernel / "Image", "-initrd", kernel / "initrd", "-append",
                        f"console=ttyAMA0 net.ifnames=0 panic=5 quiet loglevel=5 systemd.show_status=0 "
                        f"systemd.journald.forward_to_console=1 kpti=off {append}"]
        else:
            command += ["-bios", firmware or folder / "u-boot.bin"]
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
            return requests.get(f"http://{self.host}:{port or self.tools}{path}", timeout=30, **kw)
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

    def clock(self):
        """Its time in seconds since 1970, as its page tells it; 0 while there is none."""
        answer = self.get()
        return 0 if answer is None else parsedate_to_datetime(answer.headers["Date"]).timestamp()

    def command(self, name, /, **arguments):
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


