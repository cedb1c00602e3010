"""The Job Trace Viewer: a download from Soulseek watched while it runs, and afterwards, wide and narrow."""
import re

import pytest

from browser import NARROW, WIDE
from conftest import screenshots
from world import until


def cells(page):
    """Parts of the file that were seen coming from the first source."""
    return len(page.driver.find_elements("css selector", "svg.bars rect.source0"))


def share(page):
    """The part of all bytes that the table gives the user."""
    found = re.search(r"them.*?([\d.]+) %", page.row("them"), re.S)
    return float(found[1]) if found else None


@pytest.fixture(scope="module", autouse=True)
def again(box):
    """The other browser fetches it once more."""
    yield
    box.call("DELETE", "/transfers/downloads/all/completed").raise_for_status()


def test_a_download_is_watched_and_told(page, world, box):
    mix = next(path.name for name, path in world.them.files.items() if "mix" in name)
    found = until("the mix is found", lambda: box.search("them long mix", lambda rs: [
        (f["filename"], f["size"]) for r in rs for f in r["files"]] if rs else None))
    box.enqueue("them", found[:1])
    page.open(f"{box.url}/downloads")
    page.until("it moves and has a trace", lambda: "MiB of 24.0 MiB" in page.row(mix) and page.has(
        f"//a[@aria-label='Trace of {mix}']"))
    page.click(f"Trace of {mix}")
    page.says("running", "Piece map", "Sources", "Timeline")
    job = page.address.rsplit("/", 1)[1]
    # A line is written each 8 MiB, so that the picture grows while the file does.
    page.until("something came", lambda: 0 < cells(page) and "running" in page.text, 120)
    page.until("it is over", lambda: "completed" in page.text, 240)
    assert share(page) == 100.0, page.row("them")
    assert cells(page) == 192, "24 MiB in parts of 128 KiB"
    for told in ("Soulseek 24.0 MiB (100 %), mesh 0 B (0 %)", "PeerDiscovered", "PeerConnected", "PeerDisconnected",
                 "everything came", "the job is complete"):
        assert told in page.text, (told, page.text)
    summary = box.get(f"/api/jobs/{job}/trace")["summary"]
    assert (summary["status"], summary["bytes"], summary["soulseek_bytes"]) == ("completed", 24 << 20, 24 << 20)
    kept = screenshots()
    for width in (WIDE, NARROW):
        page.size(width)
        assert page.spills() == [], width
        if kept:
            page.screenshot(kept / f"trace-{width}{'' if page.scripts else '-plain'}.png")
    page.size(WIDE)
    page.click(f"All events ({summary['events']})")
    page.sees("ChunkReceived")
    page.click("Job traces")
    page.says("Job traces", "completed")
    assert mix in page.text
    assert page.spills() == []
    page.open(f"{box.url}/traces/nothing")
    page.says("nothing is written down about this job".capitalize())
    page.open(box.url)
    page.click("Traces" if page.has("//a[.='Traces']") else "Job traces")
    page.says("Who was asked for what")
    box.call("DELETE", "/transfers/downloads/all/completed").raise_for_status()
    for path in box.downloads.rglob(mix):
        path.unlink()
