"""The library's health as its owner sees it: a scan with live progress, its end, issues, a spectrogram, a dismissal that stays."""
import os
import re
import subprocess
import wave

import pytest

from browser import NARROW, WIDE
from conftest import Box, screenshots

SECONDS, RATE = 20, 44_100
# Long enough that a scan of it can be watched; nobody waits for its end.
NOISES = 40


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True, timeout=120)


def make_music(folder):
    """Noise and tones as FLAC; the same through an MP3 of 128 kbit/s; the same with damage in the middle; the MP3 itself."""
    folder.mkdir(parents=True)
    noise = f"anoisesrc=color=pink:seed=1:duration={SECONDS}:sample_rate={RATE}:amplitude=0.25"
    tones = [f"sine=frequency={hertz}:duration={SECONDS}:sample_rate={RATE}" for hertz in (440, 6000)]
    mix = "[1]tremolo=f=2:d=0.9[a];[2]tremolo=f=5:d=0.8,volume=0.3[b];[0][a][b]amix=inputs=3:normalize=0,volume=0.7,aformat=channel_layouts=stereo"
    lame, tags = folder / "copy.mp3", ["-metadata", "artist=Some <b>Artist</b>"]
    ffmpeg(*(x for source in (noise, *tones) for x in ("-f", "lavfi", "-i", source)), "-filter_complex", mix, *tags,
           "-metadata", "title=As recorded", folder / "clean.flac")
    ffmpeg("-i", folder / "clean.flac", "-b:a", "128k", lame)
    ffmpeg("-i", lame, *tags, "-metadata", "title=Was an MP3", folder / "transcode.flac")
    data = bytearray((folder / "clean.flac").read_bytes())
    middle = len(data) // 2
    data[middle:middle + 64] = bytes(64)
    (folder / "broken.flac").write_bytes(data)


def make_noise(folder):
    folder.mkdir()
    for n in range(NOISES):
        with wave.open(str(folder / f"noise {n:02}.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(RATE)
            out.writeframes(os.urandom(2 * RATE * SECONDS))


@pytest.fixture(scope="module")
def music(world):
    folder = world.tmp / "library"
    make_music(folder)
    return folder


@pytest.fixture(scope="module")
def library(world, music):
    """A box whose library is this folder, and not what it shares; it needs no network."""
    return Box(world, "librarian", library_health__auto_scan__library_paths=music, soulseek__username=None,
               soulseek__password=None)


def finished(page):
    """A scan of four small files comes to its end."""
    page.until("the scan has ended", lambda: "Last scan finished" in page.text and not page.has("//progress"), 900)


def rescan(page, library):
    """Measures everything again, whatever the state of the page."""
    page.open(f"{library.url}/library")
    if page.has("//button[.='Run Health Scan']"):
        page.click("Run Health Scan")
    else:
        page.click("Measure everything again…")
        page.click("Measure everything again", within="//form")
    page.says("The scan has begun.")
    finished(page)


def picture(page):
    """Width and height of the spectrogram as it was sent, once it is there."""
    ask = "const i = document.querySelector('figure img'); return i.complete ? [i.naturalWidth, i.naturalHeight] : [0, 0]"
    return page.until("the spectrogram is shown", lambda: (lambda size: size if size[0] else None)(
        page.driver.execute_script(ask)), 120, again=False)


def look(page, name):
    """Nothing sticks out on a telephone and in a window; keeps pictures if they are wanted."""
    for width in (NARROW, WIDE):
        page.size(width)
        page.open(page.address)
        if page.has("//figure"):
            picture(page)
        assert page.spills() == [], (name, width)
        if kept := screenshots():
            page.screenshot(kept / f"{name}-{width}{'' if page.scripts else '-plain'}.png")
            if page.scripts:
                page.size(width, dark=True)
                page.screenshot(kept / f"{name}-{width}-dark.png")
    page.size(WIDE)


def test_a_scan_is_watched_and_stopped_then_finished(page, library, music):
    noise = music / "noise"
    make_noise(noise)
    page.open(f"{library.url}/")
    page.click("Library")
    first = page.has("//button[.='Run Health Scan']")
    if first:
        page.says("The library was never looked at")
        look(page, "library-new")
    page.click("Run Health Scan" if first else "Re-scan Library")
    page.says("The scan has begun.")
    # The page itself tells more and more, without anybody touching it where there are scripts.
    counts = re.compile(rf"Files\s+(\d+) of {NOISES + 4}\b")
    page.until("files are measured", lambda: (m := counts.search(page.text)) and 0 < int(m[1]) < NOISES + 4, 600)
    before = int(counts.search(page.text)[1])
    page.until("more files are measured", lambda: (m := counts.search(page.text)) and int(m[1]) > before, 600)
    assert re.search(r"Bytes\s+[\d.]+ .?i?B of [\d.]+ MiB", page.text), page.text
    page.until("the time left is told", lambda: re.search(r"Time left\s+\d+ (s|min)", page.text), 60)
    assert page.has("//progress[@value > 0]")
    if kept := screenshots():
        for width in (NARROW, WIDE):
            page.size(width)
            page.screenshot(kept / f"library-scanning-{width}{'' if page.scripts else '-plain'}.png")
        page.size(WIDE)
    page.click("Stop the scan")
    page.sees("Last scan stopped", seconds=120)
    assert page.has("//button[.='Re-scan Library']")

    subprocess.run(["rm", "-r", str(noise)], check=True)
    page.click("Re-scan Library")
    page.says("The scan has begun.")
    finished(page)
    tile = page.text_of("//ul[@class='tiles']/li[1]")
    assert tile.split() == ["1", "Suspected", "Transcodes"], tile
    score = page.text_of("//ul[@class='tiles']/li[4]")
    assert re.match(r"0\.\d\d\s+Health Score", score), score
    assert "4 files known: 1 suspected transcode" in page.text
    look(page, "library")


def test_an_issue_is_found_looked_at_and_dismissed_for_good(page, library, music):
    rescan(page, library)
    page.click("All issues")
    page.says("broken.flac", "transcode.flac")
    look(page, "library-issues")
    page.fill("Type", "SuspectedTranscode")
    page.click("Filter")
    page.says("1 issue.")
    assert not page.row("broken.flac") and page.row("transcode.flac")
    page.click("transcode.flac")
    page.says("Suspected transcode", "Replace it by a verified lossless copy", "The frame grid of a lossy codec",
              "Some <b>Artist</b>")
    assert page.has("//button[.='Fix via multi-swarm']") and not page.has("//h2[.='Repair']")
    assert picture(page) == [1019, 617]
    look(page, "library-issue")
    page.size(NARROW)
    page.open(page.address)
    assert picture(page)[0] < NARROW, "a telephone gets a picture of its own"
    page.size(WIDE)

    issue = page.address
    page.click("Dismiss False Positive")
    page.says("Dismissed. It stays away", "dismissed as a false positive")
    page.open(f"{library.url}/library/issues?type=SuspectedTranscode")
    page.says("0 issues.")
    rescan(page, library)
    assert "0 suspected transcodes" in page.text, "what was dismissed stays away"
    page.open(f"{library.url}/library/issues?type=SuspectedTranscode&status=Ignored")
    page.says("1 issue.", "transcode.flac")
    page.open(issue)
    page.click("Open it again")
    page.says("It counts as an open issue again.")
    page.click("Acknowledge")
    page.says("Acknowledged. It stays on the list.")
    page.open(f"{library.url}/library/issues?type=SuspectedTranscode")
    assert "Acknowledged" in page.row("transcode.flac")
    page.open(issue)
    page.click("Open it again")


def test_a_copy_is_shown_with_everything_known_of_it(page, library):
    if not library.get("/api/library/health/scans"):
        rescan(page, library)
    page.open(f"{library.url}/library/issues?type=SuspectedTranscode")
    page.click("transcode.flac")
    page.click("Everything that was measured")
    page.says("Transcode: it was coded worse before", "Made of", "MP3", "The frame grid of a lossy codec", "strength",
              "44100 Hz", "LUFS", "Whole")
    assert picture(page) == [1019, 617]
    look(page, "library-variant")

    page.open(f"{library.url}/library/issues?type=CorruptedFile")
    page.click("broken.flac")
    page.says("Damaged frames", "at byte", "differs from what was encoded")
    picture(page)
    page.open(f"{library.url}/library/artists")
    page.click("Some <b>Artist</b>")
    page.says("Issues of Some <b>Artist</b>", "transcode.flac")
    assert page.title == "Issues – slskdn"
    page.open(f"{library.url}/library/artists")
    look(page, "library-artists")
    page.open(f"{library.url}/library/releases")
    look(page, "library-releases")
    page.open(f"{library.url}/library/scores")
    page.says("Of 4 copies")
    assert page.has("//*[local-name()='rect']")
    look(page, "library-scores")


def test_what_is_not_there_is_a_problem_page(page, library):
    for path in ("issues/nonsense", "issues/00000000-0000-0000-0000-000000000001", "variants/nonsense", f"variants/{'0' * 64}"):
        page.open(f"{library.url}/library/{path}")
        page.says("There is no such thing.")
