"""How mesh nodes meet, and what would be announced, as the owner reads it before switching anything on."""
import hashlib
import subprocess

import pytest

from browser import NARROW, WIDE
from conftest import Box, screenshots, until

RECORDING, RELEASE = "01234567-89ab-cdef-0123-456789abcdef", "fedcba98-7654-3210-fedc-ba9876543210"
PLACES = ["slskdn-appliance-mesh-v1", "slskdn-appliance-mesh-v1-backup-1", "slskdn-appliance-mesh-v1-backup-2"]


def key(text):
    return hashlib.sha1(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def shy(world):
    """A box with the mesh off that shares one known song, and knows another that it does not share."""
    share, kept = world.tmp / "share-shy" / "album", world.tmp / "kept"
    for folder, title, recording in ((share, "<b>Song</b> \u202e3pm", RECORDING), (kept, "Kept", RECORDING.replace("0", "9"))):
        folder.mkdir(parents=True)
        subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "anoisesrc=d=5:a=0.1", "-metadata", f"title={title}",
                        "-metadata", "artist=Somebody", "-metadata", "album=An Album", "-metadata",
                        f"MUSICBRAINZ_TRACKID={recording}", "-metadata", f"MUSICBRAINZ_ALBUMID={RELEASE}",
                        folder / "song.flac"], check=True, timeout=120)
    box = Box(world, "shy", soulseek__username=None, soulseek__password=None)
    for folder in (share, kept):
        scan = {"library_path": str(folder), "offline": True}
        number = box.call("POST", "/api/library/health/scans", json=scan).json()["scan_id"]
        path = f"/api/library/health/scans/{number}"
        until("the scan is over", lambda: box.call("GET", path).json()["status"] == "completed")
    return box


def test_what_would_be_announced_is_shown_while_all_is_off(page, shy):
    page.open(f"{shy.url}/")
    page.click("How nodes meet, and what is or would be announced")
    page.sees("Nothing: the DHT is off", "Off (mesh.enabled).", "the mesh is off", "None since the start.")
    for place in PLACES:
        assert all(word in page.row(key(place)) for word in ("Meeting place", place, "not allowed")), page.text
    for kind, mbid, title in (("Recording", RECORDING, "Somebody – <b>Song</b> ⟨U+202E⟩3pm"),
                              ("Release", RELEASE, "Somebody – An Album")):
        row = page.row(key(f"slskdn-appliance-mb-v1:{mbid}"))
        assert all(word in row for word in (kind, mbid, title, "not allowed")), page.text
    assert "Kept" not in page.text
    for width in (NARROW, WIDE):
        page.size(width)
        page.open(page.address)
        assert page.spills() == [], width
        if kept := screenshots():
            page.screenshot(kept / f"mesh-{width}{'' if page.scripts else '-plain'}.png")
    page.size(WIDE)
