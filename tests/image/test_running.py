"""A running box, looked at from inside by its owner's key: who listens, what may be written, who can read secrets, what it costs."""
import os
import re
import subprocess
import time
from collections import Counter

import pytest
from machine import BOX_IS, IMAGES, LONG, NETWORK, Machine
from test_boot import api, prepared, shared, until

# Ten minutes by hand (tests/soak), a moment else.
WATCHED_S = int(os.environ.get("SLSKDN_IMAGE_WATCHED_S", "20"))
MIB = 1 << 20
# Everybody on the network may call these; what listens on the loopback does so for the box itself.
OPEN = {("tcp", 80): "slskdn", ("tcp", 5030): "slskdn", ("tcp", 50300): "slskdn", ("udp", 50305): "slskdn", ("udp", 5353): "systemd-resolve",
        ("tcp", 22): "dropbear"}


class Shell:
    """The owner at a terminal."""

    def __init__(self, folder):
        self.key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "owner", "-f", self.key], check=True)
        self.public = (folder / "key.pub").read_bytes()

    def run(self, command, *options, check=True, stdin=subprocess.DEVNULL, key=None):
        done = subprocess.run(["ssh", "-i", key or self.key, "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
                               "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", *options, f"root@{BOX_IS}", command],
                              stdin=stdin, capture_output=True, text=True, timeout=2 * LONG + WATCHED_S)
        assert not check or done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-1000:])
        return done.stdout if check else done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("running")


@pytest.fixture(scope="module")
def box(folder):
    card = prepared(folder)
    card.write("network", NETWORK.encode())
    shell = Shell(folder)
    card.write("authorized_keys", shell.public)
    with Machine(card, folder / "serial.log", memory=512, on_cable=True) as box:
        box.up()
        box.shell = shell
        until("SSH answers", lambda: shell.run("true", check=False).returncode == 0)
        until("the start is over", lambda: shell.run("systemctl is-system-running", check=False).stdout.strip() not in ("starting", "initializing"), LONG)
        yield box


def test_everything_that_should_run_runs(box):
    failed = box.shell.run("systemctl --failed --no-legend --plain")
    assert not failed.strip(), failed
    assert box.shell.run("systemctl is-system-running").strip() == "running"
    assert box.shell.run("systemctl is-active fstrim.timer").strip() == "active"
    assert len(box.shell.run("cat /proc/swaps").splitlines()) == 1, "no swap"


def test_nothing_else_listens(box):
    """Ports that the network reaches; the loopback's are the box's own."""
    found = {}
    for line in box.shell.run("ss --no-header --listening --numeric --tcp --udp --processes").splitlines():
        kind, _, _, _, local, *rest = line.split()
        address, port = local.rsplit(":", 1)
        if not re.match(r"127\.|\[::1\]", address):
            found[kind, int(port)] = re.search(r'"([^"]+)"', " ".join(rest))[1] if '"' in line else "systemd"
    # The socket unit holds port 80 for the program.
    assert {key: "slskdn" if key == ("tcp", 80) else name for key, name in found.items()} == {
        key: name for key, name in OPEN.items() if key in found}, found
    assert {("tcp", 80), ("tcp", 5030), ("tcp", 22), ("udp", 5353)} <= set(found), found


def test_only_the_key_opens(box, folder):
    other = folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    for options in ([], ["-o", "PreferredAuthentications=password,keyboard-interactive"]):
        answer = box.shell.run("true", *options, "-v", check=False, key=other)
        assert answer.returncode != 0 and "Authentications that can continue: publickey\n" in answer.stderr, answer.stderr[-2000:]
    # It was asked for: what was refused above is this other key, not the way to ask.
    assert "publickey" in box.shell.run("true", "-v", check=False).stderr


def test_only_data_and_memory_are_written(box):
    """What is mounted for writing. What is written elsewhere lies in memory."""
    mounts = [line.split(" ") for line in box.shell.run("findmnt --raw --noheadings --output TARGET,FSTYPE,OPTIONS").splitlines()]
    disks = {target: (kind, options.split(",")) for target, kind, options in mounts if kind in ("ext4", "vfat", "squashfs")}
    # The root's own file system is mounted by the initrd, out of sight; test_the_root_stays_as_it_was_signed looks at it.
    assert set(disks) == {"/data", "/boot/firmware", "/var/lib/slskdn"}, disks
    assert disks["/data"][0] == "ext4" and {"rw", "noatime"} <= set(disks["/data"][1]) and disks["/boot/firmware"][0] == "vfat", disks
    assert next(kind for target, kind, _ in mounts if target == "/") == "overlay"
    # The log is in memory, but for the little that a service of ours keeps on /data.
    assert box.shell.run("ls -d /var/log/journal 2>/dev/null || ls -d /run/log/journal").strip() == "/run/log/journal"
    kinds = {kind for _, kind, options in mounts if options.split(",")[0] == "rw"}
    assert kinds <= {"ext4", "vfat", "overlay", "tmpfs", "devtmpfs", "proc", "sysfs", "cgroup2", "devpts", "mqueue", "debugfs", "tracefs", "securityfs",
                     "configfs", "fusectl", "hugetlbfs", "bpf", "pstore", "autofs", "ramfs", "efivarfs"}, kinds
    # The program itself, asked for it: it has no other place.
    pid = box.shell.run("systemctl show --property=MainPID --value slskdn.service").strip()
    for path in ("/etc/x", "/usr/x", "/boot/firmware/x", "/data/x", "/root/x"):
        tried = box.shell.run(f"nsenter -t {pid} --all --setuid 989 --setgid 989 -- /usr/bin/touch {path}", check=False)
        assert tried.returncode != 0, path
    box.shell.run(f"nsenter -t {pid} --all -- /usr/bin/touch /var/lib/slskdn/x && rm /data/slskdn/x")


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="takes its time: tests/soak runs it")
def test_the_log_on_the_card(box):
    """What was logged is kept once, and however much it is, it has its 8 MiB."""
    def kept():
        box.shell.run("journalctl --sync && systemctl reload slskdn-keep-log.service")
        now, before = (int(box.shell.run(f"stat --format=%s /data/log/{name} 2>/dev/null || echo 0")) for name in ("system.log", "system.log.1"))
        assert now <= 4 * MIB and before <= 4 * MIB, (now, before)
        return now, before

    box.shell.run("echo a word of the tests | systemd-cat --priority=warning; echo a small word | systemd-cat --priority=debug")
    kept()
    kept()
    log = box.shell.run("cat /data/log/system.log")
    assert log.count("a word of the tests") == 1 and "a small word" not in log, log[-2000:]
    # It is put away when more would not fit, and what comes then begins a new one.
    box.shell.run(f"head -c {3 * MIB} /dev/zero >>/data/log/system.log && echo the next word | systemd-cat")
    now, before = kept()
    assert now < MIB and before > 3 * MIB, (now, before)
    assert "the next word" in box.shell.run("cat /data/log/system.log")
    # Of a flood 2 MiB are kept, and the rest is not told later.
    box.shell.run(f"yes {'flood ' * 150} | head -n 5000 | systemd-cat")
    after, _ = kept()
    assert now + 2 * MIB <= after <= now + 2 * MIB + 64 * 1024, (now, after)
    now, before = kept()
    assert before == after and now < 64 * 1024, (now, before)


def test_secrets_are_nobody_elses(box):
    loose = box.shell.run("find /data/slskdn /data/ssh /data/update /root/.ssh /etc/shadow /run/slskdn-card /run/slskdn-node/* /boot/firmware -xdev "
                          "'(' -type f -o -type d ')' -perm /0007 -print 2>/dev/null || true").split()
    assert not loose, loose
    shadow = box.shell.run("cat /etc/shadow")
    assert all(line.split(":")[1].strip("!*") == "" for line in shadow.splitlines()), shadow
    # A secret of ours in what others may read: none of the processes' arguments or the log has one.
    told = box.shell.run("journalctl --no-pager; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '")
    assert "slskdn.service" in told and "/usr/bin/slskdn" in told and "a key of the image's tests" not in told


def test_idle(box):
    """Nothing is written while nothing happens; what it costs is printed."""
    shared(box)
    shell = box.shell
    pid = shell.run("systemctl show --property=MainPID --value slskdn.service").strip()

    def now():
        """Seconds since the start; bytes written to the disk so far; those the program wrote."""
        up, disk, own = shell.run(f"cat /proc/uptime /sys/block/vda/stat && grep ^write_bytes /proc/{pid}/io").splitlines()
        return float(up.split()[0]), int(disk.split()[6]) * 512, int(own.split()[1])

    begun = now()
    time.sleep(WATCHED_S)  # the time is what is measured
    seconds, written, own = (after - before for before, after in zip(begun, now(), strict=True))
    memory = int(shell.run("cat /sys/fs/cgroup/system.slice/slskdn.service/memory.current"))
    free = re.search(r"MemAvailable: *(\d+)", shell.run("cat /proc/meminfo"))[1]
    hour = f", {written / seconds * 3600 / 1024:.0f} KiB an hour" if WATCHED_S >= 600 else ""
    print(f"FIGURE idle: {written} bytes written in {seconds:.0f} s of the box{hour}, {own} of them by slskdn; "
          f"slskdn {memory >> 20} MiB with its pages of the disk, {int(free) >> 10} MiB of 512 to be had")


@pytest.mark.skipif("SLSKDN_IMAGE_FATRACE" not in os.environ, reason="ten minutes: tests/soak runs it")
def test_under_fatrace(box):
    """Every file that is opened for writing or written while it scans, searches and idles lies on /data or in memory."""
    with open(os.environ["SLSKDN_IMAGE_FATRACE"], "rb") as program:
        box.shell.run("cat >/run/fatrace && chmod 755 /run/fatrace", stdin=program)
    api(box, "/library/health/scans", "POST", json={})
    told = box.shell.run(f"/run/fatrace -f W+ -s {WATCHED_S}")
    outside = [line for line in told.splitlines() if not re.search(r": [A-Z+<>]+ +(/data/|/run/|/dev/|/tmp/|/proc/|/sys/|/var/lib/slskdn)", line)]
    # What the root's tmpfs takes is gone with the power; the boot partition is a disk.
    assert not [line for line in outside if "/boot/firmware" in line], outside
    print(f"FIGURE fatrace: {len(told.splitlines())} writes in {WATCHED_S} s, outside of /data, /run, /dev, /tmp: {len(outside)}")
    on_disk = Counter(line.split("(")[0] + " " + line.split(" ", 2)[-1] for line in told.splitlines() if "/data/" in line)
    print(f"FIGURE fatrace: on the disk most often: {on_disk.most_common(12)}")
    assert not outside, outside[:50]


def test_crashes_are_mended_by_restarts_and_one_too_many_shows_the_rescue_page(box):
    """The rescue page is for what no restart mends: until then it stays away, and so does its half an hour of waiting."""
    def asked(what):
        return box.shell.run(f"systemctl show --property={what} --value slskdn.service").strip()

    def rescued():
        return box.shell.run("systemctl is-active slskdn-rescue.service", check=False).stdout.strip() == "active"

    # How long ago the box was started does not count.
    box.shell.run("systemctl reset-failed slskdn.service")
    for crash in range(4):
        before = asked("InvocationID")
        box.shell.run("systemctl kill --signal=KILL slskdn.service")
        until("the program or the rescue page runs", lambda: rescued() or (asked("InvocationID") != before and asked("ActiveState") == "active"), LONG)
        if rescued():
            break
        box.up()
    assert rescued() and crash == 3, f"after {crash + 1} crashes, with three restarts: {rescued()}"
    until("the rescue page answers", lambda: (answer := box.get("/")) is not None and answer.status_code == 503 and "The box did not start" in answer.text, LONG)


def test_the_root_stays_as_it_was_signed(box):
    """Also when somebody with a shell writes where they may: it lies in memory, and is gone with the power."""
    box.shell.run("echo written >/etc/written && echo written >/usr/bin/written && sync && ls /etc/written /usr/bin/written")
    # Nor do mount's options make its own file system one that takes something.
    box.shell.run("mkdir /run/signed && mount -o ro /dev/vda2 /run/signed && test -x /run/signed/usr/bin/slskdn")
    done = box.shell.run("mount -o remount,rw /run/signed && touch /run/signed/x", check=False)
    assert done.returncode != 0 and "read-only" in done.stderr.lower(), done
    box.shut_down()
    built = (IMAGES / box.disk.board / "slot" / "root.squashfs").read_bytes()
    for number in (2, 3):
        offset, size = box.disk.partition(number)
        with open(box.disk.path, "rb") as card:
            card.seek(offset)
            found = card.read(size)
        assert (found[:len(built)] == built) == (number == 2), number
        assert not found[len(built) if number == 2 else 0:].strip(b"\0"), f"something was written to partition {number}"
