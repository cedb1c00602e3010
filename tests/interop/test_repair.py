"""What is wrong with a library, mended by good copies from Nicotine+ and aioslsk: found, fixed at once, verified, undone.

MusicBrainz, AcoustID, the music and its damage are those of release.py."""
import re
import shutil
import signal
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from release import TRACKS, Library, compose, ffmpeg, tracks
from test_jobs import ALL, content_hash, house, music, samples, tags  # noqa: F401
from world import sha256, until

HEALTH = "/api/library/health"
FIXABLE = "SuspectedTranscode,CorruptedFile,NonCanonicalVariant,MissingTrackInRelease"


@pytest.fixture
def home(house, music):  # noqa: F811
    """The library inside our share, and a box that scans it alone."""
    for m, p, _, _, recording in tracks(house.found):
        house.catalogs.knows(recording, music[m, p])

    class Home:
        library = Library(house.world.tmp / "share-box" / "Library", music)

        def start(self, **settings):
            self.box = house.box(**{"library_health.auto_scan.library_paths": self.library.root, **settings})
            return self

        def scan(self, **more):
            answer = self.box.call("POST", f"{HEALTH}/scans", json={"library_path": str(self.library.root), **more})
            answer.raise_for_status()
            ident = answer.json()["scan_id"]
            # A busy machine makes the daemon rest.
            until("the scan ends", lambda: self.box.get(f"{HEALTH}/scans/{ident}")["status"] != "running", 600)
            scan = self.box.get(f"{HEALTH}/scans/{ident}")
            assert scan["status"] == "completed", scan

        def issues(self, **filters):
            query = "&".join(f"{key}={value}" for key, value in {"types": FIXABLE, "limit": 100, **filters}.items())
            return self.box.get(f"{HEALTH}/issues?{query}")["issues"]

        def issue(self, ident):
            return self.box.get(f"{HEALTH}/issues/{ident}")

        def repair(self, ident):
            return self.box.get(f"{HEALTH}/issues/{ident}/repair")

        def fix(self, *idents, **how):
            answer = self.box.call("POST", f"{HEALTH}/issues/fix", json={"issue_ids": list(idents), **how})
            assert answer.status_code == 202, answer.text
            return answer.json()

        def over(self, ident):
            """The issue once nothing more happens to it by itself, with its repair."""
            until(f"the repair of {ident} is over", lambda: self.repair(ident)["state"] not in ("fetching", "swapping"), 480)
            until(f"{ident} is told", lambda: self.issue(ident)["status"] != "Fixing")
            return self.issue(ident), self.repair(ident)

    return Home()


def of_kind(issues):
    kinds = {issue["type"]: issue for issue in issues}
    assert len(kinds) == len(issues), issues
    return kinds


def repaired(home):
    """How repairs went since the start, as the metrics tell."""
    rows = re.findall(r'^slskdn_repairs\{name="(\w+)"\} (\d+)$', home.box.metrics(), re.MULTILINE)
    return {name: int(count) for name, count in rows}


def milliseconds(repair):
    began, ended = (datetime.fromisoformat(repair[key].replace("Z", "+00:00")) for key in ("began_at", "ended_at"))
    return round((ended - began).total_seconds() * 1000)


def test_four_kinds_of_issues_are_fixed_at_once(house, home, music):  # noqa: F811
    house.peer("nicotine", "first", lambda share: house.album(share, [(1, 1), (2, 1), (2, 2)]))
    house.peer("aioslsk", "second", lambda share: house.album(share, [(1, 2), (2, 1)]))
    home.start()
    library = home.library
    home.scan()
    issues = of_kind(home.issues())
    assert sorted(issues) == sorted(FIXABLE.split(",")), issues
    storm, static = issues["SuspectedTranscode"], issues["CorruptedFile"]
    sleep, antennas = issues["NonCanonicalVariant"], issues["MissingTrackInRelease"]
    assert [issue["file_path"] for issue in (storm, static, sleep)] == [str(path) for path in library.files.values()]
    assert antennas["file_path"] == str(library.album)

    everything = [issue["issue_id"] for issue in issues.values()]
    begun = home.fix(*everything)
    assert not begun["refused"] and len(begun["job_ids"]) == 4 and len(begun["begun"]) == 4, begun
    for ident in everything:
        assert home.issue(ident)["remediation_job_id"] in begun["job_ids"]
    # A second wish while the first is under way begins nothing.
    again = home.box.call("POST", f"{HEALTH}/issues/fix", json={"issue_ids": everything[:1]})
    assert again.status_code == 200 and again.json()["job_id"] is None and len(again.json()["refused"]) == 1, again.text

    for ident in everything:
        issue, repair = home.over(ident)
        assert (issue["status"], issue["resolved_by"], repair["state"]) == ("Resolved", "auto_fixed", "done"), (issue, repair)
    # What was only wished for a second time is not counted.
    assert repaired(home) == {"begun": 4, "done": 4, "failed": 0, "undone": 0}
    took = sum(milliseconds(home.repair(ident)) for ident in everything)
    assert f'slskdn_repairs_took{{name="milliseconds"}} {took}' in home.box.metrics().splitlines(), took
    new = {(1, 1): library.files[1, 1], (1, 2): library.files[1, 2], (2, 1): library.album / "CD2" / "01 Sleep.flac"}
    for place, ident in [((1, 1), storm), ((1, 2), static), ((2, 1), sleep)]:
        repair = home.repair(ident["issue_id"])
        assert repair["new_path"] == str(new[place]), repair
        assert sha256(new[place]) == sha256(music[place]), "the very file that the user shares"
        backup = library.files[place].with_name(library.files[place].name + ".bak")
        assert repair["backup_path"] == str(backup) and sha256(backup) == library.before[place], repair
        assert repair["verified_by"] in ("fingerprint", "acoustid") and repair["can_undo"], repair
    assert not library.files[2, 1].exists()
    added = [path for path in library.album.rglob("*.flac") if path not in new.values()]
    # It has the tags of its track now.
    assert [samples(path) for path in added] == [samples(music[2, 2])], added
    assert not home.repair(antennas["issue_id"])["can_undo"]
    refused = home.box.call("POST", f"{HEALTH}/issues/{antennas['issue_id']}/undo")
    assert refused.status_code == 400 and "replaced nothing" in refused.text, refused.text
    left = [path for path in library.root.rglob("*") if path.name.startswith(".")]
    assert not left and not list((home.box.downloads / ".jobs").rglob("*.flac")), left

    home.scan()
    assert home.issues() == [], "the library is clean"
    for ident in everything:
        assert home.issue(ident)["resolved_by"] == "auto_fixed", "a scan that no longer finds it takes nothing away"
    # Others see the new files and neither the old ones nor the missing.
    home.box.call("PUT", "/shares")

    def shared():
        names = (file["filename"] for folder in home.box.get("/shares/contents") for file in folder["files"])
        return sorted(name for name in names if "Sleep" in name or "Storm" in name)
    until("the shares know", lambda: shared() == ["01 Sleep.flac", "01 Storm.flac", "Sleep.flac"])

    undo = home.box.call("POST", f"{HEALTH}/issues/{storm['issue_id']}/undo")
    assert undo.status_code == 200 and undo.json()["state"] == "undone", undo.text
    assert sha256(library.files[1, 1]) == library.before[1, 1], "the same name: they change places"
    assert sha256(undo.json()["new_path"]) == sha256(music[1, 1]), "nothing is deleted"
    undo = home.box.call("POST", f"{HEALTH}/issues/{sleep['issue_id']}/undo")
    assert undo.status_code == 200, undo.text
    assert sha256(library.files[2, 1]) == library.before[2, 1], "another name: each has its own"
    assert not new[2, 1].exists() and sha256(undo.json()["new_path"]) == sha256(music[2, 1]), undo.json()
    for issue in (storm, sleep):
        assert home.issue(issue["issue_id"])["status"] == "Acknowledged"
        answer = home.box.call("POST", f"{HEALTH}/issues/{issue['issue_id']}/undo")
        assert answer.status_code == 400 and "undone" in answer.text, answer.text
    assert repaired(home) == {"begun": 4, "done": 4, "failed": 0, "undone": 2}
    home.scan()
    assert sorted(of_kind(home.issues())) == ["NonCanonicalVariant", "SuspectedTranscode"]


def test_a_wrong_file_is_not_swapped_in_and_a_fix_that_nobody_serves_says_so(house, home, music):  # noqa: F811
    """The one user who has `Storm` has another take of it, and an MP3 made a FLAC of `Static`; nobody has `Sleep`."""
    def take(share):
        house.album(share, [(1, 1), (1, 2)])
        folder = next(share.rglob("CD1"))
        title, ms, _ = TRACKS[1, 1]
        live = compose(folder / "01 - Storm.flac", 77, ms, title, 1)
        house.catalogs.knows("11111111-2222-4333-8444-555555555555", live)
        lossy = folder / "02.mp3"
        ffmpeg("-i", music[1, 2], "-b:a", "96k", lossy)
        ffmpeg("-i", lossy, "-sample_fmt", "s16", folder / "02 - Static.flac")
        lossy.unlink()
    house.peer("nicotine", "liar", take)
    home.start()
    library = home.library
    home.scan()
    issues = of_kind(home.issues())
    before = {path: sha256(path) for path in library.root.rglob("*") if path.is_file()}
    wanted = [issues[kind]["issue_id"] for kind in ("SuspectedTranscode", "CorruptedFile", "NonCanonicalVariant")]
    home.fix(*wanted)
    for ident in wanted:
        issue, repair = home.over(ident)
        assert (issue["status"], repair["state"]) == ("Failed", "failed"), (issue, repair)
        assert len(issue["remediation_error"]) > 20 and not repair["can_undo"], (issue, repair)
        assert home.issue(ident)["resolved_by"] is None
    asked = {t["filename"] for t in home.box.transfers("downloads", "liar")}
    assert any("Storm" in name for name in asked), "it was fetched, and refused by its sound"
    assert {path: sha256(path) for path in library.root.rglob("*") if path.is_file()} == before, "nothing was touched"
    assert not list((home.box.downloads / ".jobs").rglob("*.flac"))
    home.scan()
    assert home.issue(wanted[0])["status"] == "Failed", "a scan that finds it again does not forget that"
    # With somebody who has it, the same button works.
    house.peer("aioslsk", "friend", lambda share: house.album(share, [(1, 1)]))
    home.fix(wanted[0])
    issue, repair = home.over(wanted[0])
    assert (issue["status"], repair["state"]) == ("Resolved", "done"), (issue, repair)
    assert sha256(library.files[1, 1]) == sha256(music[1, 1])


def test_the_old_tags_are_kept_where_the_owner_wants_that(house, home, music, tmp_path):  # noqa: F811
    house.peer("nicotine", "whole", lambda share: house.album(share, ALL))
    library = home.library
    storm, sleep = library.files[1, 1], library.files[2, 1]
    cover = tmp_path / "cover.png"
    ffmpeg("-f", "lavfi", "-i", "color=c=red:s=16x16", "-frames:v", "1", cover)
    subprocess.run(["metaflac", "--set-tag=COMMENT=mine alone", "--set-tag=RATING=5", f"--import-picture-from={cover}",
                    str(storm)], check=True)
    library.before = {place: sha256(path) for place, path in library.files.items()}
    home.start()
    home.scan()
    issues = of_kind(home.issues())
    wanted = [issues[kind]["issue_id"] for kind in ("SuspectedTranscode", "NonCanonicalVariant")]
    home.fix(*wanted, keep_tags=True)
    for ident in wanted:
        issue, repair = home.over(ident)
        assert (issue["status"], repair["state"], repair["keep_tags"]) == ("Resolved", "done", True), (issue, repair)
        new = Path(repair["new_path"])
        assert (repair["new_content_hash"], repair["new_size"]) == (content_hash(new), new.stat().st_size), repair
    for path, place, comment in [(storm, (1, 1), "mine alone"), (sleep.with_suffix(".flac"), (2, 1), "of the cassette")]:
        assert samples(path) == samples(music[place]), "the sound of the good copy, by another program"
        assert tags(path)["COMMENT"] == comment, tags(path)
    assert tags(storm)["RATING"] == "5"
    pictures = subprocess.run(["metaflac", "--list", "--block-type=PICTURE", str(storm)], capture_output=True, text=True, check=True)
    assert "image/png" in pictures.stdout, pictures.stdout
    home.scan()
    assert [issue["type"] for issue in home.issues() if issue["issue_id"] in wanted] == []
    for ident, place in zip(wanted, [(1, 1), (2, 1)]):
        home.box.call("POST", f"{HEALTH}/issues/{ident}/undo").raise_for_status()
        assert sha256(library.files[place]) == library.before[place], "with its own tags, as it was"


def test_kills_a_cancel_and_an_owner_who_is_quicker(house, home, music):  # noqa: F811
    house.peer("nicotine", "whole", lambda share: house.album(share, ALL))
    home.start(**{"global.download.speed_limit": 20})
    library, box = home.library, home.box
    home.scan()
    issues = of_kind(home.issues())
    storm, static = issues["SuspectedTranscode"]["issue_id"], issues["CorruptedFile"]["issue_id"]
    job = home.fix(storm)["job_id"]
    until("bytes flow", lambda: house.job(job)["progress"]["bytes_done"] > 100_000)
    box.process.stop(signal.SIGKILL)
    box.start()
    assert home.issue(storm)["status"] == "Fixing", "it goes on after a kill"
    home.scan()
    assert home.issue(storm)["status"] == "Fixing", "a scan does not take that away"

    # Called off: the issue says so, and nothing was touched.
    other = home.fix(static)["job_id"]
    assert box.call("POST", f"/api/jobs/{other}/cancel").json()["status"] == "cancelled"
    issue, _ = home.over(static)
    assert issue["status"] == "Failed" and "cancelled" in issue["remediation_error"], issue
    assert sha256(library.files[1, 2]) == library.before[1, 2]

    # The owner puts another file there meanwhile: it stays, and the fetched one is not lost.
    shutil.copy(music[2, 2], library.files[1, 1])
    issue, repair = home.over(storm)
    assert repair["state"] == "failed" and repair["error"], repair
    assert sha256(library.files[1, 1]) == sha256(music[2, 2]), "the owner's file stays"
    # By the MD5 of its samples: it has the tags of its track now.
    heard = lambda path: subprocess.run(["metaflac", "--show-md5sum", str(path)], capture_output=True, text=True).stdout  # noqa: E731
    until("what was fetched lies in the album", lambda: [
        path for path in library.root.rglob("*.flac") if path != library.files[1, 1] and heard(path) == heard(music[1, 1])])


def test_the_keys_say_what_becomes_of_the_old_file(house, home, music):  # noqa: F811
    house.peer("nicotine", "whole", lambda share: house.album(share, ALL))
    home.start(**{"library_health.remediation.backup_before_replace": "false"})
    library, box = home.library, home.box
    storm, static = library.files[1, 1], library.files[1, 2]
    home.scan()
    ident = home.issues(types="SuspectedTranscode")[0]["issue_id"]
    home.fix(ident)
    issue, repair = home.over(ident)
    assert (issue["status"], repair["state"], repair["manner"]) == ("Resolved", "done", "no_backup"), (issue, repair)
    assert sha256(storm) == sha256(music[1, 1]) and not list(storm.parent.glob("*.bak")), "there is no backup"
    refused = box.call("POST", f"{HEALTH}/issues/{ident}/undo")
    assert refused.status_code == 400 and "backup_before_replace" in refused.text, refused.text
    assert [issue["status"] for issue in home.issues(types="CorruptedFile")] == ["Detected"]

    box.process.stop()
    box.settings["library_health.remediation.replace_existing"] = "false"
    box.start()
    ident = home.issues(types="CorruptedFile")[0]["issue_id"]
    home.fix(ident)
    issue, repair = home.over(ident)
    assert (issue["status"], repair["state"], repair["manner"]) == ("Acknowledged", "done", "beside"), (issue, repair)
    assert sha256(static) == library.before[1, 2] and sha256(repair["new_path"]) == sha256(music[1, 2])
    assert Path(repair["new_path"]).parent == static.parent and not list(static.parent.glob("*.bak"))


def test_suspected_transcodes_are_mended_by_themselves_where_the_owner_wants_that(house, home, music):  # noqa: F811
    house.peer("nicotine", "whole", lambda share: house.album(share, ALL))
    home.start(**{"library_health.remediation.auto_fix_transcodes": "true"})
    library, box = home.library, home.box
    # Nothing is there yet to be found: what follows is the scans' doing, not the start's. It is over within a moment.
    aside = library.root.rename(library.root.with_name("aside"))
    library.root.mkdir()
    home.scan()
    library.root.rmdir()
    aside.rename(library.root)
    home.scan()
    ident = home.issues(types="SuspectedTranscode", statuses="Detected,Fixing,Resolved")[0]["issue_id"]

    def by_itself():
        answer = box.call("GET", f"{HEALTH}/issues/{ident}/repair")
        return answer.json() if answer.status_code == 200 else None
    assert until("it begins by itself after one scan", by_itself)["by_itself"]
    issue, repair = home.over(ident)
    assert (issue["status"], repair["state"], repair["manner"]) == ("Resolved", "done", "backup"), (issue, repair)
    assert sha256(library.files[1, 1]) == sha256(music[1, 1])
    others = {issue["type"]: issue["status"] for issue in home.issues() if issue["issue_id"] != ident}
    assert set(others.values()) == {"Detected"} and len(others) == 3, "others wait to be asked for"
    # What was just put back can be wished for again at once; what the owner takes back is not done once more by itself.
    box.call("POST", f"{HEALTH}/issues/{ident}/undo").raise_for_status()
    home.fix(ident)
    issue, repair = home.over(ident)
    assert (issue["status"], repair["state"], repair["by_itself"]) == ("Resolved", "done", False), (issue, repair)
    box.call("POST", f"{HEALTH}/issues/{ident}/undo").raise_for_status()
    home.scan()
    home.scan()
    assert home.repair(ident)["state"] == "undone" and sha256(library.files[1, 1]) == library.before[1, 1]


def test_what_cannot_be_fixed_is_refused_with_its_reason(house, home, music):  # noqa: F811
    home.start()
    (home.library.album / "CD1" / "03 ruin.flac").write_bytes(b"fLaC" + bytes(5000))
    home.scan()
    ruin = next(issue for issue in home.issues(types="CorruptedFile") if "ruin" in issue["file_path"])
    answer = home.box.call("POST", f"{HEALTH}/issues/{ruin['issue_id']}/fix")
    assert answer.status_code == 409 and "which recording" in answer.json()["error"], answer.text
    assert home.issue(ruin["issue_id"])["status"] == "Detected"
    for body, status in [({"issue_ids": []}, 400), ({"issue_ids": ["nonsense"]}, 400), ({"ids": []}, 422),
                         ({"issue_ids": [f"{n:032x}" for n in range(51)]}, 400)]:
        answer = home.box.call("POST", f"{HEALTH}/issues/fix", json=body)
        assert answer.status_code in (status, 400), (body, answer.text)
    answer = home.box.call("POST", f"{HEALTH}/issues/fix", json={"issue_ids": [f"{7:032x}", ruin["issue_id"]]})
    assert answer.status_code == 200 and len(answer.json()["refused"]) == 2, answer.text
    assert home.box.call("POST", f"{HEALTH}/issues/{ruin['issue_id']}/undo").status_code == 404
    assert home.box.call("GET", f"{HEALTH}/issues/{ruin['issue_id']}/repair").status_code == 404

    # A file of which nothing is left but its head is known by its tags.
    static = home.library.files[1, 2]
    ident = next(issue["issue_id"] for issue in home.issues(types="CorruptedFile") if "Static" in issue["file_path"])
    static.write_bytes(static.read_bytes()[:20_000])
    ruined = sha256(static)
    home.scan()
    house.peer("aioslsk", "friend", lambda share: house.album(share, [(1, 2)]))
    home.fix(ident)
    issue, repair = home.over(ident)
    assert (issue["status"], repair["state"]) == ("Resolved", "done"), (issue, repair)
    assert sha256(static) == sha256(music[1, 2]) and sha256(repair["backup_path"]) == ruined
