"""The Collection Doctor: `slskdn scan` on a folder, the same through a daemon, and kills in the middle of a scan.

`SLSKDN_SOAK_ROUNDS` sets the kills, `SLSKDN_SOAK_SEED` repeats a run's choices (the kernel's timing stays its own).
"""
import json
import math
import os
import random
import secrets
import signal
import struct
import time
import wave
from pathlib import Path

from box import Box, lines, run, until
from opens import Opens

ROUNDS = int(os.environ.get("SLSKDN_SOAK_ROUNDS", "5"))
SEED = int(os.environ.get("SLSKDN_SOAK_SEED", secrets.randbelow(1 << 32)))
HEALTH = "/api/library/health"
# Of src/model/limits.rs: files of one commit, and measured ones that wait for it.
BATCH, ANSWERS = 16, 8


def tone(path, hertz, seconds=0.2):
    """A WAV of a tone that changes, so that no two are the same sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(44_100)
        rising = (hertz * (1 + n / 88_200) for n in range(int(44_100 * seconds)))
        out.writeframes(b"".join(struct.pack("<h", int(12_000 * math.sin(n * h / 7_000))) for n, h in enumerate(rising)))


def music(folder, count, seconds=0.2):
    """Tones, each tenth cut short in the middle of what its header promises. Answers with the names of those."""
    cut = set()
    for n in range(count):
        path = folder / f"album {n % 7}" / f"{n:03} tone.wav"
        tone(path, 200 + 13 * n, seconds)
        if n % 10 == 9:
            data = path.read_bytes()
            path.write_bytes(data[:len(data) // 2])
            cut.add(path.name)
    return cut


def names(issues, kind="CorruptedFile"):
    return sorted(issue["file_path"].rsplit("/", 1)[1] for issue in issues if issue["type"] == kind)


def test_a_folder_is_scanned_without_any_data_directory(tmp_path):
    folder = tmp_path / "music"
    cut = music(folder, 10)
    data = tmp_path / "data"
    done = run("--data", data, "scan", "--offline", folder, code=3)
    assert "10 files looked at: 10 measured" in done.stdout, done.stdout
    assert "Corrupted file" in done.stdout and all(name in done.stdout for name in cut), done.stdout
    assert lines(done) == ["slskdn: no data directory is in use: what is found is not kept for the next scan"]
    assert not data.exists(), "a scan leaves nothing behind"
    for path in folder.rglob("*.wav"):
        if path.name in cut:
            path.unlink()
    assert "Corrupted" not in run("--data", data, "scan", "--offline", folder).stdout
    assert "absent" in run("--data", data, "scan", tmp_path / "absent", code=2).stderr


def test_the_json_report_has_every_file_and_issue(tmp_path):
    folder = tmp_path / "music"
    cut = music(folder, 10)
    (folder / "broken.flac").write_bytes(b"fLaC" + bytes(100))
    report = json.loads(run("--data", tmp_path / "data", "scan", "--offline", "--json", folder, code=3).stdout)
    assert report["scan"]["status"] == "completed" and report["summary"]["files"] == 11
    files = {entry["file_path"].rsplit("/", 1)[1]: entry for entry in report["files"]}
    assert len(files) == 11
    whole = files["000 tone.wav"]
    assert (whole["outcome"], whole["codec"], whole["sample_rate_hz"], whole["duration_ms"]) == ("measured", "WAV", 44_100, 200)
    assert whole["verdict"] in ("clean", "uncertain", "transcode") and 0 <= whole["quality_score"] <= 1
    assert names(report["issues"]) == sorted([*cut, "broken.flac"])
    assert len({issue["issue_id"] for issue in report["issues"]}) == len(report["issues"])


def test_the_daemon_scans_for_the_command_line_and_keeps_what_the_owner_says(tmp_path):
    folder = tmp_path / "music"
    cut = music(folder, 20)
    box = Box(tmp_path).start()
    try:
        done = run("--data", box.home, "scan", folder, code=3)
        assert "20 files looked at by the daemon, 20 measured" in done.stdout, done.stdout
        page = box.get(f"{HEALTH}/issues?types=CorruptedFile")
        assert (page["total"], names(page["issues"])) == (2, sorted(cut))
        ident = page["issues"][0]["issue_id"]
        answer = box.call("PATCH", f"{HEALTH}/issues/{ident}", json={"status": "Ignored"})
        assert answer.json()["resolved_by"] == "user_dismissed", answer.text
        assert box.call("PATCH", f"{HEALTH}/issues/{ident}", json={"status": "Fixing"}).status_code == 400
        # Measured anew, it is found again and stays dismissed.
        assert "20 measured" in run("--data", box.home, "scan", "--remeasure", folder, code=3).stdout
        assert box.get(f"{HEALTH}/issues?types=CorruptedFile")["total"] == 1
        assert box.get(f"{HEALTH}/issues?types=CorruptedFile&statuses=Ignored")["issues"][0]["issue_id"] == ident
        # Mended, the other resolves itself.
        other = page["issues"][1]
        tone(Path(other["file_path"]), 999)
        run("--data", box.home, "scan", folder)
        assert box.get(f"{HEALTH}/issues?types=CorruptedFile")["total"] == 0
        assert box.get(f"{HEALTH}/issues/{other['issue_id']}")["status"] == "Resolved"
        summary = box.get(f"{HEALTH}/summary?path={folder}")
        assert summary["files"] == 20 and summary["last_scan"]["status"] == "completed"
        assert [row["count"] for row in box.get(f"{HEALTH}/issues/by-type") if row["type"] == "CorruptedFile"] == [0]
        assert 'slskdn_library_files{name="files"} 20' in box.call("GET", "/metrics").text
        assert box.call("POST", f"{HEALTH}/scans", json={"library_path": "relative"}).status_code == 400
        assert box.call("POST", f"{HEALTH}/scans", json={"library_path": "/nowhere/at/all"}).status_code == 400
    finally:
        box.stop()


def scan_of(box, ident):
    return box.get(f"{HEALTH}/scans/{ident}")


def everything(box, path):
    """All rows of a paged list."""
    rows = []
    while True:
        page = box.get(f"{path}&limit=1000&offset={len(rows)}")
        rows += page["issues"]
        if not page["issues"] or len(rows) >= page["total"]:
            return rows


def test_a_killed_scan_goes_on_and_repeats_no_finished_file(tmp_path, capsys):
    with capsys.disabled():
        print(f"\nscan kill test: {ROUNDS} kills, SLSKDN_SOAK_SEED={SEED}", flush=True)
    chance = random.Random(SEED)
    folder = tmp_path / "music"
    count = 60 * ROUNDS
    cut = music(folder, count, 0.5)
    # When so many files are finished, and a moment later: also twice in a row, and while the daemon has just begun.
    moments = sorted(chance.randrange(count - 60) for _ in range(ROUNDS))
    box = Box(tmp_path).start()
    opens = Opens(path for path in folder.iterdir())
    try:
        ident = box.post(f"{HEALTH}/scans", {"library_path": str(folder)}).json()["scan_id"]
        for moment in moments:
            until(f"{moment} files are finished",
                  lambda: (now := scan_of(box, ident))["files_measured"] >= moment or now["status"] != "running",
                  600)  # a busy machine makes the daemon rest
            time.sleep(chance.random() * 0.3)  # not to be in step with anything: the moment of death
            scan = scan_of(box, ident)
            assert scan["status"] == "running", scan
            box.process.stop(signal.SIGKILL)
            box.start()
            back = scan_of(box, ident)
            assert back["files_measured"] >= scan["files_measured"], (moment, scan, back)
        until("the scan ends", lambda: scan_of(box, ident)["status"] != "running", 600)
        counts = opens.end()
        scan = scan_of(box, ident)
        assert scan["status"] == "completed", scan
        assert (scan["files_scanned"], scan["files_measured"]) == (count, count), scan
        issues = everything(box, f"{HEALTH}/issues?severities=Critical,High,Medium,Low,Info")
        assert names(issues) == sorted(cut), "each damaged file once"
        assert len({(issue["type"], issue["file_path"]) for issue in issues}) == len(issues), "no issue twice"
    finally:
        opens.over.set()
        box.stop()
    report = json.loads(run("--data", box.home, "scan", "--offline", "--json", folder, code=3).stdout)
    twice = [entry["file_path"] for entry in report["files"] if entry["seen_count"] != 1]
    assert not twice, f"finished and measured again: {twice}"
    assert report["scan"]["files_measured"] == 0
    # What a kill costs: the files of an unfinished batch, those that wait to be written down, and those in work.
    again = sum(counts.values()) - count
    assert len(counts) == count and again <= ROUNDS * (BATCH + ANSWERS + 2 * os.cpu_count()), (len(counts), again)
    with capsys.disabled():
        print(f"{ROUNDS} kills, {count} files finished once each, {again} looked at again, "
              f"{again / ROUNDS:.1f} a kill", flush=True)
