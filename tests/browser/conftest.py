"""A small Soulseek network, and two browsers to look at our page in it: one with scripts, one without."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "interop"))

from browser import Browser  # noqa: E402
from world import Node, Peer, World, free_port, until  # noqa: E402

# What a file may be called on disk, and anybody may share.
HOSTILE = {
    "<script>document.title='pwned'<!-- hostile.mp3": "<script>document.title='pwned'<!-- hostile.mp3",
    "<svg onload=document.title='pwned'> hostile.mp3": "<svg onload=document.title='pwned'> hostile.mp3",
    "<img src=x onerror=document.title='pwned'> hostile.mp3": "<img src=x onerror=document.title='pwned'> hostile.mp3",
    "\"><b onmouseover='document.title=1'> & hostile.mp3": "\"><b onmouseover='document.title=1'> & hostile.mp3",
    "hostile \u202e3pm.exe": "hostile ⟨U+202E⟩3pm.exe",
    "hostile \u200b\u2066wide.mp3": "hostile ⟨U+200B⟩⟨U+2066⟩wide.mp3",
    "hostile \x1b[31m\x07\x01.mp3": "hostile ␛[31m␇␁.mp3",
    "hostile line\nbreak.mp3": "hostile line␊break.mp3",
    "hostile {{ head.csrf }} %s %2e%2e.mp3": "hostile {{ head.csrf }} %s %2e%2e.mp3",
    "hostile " + "long" * 50 + ".mp3": "hostile " + "long" * 50 + ".mp3",
}


def make_hostile(folder):
    """Files with such names in a folder with such a name."""
    folder = folder / "hostile <script>document.title='pwned' \u202eecilop"
    folder.mkdir(parents=True)
    for n, name in enumerate(HOSTILE):
        (folder / name).write_bytes(b"x" * (1000 + n))


class Box(Node):
    """Our daemon, of which nothing is expected at its start; settings of the value None are left out."""

    def __init__(self, world, name, **settings):
        self.left_out = [key.replace("__", ".") for key, value in settings.items() if value is None]
        super().__init__(world, name, **{key: value for key, value in settings.items() if value is not None})

    def start(self, wait=False):
        for key in self.left_out:
            self.settings.pop(key, None)
        super().start(wait)
        until(f"{self.name} answers", lambda: self.answers() or not self.process.alive())
        assert self.process.alive(), self.world.log(self.name)

    def answers(self):
        import requests
        try:
            return self.call("GET", "/api/v0/session/enabled").ok
        except requests.ConnectionError:
            return False


@pytest.fixture(scope="session")
def world():
    world = World(big_mib=24)
    try:
        make_hostile(world.tmp / "share-them")
        # The mix takes 49 s: longer than a test waits, so that it is still under way when a page shows it.
        world.them = Peer(world, "nicotine", "them", free_port(), "--upload-limit-kib", "500")
        yield world
    finally:
        world.close()
    if "SLSKDN_TEST_KEEP" not in os.environ:
        subprocess.run(["rm", "-rf", str(world.tmp)], check=True)


@pytest.fixture(scope="session")
def box(world):
    """A box on the network whose page is open: on loopback, without a password."""
    make_hostile(world.tmp / "share-box")
    # In the file, so that the page can change it; slow enough that an upload can be watched.
    (world.tmp / "box").mkdir()
    (world.tmp / "box" / "slskdn.yml").write_text("global:\n  upload:\n    speed_limit: 1500\n")
    for mode in (True, False):
        for n, size in ((1, 96 << 20), (2, 1 << 20)):
            slow = world.tmp / "share-box" / "Slow" / f"slow {mode} {n}.flac"
            slow.parent.mkdir(exist_ok=True)
            with open(slow, "wb") as f:
                f.truncate(size)
    return Node(world, "box")


@pytest.fixture(scope="session")
def browsers():
    with tempfile.TemporaryDirectory(prefix="slskdn-browser-") as folder:
        made = {}

        def get(scripts):
            if scripts not in made:
                made[scripts] = Browser(Path(folder) / str(scripts), scripts)
            return made[scripts]
        yield get
        for browser in made.values():
            browser.quit()


@pytest.fixture(params=[True, False], ids=["scripts", "no-scripts"])
def page(request, browsers):
    """A browser; after the test its console must be quiet."""
    browser = browsers(request.param)
    browser.driver.delete_all_cookies()
    browser.complaints()
    yield browser
    assert browser.complaints() == []


def screenshots():
    """Where to keep pictures of all pages, if anywhere."""
    folder = os.environ.get("SLSKDN_TEST_SCREENSHOTS")
    return Path(folder) if folder else None
