"""The Debian package on a Debian of its own: installed, run, upgraded, purged, with dpkg."""
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("SLSKDN_IMAGE_CACHE", Path.home() / ".cache/slskdn-image"))
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


def test_the_package_is_installed_run_and_purged(debian, tmp_path):
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
    """, **{"slskdn.deb": package(PROGRAM, tmp_path / "deb")})
    assert told.splitlines()[-1] == "kept" and "slskdn 0." in told, told


def test_the_package_for_arm(tmp_path):
    made = package(os.environ["SLSKDN_IMAGE_BINARY"], tmp_path / "deb")
    fields = subprocess.run(["dpkg-deb", "--field", made], check=True, capture_output=True, text=True).stdout
    assert made.name.endswith("_arm64.deb") and "Architecture: arm64\n" in fields and "libc6 (>= 2." in fields, fields
