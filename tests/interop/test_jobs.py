"""A release brought home by a job, from Nicotine+ and aioslsk: what MusicBrainz says comes from the fixtures over HTTP on
loopback, the music is generated, and AcoustID is a stand-in that compares fingerprints as the real one does."""
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

for folder in ("ops", "mesh"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / folder))

from node import Node as MeshNode, content_hash, free_udp_port  # noqa: E402, F401
from release import RELEASE, Catalogs, compose, release, tracks  # noqa: E402
from world import BINARY, Node, Peer, World, free_port, sha256, until  # noqa: E402


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Every track of the release once, as FLAC."""
    folder = tmp_path_factory.mktemp("originals")
    return {(m, p): compose(folder / f"{m}-{p}.flac", 10 * m + p, ms, title, p)
            for m, p, title, ms, _ in tracks(release())}


@pytest.fixture
def house(request, music):
    """A network without anybody, and the catalogs."""
    class House:
        def __init__(self):
            self.found = release()
            self.catalogs = Catalogs(self.found)
            self.world = World(big_mib=1)

        def album(self, share, places, artist="Godspeed You! Black Emperor", album="2000 - Lift Your Skinny Fists"):
            """Puts tracks into a share as people have them: an album folder with one for each disc."""
            for m, p, title, *_ in tracks(self.found):
                if (m, p) in places:
                    to = share / artist / f"Lift Yr. Skinny Fists Like Antennas to Heaven!" / f"CD{m}" / f"{p:02} - {title}.flac"
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(music[m, p], to)

        def peer(self, kind, name, fill):
            share = self.world.tmp / f"share-{name}"
            share.mkdir()
            fill(share)
            return Peer(self.world, kind, name, free_port(), files=False)

        def box(self, **settings):
            self.node = Node(self.world, **{
                "catalog.musicbrainz.base_url": f"{self.catalogs.url}/mb", "catalog.acoustid.base_url": self.catalogs.url,
                "catalog.acoustid.key": "k", "jobs.search_rounds": 1, **settings})
            return self.node

        def start(self, reference=RELEASE, **more):
            answer = self.node.call("POST", "/api/jobs/mb-release", json={"mb_release_id": reference, **more})
            assert answer.status_code == 201, answer.text
            return answer.json()["job_id"]

        def job(self, ident):
            return self.node.get(f"/api/jobs/{ident}")

        def over(self, ident):
            def look():
                job = self.job(ident)
                return job if job["status"] in ("completed", "failed", "cancelled") else None
            job = until("the job is over", look, 480)
            return job, {(t["medium"], t["position"]): t for t in job["tracks"]}

        def folder(self):
            return self.node.downloads / "Godspeed You Black Emperor!" / "Lift Yr. Skinny Fists Like Antennas to Heaven! (2000)"

    made = House()
    try:
        yield made
    finally:
        made.world.close(request.session.testsfailed)
        made.catalogs.server.shutdown()


ALL = [(1, 1), (1, 2), (2, 1), (2, 2)]


def placed(house, track):
    return house.folder() / track["file"]


def tags(path):
    """What another program reads, names in capitals."""
    told = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "format_tags", "-of", "json", str(path)],
                          capture_output=True, check=True, text=True)
    return {name.upper(): text for name, text in json.loads(told.stdout)["format"].get("tags", {}).items()}


def samples(path):
    """The MD5 of the decoded samples, by another program; what the file says of it must be the same."""
    told = subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:a", "-f", "md5", "-"], capture_output=True, check=True, text=True)
    said = subprocess.run(["metaflac", "--show-md5sum", str(path)], capture_output=True, check=True, text=True)
    assert told.stdout.strip() == f"MD5={said.stdout.strip()}", path
    return told.stdout


@pytest.mark.parametrize("kind", ["nicotine", "aioslsk"])
def test_a_whole_album_from_one_user(house, music, kind):
    for m, p, _, _, recording in tracks(house.found):
        house.catalogs.knows(recording, music[m, p])
    known = {(m, p): (title, recording) for m, p, title, _, recording in tracks(house.found)}
    right = {}

    def share_one_rightly_tagged(share):
        house.album(share, ALL)
        file = next(share.rglob("01 - Sleep.flac"))
        for name, text in [("MUSICBRAINZ_TRACKID", known[2, 1][1]), ("MUSICBRAINZ_ALBUMID", RELEASE)]:
            subprocess.run(["metaflac", f"--set-tag={name}={text}", str(file)], check=True)
        right["sha256"] = sha256(file)

    house.peer(kind, "whole", share_one_rightly_tagged)
    house.box()
    # By the number that Discogs has for it.
    job, got = house.over(house.start("https://www.discogs.com/release/1-x"))
    assert job["status"] == "completed", job
    assert job["progress"]["tracks_done"] == 4
    assert job["progress"]["bytes_done"] == sum(placed(house, got[place]).stat().st_size for place in ALL)
    for place in ALL:
        assert got[place]["verified_by"] == "acoustid", got[place]
        assert not got[place].get("note"), got[place]
        file = placed(house, got[place])
        assert samples(file) == samples(music[place])
        said = tags(file)
        title, recording = known[place]
        assert said["TITLE"] == title and int(said["TRACK"]) == place[1], said
        assert said["MUSICBRAINZ_TRACKID"] == recording and said["MUSICBRAINZ_ALBUMID"] == RELEASE, said
        assert said["ARTIST"].startswith("Godspeed You Black Emperor!"), said
        if place == (2, 1):
            assert sha256(file) == right["sha256"], "what was right stays as it is"
        else:
            assert sha256(file) != sha256(music[place])
            assert int(said["DISC"]) == place[0] and said["DATE"] == "2000-10-09", said
    assert sorted(p.name for p in house.folder().iterdir()) == [
        "1-01 Storm.flac", "1-02 Static.flac", "2-01 Sleep.flac", "2-02 Antennas to Heaven.flac"]
    assert not list((house.node.downloads / ".jobs").rglob("*.flac")), "nothing stays behind"
    manifests = house.node.home / "jobs"
    assert [p.name for p in manifests.rglob("*.yaml")] == [f"{job['id']}.yaml"]
    assert (manifests / "completed" / f"{job['id']}.yaml").exists()
    trace = house.node.get(f"/api/jobs/{job['id']}/trace")
    assert any("searches for" in json.dumps(line) for line in trace["events"]), trace


def files_from(house, user):
    """The names of the files that this user was asked for, and how each ended."""
    return {t["filename"].replace("\\", "/").rsplit("/", 1)[1]: t["state"] for t in house.node.transfers("downloads", user)}


def told(house, job):
    """The notes of a job's trace."""
    return json.dumps(house.node.get(f"/api/jobs/{job['id']}/trace")["events"], ensure_ascii=False)


def test_a_whole_album_from_two_users_of_whom_none_has_all(house, music):
    known = {(m, p): (title, recording) for m, p, title, _, recording in tracks(house.found)}
    for place, (_, recording) in known.items():
        house.catalogs.knows(recording, music[place])
    house.peer("nicotine", "first", lambda share: house.album(share, [(1, 1), (1, 2), (2, 1)]))
    house.peer("aioslsk", "second", lambda share: house.album(share, [(2, 2)]))
    house.box()
    job, got = house.over(house.start())
    assert job["status"] == "completed" and job["progress"]["tracks_done"] == 4, job
    # Each gave what it has, and was asked for nothing else.
    ended = "Completed, Succeeded"
    assert files_from(house, "first") == {"01 - Storm.flac": ended, "02 - Static.flac": ended, "01 - Sleep.flac": ended}
    assert files_from(house, "second") == {"02 - Antennas to Heaven.flac": ended}
    for place in ALL:
        assert got[place]["verified_by"] == "acoustid" and not got[place].get("note"), got[place]
        file = placed(house, got[place])
        assert samples(file) == samples(music[place]), got[place]
        said = tags(file)
        assert (said["TITLE"], said["MUSICBRAINZ_TRACKID"], said["MUSICBRAINZ_ALBUMID"]) == (*known[place], RELEASE), said
        assert (int(said["DISC"]), int(said["TRACK"])) == place and said["DATE"] == "2000-10-09", said
    assert sorted(p.name for p in house.folder().iterdir()) == [
        "1-01 Storm.flac", "1-02 Static.flac", "2-01 Sleep.flac", "2-02 Antennas to Heaven.flac"]
    assert not list((house.node.downloads / ".jobs").rglob("*.flac")), "nothing stays behind"


def test_a_wrong_take_a_transcode_and_a_missing_track(house, music):
    known = {(m, p): recording for m, p, _, _, recording in tracks(house.found)}
    for place in [(1, 1), (1, 2), (2, 1)]:
        house.catalogs.knows(known[place], music[place])

    def take(share):
        """The folder with most of it, asked first: but its first track is another take and its second was an MP3."""
        house.album(share, [(1, 1), (1, 2), (2, 1)])
        folder = next(share.rglob("CD1"))
        titles = {(m, p): (title, ms) for m, p, title, ms, _ in tracks(house.found)}
        title, ms = titles[1, 1]
        live = compose(folder / "01 - Storm.flac", 77, ms, title, 1)
        house.catalogs.knows("11111111-2222-4333-8444-555555555555", live)
        lossy = folder / "02.mp3"
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", str(music[1, 2]), "-b:a", "96k", str(lossy)], check=True)
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", str(lossy), "-sample_fmt", "s16", str(folder / "02 - Static.flac")],
                       check=True)
        lossy.unlink()

    house.peer("nicotine", "liar", take)
    house.peer("aioslsk", "half", lambda share: house.album(share, [(1, 1), (1, 2)]))
    house.box()
    job, got = house.over(house.start())
    assert job["status"] == "failed" and "Antennas to Heaven" in job["error"], job
    assert "1 of 4" in job["error"]
    assert got[2, 2]["status"] == "failed"
    # The traps were met: both files came whole, and were heard to be what they are.
    ended = "Completed, Succeeded"
    assert files_from(house, "liar") == {"01 - Storm.flac": ended, "02 - Static.flac": ended, "01 - Sleep.flac": ended}
    trace = told(house, job)
    assert "1-1 Storm is pending: AcoustID knows it as another recording" in trace, trace
    assert "1-2 Static is pending: it was made of a lossy copy" in trace, trace
    # So the other one was asked for them, and these are what lies there.
    assert files_from(house, "half") == {"01 - Storm.flac": ended, "02 - Static.flac": ended}
    assert trace.index("asks liar for 3 files") < trace.index("asks half for "), trace
    for place in [(1, 1), (1, 2), (2, 1)]:
        assert got[place]["status"] == "completed", got[place]
        assert samples(placed(house, got[place])) == samples(music[place]), got[place]
    assert sorted(p.name for p in house.folder().iterdir()) == ["1-01 Storm.flac", "1-02 Static.flac", "2-01 Sleep.flac"]
    assert not list((house.node.downloads / ".jobs").rglob("*.flac")), "neither the wrong take nor the transcode stays"


def test_what_no_user_has_comes_from_the_mesh(house, music, tmp_path):
    known = {(m, p): (title, ms, recording) for m, p, title, ms, recording in tracks(house.found)}
    for place, (_, _, recording) in known.items():
        house.catalogs.knows(recording, music[place])
    house.peer("nicotine", "half", lambda share: house.album(share, [(1, 1), (1, 2)]))

    def holder(name, place, file):
        """A mesh peer that is on no Soulseek server and says that this file is the recording of that track."""
        share = tmp_path / f"music of {name}"
        share.mkdir()
        shutil.copy(file, share / "copy.flac")
        subprocess.run(["metaflac", f"--set-tag=MUSICBRAINZ_TRACKID={known[place][2]}", str(share / "copy.flac")], check=True)
        return MeshNode(tmp_path, name, share).start().measure()
    title, ms, _ = known[2, 1]
    live = compose(tmp_path / "live.flac", 77, ms, title, 1)
    house.catalogs.knows("11111111-2222-4333-8444-555555555555", live)
    honest, liar = holder("honest", (2, 2), music[2, 2]), holder("liar", (2, 1), live)
    try:
        box = house.box(**{"mesh.enabled": "true", "mesh.address": "127.0.0.1", "mesh.port": free_udp_port(),
                           "mesh.peers": f"{honest.named};{liar.named}"})
        for place in [(2, 1), (2, 2)]:
            until("its recording was told of", lambda place=place: box.call(
                "GET", f"/api/audio/canonical/{known[place][2]}").status_code == 200)
        job, got = house.over(house.start(constraints={"use_overlay": True, "overlay_bandwidth_kbps": 4000}))
        assert job["status"] == "failed" and "1 of 4" in job["error"] and title in job["error"], job
        assert got[2, 1]["status"] == "failed", "the mesh had another take under its name"
        assert got[2, 2]["status"] == "completed" and got[2, 2]["verified_by"] == "acoustid", got[2, 2]
        for place in [(1, 1), (1, 2), (2, 2)]:
            assert samples(placed(house, got[place])) == samples(music[place]), got[place]
        assert tags(placed(house, got[2, 2]))["TITLE"] == known[2, 2][0]
        assert not list((box.downloads / ".jobs").rglob("*.flac")) and box.get("/api/mesh/fetches") == []
        trace = told(house, job)
        assert "no user has Antennas to Heaven" in trace, trace
        # The other take was really fetched, whole, and heard to be one.
        assert f"2-1 {title} is pending: AcoustID knows it as another recording" in trace, trace
        sent = "/api/mesh/traffic-stats?window=24h"
        assert liar.get(sent)["windows"]["24h"]["overlay_upload_bytes"] >= live.stat().st_size
        assert honest.get("/api/mesh/traffic-stats?window=24h")["windows"]["24h"]["overlay_upload_bytes"] >= music[2, 2].stat().st_size
    finally:
        honest.stop()
        liar.stop()


def hits(box, ident):
    """Guardrails in the trace of a job."""
    events = box.get(f"/api/jobs/{ident}/trace?limit=1000")["events"]
    return [event["message"] for event in events if event["type"] == "GuardrailHit"]


def counted(box, rail):
    """How often a guardrail was hit, as the metrics tell."""
    words = f'slskdn_rescue_guardrail_hits{{name="{rail}"}} '
    [line] = [line for line in box.metrics().splitlines() if line.startswith(words)]
    return int(line.removeprefix(words))


def test_a_job_that_may_not_ask_the_mesh_yet_says_so_once(house):
    """A fetch that nobody serves takes the one place. The job tries again and again: each time is counted."""
    box = house.box(**{"mesh.enabled": "true", "mesh.address": "127.0.0.1", "mesh.port": free_udp_port(),
                       "transfers.rescue_mode.guardrails.max_concurrent_rescue_jobs": 1})
    other = {"content_hash": "ab" * 32, "size": 1 << 20, "name": "other.flac"}
    assert box.call("POST", "/api/mesh/fetches", json=other).ok
    title, recording = next((title, recording) for m, p, title, _, recording in tracks(house.found) if (m, p) == (2, 2))
    ident = house.start(constraints={"use_overlay": True}, tracks=[recording])
    rail = "max_concurrent_rescue_jobs"
    until("it was held back twice", lambda: counted(box, rail) >= 2)
    assert hits(box, ident) == [f"{rail}: mesh peers are not asked for {title} yet"]
    assert house.job(ident)["status"] == "running", house.job(ident)


def test_a_job_takes_no_more_from_the_mesh_than_the_day_allows(house, music, tmp_path):
    for m, p, _, _, recording in tracks(house.found):
        house.catalogs.knows(recording, music[m, p])
    recording = next(recording for m, p, _, _, recording in tracks(house.found) if (m, p) == (2, 2))
    share = tmp_path / "music of honest"
    share.mkdir()
    file = shutil.copy(music[2, 2], share / "copy.flac")
    subprocess.run(["metaflac", f"--set-tag=MUSICBRAINZ_TRACKID={recording}", str(file)], check=True)
    subprocess.run(["metaflac", "--dont-use-padding", "--add-padding=2000000", str(file)], check=True)
    day = 1 << 20
    assert Path(file).stat().st_size > day
    honest = MeshNode(tmp_path, "honest", share).start().measure()
    try:
        box = house.box(**{"mesh.enabled": "true", "mesh.address": "127.0.0.1", "mesh.port": free_udp_port(), "mesh.peers": honest.named,
                           "transfers.rescue_mode.guardrails.max_overlay_mb_per_day": 1})
        until("its recording was told of", lambda: box.call("GET", f"/api/audio/canonical/{recording}").status_code == 200)
        ident = house.start(constraints={"use_overlay": True}, tracks=[recording])

        def held():
            fetches = box.get("/api/mesh/fetches")
            return [fetch for fetch in fetches if fetch["bytes_done"] and "max_overlay_mb_per_day" in fetch["waits_for"]]
        fetch = until("the day's bytes are used up", held, 300)[0]
        moved = lambda: box.get("/api/mesh/traffic-stats?window=24h")["windows"]["24h"]["overlay_download_bytes"]  # noqa: E731
        until("what moved is counted", lambda: moved() >= fetch["bytes_done"])
        assert moved() <= day, (fetch, moved())
        # It is told once, and counted.
        rail = "max_overlay_mb_per_day"
        [line] = until("the job tells it", lambda: hits(box, ident))
        assert line.startswith(f"{rail}: nothing more comes from the mesh"), line
        assert counted(box, rail) == 1, counted(box, rail)
        # Nor does the next start begin the day anew.
        box.process.stop()
        box.start()
        until("it is held again", held, 300)
        assert house.job(ident)["status"] == "running", house.job(ident)
        assert box.call("POST", f"/api/jobs/{ident}/cancel").json()["status"] == "cancelled"
        until("nothing of it is left", lambda: box.get("/api/mesh/fetches") == [] and not list(box.home.rglob("*.mesh")))
    finally:
        honest.stop()


def test_pause_resume_kill_and_cancel(house, music):
    for m, p, _, _, recording in tracks(house.found):
        house.catalogs.knows(recording, music[m, p])
    house.peer("nicotine", "whole", lambda share: house.album(share, ALL))
    # So slowly that there is time for everything.
    box = house.box(**{"global.download.speed_limit": 64})
    ident = house.start()
    until("bytes flow", lambda: house.job(ident)["progress"]["bytes_done"] > 0)
    assert (box.home / "jobs" / "active" / f"{ident}.yaml").exists()
    box.process.stop(signal.SIGKILL)
    box.start()
    until("it goes on by itself", lambda: house.job(ident)["progress"]["bytes_done"] > 300_000)

    assert box.call("POST", f"/api/jobs/{ident}/pause").json()["status"] == "paused"
    until("nothing is downloaded", lambda: all("Completed" in t["state"] for t in box.transfers("downloads", "whole")))
    there = house.job(ident)["progress"]["bytes_done"]
    box.process.stop()
    box.start()
    assert house.job(ident)["status"] == "paused", "a pause outlives a restart"
    assert box.call("POST", f"/api/jobs/{ident}/resume").json()["status"] == "pending"
    until("it goes on where it was", lambda: house.job(ident)["progress"]["bytes_done"] > there)

    answer = box.call("POST", f"/api/jobs/{ident}/cancel")
    assert answer.json()["status"] == "cancelled"
    assert not [t for t in box.transfers("downloads", "whole") if "Completed" not in t["state"]]
    assert (box.home / "jobs" / "completed" / f"{ident}.yaml").exists()
    assert box.call("POST", f"/api/jobs/{ident}/resume").status_code == 400


def slskdn(box, *words):
    """The command line on the box's data directory: exit code, output, complaints."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLSKDN_")}
    told = subprocess.run([BINARY, "--data", box.home, *words], capture_output=True, text=True, env=clean, timeout=60)
    return told.returncode, told.stdout, told.stderr


def test_the_command_line_takes_jobs_out_and_in(house, music, tmp_path):
    for m, p, _, _, recording in tracks(house.found):
        house.catalogs.knows(recording, music[m, p])
    box = house.box(**{"jobs.search_rounds": 100})
    ident = house.start()
    code, text, _ = slskdn(box, "jobs", "export", ident)
    assert code == 0 and ident in text and RELEASE in text
    assert slskdn(box, "jobs", "pause", ident)[0] == 0 and house.job(ident)["status"] == "paused"
    # A folder of manifests, one of them no use, while the daemon runs.
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "good.yaml").write_text(text)
    (folder / "bad.yaml").write_text(text.replace("mb_release\n", "label_crate\n"))
    code, out, why = slskdn(box, "jobs", "import", folder)
    assert code == 1 and "bad.yaml" in why and "label_crate" in why and "good.yaml: job " in out, (out, why)
    second = out.split("job ")[1].strip()
    assert second != ident and house.job(second)["origin_id"] == ident
    box.call("POST", f"/api/jobs/{second}/cancel").raise_for_status()

    # Onto a box whose store is gone, and that does not run.
    box.process.stop()
    shutil.rmtree(box.home / "store")
    shutil.rmtree(box.home / "jobs")
    (folder / "bad.yaml").unlink()
    code, out, why = slskdn(box, "jobs", "import", folder)
    assert (code, why) == (0, "") and f"job {ident}" in out, (out, why)
    assert slskdn(box, "jobs", "export", ident)[1].splitlines()[:5] == text.splitlines()[:5]
    code, out, _ = slskdn(box, "jobs", "list", "--json")
    assert code == 0 and [job["id"] for job in json.loads(out)] == [ident]
    assert slskdn(box, "jobs", "cancel", ident)[0] != 0, "that needs the daemon"
    house.peer("aioslsk", "whole", lambda share: house.album(share, ALL))
    box.start()
    job, _ = house.over(ident)
    assert job["status"] == "completed", job


def test_a_job_moves_to_an_empty_box_by_its_manifest(house, music):
    for m, p, _, _, recording in tracks(house.found):
        house.catalogs.knows(recording, music[m, p])
    box = house.box(**{"jobs.search_rounds": 100})
    ident = house.start()
    text = box.call("POST", f"/api/jobs/{ident}/export").text
    assert ident in text and RELEASE in text
    box.process.stop()
    shutil.rmtree(box.home / "store")
    # What the store lacks is taken up from the active manifest.
    box.start()
    until("the job is there again", lambda: any(j["id"] == ident for j in box.get("/api/jobs")))
    # And once more beside it, by import: another id, the old one as its origin.
    answer = box.call("POST", "/api/jobs/import", data=text.encode(), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 201, answer.text
    second = answer.json()
    assert second["job_id"] != ident and second["origin_id"] == ident
    for wrong, reason in [(text.replace("mb_release\n", "discography\n"), "discography"),
                          (text.replace('target_dir: "', 'target_dir: "../../'), "line")]:
        answer = box.call("POST", "/api/jobs/import", data=wrong.encode(), headers={"Content-Type": "text/plain"})
        assert answer.status_code == 400 and reason in answer.text, answer.text
    box.call("POST", f"/api/jobs/{second['job_id']}/cancel")
    house.peer("aioslsk", "whole", lambda share: house.album(share, ALL))
    # Its first search found nobody; a fresh look begins with a new round.
    box.call("POST", f"/api/jobs/{ident}/cancel")
    job, _ = house.over(box.call("POST", "/api/jobs/import", data=text.encode(),
                                 headers={"Content-Type": "text/plain"}).json()["job_id"])
    assert job["status"] == "completed", job
