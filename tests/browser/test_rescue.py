"""A rescue as the owner watches it, from the badge to the finished file; and the contribution report."""
import os
import re
import shutil
import subprocess

import pytest

from browser import NARROW, WIDE
from conftest import screenshots, until

# Three peers bring the rest slowly enough to be watched.
HANGS = """\
file: {size_mib: 8, kind: flac}
time_limit_s: 150
rescue: {stall_timeout_seconds: 3, sample_interval_seconds: 1, min_duration_seconds: 4, max_queue_time_seconds: 6}
guardrails: {max_overlay_to_soulseek_ratio: 100}
peers:
  - {name: user, via: soulseek, %s}
  - {name: one, rate_kib_s: 100}
  - {name: two, rate_kib_s: 100}
  - {name: three, rate_kib_s: 100}
"""


@pytest.fixture
def hangs(tmp_path):
    """`hangs(user)`: a lab in which a download from such a user hangs; the address of its page."""
    temp = tmp_path / "t"
    temp.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLSKDN_")}
    labs = []

    def begin(user):
        (tmp_path / "hangs.yml").write_text(HANGS % user)
        lab = subprocess.Popen([os.environ["SLSKDN_BINARY"], "lab", "--scenario", tmp_path / "hangs.yml", "--json"],
                               env={**env, "TMPDIR": str(temp)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        labs.append(lab)

        def address():
            assert lab.poll() is None, lab.communicate()
            told = [log.read_text() for log in temp.glob("*/fetcher.log")]
            return re.search(r"the page is at (http://\S+)", told[0]) if told else None
        return until("the fetching node has a page", address).group(1).rstrip("/")
    try:
        yield begin
    finally:
        for lab in labs:
            lab.terminate()
            lab.communicate(timeout=60)
        shutil.rmtree(temp, ignore_errors=True)


def test_a_rescue_is_watched_from_badge_to_finished(page, hangs):
    # The user sends an eighth and falls silent.
    url = hangs("rate_kib_s: 500, stall_after_kib: 1000")
    page.open(f"{url}/downloads")
    page.sees("Rescue Mode Active", "no bytes came any more", "mesh peer", "Soulseek user user", seconds=60)
    for width in (NARROW, WIDE):
        page.size(width)
        page.open(page.address)
        page.sees("Rescue Mode Active")
        assert page.spills() == [], width
        if kept := screenshots():
            page.screenshot(kept / f"rescue-{width}{'' if page.scripts else '-plain'}.png")
    page.sees("finished", "verified", seconds=90)
    assert "Rescue Mode Active" not in page.text


def test_a_rescue_is_watched_while_nothing_moves_on_soulseek(page, hangs):
    """The page is not opened again: the badge comes, the line goes on, and the badge goes, though the transfer stands."""
    url = hangs("queue_s: 3600")
    page.open(f"{url}/downloads")
    page.sees("Rescue Mode Active", "too long in the user", seconds=60)
    line = lambda: (re.search(r"queue: [\d.]+ \w+ of", page.text) or [""])[0]
    seen = line()
    page.until("the line moves on", lambda: line() != seen, 60)
    page.sees("finished", "verified", seconds=90)


def test_the_contribution_report(page, box):
    page.open(f"{box.url}/")
    page.click("Contribution: what was given and what was taken")
    page.sees("Contribution Report (Last 7 Days)", "Standing", "All are kept", "24 hours", "30 days", "Soulseek", "Mesh")
    for width in (NARROW, WIDE):
        page.size(width)
        page.open(page.address)
        assert page.spills() == [], width
        if kept := screenshots():
            page.screenshot(kept / f"contribution-{width}{'' if page.scripts else '-plain'}.png")
    page.size(WIDE)
