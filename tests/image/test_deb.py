"""The Debian package on a Debian of its own: installed, run, upgraded, purged, with dpkg."""
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("SLSKDN_IMAGE_CACHE", Path.home() / ".cache/slskdn-image"))
# Writes down how it is called. A unit that is not there cannot be stopped; systemctl's answer is 5. /rescue says that the
# rescue page runs, /broken that the program does not start.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>/calls
case "$*" in
    "--quiet is-active slskdn-rescue.service") [ -e /rescue ] || exit 3 ;;
    "stop slskdn-rescue.service") [ -e /rescue ] || exit 5 ;;
    enable* | try-restart*) [ ! -e /broken ] || exit 1 ;;
esac
"""
PROGRAM = Path(os.environ.get("SLSKDN_BINARY", ROOT / "target/release/slskdn"))


def package(binary, out):
    assert Path(binary).exists(), f"{binary} is not there: cargo build --release"
    stripped = out / "slskdn"
    out.mkdir()
    # Symbols of another machine's program are not touched by this one's strip.
    if subprocess.run(["strip", "-o", stripped, binary], capture_output=True).returncode != 0:
        stripped = binary
    done = subprocess.run([ROOT / "image/deb", "--binary", stripped, "--out", out], check=True, capture_output=True, text=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The package of this machine's program."""
    return package(PROGRAM, tmp_path_factory.mktemp("ours") / "deb")


@pytest.fixture
def debian():
    """Runs a script as root of a fresh Debian 13, in memory: the image's tool root with a layer above it."""
    layer = Path(tempfile.mkdtemp(prefix="slskdn-deb.", dir="/dev/shm"))
    for name in ("up", "work", "root"):
        (layer / name).mkdir()

    def run(script, **files):
        for name, path in files.items():
            shutil.copy(path, layer / "up" / name)
        mounts = ('mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/up,workdir=$2/work" "$2/root" && mount -t proc proc "$2/root/proc" && '
                  'exec chroot "$2/root" /bin/sh -euc "$3"')
        done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, "-", CACHE / "tools", layer, script],
                              capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"})
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout
    yield run
    shutil.rmtree(layer)


def test_the_package_is_installed_run_and_purged(debian, ours):
    """No systemd runs in there: the units are put in place and left alone."""
    told = debian("""
        dpkg --install /slskdn.deb >/dev/null
        dpkg --audit
        id -u slskdn >/dev/null && grep '^slskdn:' /etc/passwd
        slskdn --version
        systemctl is-enabled slskdn.service || true
        test -e /usr/lib/systemd/system/slskdn.service
        echo '#SLSKDN_MINE=1' >>/etc/default/slskdn
        mkdir -p /var/lib/slskdn && echo kept >/var/lib/slskdn/state
        runuser -u slskdn -- slskdn --data /tmp/d config sample | head -n 1
        # The same again, as an upgrade: the owner's defaults stay.
        dpkg --install /slskdn.deb >/dev/null
        grep -q SLSKDN_MINE /etc/default/slskdn
        dpkg --purge slskdn >/dev/null
        test ! -e /usr/bin/slskdn && test ! -e /etc/default/slskdn
        cat /var/lib/slskdn/state
    """, **{"slskdn.deb": ours})
    assert told.splitlines()[-1] == "kept" and "slskdn 0." in told, told


def test_units_are_switched_on_and_off_where_systemd_runs(debian, ours, tmp_path):
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    told = debian("""
        install -m 755 /systemctl /usr/bin/systemctl
        mkdir -p /run/systemd/system
        step() { : >/calls; echo "# $1"; shift; "$@" >/dev/null; cat /calls; }
        step first dpkg --install /slskdn.deb
        step upgrade dpkg --install /slskdn.deb
        step remove dpkg --remove slskdn
        step back dpkg --install /slskdn.deb
        step purge dpkg --purge slskdn
        touch /broken
        step broken dpkg --install /slskdn.deb
        step again dpkg --install /slskdn.deb
        dpkg --audit
        rm /broken
        touch /rescue
        step rescued dpkg --install /slskdn.deb
    """, **{"slskdn.deb": ours, "systemctl": tmp_path / "systemctl"})
    steps = {step.split("\n", 1)[0]: step.splitlines()[1:] for step in told.split("# ")[1:]}
    reload, on, off = "daemon-reload", "enable --now slskdn.service", "disable --now slskdn.service slskdn-web.socket"
    # The rescue first: when the service ends, it would start that one.
    rescue, gone = "--quiet is-active slskdn-rescue.service", ["stop slskdn-rescue.service", off, reload]
    upgrade = [reload, reload, rescue, "try-restart slskdn.service"]
    assert steps == {"first": [reload, on], "upgrade": upgrade, "remove": gone,
                     # Removed, its settings kept: dpkg calls this an upgrade, and yet it has to be switched on.
                     "back": [reload, on], "purge": [*gone, reload],
                     # It does not start, and the package is installed all the same: dpkg had no complaint.
                     "broken": [reload, on], "again": upgrade,
                     "rescued": [reload, reload, rescue, "stop slskdn-rescue.service"]}, steps


def test_the_package_for_arm(tmp_path):
    made = package(os.environ["SLSKDN_IMAGE_BINARY"], tmp_path / "deb")
    fields = subprocess.run(["dpkg-deb", "--field", made], check=True, capture_output=True, text=True).stdout
    assert made.name.endswith("_arm64.deb") and "Architecture: arm64\n" in fields and "libc6 (>= 2." in fields, fields
